//! Matrix products on slices, by the crate that candle uses, too.

use gemm::Parallelism;

/// A matrix in a slice; rows or columns may lie apart.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Matrix<'a> {
    /// `[rows, cols]`, row by row.
    pub(crate) fn new(values: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(values, rows, cols, cols)
    }

    /// Rows that begin `stride` values apart.
    pub(crate) fn strided(values: &'a [f32], rows: usize, cols: usize, stride: usize) -> Self {
        Self { values, rows, cols, row_stride: stride, col_stride: 1 }
    }

    /// The transpose, which costs nothing.
    pub(crate) fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// What becomes of the values that are there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Into {
    /// The product replaces them.
    Replace,
    /// The product is added.
    Add,
}

/// Who computes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Workers {
    /// The calling thread.
    One,
    /// All threads of the pool.
    All,
}

/// The backward pass of `y = x * w.t()`, from the gradient of y: that of x goes to `dx`, that of w
/// is returned.
pub(crate) fn project_back(grad: Matrix, x: Matrix, w: Matrix, dx: &mut [f32]) -> Vec<f32> {
    let mut dw = vec![0.0; w.rows * w.cols];
    multiply((&mut dw, w.cols), Into::Replace, 1.0, grad.t(), x, Workers::All);
    multiply((dx, w.cols), Into::Replace, 1.0, grad, w, Workers::All);
    dw
}

/// `out = scale * a * b`, where the rows of `out` begin `stride` values apart.
///
/// # Panics
/// If the shapes do not fit, or a slice is too short for its matrix.
pub(crate) fn multiply(
    (out, stride): (&mut [f32], usize),
    into: Into,
    scale: f32,
    a: Matrix,
    b: Matrix,
    workers: Workers,
) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    assert_eq!(k, b.rows, "inner dimensions");
    let end = |m: &Matrix| (m.rows - 1) * m.row_stride + (m.cols - 1) * m.col_stride;
    assert!(m > 0 && n > 0 && k > 0 && stride >= n, "dimensions");
    assert!(end(&a) < a.values.len() && end(&b) < b.values.len(), "a matrix beyond its slice");
    assert!((m - 1) * stride + n <= out.len(), "a product beyond its slice");
    let parallelism = match workers {
        Workers::One => Parallelism::None,
        Workers::All => Parallelism::Rayon(0),
    };
    // SAFETY: the last value of each matrix lies in its slice, as was just checked, strides are
    // positive, and rows of `out` do not overlap.
    #[allow(unsafe_code)]
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            stride as isize,
            into == Into::Add,
            a.values.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.values.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}
