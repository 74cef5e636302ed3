//! One tensor of a checkpoint.

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
    pub(super) len: usize,
}

impl Tensor {
    /// Bytes of data.
    pub fn byte_len(&self) -> usize {
        self.len
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

    /// Bytes of one row.
    pub fn row_bytes(&self) -> usize {
        self.len / self.rows()
    }
}
