//! Products: rows normalised and quantised, multiplied panel by panel, and added to the residual
//! stream.

use std::ops::Range;

use goldcrest_kernels::{PANEL_ROWS, Place, Rows, Tile};

use super::needs::{KINDS, Kinds, slot};
use super::scratch::Lane;
use super::{Walk, needs};
use crate::model::weights::{Loaded, Matrix};
use crate::spec::{Block, Norm};
use crate::threads::{self, Poisoned, Shared, Worker};

/// Panels of a claim at most: for one row, and for several.
pub(super) const GRAIN: (usize, usize) = (256, 4);

/// Rows to normalise and quantise, and where to.
#[derive(Clone, Copy)]
pub(super) struct Input<'s, 'a> {
    pub(super) from: &'s Shared<'a, f32>,
    /// These rows of `from`; all of the pass without a choice.
    pub(super) pick: Option<&'s [usize]>,
    pub(super) k: usize,
    pub(super) norm: Option<&'s Norm<Loaded>>,
    /// Whether the rows are turned after that, as the matrices want that read them.
    pub(super) turned: bool,
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
    pub(super) fn hidden<'s>(&'s self, norm: &'s Norm<Loaded>) -> Input<'s, 'a> {
        let k = self.graph.spec().hidden;
        Input {
            from: &self.b.x,
            pick: None,
            k,
            norm: Some(norm),
            turned: false,
            to: self.b.forms(k, needs::Rows::Pass),
        }
    }

    /// What a mixer made, `k` wide.
    pub(super) fn made<'s>(&'s self, from: &'s Shared<'a, f32>, k: usize) -> Input<'s, 'a> {
        let to = self.b.forms(k, needs::Rows::Pass);
        Input { from, pick: None, k, norm: None, turned: false, to }
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
            let x = &input.from.row(w, index(0))[..k];
            let mut scratch = std::mem::take(&mut lane.row);
            let x = self.ready(x, input, &mut scratch);
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
                let x = &all[index(first + row) * stride..][..k];
                let x = self.ready(x, input, &mut lane.row);
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

    /// A row as the matrices want it, but for its form.
    fn ready<'x>(&self, x: &'x [f32], input: &Input<'_, '_>, scratch: &'x mut [f32]) -> &'x [f32] {
        let Some(hadamard) = self.graph.weights.hadamard.as_ref().filter(|_| input.turned) else {
            return self.normalised(x, input.norm, scratch);
        };
        let out = &mut scratch[..x.len()];
        match input.norm {
            Some(Norm { weight, eps }) => self.graph.kernels.rms_norm(x, weight, *eps, out),
            None => out.copy_from_slice(x),
        }
        hadamard.turn(self.graph.kernels, out);
        out
    }

    fn normalised<'x>(
        &self,
        x: &'x [f32],
        norm: Option<&Norm<Loaded>>,
        scratch: &'x mut [f32],
    ) -> &'x [f32] {
        let Some(Norm { weight, eps }) = norm else { return x };
        let out = &mut scratch[..x.len()];
        self.graph.kernels.rms_norm(x, weight, *eps, out);
        out
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
        out: Tile<'_>,
    ) {
        let panels = self.graph.weights.panels(matrix, panels.start, panels.len());
        self.graph.kernels.matmul(matrix.format, matrix.k, panels, rows, out);
    }

    /// The product of some panels with the input, row by row to `take`.
    pub(super) fn product(
        &self,
        w: &Worker<'_>,
        lane: &mut Lane,
        input: &Input<'_, '_>,
        matrix: &Matrix,
        panels: Range<usize>,
        mut take: impl FnMut(usize, &[f32]),
    ) {
        let count = self.count(input);
        let columns = (panels.end * PANEL_ROWS).min(matrix.rows) - panels.start * PANEL_ROWS;
        let mut tile = std::mem::take(&mut lane.tile);
        let out = Tile::new(&mut tile, columns, count, columns);
        self.multiply(matrix, panels, self.input_rows(w, lane, input, matrix), out);
        for (row, product) in tile.chunks_exact(columns).take(count).enumerate() {
            take(row, product);
        }
        lane.tile = tile;
    }

    /// The products of two matrices whose panels alternate, `[rows, panels * (a 16, b 16)]`, into
    /// `tile`.
    pub(super) fn multiply_pair(
        &self,
        [a, b]: &[Matrix; 2],
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
            return;
        }
        // Of two formats: each panel is a product of its own.
        for (i, panel) in panels.clone().enumerate() {
            for (half, (matrix, rows)) in [(a, rows_a), (b, rows_b)].into_iter().enumerate() {
                let out = &mut tile[(2 * i + half) * PANEL_ROWS..];
                let out = Tile::new(out, stride, count, PANEL_ROWS);
                kernels.matmul(matrix.format, matrix.k, weights.panel(matrix, panel), rows, out);
            }
        }
    }

    /// Ends a block: x += post(matrix(input)).
    pub(super) fn residual(
        &self,
        w: &mut Worker<'_>,
        lane: &mut Lane,
        block: &Block<Loaded>,
        input: &Input<'_, '_>,
        matrix: &Matrix,
    ) -> Result<(), Poisoned> {
        let input = &Input { turned: matrix.turned, ..*input };
        self.prepare(w, lane, input, matrix.kind().into())?;
        let to = if block.post.is_some() { &self.b.mixed } else { &self.b.x };
        let grid = to.grid(w, self.rows, PANEL_ROWS);
        w.each(matrix.panels(), self.grain(), grid, |claim, mut out| {
            self.product(w, lane, input, matrix, claim, |row, product| {
                if block.post.is_some() {
                    out.row(row).copy_from_slice(product);
                } else {
                    self.graph.kernels.add(out.row(row), product);
                }
            });
        });
        self.add_mixed(w, lane, block)?;
        self.end_block(w)
    }

    /// x += post(mixed), where the block normalises what its mixer made; up to the barrier.
    pub(super) fn add_mixed(
        &self,
        w: &mut Worker<'_>,
        lane: &mut Lane,
        block: &Block<Loaded>,
    ) -> Result<(), Poisoned> {
        let Some(norm) = &block.post else { return Ok(()) };
        w.barrier()?;
        let grid = self.b.x.grid(w, 1, usize::MAX);
        w.each(self.rows, 1, grid, |claim, mut x| {
            let mixed = self.b.mixed.row(w, claim.start);
            let mixed = self.normalised(mixed, Some(norm), &mut lane.row);
            self.graph.kernels.add(x.row(0), mixed);
        });
        Ok(())
    }
}
