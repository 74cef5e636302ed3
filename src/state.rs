//! What a session keeps of its text, block by block: keys and values, or the state of a recurrence.

use goldcrest_kernels::{CHUNK, KvLayout, KvType};

use crate::error::{Error, ErrorKind, Result, input_error};
use crate::load::Buffer;
use crate::model::BATCH;
use crate::spec::{Heads, Spec, Stage};

/// Keys and values of every attention block, `[block][head][keys | values]`, and the states of
/// recurrent blocks.
///
/// Where a window bounds what a block sees, its positions are a ring. Positions from
/// [`len`](Self::len) on hold what an abandoned pass left; nothing reads them. The system gives
/// the memory page by page as positions are first written.
#[derive(Debug, Default)]
pub(crate) struct State {
    buffer: Option<Buffer>,
    kept: Vec<Kept>,
    recurrent: Recurrent,
    context: usize,
    len: usize,
    /// One past the last position that was ever written since the state was empty.
    written: usize,
    /// The keys and values of blocks on a device: all positions, no rings.
    #[cfg(feature = "gpu")]
    on_device: Option<std::sync::Arc<goldcrest_gpu::Cache>>,
}

/// One attention block's part of the buffer.
#[derive(Debug, Clone, Copy)]
struct Kept {
    layout: KvLayout,
    heads: Heads,
    bytes: usize,
}

/// The states of all recurrent blocks: of each the tail of its convolution, then its matrix.
///
/// A pass reads those of before and writes those of after, so that one that is abandoned changes
/// nothing; to advance is to exchange the two.
#[derive(Debug, Default)]
struct Recurrent {
    parts: Vec<usize>,
    before: Vec<f32>,
    after: Vec<f32>,
}

/// What a state needs besides its positions to come back to where it was.
#[derive(Debug)]
pub(crate) struct SavePoint {
    len: usize,
    written: usize,
    recurrent: Vec<f32>,
    /// The blocks that are rings.
    rings: Vec<u8>,
}

impl SavePoint {
    /// Positions that it covers.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl State {
    /// Room for `context` positions of a model.
    pub(crate) fn new<S: Stage>(spec: &Spec<S>, ty: KvType, context: usize) -> Result<Self> {
        Self::laid_out(spec, context, |_, heads| layout(heads, ty, context))
    }

    /// The same, where blocks keep on a device what `elsewhere` says of their places.
    #[cfg(feature = "gpu")]
    pub(crate) fn with_device<S: Stage>(
        spec: &Spec<S>,
        ty: KvType,
        context: usize,
        (elsewhere, cache): (impl Fn(usize) -> bool, std::sync::Arc<goldcrest_gpu::Cache>),
    ) -> Result<Self> {
        let layout = |kept: usize, heads| match elsewhere(kept) {
            // Of no heads nothing is kept here; positions are those of the context.
            true => plain(heads, ty, context),
            false => layout(heads, ty, context),
        };
        let mut state = Self::laid_out_but(spec, context, layout, &elsewhere)?;
        state.on_device = Some(cache);
        Ok(state)
    }

    /// The keys and values on a device.
    #[cfg(feature = "gpu")]
    pub(crate) fn on_device(&self) -> Option<std::sync::Arc<goldcrest_gpu::Cache>> {
        self.on_device.clone()
    }

    /// As [`new`](Self::new), keeping what no window sees any more.
    #[cfg(test)]
    pub(crate) fn without_rings<S: Stage>(
        spec: &Spec<S>,
        ty: KvType,
        context: usize,
    ) -> Result<Self> {
        Self::laid_out(spec, context, |_, heads| plain(heads, ty, context))
    }

    fn laid_out<S: Stage>(
        spec: &Spec<S>,
        context: usize,
        layout: impl Fn(usize, Heads) -> Option<KvLayout>,
    ) -> Result<Self> {
        Self::laid_out_but(spec, context, layout, |_| false)
    }

