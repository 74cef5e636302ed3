//! One tensor of a checkpoint.

use goldcrest_kernels::PANEL_ROWS;

use super::ggml::GgmlType;

/// One tensor of a checkpoint, under its GGUF name whatever file it came from.
///
/// The bytes are [`Checkpoint::data`](super::Checkpoint::data)'s; that they lie inside the file was checked
/// when it was opened.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// GGUF name, e.g. `blk.0.attn_q.weight`.
    pub name: String,
    /// Element type.
    pub ty: GgmlType,
    /// Outermost dimension first: a matrix is `[rows, k]`, rows contiguous. Never empty, no dimension zero.
    pub shape: Vec<usize>,
    pub(super) file: usize,
    pub(super) offset: usize,
    /// From the first byte to the last, those of an interleaved matrix between them included.
    pub(super) len: usize,
    /// From one panel to the next in a packed file; 0 where rows lie one after another.
    pub(super) stride: usize,
    /// Whether the file has the columns of the matrix one after another, not the rows.
    pub(crate) transposed: bool,
}

impl Tensor {
    /// Bytes of data, the padding of panels included.
    pub fn byte_len(&self) -> usize {
        if !self.is_packed() {
            return self.len;
        }
        let panels = self.rows().div_ceil(PANEL_ROWS);
        (self.len - (panels - 1) * self.stride) * panels
    }

    /// Whether it lies in panels, as in a packed file, and not row by row.
    pub fn is_packed(&self) -> bool {
        self.stride > 0
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Width of a row: the innermost dimension.
    pub fn k(&self) -> usize {
        self.shape[self.shape.len() - 1]
    }

    /// Number of rows: all dimensions but the innermost.
    pub fn rows(&self) -> usize {
        self.shape[..self.shape.len() - 1].iter().product()
    }

    /// Bytes of what lies side by side: of a row, or of a column where it is transposed.
    pub(crate) fn line_bytes(&self) -> usize {
        if self.transposed { self.len / self.k() } else { self.row_bytes() }
    }

    /// Bytes of one row; of a packed matrix, those that it had before.
    pub fn row_bytes(&self) -> usize {
        if self.is_packed() {
            return self.ty.bytes_for(self.k()).unwrap_or(0);
        }
        self.len / self.rows()
    }
}
