//! The attention block: projections, rotary positions, causal attention, projection.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{Mode, Rope, Saved, floats, values};
use crate::buffer::Buffer;
use crate::math::{dot, exponentials, scale};
use crate::matmul::{Into, Matrix, Workers, multiply, project_back};

/// Positions whose scores are computed at once; what lies to their right is not computed.
const TILE: usize = 64;

/// How attention divides a row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heads {
    pub(crate) n_heads: usize,
    pub(crate) n_kv_heads: usize,
    pub(crate) head_dim: usize,
    /// Rows of one sequence.
    pub(crate) seq_len: usize,
}

impl Heads {
    fn q_width(&self) -> usize {
        self.n_heads * self.head_dim
    }

    fn kv_width(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// Values of a row of queries, keys and values.
    pub(crate) fn width(&self) -> usize {
        self.q_width() + 2 * self.kv_width()
    }

    /// Where the queries, keys and values of a query head begin in a row.
    fn starts(&self, head: usize) -> [usize; 3] {
        let kv = head / (self.n_heads / self.n_kv_heads) * self.head_dim;
        let keys = self.q_width();
        [head * self.head_dim, keys + kv, keys + self.kv_width() + kv]
    }

    fn factor(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// First position of each tile, its positions, and the keys that they see.
    fn tiles(&self) -> impl Iterator<Item = (usize, usize, usize)> {
        let seq = self.seq_len;
        (0..seq).step_by(TILE).map(move |start| {
            let rows = TILE.min(seq - start);
            (start, rows, start + rows)
        })
    }

    /// One sequence: `qkv` `[seq, width]`, `probabilities` `[heads, seq, seq]` of which the upper
    /// triangle is not written, `out` `[seq, q_width]`.
    fn forward(&self, qkv: &[f32], probabilities: &mut [f32], out: &mut [f32]) {
        let (seq, dim, width) = (self.seq_len, self.head_dim, self.width());
        for (head, p) in probabilities.chunks_exact_mut(seq * seq).enumerate() {
            let [q, k, v] = self.starts(head);
            for (start, rows, keys) in self.tiles() {
                let queries = Matrix::strided(&qkv[start * width + q..], rows, dim, width);
                let keys_t = Matrix::strided(&qkv[k..], keys, dim, width).t();
                let p = &mut p[start * seq..][..rows * seq];
                multiply((p, seq), Into::Replace, 1.0, queries, keys_t, Workers::One);
                for (i, row) in p.chunks_exact_mut(seq).enumerate() {
                    let (seen, unseen) = row[..keys].split_at_mut(start + i + 1);
                    let (sum, _) = exponentials(seen, self.factor());
                    scale(seen, 1.0 / sum);
                    unseen.fill(0.0);
                }
                let p = Matrix::strided(p, rows, keys, seq);
                let vals = Matrix::strided(&qkv[v..], keys, dim, width);
                let out = &mut out[start * self.q_width() + head * dim..];
                multiply((out, self.q_width()), Into::Replace, 1.0, p, vals, Workers::One);
            }
        }
    }

    /// The gradient of one sequence, from that of `out`; `d_qkv` is zero before.
    fn backward(&self, qkv: &[f32], probabilities: &[f32], grad: &[f32], d_qkv: &mut [f32]) {
        let (seq, dim, width) = (self.seq_len, self.head_dim, self.width());
        let mut d_scores = Buffer::new(TILE * seq);
        for (head, p) in probabilities.chunks_exact(seq * seq).enumerate() {
            let [q, k, v] = self.starts(head);
            for (start, rows, keys) in self.tiles() {
                let p = &p[start * seq..][..rows * seq];
                let grad = &grad[start * self.q_width() + head * dim..];
                let grad = Matrix::strided(grad, rows, dim, self.q_width());
                let vals_t = Matrix::strided(&qkv[v..], keys, dim, width).t();
                multiply((&mut d_scores, seq), Into::Replace, 1.0, grad, vals_t, Workers::One);
                let p_t = Matrix::strided(p, rows, keys, seq).t();
                multiply((&mut d_qkv[v..], width), Into::Add, 1.0, p_t, grad, Workers::One);

                for (ds, p) in d_scores.chunks_exact_mut(seq).zip(p.chunks_exact(seq)) {
                    let (ds, p) = (&mut ds[..keys], &p[..keys]);
                    let mean = dot(ds, p);
                    for (ds, p) in ds.iter_mut().zip(p) {
                        *ds = p * (*ds - mean);
                    }
                }
                let ds = Matrix::strided(&d_scores, rows, keys, seq);
                let queries = Matrix::strided(&qkv[start * width + q..], rows, dim, width);
                let keys_matrix = Matrix::strided(&qkv[k..], keys, dim, width);
                let d_keys = (&mut d_qkv[k..], width);
                multiply(d_keys, Into::Add, self.factor(), ds.t(), queries, Workers::One);
                let d_queries = (&mut d_qkv[start * width + q..], width);
                multiply(d_queries, Into::Replace, self.factor(), ds, keys_matrix, Workers::One);
            }
        }
    }
}

/// What the backward pass needs.
struct Kept {
    /// `[rows, width]`, turned.
    qkv: Buffer,
    /// `[sequences, heads, seq, seq]`
    probabilities: Buffer,
    /// `[rows, q_width]`
    mixed: Buffer,
}

/// Arguments: x `[rows, hidden]`, queries, keys and values `[width, hidden]`, output
/// `[hidden, q_width]`.
pub(crate) struct Attention {
    heads: Heads,
    rope: Arc<Rope>,
    saved: Saved<Kept>,
}

impl Attention {
    pub(crate) fn new(heads: Heads, rope: Arc<Rope>, mode: Mode) -> Self {
        Self { heads, rope, saved: Saved::new(mode) }
    }

    /// Turns queries and keys of every row, or turns their gradients back.
    fn turn(&self, qkv: &mut [f32], turn: fn(&Rope, &mut [f32], usize)) {
        let (width, seq) = (self.heads.width(), self.heads.seq_len);
        let turned = self.heads.q_width() + self.heads.kv_width();
        qkv.par_chunks_mut(seq * width).for_each(|sequence| {
            for (position, row) in sequence.chunks_exact_mut(width).enumerate() {
                turn(&self.rope, &mut row[..turned], position);
            }
        });
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w_in: &CpuStorage,
        in_layout: &Layout,
        w_out: &CpuStorage,
        out_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, hidden) = x_layout.shape().dims2()?;
        let Heads { n_heads, seq_len: seq, .. } = self.heads;
        let (width, q_width) = (self.heads.width(), self.heads.q_width());
        let x = Matrix::new(floats(x, x_layout)?, rows, hidden);
        let w_in = Matrix::new(floats(w_in, in_layout)?, width, hidden);
        let mut qkv = Buffer::new(rows * width);
        multiply((&mut qkv, width), Into::Replace, 1.0, x, w_in.t(), Workers::All);
        self.turn(&mut qkv, Rope::turn);

        let mut probabilities = Buffer::new(rows * n_heads * seq);
        let mut mixed = Buffer::new(rows * q_width);
        let sequences = qkv.par_chunks(seq * width);
        let tasks = sequences.zip(probabilities.par_chunks_mut(n_heads * seq * seq));
        tasks
            .zip(mixed.par_chunks_mut(seq * q_width))
            .for_each(|((qkv, p), out)| self.heads.forward(qkv, p, out));

        let mut out = vec![0.0; rows * hidden];
        let w_out = Matrix::new(floats(w_out, out_layout)?, hidden, q_width);
        let inner = Matrix::new(&mixed, rows, q_width);
        multiply((&mut out, hidden), Into::Replace, 1.0, inner, w_out.t(), Workers::All);
        self.saved.put(Kept { qkv, probabilities, mixed });
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w_in: &Tensor,
        w_out: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Kept { qkv, probabilities, mixed } = self.saved.take()?;
        let (rows, hidden) = x.dims2()?;
        let Heads { n_heads, seq_len: seq, .. } = self.heads;
        let (width, q_width) = (self.heads.width(), self.heads.q_width());
        let ((xs, xl), (is, il)) = (x.storage_and_layout(), w_in.storage_and_layout());
        let ((os, ol), (gs, gl)) = (w_out.storage_and_layout(), grad.storage_and_layout());
        let grad_out = Matrix::new(values(&gs, gl)?, rows, hidden);

        let inner = Matrix::new(&mixed, rows, q_width);
        let w_out_matrix = Matrix::new(values(&os, ol)?, hidden, q_width);
        let mut d_mixed = Buffer::new(rows * q_width);
        let d_out = project_back(grad_out, inner, w_out_matrix, &mut d_mixed);

        let mut d_qkv = Buffer::zeroed(rows * width);
        let sequences = qkv.par_chunks(seq * width);
        let tasks = sequences.zip(probabilities.par_chunks(n_heads * seq * seq));
        let grads = d_mixed.par_chunks(seq * q_width).zip(d_qkv.par_chunks_mut(seq * width));
        tasks.zip(grads).for_each(|((qkv, p), (grad, d))| self.heads.backward(qkv, p, grad, d));
        self.turn(&mut d_qkv, Rope::turn_back);

        let d_qkv = Matrix::new(&d_qkv, rows, width);
        let x_matrix = Matrix::new(values(&xs, xl)?, rows, hidden);
        let w_in_matrix = Matrix::new(values(&is, il)?, width, hidden);
        let mut dx = vec![0.0; rows * hidden];
        let d_in = project_back(d_qkv, x_matrix, w_in_matrix, &mut dx);
        let device = x.device();
        Ok((
            Some(Tensor::from_vec(dx, x.shape(), device)?),
            Some(Tensor::from_vec(d_in, w_in.shape(), device)?),
            Some(Tensor::from_vec(d_out, w_out.shape(), device)?),
        ))
    }
}
