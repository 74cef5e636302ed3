//! The weights of a model: matrices packed into one buffer, vectors as f32.

mod file;
mod pack;
mod plan;

use std::sync::Arc;

use goldcrest_kernels::{Activation, Format, PANEL_ROWS, unpack_row};

use super::need::Fixed;
use crate::error::Result;
use crate::load::{Buffer, Checkpoint, Hadamard, Tensor};
use crate::spec::{Named, Scale, Spec, Stage};
pub(crate) use file::save;
pub(crate) use pack::Watch;
use plan::Plan;

/// A matrix in panels, somewhere in the buffer.
#[derive(Debug, Clone)]
pub(crate) struct Matrix {
    pub(crate) format: Format,
    pub(crate) rows: usize,
    pub(crate) k: usize,
    /// Whether its input is turned: see [`Hadamard`].
    pub(crate) turned: bool,
    /// On its products: 1 unless the file says.
    pub(crate) factor: f32,
    /// Of its first panel.
    pub(crate) offset: usize,
    /// From one panel to the next: more than a panel where two matrices are interleaved.
    pub(crate) stride: usize,
}

impl Matrix {
    pub(crate) fn panels(&self) -> usize {
        self.rows.div_ceil(PANEL_ROWS)
    }

    /// The form of activations that it is multiplied with.
    pub(crate) fn kind(&self) -> Activation {
        self.format.activation()
    }

    pub(crate) fn panel_bytes(&self) -> usize {
        self.format.panel_bytes(self.k)
    }

    /// Its bytes in the buffer, with those of a matrix that its panels alternate with, but for what
    /// that has before its first and after its last.
    #[cfg(feature = "gpu")]
    pub(crate) fn range(&self) -> std::ops::Range<usize> {
        let last = self.offset + (self.panels() - 1) * self.stride;
        self.offset..last + self.panel_bytes()
    }

    /// Bytes of its panels alone.
    #[cfg(feature = "gpu")]
    pub(crate) fn bytes(&self) -> usize {
        self.panels() * self.panel_bytes()
    }
}

/// The stage of weights that are ready to run.
#[derive(Debug)]
pub(crate) struct Loaded;

impl Stage for Loaded {
    type Matrix = Matrix;
    type Vector = Vec<f32>;
    /// Which of the tables.
    type Rows = usize;
    type Bank = Vec<Expert>;
    type Heads = Vec<Matrix>;
}

impl Scale<Loaded> {
    pub(crate) fn number(&self) -> f32 {
        match self {
            Self::Tensor(numbers) => numbers[0],
            Self::Number(number) => *number,
        }
    }
}

/// One expert: its matrices one after another, in pages of their own but for small ones.
#[derive(Debug)]
pub(crate) struct Expert {
    pub(crate) gate_up: [Matrix; 2],
    pub(crate) down: Matrix,
}

/// Rows that are looked up one by one, as the file has them.
#[derive(Debug)]
pub(crate) enum Table {
    /// Rows of the open file: a look-up reads one.
    Mapped(Arc<Checkpoint>, Tensor, Format),
    /// Rows copied from a file that was read whole, so that the rest of it could be freed.
    Copied(Buffer, Format),
}

impl Table {
    /// `packed`: in a packed file, which is always mapped for as long as the model is there.
    fn new(
        checkpoint: &Arc<Checkpoint>,
        tensor: Tensor,
        format: Format,
        packed: bool,
    ) -> Result<Self> {
        if checkpoint.is_mapped() || packed {
            return Ok(Self::Mapped(Arc::clone(checkpoint), tensor, format));
        }
        let mut copy = Buffer::zeroed(tensor.byte_len())?;
        copy.as_mut_slice().copy_from_slice(checkpoint.data(&tensor));
        Ok(Self::Copied(copy, format))
    }

    /// Row `id` as floats.
    fn row(&self, id: usize, out: &mut [f32]) {
        let (rows, format) = match self {
            Self::Mapped(checkpoint, tensor, format) => (checkpoint.data(tensor), format),
            Self::Copied(rows, format) => (&rows[..], format),
        };
        // The plan has checked that a row of so many values is whole blocks.
        let len = format.row_bytes(out.len()).unwrap_or(0);
        format.dequantize(&rows[id * len..][..len], out);
    }
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
    tables: Vec<Table>,
    pub(crate) spec: Spec<Loaded>,
    pub(crate) hadamard: Option<Hadamard>,
    /// Bytes that one token's forward pass reads.
    pub(crate) bytes_per_token: u64,
}

impl Weights {
    /// Packs the weights of `checkpoint`, unless they are, into the blocks of `spec`; `quantize` turns
    /// its float matrices into that format. Before that, `room` hears what they take and may object.
    pub(crate) fn load(
        checkpoint: Checkpoint,
        spec: &Spec<Named>,
        quantize: Option<Format>,
        watch: &Watch<'_>,
        room: impl FnOnce(&Spec<Loaded>, Fixed) -> Result<()>,
    ) -> Result<Self> {
        let hadamard = checkpoint.hadamard(spec)?;
        let mut plan = Plan::new(&checkpoint, hadamard.as_ref(), quantize);
        let spec = plan.model(spec)?;
        room(&spec, plan.takes())?;
        let mut bytes_per_token = plan.per_token();
        let tables: Vec<_> =
            plan.tables.iter().map(|(tensor, format)| ((*tensor).clone(), *format)).collect();
        let buffer = match checkpoint.panels() {
            Some(_) => None,
            None => Some(pack::pack(&checkpoint, &plan, watch)?),
        };
        let checkpoint = Arc::new(checkpoint);
        let table = |(tensor, format): (Tensor, Format)| {
            bytes_per_token += tensor.row_bytes() as u64;
            if buffer.is_some() {
                // Those of a packed file were checked when it was packed, as its panels were.
                checkpoint.check_in_place(&tensor)?;
            }
            Table::new(&checkpoint, tensor, format, buffer.is_none())
        };
        let tables = tables.into_iter().map(table).collect::<Result<_>>()?;
        let panels = match buffer {
            Some(buffer) => Panels::Owned(buffer),
            None => {
                checkpoint.will_need_panels();
                Panels::File(checkpoint)
            }
        };
        Ok(Self { panels, tables, spec, hadamard, bytes_per_token })
    }

    /// Gives the memory of panels back that nobody reads any more, where they are this process's own.
    #[cfg(feature = "gpu")]
    pub(crate) fn forget(&mut self, ranges: impl IntoIterator<Item = std::ops::Range<usize>>) {
        if let Panels::Owned(buffer) = &mut self.panels {
            ranges.into_iter().for_each(|range| buffer.forget(range));
        }
    }

    /// The panels in `range`.
    #[cfg(feature = "gpu")]
    pub(crate) fn bytes(&self, range: std::ops::Range<usize>) -> &[u8] {
        &self.panels.bytes()[range]
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

    /// Writes row `id` of a table, which must have it.
    pub(crate) fn look_up(&self, table: usize, id: usize, out: &mut [f32]) {
        self.tables[table].row(id, out);
    }

    /// Writes the embedding of token `id`, which must be below the vocabulary's size.
    pub(crate) fn embed(&self, id: u32, out: &mut [f32]) {
        let (id, head) = (id as usize, &self.spec.head.matrix);
        match self.spec.embed {
            Some(table) => self.look_up(table, id, out),
            None => {
                let panel = self.panel(head, id / PANEL_ROWS);
                unpack_row(head.format, panel, id % PANEL_ROWS, out);
            }
        }
    }
}
