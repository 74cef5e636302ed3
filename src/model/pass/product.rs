//! Products: rows normalised and quantised, multiplied panel by panel, and added to the residual
//! stream.

use std::ops::Range;
use std::sync::atomic::Ordering;

use goldcrest_kernels::{PANEL_ROWS, Place, Rows, Tile};

use super::needs::{KINDS, Kinds, slot};
use super::scratch::Lane;
use super::{Walk, needs};
use crate::model::weights::{Loaded, Matrix};
use crate::session::CancelToken;
use crate::spec::{Block, Branch, Linear, Norm};
use crate::threads::{self, Poisoned, Shared, Worker};

/// Panels of a claim at most: for one row, and for several.
pub(super) const GRAIN: (usize, usize) = (256, 4);

/// A branch of a block.
#[derive(Clone, Copy)]
pub(super) struct At<'s> {
    pub(super) block: &'s Block<Loaded>,
    pub(super) index: usize,
}

impl<'s> At<'s> {
    fn branch(self) -> &'s Branch<Loaded> {
        &self.block.branches[self.index]
    }

    /// The norm of what the branch reads.
    pub(super) fn pre(self) -> Option<&'s Norm<Loaded>> {
        self.branch().pre.as_ref()
    }

    /// The factor on what the branch adds to the residual stream, if it adds there itself.
    pub(super) fn factor(self) -> f32 {
        if mixes(self.block) { 1.0 } else { self.block.factor }
    }
}

/// Whether what a block's branches make is gathered before it is added to the residual stream.
pub(crate) fn mixes(block: &Block<Loaded>) -> bool {
    let Block { branches, post, scale, .. } = block;
    post.is_some() || scale.is_some() || branches.len() > 1 || branches[0].post.is_some()
}

/// Rows to normalise and quantise, and where to.
#[derive(Clone, Copy)]
pub(super) struct Input<'s, 'a> {
    pub(super) from: &'s Shared<'a, f32>,
    /// These rows of `from`; all of the pass without a choice.
    pub(super) pick: Option<&'s [usize]>,
    /// The first number that is taken of a row, and how many.
    pub(super) first: usize,
    pub(super) k: usize,
    pub(super) norm: Option<&'s Norm<Loaded>>,
    /// Whether the rows are turned after that, as the matrices want that read them.
    pub(super) turned: bool,
    /// The number of the row that is a factor on all that is read of it.
    pub(super) gate: Option<usize>,
    pub(super) to: &'s [Shared<'a, u8>; 3],
}

/// A grid of whole groups of rows for each of `kinds`.
pub(super) fn form_grids<'w>(
    w: &'w Worker<'_>,
    forms: &'w [Shared<'_, u8>; 3],
    kinds: Kinds,
    group: usize,
) -> [Option<threads::Grid<'w, u8>>; 3] {
    KINDS.map(|kind| kinds.contains(kind).then(|| forms[slot(kind)].grid(w, group, usize::MAX)))
}

