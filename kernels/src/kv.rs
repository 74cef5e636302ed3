//! The memory of keys and values of one layer and one key/value head, and writing to it.
//!
//! ```text
//! position      0 .. 15            16 .. 31
//! keys      | panel 0            | panel 1            | ...
//!             scales, then codes [head_dim][16]          a lane is a position
//! values    | panel 0            | panel 1            | ...
//!             scales, then codes [16][value_dim rounded up to 16]  a lane is a dimension
//! ```
//!
//! Scores then need no horizontal sum, and neither does the product with the values. Only
//! [`KvType::Q8_0`] has scales: half floats, [16] for every 32 dimensions, lane = position in keys
//! and values alike. Panels are rounded up to 64 bytes.
//!
//! A ring ([`KvLayout::ring`]) has position p at p modulo its length, a multiple of [`CHUNK`]: the
//! positions of a chunk lie together there as well.

use std::num::NonZero;

use crate::attention::{CHUNK, Span};
use crate::extent::holds;
use crate::ops;
use crate::simd::{LANES, Simd};

/// Dimensions that share a scale.
pub(crate) const BLOCK: usize = 32;

/// The number format of keys and values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvType {
    /// Single floats.
    F32,
    /// Half floats; beyond 65504 they become infinite.
    #[default]
    F16,
    /// Signed bytes with a half-float scale for every 32 dimensions of a position, for numbers up
    /// to 8 million in magnitude. A block that holds an infinity is NaN.
    Q8_0,
}

/// The most elements of a key: the sizes of a panel, and of attention's buffers, do not wrap.
pub(crate) const MAX_HEAD_DIM: usize = usize::MAX >> 8;

/// How the keys and values of one key/value head lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvLayout {
    ty: KvType,
    head_dim: usize,
    value_dim: usize,
    positions: usize,
    /// The chunks of a ring.
    ring: Option<NonZero<usize>>,
}

impl KvLayout {
    /// Room for `positions` positions, whose keys and values have `head_dim` elements each.
    ///
    /// # Panics
    /// If `head_dim` is 0 or odd, or the keys and values do not fit in memory.
    #[track_caller]
    pub const fn new(ty: KvType, head_dim: usize, positions: usize) -> Self {
        match Self::try_new(ty, head_dim, positions) {
            Some(layout) => layout,
            None => panic!("keys and values of this length do not fit in memory"),
        }
    }

    /// As [`new`](Self::new), for numbers that a user or a file gives: `None` if the keys and values
    /// do not fit in memory.
    ///
    /// # Panics
    /// If `head_dim` is 0 or odd.
    #[track_caller]
    pub const fn try_new(ty: KvType, head_dim: usize, positions: usize) -> Option<Self> {
        Self::try_unequal(ty, head_dim, head_dim, positions)
    }

    /// As [`try_new`](Self::try_new), for keys of `head_dim` and values of `value_dim` elements.
    ///
    /// # Panics
    /// If `head_dim` is 0 or odd, or `value_dim` is 0.
    #[track_caller]
    pub const fn try_unequal(
        ty: KvType,
        head_dim: usize,
        value_dim: usize,
        positions: usize,
    ) -> Option<Self> {
        assert!(head_dim > 0 && head_dim.is_multiple_of(2), "head_dim is even");
        assert!(value_dim > 0, "values have elements");
        if head_dim > MAX_HEAD_DIM || value_dim > MAX_HEAD_DIM {
            return None;
        }
        let layout = Self { ty, head_dim, value_dim, positions, ring: None };
        // Half the address space each, so that the sum of both fits, too.
        let (panels, k, v) =
            (positions.div_ceil(LANES), layout.k_panel_bytes(), layout.v_panel_bytes());
        let longer = if k > v { k } else { v };
        if holds(isize::MAX as usize, panels, longer, longer) { Some(layout) } else { None }
    }