    /// As [`laid_out`](Self::laid_out), but for the bytes of what is kept elsewhere.
    fn laid_out_but<S: Stage>(
        spec: &Spec<S>,
        context: usize,
        layout: impl Fn(usize, Heads) -> Option<KvLayout>,
        elsewhere: impl Fn(usize) -> bool,
    ) -> Result<Self> {
        let keep = |(kept, heads): (usize, Heads)| {
            let layout = layout(kept, heads)?;
            let here = block_bytes(layout, heads.n_kv_heads)?;
            let bytes = if elsewhere(kept) { 0 } else { here };
            Some(Kept { layout, heads, bytes })
        };
        let kept: Option<Vec<Kept>> = spec.attentions().enumerate().map(keep).collect();
        let too_long = || input_error(format!("a context of {context} tokens is too long"));
        let kept = kept.ok_or_else(too_long)?;
        let bytes = kept.iter().try_fold(0usize, |sum, kept| sum.checked_add(kept.bytes));
        let buffer = Some(Buffer::sparse(bytes.ok_or_else(too_long)?)?);
        let recurrent = Recurrent::new(spec.recurrences().flatten().collect())?;
        Ok(Self {
            buffer,
            kept,
            recurrent,
            context,
            len: 0,
            written: 0,
            #[cfg(feature = "gpu")]
            on_device: None,
        })
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

    /// The keys and values of each attention block, its heads side by side; and the states of each
    /// recurrent block, two parts each: those that the next pass reads, and those that it writes.
    pub(crate) fn lend(
        &mut self,
    ) -> (impl Iterator<Item = &mut [u8]>, impl Iterator<Item = [&mut [f32]; 2]>) {
        let mut bytes = self.buffer.as_mut().map_or(&mut [][..], Buffer::as_mut_slice);
        let blocks = self.kept.iter().map(move |kept| split_off(&mut bytes, kept.bytes));
        let Recurrent { parts, before, after } = &mut self.recurrent;
        let mut rest = [&mut before[..], &mut after[..]];
        let parts = parts.iter().map(move |&len| rest.each_mut().map(|rest| split_off(rest, len)));
        (blocks, parts)
    }

    /// Says that a pass writes the next `rows` positions.
    pub(crate) fn begin(&mut self, rows: usize) {
        self.written = self.written.max(self.len + rows);
        debug_assert!(self.len + rows <= self.context);
    }

    /// Counts `rows` positions that a pass has written.
    pub(crate) fn advance(&mut self, rows: usize) {
        self.len += rows;
        let Recurrent { before, after, .. } = &mut self.recurrent;
        std::mem::swap(before, after);
    }

    /// Whether the state of the first `len` positions is still there: no ring has lost what the next
    /// position sees, and no recurrence has passed by.
    pub(crate) fn reaches(&self, len: usize) -> bool {
        let passed_by = !self.recurrent.parts.is_empty() && len > 0;
        let still_has = |kept: &Kept| kept.still_has(len, self.written);
        len == self.len || len < self.len && !passed_by && self.kept.iter().all(still_has)
    }

    /// Goes back to the first `len` positions, or to none, where they are not
    /// [there](Self::reaches) any more. Returns how many there are now.
    pub(crate) fn rewind(&mut self, len: usize) -> usize {
        if len >= self.len {
            return self.len;
        }
        if len == 0 || !self.reaches(len) {
            self.written = 0;
            self.len = 0;
            self.recurrent.before.fill(0.0);
            return 0;
        }
        self.len = len;
        len
    }

    /// What it takes to come back here.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] where there is no memory for it.
    pub(crate) fn save(&mut self) -> Result<SavePoint> {
        let mut recurrent = with_room(self.recurrent.before.len())?;
        recurrent.extend_from_slice(&self.recurrent.before);
        let mut rings = with_room(self.rings().map(|ring| ring.len()).sum())?;
        self.rings().for_each(|ring| rings.extend_from_slice(ring));
        Ok(SavePoint { len: self.len, written: self.written, recurrent, rings })
    }

    /// Comes back to a save point. The positions that it covers have not been written since by other
    /// text.
    pub(crate) fn restore(&mut self, point: &SavePoint) {
        self.recurrent.before.copy_from_slice(&point.recurrent);
        let mut saved = &point.rings[..];
        for ring in self.rings() {
            let (own, rest) = saved.split_at(ring.len());
            ring.copy_from_slice(own);
            saved = rest;
        }
        (self.len, self.written) = (point.len, point.written);
    }

    /// The blocks whose positions are a ring.
    fn rings(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let context = self.context;
        let are_rings: Vec<_> =
            self.kept.iter().map(|kept| kept.layout.positions() < context).collect();
        self.lend().0.zip(are_rings).filter_map(|(block, is_ring)| is_ring.then_some(block))
    }
}

impl Recurrent {
    fn new(parts: Vec<usize>) -> Result<Self> {
        let len = parts.iter().try_fold(0usize, |sum, &part| sum.checked_add(part));
        // What no address can say is refused as no memory for it.
        let len = len.unwrap_or(usize::MAX);
        let zeros = || -> Result<Vec<f32>> {
            let mut zeros = with_room(len)?;
            zeros.resize(len, 0.0);
            Ok(zeros)
        };
        Ok(Self { before: zeros()?, after: zeros()?, parts })
    }
}

/// The first `len` of `all`, which loses them.
fn split_off<'a, T>(all: &mut &'a mut [T], len: usize) -> &'a mut [T] {
    let (first, rest) = std::mem::take(all).split_at_mut(len);
    *all = rest;
    first
}

