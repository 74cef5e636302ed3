//! The forward pass: one graph for every architecture, walked by all workers at once.
//!
//! Steps are separated by barriers. A prompt's rows are normalised and quantised by all workers
//! together; a single row by each for itself, which costs less than a barrier. A layer has five
//! barriers for one row.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use goldcrest_kernels::{Kernels, Nonlinearity, PANEL_ROWS, Place, Rows, Tile};

use super::attention::Attention;
use super::rope::RopeTable;
use super::scratch::{Buffers, GRAIN, KINDS, Kinds, Lane, Scratch, Wanted, Widths, form};
use super::weights::{Layer, Linear, Matrix, Weights};
use crate::cache::Cache;
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::session::CancelToken;
use crate::threads::{Poisoned, Shared, Team, Worker, lock};

/// All that a pass reads and no pass changes.
pub(super) struct Graph {
    pub(super) config: Config,
    pub(super) weights: Weights,
    pub(super) kernels: &'static Kernels,
    pub(super) rope: RopeTable,
    pub(super) wanted: Wanted,
}

/// What a pass works with: one at a time has it.
pub(super) struct Engine {
    pub(super) team: Team,
    pub(super) scratch: Scratch,
}

/// One pass: `ids` at the positions from the cache's length on.
pub(crate) struct Pass<'a> {
    pub(crate) ids: &'a [u32],
    pub(crate) cache: &'a mut Cache,
    /// `[n, vocab]`: the logits of the last n rows.
    pub(crate) logits: &'a mut [f32],
    pub(crate) cancel: &'a CancelToken,
}

impl Graph {
    /// Runs a pass and advances the cache.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`] and [`ErrorKind::Worker`]; the cache is as before.
    pub(super) fn run(&self, engine: &mut Engine, pass: Pass<'_>) -> Result<()> {
        let Pass { ids, cache, logits, cancel } = pass;
        let (rows, start) = (ids.len(), cache.len());
        let workers = engine.team.size();
        let attention = Attention::new(self, cache.layout(), start, rows, workers);
        engine.scratch.grow(&self.config, &self.wanted, rows, workers, attention.partials());
        let hidden = self.config.hidden;
        for (&id, row) in ids.iter().zip(engine.scratch.x().chunks_exact_mut(hidden)) {
            self.weights.embed(id, row);
        }
        let (buffers, lanes) = engine.scratch.share(&self.config, rows, attention.partial());
        let walk = Walk {
            graph: self,
            rows,
            widths: Widths::new(&self.config),
            attention,
            cache: cache.shared(),
            logits: Shared::new(logits, self.config.vocab_size),
            b: buffers,
            cancel,
            cancelled: AtomicBool::new(false),
        };
        engine.team.run(&|worker| walk.run(worker, &mut lock(&lanes[worker.index()])))?;
        if walk.cancelled.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Cancelled, "cancelled"));
        }
        cache.advance(rows);
        Ok(())
    }
}

/// The graph with the buffers of one pass.
pub(super) struct Walk<'a> {
    pub(super) graph: &'a Graph,
    pub(super) rows: usize,
    pub(super) widths: Widths,
    attention: Attention,
    /// `[layers * n_kv_heads, bytes of a head]`
    pub(super) cache: Shared<'a, u8>,
    /// `[n, vocab]`
    logits: Shared<'a, f32>,
    pub(super) b: Buffers<'a>,
    cancel: &'a CancelToken,
    cancelled: AtomicBool,
}

/// Rows to normalise and quantise, and where to.
struct Input<'s, 'a> {
    from: &'s Shared<'a, f32>,
    /// The rows of `from`.
    rows: Range<usize>,
    k: usize,
    norm: Option<&'s [f32]>,
    to: &'s [Shared<'a, u8>; 3],
}