    /// A ring of `positions` positions, for layers that see a window: position p lies at
    /// p modulo `positions`, over what lay there a lap before.
    ///
    /// Whatever takes a position takes it absolute, and counts chunks from position 0. The last
    /// `positions` stored are there: a pass that stores n rows before it attends, each of which
    /// sees w positions, needs w + n - 1.
    ///
    /// # Panics
    /// As [`new`](Self::new), and unless `positions` is a positive multiple of [`CHUNK`].
    #[track_caller]
    pub const fn ring(ty: KvType, head_dim: usize, positions: usize) -> Self {
        assert!(positions.is_multiple_of(CHUNK), "a ring has whole chunks");
        let chunks = NonZero::new(positions / CHUNK);
        assert!(chunks.is_some(), "a ring has positions");
        Self { ring: chunks, ..Self::new(ty, head_dim, positions) }
    }

    /// The number format.
    pub const fn ty(self) -> KvType {
        self.ty
    }

    /// Elements of a key.
    pub const fn head_dim(self) -> usize {
        self.head_dim
    }

    /// Elements of a value.
    pub const fn value_dim(self) -> usize {
        self.value_dim
    }

    /// Positions that there is room for.
    pub const fn positions(self) -> usize {
        self.positions
    }

    /// Whether positions are taken modulo their number.
    pub const fn is_ring(self) -> bool {
        self.ring.is_some()
    }

    /// Where a chunk lies, in chunks.
    #[inline(always)]
    pub(crate) fn slot(self, chunk: usize) -> usize {
        match self.ring {
            Some(chunks) => chunk % chunks,
            None => chunk,
        }
    }

    /// The panel of a position.
    #[inline(always)]
    fn panel(self, position: usize) -> usize {
        self.slot(position / CHUNK) * (CHUNK / LANES) + position % CHUNK / LANES
    }

    /// Whether the cache can hold what `seen` spans.
    #[inline(always)]
    pub(crate) fn holds(self, seen: Span) -> bool {
        if self.is_ring() {
            // The last chunk ends at a number, too.
            seen.end - seen.start <= self.positions && seen.end <= usize::MAX - CHUNK
        } else {
            seen.end <= self.positions
        }
    }

    /// Bytes of the region of keys, a multiple of 64.
    pub const fn k_bytes(self) -> usize {
        self.positions.div_ceil(LANES) * self.k_panel_bytes()
    }

    /// Bytes of the region of values, a multiple of 64.
    pub const fn v_bytes(self) -> usize {
        self.positions.div_ceil(LANES) * self.v_panel_bytes()
    }

    /// Bytes of one element's code.
    pub(crate) const fn code_bytes(self) -> usize {
        match self.ty {
            KvType::F32 => 4,
            KvType::F16 => 2,
            KvType::Q8_0 => 1,
        }
    }

    /// Bytes of the scales that begin a panel of keys.
    pub(crate) const fn k_scale_bytes(self) -> usize {
        self.scale_bytes(self.head_dim)
    }

    /// Bytes of the scales that begin a panel of values.
    pub(crate) const fn v_scale_bytes(self) -> usize {
        self.scale_bytes(self.value_dim)
    }

    const fn scale_bytes(self, dim: usize) -> usize {
        match self.ty {
            KvType::F32 | KvType::F16 => 0,
            KvType::Q8_0 => dim.div_ceil(BLOCK) * LANES * 2,
        }
    }

    /// Bytes of sixteen keys.
    pub const fn k_panel_bytes(self) -> usize {
        (self.k_scale_bytes() + LANES * self.head_dim * self.code_bytes()).next_multiple_of(64)
    }

    /// Bytes of sixteen values.
    pub const fn v_panel_bytes(self) -> usize {
        (self.v_scale_bytes() + LANES * self.v_row() * self.code_bytes()).next_multiple_of(64)
    }

    /// Elements from one value to the next within a panel.
    pub(crate) const fn v_row(self) -> usize {
        self.value_dim.next_multiple_of(LANES)
    }

