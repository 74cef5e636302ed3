//! The feed-forward block: `down(silu(gate(x)) * up(x))`.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{Mode, Saved, floats, values};
use crate::buffer::Buffer;
use crate::math::exp;
use crate::matmul::{Into, Matrix, Workers, multiply, project_back};

/// Rows of one task.
const ROWS: usize = 64;

/// Arguments: x `[rows, hidden]`, gate and up `[2 * ffn, hidden]`, down `[hidden, ffn]`.
pub(crate) struct FeedForward {
    /// Gate and up `[rows, 2 * ffn]`, their product `[rows, ffn]`.
    saved: Saved<(Buffer, Buffer)>,
}

impl FeedForward {
    pub(crate) fn new(mode: Mode) -> Self {
        Self { saved: Saved::new(mode) }
    }
}

fn gate(gate_up: &[f32], ffn: usize, out: &mut [f32]) {
    let tasks = gate_up.par_chunks(ROWS * 2 * ffn).zip(out.par_chunks_mut(ROWS * ffn));
    tasks.for_each(|(gate_up, out)| {
        for (row, out) in gate_up.chunks_exact(2 * ffn).zip(out.chunks_exact_mut(ffn)) {
            let (gate, up) = row.split_at(ffn);
            for ((out, g), u) in out.iter_mut().zip(gate).zip(up) {
                *out = g / (1.0 + exp(-g)) * u;
            }
        }
    });
}

/// Turns gate and up into their gradients, given that of their product.
fn gate_back(gate_up: &mut [f32], ffn: usize, grad: &[f32]) {
    let tasks = gate_up.par_chunks_mut(ROWS * 2 * ffn).zip(grad.par_chunks(ROWS * ffn));
    tasks.for_each(|(gate_up, grad)| {
        for (row, grad) in gate_up.chunks_exact_mut(2 * ffn).zip(grad.chunks_exact(ffn)) {
            let (gate, up) = row.split_at_mut(ffn);
            for ((g, u), d) in gate.iter_mut().zip(up).zip(grad) {
                let sigmoid = 1.0 / (1.0 + exp(-*g));
                let silu = *g * sigmoid;
                (*g, *u) = (d * *u * (sigmoid + silu * (1.0 - sigmoid)), d * silu);
            }
        }
    });
}

impl CustomOp3 for FeedForward {
    fn name(&self) -> &'static str {
        "feed-forward"
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
        let (wide, _) = in_layout.shape().dims2()?;
        let ffn = wide / 2;
        let x = Matrix::new(floats(x, x_layout)?, rows, hidden);
        let w_in = Matrix::new(floats(w_in, in_layout)?, wide, hidden);
        let w_out = Matrix::new(floats(w_out, out_layout)?, hidden, ffn);
        let mut gate_up = Buffer::new(rows * wide);
        multiply((&mut gate_up, wide), Into::Replace, 1.0, x, w_in.t(), Workers::All);
        let mut product = Buffer::new(rows * ffn);
        gate(&gate_up, ffn, &mut product);
        let mut out = vec![0.0; rows * hidden];
        let inner = Matrix::new(&product, rows, ffn);
        multiply((&mut out, hidden), Into::Replace, 1.0, inner, w_out.t(), Workers::All);
        self.saved.put((gate_up, product));
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
        let (mut gate_up, product) = self.saved.take()?;
        let ((rows, hidden), (wide, _)) = (x.dims2()?, w_in.dims2()?);
        let ffn = wide / 2;
        let ((xs, xl), (is, il)) = (x.storage_and_layout(), w_in.storage_and_layout());
        let ((os, ol), (gs, gl)) = (w_out.storage_and_layout(), grad.storage_and_layout());
        let grad_out = Matrix::new(values(&gs, gl)?, rows, hidden);

        let inner = Matrix::new(&product, rows, ffn);
        let w_out_matrix = Matrix::new(values(&os, ol)?, hidden, ffn);
        let mut d_product = Buffer::new(rows * ffn);
        let d_out = project_back(grad_out, inner, w_out_matrix, &mut d_product);
        gate_back(&mut gate_up, ffn, &d_product);

        let d_gate_up = Matrix::new(&gate_up, rows, wide);
        let x_matrix = Matrix::new(values(&xs, xl)?, rows, hidden);
        let w_in_matrix = Matrix::new(values(&is, il)?, wide, hidden);
        let mut dx = vec![0.0; rows * hidden];
        let d_in = project_back(d_gate_up, x_matrix, w_in_matrix, &mut dx);
        let device = x.device();
        Ok((
            Some(Tensor::from_vec(dx, x.shape(), device)?),
            Some(Tensor::from_vec(d_in, w_in.shape(), device)?),
            Some(Tensor::from_vec(d_out, w_out.shape(), device)?),
        ))
    }
}