impl Walk<'_> {
    fn run(&self, w: &mut Worker<'_>, lane: &mut Lane) -> Result<(), Poisoned> {
        for (index, layer) in self.graph.weights.layers.iter().enumerate() {
            self.qkv(w, lane, layer)?;
            self.attention.run(self, w, lane, index, layer)?;
            self.attention_output(w, lane, layer)?;
            self.feed_forward(w, lane, layer)?;
            if self.cancelled.load(Ordering::Relaxed) {
                return Ok(());
            }
        }
        self.output(w, lane)
    }

    /// x -> norm -> `[rows, qkv]`
    fn qkv(&self, w: &mut Worker<'_>, lane: &mut Lane, layer: &Layer) -> Result<(), Poisoned> {
        let kinds = layer.qkv.iter().map(|l| l.matrix.format.activation());
        let input = self.hidden(&layer.attn_norm);
        self.prepare(w, lane, &input, Kinds::of(kinds))?;
        let panels = self.widths.qkv / PANEL_ROWS;
        let grid = self.b.qkv.grid(w, self.rows, PANEL_ROWS);
        w.each(panels, self.grain(), grid, |claim, mut block| {
            let mut first = 0;
            for Linear { matrix, bias } in &layer.qkv {
                let all = first..first + matrix.panels();
                let (start, end) = (claim.start.max(all.start), claim.end.min(all.end));
                if start < end {
                    let columns =
                        (start - first) * PANEL_ROWS..((end - first) * PANEL_ROWS).min(matrix.rows);
                    let at = (start - claim.start) * PANEL_ROWS;
                    let rows = self.input_rows(w, lane, &input, matrix);
                    let tile = block.tile(at, columns.len());
                    self.multiply(matrix, start - first, end - start, rows, tile);
                    if !bias.is_empty() {
                        for row in 0..self.rows {
                            let out = &mut block.row(row)[at..][..columns.len()];
                            self.graph.kernels.add(out, &bias[columns.clone()]);
                        }
                    }
                }
                first = all.end;
            }
        });
        w.barrier()
    }

    /// x += attn_output(attended)
    fn attention_output(
        &self,
        w: &mut Worker<'_>,
        lane: &mut Lane,
        layer: &Layer,
    ) -> Result<(), Poisoned> {
        let input = Input {
            from: &self.b.attended,
            rows: 0..self.rows,
            k: self.widths.q,
            norm: None,
            to: &self.b.attended_forms,
        };
        self.residual(w, lane, &input, &layer.attn_output)?;
        w.barrier()
    }

    /// x += down(silu(gate(norm(x))) * up(norm(x)))
    fn feed_forward(
        &self,
        w: &mut Worker<'_>,
        lane: &mut Lane,
        layer: &Layer,
    ) -> Result<(), Poisoned> {
        let input = self.hidden(&layer.ffn_norm);
        let kinds = [layer.gate.format.activation(), layer.up.format.activation()];
        self.prepare(w, lane, &input, Kinds::of(kinds))?;
        let panels = layer.gate.panels();
        let grid = self.b.act.grid(w, self.rows, PANEL_ROWS);
        w.each(panels, self.grain(), grid, |claim, mut block| {
            let mut tile = std::mem::take(&mut lane.tile);
            self.gate_up(w, lane, &input, layer, &claim, &mut tile);
            let width = claim.len() * 2 * PANEL_ROWS;
            for (row, products) in tile.chunks_exact(width).take(self.rows).enumerate() {
                self.graph.kernels.gated(Nonlinearity::Silu, products, block.row(row));
            }
            lane.tile = tile;
        });
        w.barrier()?;

        let input = Input {
            from: &self.b.act,
            rows: 0..self.rows,
            k: self.widths.ffn,
            norm: None,
            to: &self.b.act_forms,
        };
        self.residual(w, lane, &input, &layer.down)?;
        if w.index() == 0 && self.cancel.is_cancelled() {
            // One decides before the barrier, so that all leave together after it.
            self.cancelled.store(true, Ordering::Relaxed);
        }
        w.barrier()
    }

    /// Final norm and the logits of the last rows.
    fn output(&self, w: &mut Worker<'_>, lane: &mut Lane) -> Result<(), Poisoned> {
        let count = self.logits.rows();
        if count == 0 {
            return Ok(());
        }
        let matrix = &self.graph.weights.output;
        let input = Input {
            rows: self.rows - count..self.rows,
            ..self.hidden(&self.graph.weights.output_norm)
        };
        self.prepare(w, lane, &input, Kinds::of([matrix.format.activation()]))?;
        let panels = matrix.panels();
        let grid = self.logits.grid(w, count, PANEL_ROWS);
        w.each(panels, self.grain(), grid, |claim, mut block| {
            let columns = block.cols();
            let rows = self.input_rows(w, lane, &input, matrix);
            self.multiply(matrix, claim.start, claim.len(), rows, block.tile(0, columns));
        });
        w.barrier()
    }

    fn hidden<'s>(&'s self, norm: &'s [f32]) -> Input<'s, 's> {
        Input {
            from: &self.b.x,
            rows: 0..self.rows,
            k: self.widths.hidden,
            norm: Some(norm),
            to: &self.b.hidden_forms,
        }
    }

    fn grain(&self) -> usize {
        if self.rows == 1 { GRAIN.0 } else { GRAIN.1 }
    }

    /// Normalises and quantises the input's rows in every form of `kinds`.
    fn prepare(
        &self,
        w: &mut Worker<'_>,
        lane: &mut Lane,
        input: &Input<'_, '_>,
        kinds: Kinds,
    ) -> Result<(), Poisoned> {
        let kernels = self.graph.kernels;
        if input.rows.len() == 1 {
            let x = &input.from.row(w, input.rows.start)[..input.k];
            let mut scratch = std::mem::take(&mut lane.row);
            let x = self.normalised(x, input.norm, &mut scratch);
            for kind in kinds.iter() {
                let out = &mut lane.quantized(kind)[..kind.row_bytes(input.k)];
                kernels.quantize_row(kind, x, out, Place::ALONE);
            }
            lane.row = scratch;
            return Ok(());
        }
        let group = kernels.group();
        let grids = KINDS.map(|kind| kinds.contains(kind).then(|| (kind, form(input.to, kind))));
        let parts = grids.map(|g| g.map(|(_, shared)| shared.grid(w, group, usize::MAX)));
        let all = input.from.read(w);
        let stride = input.from.stride();
        w.each(input.rows.len().div_ceil(group), 1, parts, |claim, mut blocks| {
            let first = claim.start * group;
            let rows = group.min(input.rows.len() - first);
            for row in 0..rows {
                let x = &all[(input.rows.start + first + row) * stride..][..input.k];
                let x = self.normalised(x, input.norm, &mut lane.row);
                for (block, grid) in blocks.iter_mut().zip(&grids) {
                    if let (Some(block), Some((kind, _))) = (block, grid) {
                        let group = &mut block.whole()[..rows * kind.row_bytes(input.k)];
                        kernels.quantize_row(*kind, x, group, Place { rows, row });
                    }
                }
            }
        });
        w.barrier()
    }

    fn normalised<'x>(
        &self,
        x: &'x [f32],
        norm: Option<&[f32]>,
        scratch: &'x mut [f32],
    ) -> &'x [f32] {
        let Some(weight) = norm else { return x };
        let out = &mut scratch[..x.len()];
        self.graph.kernels.rms_norm(x, weight, self.graph.config.norm_eps, out);
        out
    }

    /// The rows that [`prepare`](Self::prepare) made, in the form that `matrix` reads.
    fn input_rows<'s>(
        &self,
        w: &'s Worker<'_>,
        lane: &'s Lane,
        input: &Input<'s, '_>,
        matrix: &Matrix,
    ) -> Rows<'s> {
        let kind = matrix.format.activation();
        let group = self.graph.kernels.group();
        if input.rows.len() == 1 {
            return Rows::new(kind, input.k, lane.form(kind), 1, group);
        }
        Rows::new(kind, input.k, form(input.to, kind).read(w), input.rows.len(), group)
    }

    fn multiply(&self, matrix: &Matrix, first: usize, count: usize, rows: Rows<'_>, out: Tile<'_>) {
        let panels = self.graph.weights.panels(matrix, first, count);
        self.graph.kernels.matmul(matrix.format, matrix.k, panels, rows, out);
    }

    /// `[rows, claim * (gate 16, up 16)]` into `tile`.
    fn gate_up(
        &self,
        w: &Worker<'_>,
        lane: &Lane,
        input: &Input<'_, '_>,
        layer: &Layer,
        claim: &Range<usize>,
        tile: &mut [f32],
    ) {
        let (gate, up) = (&layer.gate, &layer.up);
        let (weights, kernels) = (&self.graph.weights, self.graph.kernels);
        let stride = claim.len() * 2 * PANEL_ROWS;
        if let Some(panels) = weights.pairs(gate, up, claim.start, claim.len()) {
            let rows = self.input_rows(w, lane, input, gate);
            let tile = Tile::new(tile, stride, self.rows, stride);
            kernels.matmul(gate.format, gate.k, panels, rows, tile);
            return;
        }
        // Of two formats: each panel is a product of its own.
        for (i, panel) in claim.clone().enumerate() {
            for (half, matrix) in [gate, up].into_iter().enumerate() {
                let rows = self.input_rows(w, lane, input, matrix);
                let out = &mut tile[(2 * i + half) * PANEL_ROWS..];
                let out = Tile::new(out, stride, self.rows, PANEL_ROWS);
                kernels.matmul(matrix.format, matrix.k, weights.panel(matrix, panel), rows, out);
            }
        }
    }

    /// x += matrix(input), up to the barrier.
    fn residual(
        &self,
        w: &mut Worker<'_>,
        lane: &mut Lane,
        input: &Input<'_, '_>,
        matrix: &Matrix,
    ) -> Result<(), Poisoned> {
        self.prepare(w, lane, input, Kinds::of([matrix.format.activation()]))?;
        let panels = matrix.panels();
        let grid = self.b.x.grid(w, self.rows, PANEL_ROWS);
        w.each(panels, self.grain(), grid, |claim, mut block| {
            let columns = block.cols();
            let mut tile = std::mem::take(&mut lane.tile);
            let out = Tile::new(&mut tile, columns, self.rows, columns);
            let rows = self.input_rows(w, lane, input, matrix);
            self.multiply(matrix, claim.start, claim.len(), rows, out);
            for (row, product) in tile.chunks_exact(columns).take(self.rows).enumerate() {
                self.graph.kernels.add(block.row(row), product);
            }
            lane.tile = tile;
        });
        Ok(())
    }
}
