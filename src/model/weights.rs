//! The weights of a model: matrices packed into one buffer, vectors as f32.

mod file;
mod pack;
mod plan;

use std::sync::Arc;

use goldcrest_kernels::{Format, PANEL_ROWS, unpack_row};

use crate::config::Config;
use crate::error::Result;
use crate::load::{Buffer, Checkpoint, Tensor};
pub(crate) use file::save;
use plan::{Parts, Plan};

/// A matrix in panels, somewhere in the buffer.
#[derive(Debug, Clone)]
pub(crate) struct Matrix {
    pub(crate) format: Format,
    pub(crate) rows: usize,
    pub(crate) k: usize,
    /// Of its first panel.
    offset: usize,
    /// From one panel to the next: more than a panel where two matrices are interleaved.
    stride: usize,
}

impl Matrix {
    pub(crate) fn panels(&self) -> usize {
        self.rows.div_ceil(PANEL_ROWS)
    }

    fn panel_bytes(&self) -> usize {
        self.format.panel_bytes(self.k)
    }
}

/// A matrix and what is added to its product.
#[derive(Debug)]
pub(crate) struct Linear {
    pub(crate) matrix: Matrix,
    /// As many as the matrix has rows, or none.
    pub(crate) bias: Vec<f32>,
}

/// Per-head norms of queries and keys.
#[derive(Debug)]
pub(crate) struct QkNorm {
    pub(crate) q: Vec<f32>,
    pub(crate) k: Vec<f32>,
}

/// One transformer block.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) attn_norm: Vec<f32>,
    /// Queries, keys, values.
    pub(crate) qkv: [Linear; 3],
    pub(crate) qk_norm: Option<QkNorm>,
    pub(crate) attn_output: Matrix,
    pub(crate) ffn_norm: Vec<f32>,
    /// Their panels alternate, so that one claim reads both in one stream.
    pub(crate) gate: Matrix,
    pub(crate) up: Matrix,
    pub(crate) down: Matrix,
}

/// Where a token's embedding comes from.
enum Embedding {
    /// The output matrix, packed once for both.
    Tied,
    /// Rows of the open file: a look-up reads one.
    Mapped(Arc<Checkpoint>, Tensor, Format),
    /// Rows copied from a file that was read whole, so that the rest of it could be freed.
    Copied(Buffer, Format),
}

/// Where the panels are.
enum Panels {
    /// Packed by this process.
    Owned(Buffer),
    /// Used as they lie in a packed file.
    File(Arc<Checkpoint>),
}

impl Panels {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Owned(buffer) => buffer,
            Self::File(checkpoint) => checkpoint.panels().unwrap_or_default(),
        }
    }
}

/// All weights of a model.
pub(crate) struct Weights {
    panels: Panels,
    embedding: Embedding,
    pub(crate) layers: Vec<Layer>,
    pub(crate) output_norm: Vec<f32>,
    pub(crate) output: Matrix,
    /// Bytes that one token's forward pass reads.
    pub(crate) bytes_per_token: u64,
}

impl Weights {
    /// Packs the weights of `checkpoint`, unless they are; `quantize` turns its float matrices into
    /// that format.
    /// `progress` hears of bytes done and of all.
    pub(crate) fn load(
        checkpoint: Checkpoint,
        config: &Config,
        quantize: Option<Format>,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Self> {
        let mut plan = Plan::new(&checkpoint, quantize);
        let Parts { layers, output_norm, output, rows } = plan.model(config)?;
        let mut bytes_per_token = plan.total() as u64;
        let rows = rows.map(|(tensor, format)| (tensor.clone(), format));
        let buffer = match checkpoint.panels() {
            Some(_) => None,
            None => Some(pack::pack(&checkpoint, &plan, progress)?),
        };
        let checkpoint = Arc::new(checkpoint);
        let embedding = match rows {
            None => Embedding::Tied,
            Some((tensor, format)) => {
                bytes_per_token += tensor.row_bytes() as u64;
                if buffer.is_some() {
                    // Those of a packed file were checked when it was packed, as its panels were.
                    checkpoint.check_in_place(&tensor)?;
                }
                if checkpoint.is_mapped() || buffer.is_none() {
                    Embedding::Mapped(Arc::clone(&checkpoint), tensor, format)
                } else {
                    let mut copy = Buffer::zeroed(tensor.byte_len())?;
                    copy.as_mut_slice().copy_from_slice(checkpoint.data(&tensor));
                    Embedding::Copied(copy, format)
                }
            }
        };
        let panels = match buffer {
            Some(buffer) => Panels::Owned(buffer),
            None => {
                checkpoint.will_need_panels();
                Panels::File(checkpoint)
            }
        };
        Ok(Self { panels, embedding, layers, output_norm, output, bytes_per_token })
    }

    /// Panels `first..first + count` of `matrix`, which no other interleaves.
    pub(crate) fn panels(&self, matrix: &Matrix, first: usize, count: usize) -> &[u8] {
        debug_assert_eq!(matrix.stride, matrix.panel_bytes());
        &self.panels.bytes()[matrix.offset + first * matrix.stride..][..count * matrix.stride]
    }

    /// Panel `index` of `matrix`, interleaved or not.
    pub(crate) fn panel(&self, matrix: &Matrix, index: usize) -> &[u8] {
        &self.panels.bytes()[matrix.offset + index * matrix.stride..][..matrix.panel_bytes()]
    }

    /// Panels `first..first + count` of each of two interleaved matrices in turn, where they are
    /// of one format.
    pub(crate) fn pairs(
        &self,
        a: &Matrix,
        b: &Matrix,
        first: usize,
        count: usize,
    ) -> Option<&[u8]> {
        (a.format == b.format)
            .then(|| &self.panels.bytes()[a.offset + first * a.stride..][..count * a.stride])
    }

    /// Writes the embedding of token `id`, which must be below the vocabulary's size.
    pub(crate) fn embed(&self, id: u32, out: &mut [f32]) {
        let id = id as usize;
        let row = |rows: &[u8], format: Format, out: &mut [f32]| {
            let len = rows.len() / self.output.rows;
            format.dequantize(&rows[id * len..][..len], out);
        };
        match &self.embedding {
            Embedding::Tied => {
                let panel = self.panel(&self.output, id / PANEL_ROWS);
                unpack_row(self.output.format, panel, id % PANEL_ROWS, out);
            }
            Embedding::Mapped(checkpoint, tensor, format) => {
                row(checkpoint.data(tensor), *format, out);
            }
            Embedding::Copied(rows, format) => row(rows, *format, out),
        }
    }
}