    #[inline(always)]
    #[track_caller]
    pub(crate) fn check(self, k_region: &[u8], v_region: &[u8]) {
        assert_eq!(k_region.len(), self.k_bytes(), "bytes of keys");
        assert_eq!(v_region.len(), self.v_bytes(), "bytes of values");
    }

    /// Checks one position's key and value.
    #[inline(always)]
    #[track_caller]
    fn check_row(self, pos: usize, k: &[f32], v: &[f32]) {
        assert!(self.is_ring() || pos < self.positions, "position {pos} of {}", self.positions);
        let fits = k.len() == self.head_dim && v.len() == self.value_dim;
        assert!(fits, "lengths of k and v");
    }
}

/// How codes become floats: one type for each [`KvType`].
///
/// # Safety
/// `BYTES` is what an element takes, at most 4; `load` reads and `store` writes sixteen of them.
pub(crate) unsafe trait Code {
    const BYTES: usize;
    const SCALED: bool;

    /// Sixteen codes, widened and not yet scaled.
    ///
    /// # Safety
    /// `p` is valid for sixteen codes, and as for every method of [`Simd`].
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::F;

    /// Writes sixteen codes, of `x` times `inverse` where codes are scaled.
    ///
    /// # Safety
    /// `p` is valid for sixteen codes, and as for every method of [`Simd`].
    unsafe fn store<S: Simd>(s: S, p: *mut u8, x: S::F, inverse: f32);
}

pub(crate) struct F32;
pub(crate) struct F16;
pub(crate) struct Q8;

// SAFETY: 16 x 4 bytes.
unsafe impl Code for F32 {
    const BYTES: usize = 4;
    const SCALED: bool = false;

    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::F {
        // SAFETY: the caller's contract; loads need no alignment.
        unsafe { s.f_load(p.cast()) }
    }

    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, p: *mut u8, x: S::F, _inverse: f32) {
        // SAFETY: the caller's contract; stores need no alignment.
        unsafe { s.f_store(p.cast(), x) }
    }
}

// SAFETY: 16 x 2 bytes.
unsafe impl Code for F16 {
    const BYTES: usize = 2;
    const SCALED: bool = false;

    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::F {
        // SAFETY: the caller's contract; loads need no alignment.
        unsafe { s.f_load_f16(p.cast()) }
    }

    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, p: *mut u8, x: S::F, _inverse: f32) {
        // SAFETY: the caller's contract; stores need no alignment.
        unsafe { s.f_store_f16(p.cast(), x) }
    }
}

// SAFETY: 16 bytes.
unsafe impl Code for Q8 {
    const BYTES: usize = 1;
    const SCALED: bool = true;

    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::F {
        // SAFETY: the caller's contract.
        unsafe { s.i_to_f(s.i_load_i8(p.cast())) }
    }

    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, p: *mut u8, x: S::F, inverse: f32) {
        // SAFETY: the caller's contract.
        unsafe {
            // A subnormal scale may have been rounded down by far: hence the clamp.
            // The order of the operands turns NaN into 127 on every instruction set.
            let x = s.f_min(s.f_mul(x, s.f_splat(inverse)), s.f_splat(127.0));
            s.i_store_i8(p.cast(), s.f_to_i(s.f_max(x, s.f_splat(-127.0))));
        }
    }
}

/// Writes the key and the value of one position, and touches no other.
///
/// # Panics
/// If a length does not fit `layout`, or `pos` lies outside it and it is no ring.
///
/// # Safety
/// As for every method of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn kv_store<S: Simd>(
    s: S,
    layout: KvLayout,
    k_region: &mut [u8],
    v_region: &mut [u8],
    pos: usize,
    k: &[f32],
    v: &[f32],
) {
    layout.check(k_region, v_region);
    layout.check_row(pos, k, v);
    // SAFETY: the asserts above are what `store` asks for.
    unsafe {
        match layout.ty {
            KvType::F32 => store::<S, F32, u32>(s, layout, k_region, v_region, pos, k, v),
            KvType::F16 => store::<S, F16, u16>(s, layout, k_region, v_region, pos, k, v),
            KvType::Q8_0 => store::<S, Q8, u8>(s, layout, k_region, v_region, pos, k, v),
        }
    }
}

