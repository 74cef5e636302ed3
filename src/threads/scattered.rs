//! Rows that lie anywhere: what the runs of a pass bring with them.

use std::marker::PhantomData;
use std::ops::Range;

use super::claims::Parts;
use super::shared::{enter, next_grid};
use super::stamp::Stamp;
use super::team::Worker;

/// Where rows are, kept from one pass to the next so that none allocates.
pub(crate) struct RowList<T> {
    rows: Vec<(*mut T, usize)>,
    stamps: Vec<Stamp>,
}

// SAFETY: the pointers are used through `Scattered` alone, which borrows what they point to.
unsafe impl<T: Send> Send for RowList<T> {}

impl<T> Default for RowList<T> {
    fn default() -> Self {
        Self { rows: Vec::new(), stamps: Vec::new() }
    }
}

impl<T> RowList<T> {
    /// Begins to lend rows to the workers of a pass, as `matrices` matrices in turn: row 0 of each,
    /// then row 1 of each.
    pub(crate) fn lend<'a>(&'a mut self, matrices: usize) -> Lending<'a, T> {
        self.rows.clear();
        self.stamps.clear();
        self.stamps.resize_with(matrices, Stamp::new);
        Lending { list: self, borrow: PhantomData }
    }
}

/// A [`Scattered`] in the making.
pub(crate) struct Lending<'a, T> {
    list: &'a mut RowList<T>,
    borrow: PhantomData<&'a mut [T]>,
}

impl<'a, T> Lending<'a, T> {
    pub(crate) fn extend(&mut self, rows: impl Iterator<Item = &'a mut [T]>) {
        self.list.rows.extend(rows.map(|row| (row.as_mut_ptr(), row.len())));
    }

    pub(crate) fn done(self) -> Scattered<'a, T> {
        let RowList { rows, stamps } = self.list;
        Scattered { rows, stamps, borrow: PhantomData }
    }
}

/// Matrices whose rows lie anywhere and may differ in length, shared by the workers of a pass.
///
/// Between two barriers a matrix is either read or written through one grid, as a
/// [`Shared`](super::Shared) is.
pub(crate) struct Scattered<'a, T> {
    rows: &'a [(*mut T, usize)],
    stamps: &'a [Stamp],
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: as for `Shared`: the memory is borrowed mutably, and given to other threads as `&[T]` or
// as disjoint `&mut [T]`, which the stamps make sure of.
unsafe impl<T: Send + Sync> Sync for Scattered<'_, T> {}

impl<T> Scattered<'_, T> {
    fn row_of(&self, matrix: usize, row: usize) -> (*mut T, usize) {
        assert!(matrix < self.stamps.len(), "matrix {matrix}");
        self.rows[row * self.stamps.len() + matrix]
    }

    /// Rows of each matrix.
    pub(crate) fn rows(&self) -> usize {
        self.rows.len() / self.stamps.len().max(1)
    }

    /// A row, until the worker's next barrier.
    ///
    /// # Panics
    /// When a worker writes the matrix in the same section.
    pub(crate) fn read<'w>(&'w self, worker: &'w Worker<'_>, matrix: usize, row: usize) -> &'w [T] {
        let (data, len) = self.row_of(matrix, row);
        enter(&self.stamps[matrix], worker, 0);
        // SAFETY: the memory is borrowed for longer than 'w. The stamp made sure that no grid of
        // this section hands out parts, and later sections begin at a barrier, which needs the
        // worker mutably and so ends 'w.
        unsafe { std::slice::from_raw_parts(data, len) }
    }

    /// Claims a matrix for a grid of one kind and size; a second grid of it is another use.
    fn cut(&self, worker: &Worker<'_>, matrix: usize, kind: u64, size: usize) {
        assert!(size > 0 && size < 1 << 32, "rows in parts of {size}");
        let number = next_grid(worker);
        enter(&self.stamps[matrix], worker, number << 34 | (size as u64) << 2 | kind);
    }

    /// Cuts every row of a matrix into `parts` equal ones; a task of [`Worker::each`] is one of them, numbered
    /// along the rows first.
    ///
    /// # Panics
    /// When the matrix is read, or cut otherwise, in the same section.
    pub(crate) fn cells<'w>(
        &'w self,
        worker: &'w Worker<'_>,
        matrix: usize,
        parts: usize,
    ) -> Cells<'w, T> {
        self.cut(worker, matrix, 1, parts);
        Cells { all: self, matrix, parts }
    }

    /// Cuts all rows of a matrix into blocks of `cols` columns; a claim of [`Worker::each`] is some of
    /// them side by side.
    ///
    /// # Panics
    /// When the matrix is read, or cut otherwise, in the same section; when the rows differ in
    /// length.
    pub(crate) fn columns<'w>(
        &'w self,
        worker: &'w Worker<'_>,
        matrix: usize,
        cols: usize,
    ) -> Columns<'w, T> {
        let width = if self.rows() == 0 { 0 } else { self.row_of(matrix, 0).1 };
        let alike = (0..self.rows()).all(|row| self.row_of(matrix, row).1 == width);
        assert!(alike, "rows of one length in columns");
        self.cut(worker, matrix, 2, cols);
        Columns { all: self, matrix, cols, width }
    }
}

/// A matrix of a [`Scattered`], each row cut into parts.
pub(crate) struct Cells<'w, T> {
    all: &'w Scattered<'w, T>,
    matrix: usize,
    parts: usize,
}

impl<'w, T> Parts for Cells<'w, T> {
    type Blocks = &'w mut [T];

    unsafe fn blocks(&mut self, claim: &Range<usize>) -> Self::Blocks {
        assert!(claim.len() == 1, "one cell at a time");
        let (row, part) = (claim.start / self.parts, claim.start % self.parts);
        let (data, len) = self.all.row_of(self.matrix, row);
        let cell = len / self.parts;
        // SAFETY: the cell lies inside the row, and by the caller's promise nobody else has it
        // before the next barrier.
        unsafe { std::slice::from_raw_parts_mut(data.add(part * cell), cell) }
    }
}

/// A matrix of a [`Scattered`], cut into blocks of columns.
pub(crate) struct Columns<'w, T> {
    all: &'w Scattered<'w, T>,
    matrix: usize,
    cols: usize,
    width: usize,
}

impl<'w, T> Parts for Columns<'w, T> {
    type Blocks = ColumnBlock<'w, T>;

    unsafe fn blocks(&mut self, claim: &Range<usize>) -> Self::Blocks {
        let first = (claim.start * self.cols).min(self.width);
        let cols = (claim.len() * self.cols).min(self.width - first);
        ColumnBlock { all: self.all, matrix: self.matrix, first, cols }
    }
}

/// Some columns of all rows, for one worker alone.
pub(crate) struct ColumnBlock<'w, T> {
    all: &'w Scattered<'w, T>,
    matrix: usize,
    first: usize,
    cols: usize,
}

impl<T> ColumnBlock<'_, T> {
    /// The block's columns of row `row`.
    pub(crate) fn row(&mut self, row: usize) -> &mut [T] {
        let (data, _) = self.all.row_of(self.matrix, row);
        // SAFETY: the columns lie inside the row, whose length was compared when the columns were
        // cut, and they belong to this block.
        unsafe { std::slice::from_raw_parts_mut(data.add(self.first), self.cols) }
    }

    pub(crate) fn cols(&self) -> usize {
        self.cols
    }
}
