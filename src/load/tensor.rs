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
    /// Where the scales of its blocks are, if apart from their codes, which the other fields are about.
    pub(super) scales: Option<Scales>,
}

/// The scales of a tensor's blocks, one after another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scales {
    pub(super) file: usize,
    pub(super) offset: usize,
    pub(super) len: usize,
}

impl Tensor {
    /// Bytes of data, the padding of panels included.
    pub fn byte_len(&self) -> usize {
        if !self.is_packed() {
            return self.len + self.scales.map_or(0, |scales| scales.len);
        }
        let panels = self.rows().div_ceil(PANEL_ROWS);
        (self.len - (panels - 1) * self.stride) * panels
    }

    /// Whether it lies in panels, as in a packed file, and not row by row.
    pub fn is_packed(&self) -> bool {
        self.stride > 0
    }

    /// Whether the file has its blocks in two parts: see [`Checkpoint::blocks`](super::Checkpoint::blocks).
    pub(crate) fn is_in_parts(&self) -> bool {
        self.scales.is_some()
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

    /// Bytes of what lies side by side: of a row, or of a column where it is transposed; of a row's codes
    /// where its scales are apart.
    pub(crate) fn line_bytes(&self) -> usize {
        match (self.transposed, self.is_in_parts()) {
            (true, _) => self.len / self.k(),
            (false, true) => self.len / self.rows(),
            (false, false) => self.row_bytes(),
        }
    }

    /// Bytes of one row; of a packed matrix, those that it had before, and of one whose scales are apart,
    /// those with them.
    pub fn row_bytes(&self) -> usize {
        if self.is_packed() || self.is_in_parts() {
            return self.ty.bytes_for(self.k()).unwrap_or(0);
        }
        self.len / self.rows()
    }
}