/// A vector with room for `len` elements.
fn with_room<T>(len: usize) -> Result<Vec<T>> {
    let mut vector = Vec::new();
    vector.try_reserve_exact(len).map_err(|error| {
        let bytes = len.saturating_mul(size_of::<T>());
        Error::new(ErrorKind::Io, format!("no memory for a state of {bytes} bytes")).because(error)
    })?;
    Ok(vector)
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
fn layout(heads: Heads, ty: KvType, context: usize) -> Option<KvLayout> {
    // A window as long as the context is none.
    let window = heads.window.filter(|&window| window < context);
    let ring = window.map(|window| (window + BATCH).next_multiple_of(CHUNK));
    match ring.filter(|&ring| ring < context) {
        // No larger than a plain one of the context would be.
        Some(ring) => plain(heads, ty, context).map(|_| KvLayout::ring(ty, heads.head_dim, ring)),
        None => plain(heads, ty, context),
    }
}

fn plain(heads: Heads, ty: KvType, context: usize) -> Option<KvLayout> {
    KvLayout::try_unequal(ty, heads.head_dim, heads.value_dim, context)
}

/// Bytes of an attention block.
fn block_bytes(layout: KvLayout, n_kv_heads: usize) -> Option<usize> {
    layout.k_bytes().checked_add(layout.v_bytes())?.checked_mul(n_kv_heads)
}

/// Bytes of keys and values of a whole context; `None` where they do not fit a `usize`.
pub(crate) fn kv_bytes<S: Stage>(spec: &Spec<S>, ty: KvType, context: usize) -> Option<usize> {
    kept_bytes(spec, ty, context, |_| false)
}

fn kept_bytes<S: Stage>(
    spec: &Spec<S>,
    ty: KvType,
    context: usize,
    elsewhere: impl Fn(usize) -> bool,
) -> Option<usize> {
    let of_block = |heads: Heads| block_bytes(layout(heads, ty, context)?, heads.n_kv_heads);
    let here = spec.attentions().enumerate().filter(|(kept, _)| !elsewhere(*kept));
    here.map(|(_, heads)| of_block(heads)).try_fold(0usize, |sum, bytes| sum.checked_add(bytes?))
}

/// Bytes of a whole state of `context` positions: keys and values, and what is recurrent twice, before a
/// pass and after; `None` where they do not fit a `usize`. What is kept `elsewhere` does not count.
pub(crate) fn state_bytes<S: Stage>(
    spec: &Spec<S>,
    ty: KvType,
    context: usize,
    elsewhere: impl Fn(usize) -> bool,
) -> Option<usize> {
    let mut numbers = spec.recurrences().flatten();
    let numbers = numbers.try_fold(0usize, |sum, part| sum.checked_add(part))?;
    let kept = kept_bytes(spec, ty, context, elsewhere)?;
    numbers.checked_mul(2 * size_of::<f32>())?.checked_add(kept)
}