/// [`kv_store`] for codes of `C`, whose bits are a `U`.
///
/// # Safety
/// The arguments have been checked, `C` is the code of the layout and `U` of the same size; and as
/// for every method of [`Simd`].
#[inline(always)]
unsafe fn store<S: Simd, C: Code, U: Copy>(
    s: S,
    layout: KvLayout,
    k_region: &mut [u8],
    v_region: &mut [u8],
    pos: usize,
    k: &[f32],
    v: &[f32],
) {
    const { assert!(size_of::<U>() == C::BYTES) };
    let (panel, lane) = (layout.panel(pos), pos % LANES);
    // SAFETY: the regions hold the panel of `pos`, `d + n` is at most the length of a row, and the codes of a block, in
    // the buffer, are `BLOCK` elements of at most 4 bytes.
    unsafe {
        let k_at = k_region.as_mut_ptr().add(panel * layout.k_panel_bytes());
        let v_at = v_region.as_mut_ptr().add(panel * layout.v_panel_bytes());
        let k_codes = k_at.add(layout.k_scale_bytes()).cast::<U>();
        let v_codes = v_at.add(layout.v_scale_bytes()).cast::<U>();
        let mut codes = [0u8; BLOCK * 4];
        // Taken once: to borrow the buffer again would end what the pointer may do.
        let codes = codes.as_mut_ptr();
        let from = codes.cast::<U>();
        let mut d = 0;
        while d < layout.head_dim {
            let n = if layout.head_dim - d < BLOCK { layout.head_dim - d } else { BLOCK };
            let scale = encode::<S, C>(s, k.as_ptr().add(d), n, codes);
            if C::SCALED {
                let at = k_at.add((d / BLOCK * LANES + lane) * 2);
                at.cast::<u16>().write_unaligned(scale);
            }
            let mut i = 0;
            while i < n {
                let code = from.add(i).read_unaligned();
                k_codes.add((d + i) * LANES + lane).write_unaligned(code);
                i += 1;
            }
            d += BLOCK;
        }
        d = 0;
        while d < layout.value_dim {
            let n = if layout.value_dim - d < BLOCK { layout.value_dim - d } else { BLOCK };
            let scale = encode::<S, C>(s, v.as_ptr().add(d), n, codes);
            if C::SCALED {
                let at = v_at.add((d / BLOCK * LANES + lane) * 2);
                at.cast::<u16>().write_unaligned(scale);
            }
            // The padding of a row is written too, as zeros.
            let mut i = 0;
            while i < n.next_multiple_of(LANES) {
                let code = from.add(i).read_unaligned();
                v_codes.add(lane * layout.v_row() + d + i).write_unaligned(code);
                i += 1;
            }
            d += BLOCK;
        }
    }
}

/// A half float that is not a number.
const NAN: u16 = 0x7e00;

/// Encodes `n` elements, at most 32, and zeros up to 32; gives the bits of the scale.
///
/// # Safety
/// `x` is valid for `n` elements and `codes` for 32 codes; and as for every method of [`Simd`].
#[inline(always)]
unsafe fn encode<S: Simd, C: Code>(s: S, x: *const f32, n: usize, codes: *mut u8) -> u16 {
    // SAFETY: reads stay below `n`; `codes` holds twice sixteen codes.
    unsafe {
        let low = ops::load(s, x, n, 0.0);
        let high =
            if n > LANES { ops::load(s, x.add(LANES), n - LANES, 0.0) } else { s.f_splat(0.0) };
        let (scale, inverse) = if C::SCALED {
            let most = s.f_greatest(s.f_max(s.f_abs(low), s.f_abs(high)));
            // The codes are for the scale as it is stored, half a float.
            let mut scale = [0u16; LANES];
            s.f_store_f16(scale.as_mut_ptr(), s.f_splat(most / 127.0));
            let mut stored = [0.0f32; LANES];
            s.f_store(stored.as_mut_ptr(), s.f_load_f16(scale.as_ptr()));
            // What has no finite scale reads back as NaN.
            let bits = if stored[0] == f32::INFINITY { NAN } else { scale[0] };
            (bits, if stored[0] > 0.0 { 1.0 / stored[0] } else { 0.0 })
        } else {
            (0, 1.0)
        };
        C::store(s, codes, low, inverse);
        C::store(s, codes.add(LANES * C::BYTES), high, inverse);
        scale
    }
}

