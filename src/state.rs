//! What a session keeps of its text: keys and values, block by block.

use goldcrest_kernels::{CHUNK, KvLayout, KvType};

use crate::error::{Result, input_error};
use crate::load::Buffer;
use crate::model::BATCH;
use crate::spec::{Heads, Spec, Stage};

/// Keys and values of every attention block: `[block][head][keys | values]`.
///
/// Where a window bounds what a block sees, its positions are a ring. Positions from
/// [`len`](Self::len) on hold what an abandoned pass left; nothing reads them. The system gives
/// the memory page by page as positions are first written.
#[derive(Debug, Default)]
pub(crate) struct State {
    buffer: Option<Buffer>,
    kept: Vec<Kept>,
    context: usize,
    len: usize,
    /// One past the last position that was ever written since the state was empty.
    written: usize,
}

/// One attention block's part of the buffer.
#[derive(Debug, Clone, Copy)]
struct Kept {
    layout: KvLayout,
    heads: Heads,
    bytes: usize,
}

impl State {
    /// Room for `context` positions of a model.
    pub(crate) fn new<S: Stage>(spec: &Spec<S>, ty: KvType, context: usize) -> Result<Self> {
        Self::laid_out(spec, context, |heads| layout(heads.head_dim, heads.window, ty, context))
    }

    /// As [`new`](Self::new), keeping what no window sees any more.
    #[cfg(test)]
    pub(crate) fn without_rings<S: Stage>(
        spec: &Spec<S>,
        ty: KvType,
        context: usize,
    ) -> Result<Self> {
        Self::laid_out(spec, context, |heads| KvLayout::try_new(ty, heads.head_dim, context))
    }

    fn laid_out<S: Stage>(
        spec: &Spec<S>,
        context: usize,
        layout: impl Fn(Heads) -> Option<KvLayout>,
    ) -> Result<Self> {
        let keep = |heads: Heads| {
            let layout = layout(heads)?;
            let bytes = block_bytes(layout, heads.n_kv_heads)?;
            Some(Kept { layout, heads, bytes })
        };
        let kept: Option<Vec<Kept>> = spec.attentions().map(keep).collect();
        let too_long = || input_error(format!("a context of {context} tokens is too long"));
        let kept = kept.ok_or_else(too_long)?;
        let bytes = kept.iter().try_fold(0usize, |sum, kept| sum.checked_add(kept.bytes));
        let buffer = Some(Buffer::sparse(bytes.ok_or_else(too_long)?)?);
        Ok(Self { buffer, kept, context, len: 0, written: 0 })
    }

    /// Positions in use.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Positions that there is room for.
    pub(crate) fn capacity(&self) -> usize {
        self.context
    }

    /// How the keys and values of a head of each attention block lie.
    pub(crate) fn layouts(&self) -> impl Iterator<Item = KvLayout> {
        self.kept.iter().map(|kept| kept.layout)
    }

    /// The keys and values of each attention block: its heads side by side.
    pub(crate) fn blocks(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let mut rest = self.buffer.as_mut().map_or(&mut [][..], Buffer::as_mut_slice);
        self.kept.iter().map(move |kept| {
            let (block, after) = std::mem::take(&mut rest).split_at_mut(kept.bytes);
            rest = after;
            block
        })
    }

    /// Says that a pass writes the next `rows` positions.
    pub(crate) fn begin(&mut self, rows: usize) {
        self.written = self.written.max(self.len + rows);
        debug_assert!(self.len + rows <= self.context);
    }

    /// Counts `rows` positions that a pass has written.
    pub(crate) fn advance(&mut self, rows: usize) {
        self.len += rows;
    }

    /// Goes back to the first `len` positions, or to none, where a ring has lost what the next
    /// position sees. Returns how many there are now.
    pub(crate) fn rewind(&mut self, len: usize) -> usize {
        if len >= self.len {
            return self.len;
        }
        if !self.kept.iter().all(|kept| kept.still_has(len, self.written)) {
            self.written = 0;
            self.len = 0;
            return 0;
        }
        self.len = len;
        len
    }
}

impl Kept {
    /// Whether all that position `next` sees is there, when the positions below `written` have been
    /// written.
    fn still_has(&self, next: usize, written: usize) -> bool {
        let first = self.heads.window.map_or(0, |window| (next + 1).saturating_sub(window));
        first >= written.saturating_sub(self.layout.positions())
    }
}

/// A ring where that is shorter than the context: the window, and what a pass adds to it before its
/// first row has looked. `None` where it does not fit the address space.
fn layout(head_dim: usize, window: Option<usize>, ty: KvType, context: usize) -> Option<KvLayout> {
    // A window as long as the context is none.
    let window = window.filter(|&window| window < context);
    let ring = window.map(|window| (window + BATCH).next_multiple_of(CHUNK));
    match ring.filter(|&ring| ring < context) {
        // No larger than a plain one of the context would be.
        Some(ring) => {
            KvLayout::try_new(ty, head_dim, context).map(|_| KvLayout::ring(ty, head_dim, ring))
        }
        None => KvLayout::try_new(ty, head_dim, context),
    }
}

/// Bytes of an attention block.
fn block_bytes(layout: KvLayout, n_kv_heads: usize) -> Option<usize> {
    layout.k_bytes().checked_add(layout.v_bytes())?.checked_mul(n_kv_heads)
}

/// Bytes of keys and values of a whole context; `None` where they do not fit a `usize`.
pub(crate) fn kv_bytes<S: Stage>(spec: &Spec<S>, ty: KvType, context: usize) -> Option<usize> {
    let of_block = |heads: Heads| {
        block_bytes(layout(heads.head_dim, heads.window, ty, context)?, heads.n_kv_heads)
    };
    spec.attentions().map(of_block).try_fold(0usize, |sum, bytes| sum.checked_add(bytes?))
}