impl<'a> Walk<'a> {
    /// The residual stream, normalised.
    pub(super) fn hidden<'s>(&'s self, norm: Option<&'s Norm<Loaded>>) -> Input<'s, 'a> {
        let k = self.graph.spec().hidden;
        Input { norm, ..self.made(&self.b.x, k) }
    }

    /// What a mixer made, `k` wide.
    pub(super) fn made<'s>(&'s self, from: &'s Shared<'a, f32>, k: usize) -> Input<'s, 'a> {
        let to = self.b.forms(k, needs::Rows::Pass);
        Input { from, pick: None, first: 0, k, norm: None, gate: None, turned: false, to }
    }

    pub(super) fn grain(&self) -> usize {
        if self.rows == 1 { GRAIN.0 } else { GRAIN.1 }
    }

    fn count(&self, input: &Input<'_, '_>) -> usize {
        input.pick.map_or(self.rows, <[_]>::len)
    }

    /// Normalises and quantises the input's rows in every form of `kinds`.
    pub(super) fn prepare(
        &self,
        w: &mut Worker<'_>,
        lane: &mut Lane,
        input: &Input<'_, '_>,
        kinds: Kinds,
    ) -> Result<(), Poisoned> {
        let kernels = self.graph.kernels;
        let (count, k) = (self.count(input), input.k);
        let index = |row: usize| input.pick.map_or(row, |pick| pick[row]);
        if count == 1 {
            let mut scratch = std::mem::take(&mut lane.row);
            let x = self.taken(input, input.from.row(w, index(0)), &mut scratch);
            for kind in kinds.iter() {
                let out = &mut lane.quantized(kind)[..kind.row_bytes(k)];
                kernels.quantize_row(kind, x, out, Place::ALONE);
            }
            lane.row = scratch;
            return Ok(());
        }
        let group = kernels.group();
        let parts = form_grids(w, input.to, kinds, group);
        let all = input.from.read(w);
        let stride = input.from.stride();
        w.each(count.div_ceil(group), 1, parts, |claim, mut blocks| {
            let first = claim.start * group;
            let rows = group.min(count - first);
            for row in 0..rows {
                let x = &all[index(first + row) * stride..][..stride];
                let x = self.taken(input, x, &mut lane.row);
                self.quantize(x, &mut blocks, Place { rows, row });
            }
        });
        w.barrier()
    }

    /// Writes a row of activations into its group, in every form that there is a block for.
    pub(super) fn quantize(
        &self,
        x: &[f32],
        blocks: &mut [Option<threads::Block<'_, u8>>; 3],
        place: Place,
    ) {
        for (kind, block) in KINDS.into_iter().zip(blocks) {
            if let Some(block) = block {
                let group = &mut block.whole()[..place.rows * kind.row_bytes(x.len())];
                self.graph.kernels.quantize_row(kind, x, group, place);
            }
        }
    }

    /// What is quantised of a row of the input's buffer.
    fn taken<'x>(
        &self,
        input: &Input<'_, '_>,
        row: &'x [f32],
        scratch: &'x mut [f32],
    ) -> &'x [f32] {
        let x = &row[input.first..][..input.k];
        let turn = self.graph.weights.hadamard.as_ref().filter(|_| input.turned);
        if input.gate.is_none() && turn.is_none() {
            return self.normalised(x, input.norm, scratch);
        }
        let (kernels, out) = (self.graph.kernels, &mut scratch[..x.len()]);
        match input.norm {
            Some(norm) => self.normalise(norm, x.len(), x, out),
            None => out.copy_from_slice(x),
        }
        if let Some(gate) = input.gate {
            kernels.scale(out, row[gate]);
        }
        if let Some(hadamard) = turn {
            hadamard.turn(kernels, out);
        }
        out
    }

    pub(super) fn normalised<'x>(
        &self,
        x: &'x [f32],
        norm: Option<&Norm<Loaded>>,
        scratch: &'x mut [f32],
    ) -> &'x [f32] {
        let Some(norm) = norm else { return x };
        let out = &mut scratch[..x.len()];
        self.normalise(norm, x.len(), x, out);
        out
    }

    /// Normalises each `width` numbers of `x`.
    pub(super) fn normalise(&self, norm: &Norm<Loaded>, width: usize, x: &[f32], out: &mut [f32]) {
        let kernels = self.graph.kernels;
        let Norm { centred, weight, bias, eps } = norm;
        let weight = weight.as_deref().unwrap_or_else(|| &self.graph.ones[..width]);
        if *centred {
            kernels.layer_norm(x, weight, bias.as_deref(), *eps, out);
            return;
        }
        kernels.rms_norm(x, weight, *eps, out);
        if let Some(bias) = bias {
            out.chunks_exact_mut(width).for_each(|out| kernels.add(out, bias));
        }
    }

    /// The rows that [`prepare`](Self::prepare) made, in the form that `matrix` reads.
    pub(super) fn input_rows<'s>(
        &self,
        w: &'s Worker<'_>,
        lane: &'s Lane,
        input: &Input<'s, '_>,
        matrix: &Matrix,
    ) -> Rows<'s> {
        let kind = matrix.kind();
        let group = self.graph.kernels.group();
        let (count, bytes) = (self.count(input), kind.row_bytes(input.k));
        if count == 1 {
            return Rows::new(kind, input.k, &lane.form(kind)[..bytes], 1, group);
        }
        let data = &input.to[slot(kind)].read(w)[..count * bytes];
        Rows::new(kind, input.k, data, count, group)
    }

    /// Panels `first..first + count` of `matrix` times `rows`.
    pub(super) fn multiply(
        &self,
        matrix: &Matrix,
        panels: Range<usize>,
        rows: Rows<'_>,
        mut out: Tile<'_>,
    ) {
        let kernels = self.graph.kernels;
        let panels = self.graph.weights.panels(matrix, panels.start, panels.len());
        kernels.matmul(matrix.format, matrix.k, panels, rows, out.reborrow());
        if matrix.factor != 1.0 {
            kernels.scale_tile(out, matrix.factor);
        }
    }

    /// The product of some panels with the input, row by row to `take`.
    pub(super) fn product(
        &self,
        w: &Worker<'_>,
        lane: &mut Lane,
        input: &Input<'_, '_>,
        matrix: &Matrix,
        panels: Range<usize>,
        mut take: impl FnMut(usize, &mut [f32]),
    ) {
        let count = self.count(input);
        let columns = (panels.end * PANEL_ROWS).min(matrix.rows) - panels.start * PANEL_ROWS;
        let mut tile = std::mem::take(&mut lane.tile);
        let out = Tile::new(&mut tile, columns, count, columns);
        self.multiply(matrix, panels, self.input_rows(w, lane, input, matrix), out);
        for (row, product) in tile.chunks_exact_mut(columns).take(count).enumerate() {
            take(row, product);
        }
        lane.tile = tile;
    }

    /// The same with the bias, where there is one.
    pub(super) fn linear(
        &self,
        w: &Worker<'_>,
        lane: &mut Lane,
        input: &Input<'_, '_>,
        Linear { matrix, bias }: &Linear<Loaded>,
        panels: Range<usize>,
        mut take: impl FnMut(usize, &mut [f32]),
    ) {
        let first = panels.start * PANEL_ROWS;
        self.product(w, lane, input, matrix, panels, |row, product| {
            if let Some(bias) = bias {
                self.graph.kernels.add(product, &bias[first..][..product.len()]);
            }
            take(row, product);
        });
    }

    /// All of the product of the input with a matrix, and nothing else.
    pub(super) fn multiply_all(
        &self,
        w: &mut Worker<'_>,
        lane: &mut Lane,
        input: &Input<'_, '_>,
        matrix: &Matrix,
        to: &Shared<'_, f32>,
    ) -> Result<(), Poisoned> {
        let input = &Input { turned: matrix.turned, ..*input };
        self.prepare(w, lane, input, matrix.kind().into())?;
        let grid = to.grid(w, self.rows, PANEL_ROWS);
        w.each(matrix.panels(), self.grain(), grid, |claim, mut out| {
            self.product(w, lane, input, matrix, claim, |row, product| {
                out.row(row)[..product.len()].copy_from_slice(product);
            });
        });
        w.barrier()
    }

    /// The products of the input with several matrices, each from a whole panel of `to` on, with their
    /// biases.
    pub(super) fn side_by_side<'m>(
        &self,
        w: &mut Worker<'_>,
        lane: &mut Lane,
        input: &Input<'_, '_>,
        linears: impl Iterator<Item = &'m Linear<Loaded>> + Clone,
        to: &Shared<'_, f32>,
    ) -> Result<(), Poisoned> {
        let turned = linears.clone().any(|linear| linear.matrix.turned);
        let input = &Input { turned, ..*input };
        let kinds = linears.clone().map(|linear| linear.matrix.kind());
        self.prepare(w, lane, input, Kinds::of(kinds))?;
        let grid = to.grid(w, self.rows, PANEL_ROWS);
        w.each(to.stride() / PANEL_ROWS, self.grain(), grid, |claim, mut block| {
            let mut first = 0;
            for Linear { matrix, bias } in linears.clone() {
                let all = first..first + matrix.panels();
                let (start, end) = (claim.start.max(all.start), claim.end.min(all.end));
                if start < end {
                    let columns =
                        (start - first) * PANEL_ROWS..((end - first) * PANEL_ROWS).min(matrix.rows);
                    let at = (start - claim.start) * PANEL_ROWS;
                    let rows = self.input_rows(w, lane, input, matrix);
                    let tile = block.tile(at, columns.len());
                    self.multiply(matrix, start - first..end - first, rows, tile);
                    if let Some(bias) = bias {
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

    /// The products of two matrices whose panels alternate, `[rows, panels * (a 16, b 16)]`, into
    /// `tile`.
    pub(super) fn multiply_pair(
        &self,
        [a, b]: [&Matrix; 2],
        panels: &Range<usize>,
        rows: [Rows<'_>; 2],
        count: usize,
        tile: &mut [f32],
    ) {
        let (weights, kernels) = (&self.graph.weights, self.graph.kernels);
        let stride = panels.len() * 2 * PANEL_ROWS;
        let [rows_a, rows_b] = rows;
        if let Some(panels) = weights.pairs(a, b, panels.start, panels.len()) {
            let tile = Tile::new(tile, stride, count, stride);
            kernels.matmul(a.format, a.k, panels, rows_a, tile);
        } else {
            // Of two formats: each panel is a product of its own.
            for (i, panel) in panels.clone().enumerate() {
                for (half, (matrix, rows)) in [(a, rows_a), (b, rows_b)].into_iter().enumerate() {
                    let out = &mut tile[(2 * i + half) * PANEL_ROWS..];
                    let out = Tile::new(out, stride, count, PANEL_ROWS);
                    let panel = weights.panel(matrix, panel);
                    kernels.matmul(matrix.format, matrix.k, panel, rows, out);
                }
            }
        }
        for (half, matrix) in [a, b].into_iter().enumerate().filter(|(_, m)| m.factor != 1.0) {
            let panels = tile[..count * stride].chunks_exact_mut(PANEL_ROWS);
            panels.skip(half).step_by(2).for_each(|out| kernels.scale(out, matrix.factor));
        }
    }

    /// Ends a branch with its last product.
    pub(super) fn residual(
        &self,
        w: &mut Worker<'_>,
        lane: &mut Lane,
        at: At<'_>,
        input: &Input<'_, '_>,
        linear: &Linear<Loaded>,
    ) -> Result<(), Poisoned> {
        let matrix = &linear.matrix;
        let input = &Input { turned: matrix.turned, ..*input };
        self.prepare(w, lane, input, matrix.kind().into())?;
        let kernels = self.graph.kernels;
        let (to, adds) = self.target(at);
        let grid = to.grid(w, self.rows, PANEL_ROWS);
        w.each(matrix.panels(), self.grain(), grid, |claim, mut out| {
            self.linear(w, lane, input, linear, claim, |row, product| match (adds, at.factor()) {
                (false, _) => out.row(row).copy_from_slice(product),
                (true, 1.0) => kernels.add(out.row(row), product),
                (true, factor) => kernels.add_scaled(out.row(row), product, factor),
            });
        });
        self.end_branch(w, lane, at)
    }

    /// Where what a branch makes goes, and whether it is added to what is there.
    pub(super) fn target(&self, at: At<'_>) -> (&Shared<'a, f32>, bool) {
        if at.branch().post.is_some() {
            (&self.b.branched, false)
        } else if mixes(at.block) {
            (&self.b.mixed, at.index > 0)
        } else {
            (&self.b.x, true)
        }
    }

    /// What follows a branch's last product: its norm, and after the last branch the block's. One
    /// decides whether the pass goes on before the barrier, so that all leave together after it.
    pub(super) fn end_branch(
        &self,
        w: &mut Worker<'_>,
        lane: &mut Lane,
        at: At<'_>,
    ) -> Result<(), Poisoned> {
        if let Some(norm) = &at.branch().post {
            w.barrier()?;
            self.add_branched(w, lane, norm, at.index > 0);
        }
        if mixes(at.block) && at.index + 1 == at.block.branches.len() {
            w.barrier()?;
            self.add_mixed(w, lane, at.block);
        }
        if w.index() == 0 && self.cancels.iter().all(CancelToken::is_cancelled) {
            self.cancelled.store(true, Ordering::Relaxed);
        }
        w.barrier()
    }

    /// mixed (+)= norm(branched)
    fn add_branched(&self, w: &Worker<'_>, lane: &mut Lane, norm: &Norm<Loaded>, adds: bool) {
        let grid = self.b.mixed.grid(w, 1, usize::MAX);
        w.each(self.rows, 1, grid, |claim, mut mixed| {
            let made = self.b.branched.row(w, claim.start);
            let made = self.normalised(made, Some(norm), &mut lane.row);
            if adds {
                self.graph.kernels.add(mixed.row(0), made);
            } else {
                mixed.row(0).copy_from_slice(made);
            }
        });
    }

    /// x = (x + factor * post(mixed)) * scale, or the same of each of several residual streams
    fn add_mixed(&self, w: &Worker<'_>, lane: &mut Lane, block: &Block<Loaded>) {
        let kernels = self.graph.kernels;
        let (to, first) = if block.to_others { (&self.b.streams, 1) } else { (&self.b.x, 0) };
        let grid = to.grid(w, 1, usize::MAX);
        w.each(self.rows, 1, grid, |claim, mut to| {
            let mixed = self.b.mixed.row(w, claim.start);
            let mixed = self.normalised(mixed, block.post.as_ref(), &mut lane.row);
            for x in to.row(0).chunks_exact_mut(mixed.len()).skip(first) {
                match block.factor {
                    1.0 => kernels.add(x, mixed),
                    factor => kernels.add_scaled(x, mixed, factor),
                }
                if let Some(scale) = &block.scale {
                    kernels.scale(x, scale.number());
                }
            }
        });
    }
}
