//! Buffers of a forward pass: read by all workers, or written in disjoint blocks.

use std::marker::PhantomData;
use std::ops::Range;

use goldcrest_kernels::{HeadRowsMut, Tile};

use super::stamp::{Stamp, USE_BITS};
use super::team::Worker;

/// A matrix of `rows` x `stride` that the workers of a pass share.
///
/// Between two barriers it is either read ([`read`](Self::read)) or written through one
/// [`Grid`], whose blocks are disjoint and handed out once each. `stamp` remembers which, and a
/// step that breaks the rule panics before it touches the memory. So does a worker of another team
/// than the first that used the matrix.
pub(crate) struct Shared<'a, T> {
    data: *mut T,
    rows: usize,
    stride: usize,
    stamp: Stamp,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: a `Shared` gives other threads `&[T]` and `&mut [T]` of memory that it borrows mutably,
// under the rule above; both may cross threads when T may.
unsafe impl<T: Send + Sync> Sync for Shared<'_, T> {}

/// Marks a section in which a buffer is read; grids have their own numbers below it.
const READ: u64 = 0xf;
/// Bits of a block's height and width in a stamp.
const BITS: u32 = 21;
const _: () = assert!(READ << (2 * BITS) < 1 << USE_BITS);

impl<'a, T> Shared<'a, T> {
    /// `data` as rows of `stride`; a last partial row is left out.
    pub(crate) fn new(data: &'a mut [T], stride: usize) -> Self {
        let rows = data.len() / stride.max(1);
        Self { data: data.as_mut_ptr(), rows, stride, stamp: Stamp::new(), borrow: PhantomData }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// The whole matrix, until the worker's next barrier.
    ///
    /// # Panics
    /// When a worker writes the buffer in the same section.
    pub(crate) fn read<'w>(&'w self, worker: &'w Worker<'_>) -> &'w [T] {
        self.enter(worker, READ << (2 * BITS));
        // SAFETY: the memory is borrowed for 'a, which outlives 'w. `enter` made sure that no
        // grid of this section hands out blocks, and later sections begin at a barrier, which
        // needs the worker mutably and so ends 'w.
        unsafe { std::slice::from_raw_parts(self.data, self.rows * self.stride) }
    }

    /// Row `row` of [`read`](Self::read).
    pub(crate) fn row<'w>(&'w self, worker: &'w Worker<'_>, row: usize) -> &'w [T] {
        &self.read(worker)[row * self.stride..][..self.stride]
    }

    /// Cuts the matrix into blocks of `rows` x `cols`, numbered along the rows first.
    ///
    /// # Panics
    /// When the buffer is read, or cut otherwise, in the same section.
    pub(crate) fn grid<'w>(
        &'w self,
        worker: &'w Worker<'_>,
        rows: usize,
        cols: usize,
    ) -> Grid<'w, T> {
        let (rows, cols) = (rows.min(self.rows).max(1), cols.min(self.stride).max(1));
        let number = next_grid(worker);
        // All rows or columns are 0, so that they fit however many they are.
        let code = |n: usize, whole: usize| if n == whole { 0 } else { n as u64 };
        let geometry = [number, code(rows, self.rows), code(cols, self.stride)];
        let fits = geometry.iter().all(|&n| n < 1 << BITS);
        assert!(fits, "blocks of {rows} x {cols} are too large");
        self.enter(worker, geometry.into_iter().fold(0, |stamp, n| stamp << BITS | n));
        let across = self.stride.div_ceil(cols);
        Grid {
            data: self.data,
            rows: self.rows,
            stride: self.stride,
            block: (rows, cols),
            across,
            blocks: self.rows.div_ceil(rows) * across,
            borrow: PhantomData,
        }
    }

    /// Claims the buffer for one use in the worker's section.
    fn enter(&self, worker: &Worker<'_>, use_: u64) {
        enter(&self.stamp, worker, use_);
    }
}

/// The number of a grid that a worker makes in its section, from 1: all workers make the same ones, so
/// that a second one of a buffer is another use of it.
pub(super) fn next_grid(worker: &Worker<'_>) -> u64 {
    let number = u64::from(worker.grids.get()) + 1;
    assert!(number < READ, "too many grids between two barriers");
    worker.grids.set(number as u32);
    number
}