/// Reads the key and the value of one position back.
///
/// # Panics
/// If a length does not fit `layout`, or `pos` lies outside it and it is no ring.
///
/// # Safety
/// As for every method of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn kv_load<S: Simd>(
    s: S,
    layout: KvLayout,
    k_region: &[u8],
    v_region: &[u8],
    pos: usize,
    k: &mut [f32],
    v: &mut [f32],
) {
    layout.check(k_region, v_region);
    layout.check_row(pos, k, v);
    let (panel, lane) = (layout.panel(pos), pos % LANES);
    // SAFETY: the regions hold the panel of `pos`, and every offset lies within it; the buffers have
    // sixteen lanes.
    unsafe {
        let k_at = k_region.as_ptr().add(panel * layout.k_panel_bytes());
        let v_at = v_region.as_ptr().add(panel * layout.v_panel_bytes());
        let mut lanes = [0.0f32; LANES];
        let mut d = 0;
        while d < layout.head_dim {
            s.f_store(lanes.as_mut_ptr(), key_lanes(s, layout, k_at, d));
            k[d] = lanes[lane];
            d += 1;
        }
        d = 0;
        while d < layout.value_dim {
            s.f_store(lanes.as_mut_ptr(), value_lanes(s, layout, v_at, lane, d));
            v[d] = lanes[d % LANES];
            d += 1;
        }
    }
}

/// Dimension `d` of sixteen keys.
///
/// # Safety
/// `at` is a panel of keys of `layout`, and as for every method of [`Simd`].
#[inline(always)]
unsafe fn key_lanes<S: Simd>(s: S, layout: KvLayout, at: *const u8, d: usize) -> S::F {
    // SAFETY: the caller's contract; `d` lies within the head.
    unsafe {
        let codes = at.add(layout.k_scale_bytes() + d * LANES * layout.code_bytes());
        match layout.ty {
            KvType::F32 => F32::load(s, codes),
            KvType::F16 => F16::load(s, codes),
            KvType::Q8_0 => {
                let scales = s.f_load_f16(at.add(d / BLOCK * LANES * 2).cast());
                s.f_mul(Q8::load(s, codes), scales)
            }
        }
    }
}

/// The sixteen dimensions of value `lane` around `d`.
///
/// # Safety
/// `at` is a panel of values of `layout`, and as for every method of [`Simd`].
#[inline(always)]
unsafe fn value_lanes<S: Simd>(
    s: S,
    layout: KvLayout,
    at: *const u8,
    lane: usize,
    d: usize,
) -> S::F {
    // SAFETY: the caller's contract; `d` and `lane` lie within the panel.
    unsafe {
        let first = lane * layout.v_row() + d / LANES * LANES;
        let codes = at.add(layout.v_scale_bytes() + first * layout.code_bytes());
        match layout.ty {
            KvType::F32 => F32::load(s, codes),
            KvType::F16 => F16::load(s, codes),
            KvType::Q8_0 => {
                let mut scales = [0.0f32; LANES];
                s.f_store(scales.as_mut_ptr(), s.f_load_f16(at.add(d / BLOCK * LANES * 2).cast()));
                s.f_mul(Q8::load(s, codes), s.f_splat(scales[lane]))
            }
        }
    }
}