/// Claims a buffer for one use in the worker's section.
///
/// # Panics
/// When it has another.
pub(super) fn enter(stamp: &Stamp, worker: &Worker<'_>, use_: u64) {
    #[cfg(test)]
    super::fault::point();
    let team = std::ptr::from_ref(worker.team).addr();
    if let Err(why) = stamp.enter(team, worker.section(), use_) {
        panic!("{why}");
    }
}

/// A [`Shared`] cut into blocks, each of which one claim of [`Worker::each`] gets.
pub(crate) struct Grid<'w, T> {
    data: *mut T,
    rows: usize,
    stride: usize,
    block: (usize, usize),
    /// Blocks side by side.
    across: usize,
    /// All blocks.
    blocks: usize,
    borrow: PhantomData<&'w mut [T]>,
}

impl<'w, T> Grid<'w, T> {
    /// The blocks `claim`, which must lie side by side or be whole rows.
    ///
    /// # Safety
    /// No block is asked for twice between two barriers.
    pub(super) unsafe fn get(&mut self, claim: &Range<usize>) -> Block<'w, T> {
        let inside = claim.start < claim.end && claim.end <= self.blocks;
        assert!(inside, "tasks {claim:?} of a grid of {} blocks", self.blocks);
        let (height, width) = self.block;
        let (row, column) = (claim.start / self.across, claim.start % self.across);
        let (rows, columns) = if self.across == 1 {
            (claim.len() * height, 1)
        } else {
            assert!(column + claim.len() <= self.across, "a claim crosses the grid's edge");
            (height, claim.len())
        };
        let (first_row, first_col) = (row * height, column * width);
        let rows = rows.min(self.rows - first_row);
        let cols = (columns * width).min(self.stride - first_col);
        // SAFETY: every block of the grid begins inside the matrix, and the claim is of the grid.
        let data = unsafe { self.data.add(first_row * self.stride + first_col) };
        Block { data, rows, cols, stride: self.stride, borrow: PhantomData }
    }
}

/// Some rows and columns of a [`Shared`], for one worker alone.
pub(crate) struct Block<'w, T> {
    data: *mut T,
    rows: usize,
    cols: usize,
    stride: usize,
    borrow: PhantomData<&'w mut [T]>,
}

impl<T> Block<'_, T> {
    /// Row `row` of the block, its own columns only.
    pub(crate) fn row(&mut self, row: usize) -> &mut [T] {
        assert!(row < self.rows, "row {row} of a block of {}", self.rows);
        // SAFETY: the block's rows and columns lie inside the matrix and belong to this block.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(row * self.stride), self.cols) }
    }

    /// All of a block of whole rows.
    pub(crate) fn whole(&mut self) -> &mut [T] {
        assert!(self.cols == self.stride, "a block of some columns");
        // SAFETY: the block's rows lie inside the matrix, one after another, and belong to it.
        unsafe { std::slice::from_raw_parts_mut(self.data, self.rows * self.stride) }
    }

    #[cfg(test)]
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Rows `first..first + rows` of the block.
    pub(crate) fn some_rows(&mut self, first: usize, rows: usize) -> Block<'_, T> {
        assert!(rows > 0 && first + rows <= self.rows, "rows beyond the block");
        // SAFETY: the first of the rows lies inside the block.
        let data = unsafe { self.data.add(first * self.stride) };
        Block { data, rows, cols: self.cols, stride: self.stride, borrow: PhantomData }
    }

    pub(crate) fn cols(&self) -> usize {
        self.cols
    }
}

impl Block<'_, f32> {
    /// Columns `first..first + cols` of the block as the output of a product.
    pub(crate) fn tile(&mut self, first: usize, cols: usize) -> Tile<'_> {
        assert!(first + cols <= self.cols, "columns beyond the block");
        // SAFETY: those columns of the block's rows lie inside the matrix and belong to this
        // block, which is borrowed mutably for as long as the tile lives.
        unsafe { Tile::from_raw_parts(self.data.add(first), self.stride, self.rows, cols) }
    }
}

impl Block<'_, f32> {
    /// All of the block as the output of attention: a row is a position, its columns are heads.
    pub(crate) fn head_rows(&mut self) -> HeadRowsMut<'_> {
        let len = (self.rows - 1) * self.stride + self.cols;
        // SAFETY: attention writes rows of the block's width, `stride` apart, below `len`; they
        // belong to this block, which is borrowed mutably for as long as the value lives.
        unsafe { HeadRowsMut::from_raw(self.data, len, self.stride) }
    }
}
