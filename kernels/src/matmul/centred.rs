//! The formats of 256 values with signed scales inside and no minima: Q3_K, Q6_K and IQ4_XS.
//!
//! A block of the file is planes of codes, the scales, and their scale. A unit of a panel is such a block
//! of sixteen rows:
//!
//! ```text
//! 8 blocks of codes | scales (16 bytes each) | scales d (16 f16) | padding to a line
//! ```

use std::marker::PhantomData;
use std::mem::MaybeUninit;

use super::planes::{self, Plane};
use super::{Quantized, fetch_part};
use crate::activation::{Activation, Q8K_RECORD, q8k};
use crate::format::{Definition, Quantize};
use crate::panel::{BLOCK, HALVES, Stack, code, code_bytes, half_at};
use crate::simd::{LANES, Simd};

/// Room for the scales of all groups of sixteen rows.
pub(crate) type ScaleRoom = MaybeUninit<[u8; 16 * LANES]>;

/// What distinguishes these formats: what a code is, and how scales are kept.
///
/// # Safety
/// Of `packed` no more is read than `16 * SCALE_BYTES` bytes, and what [`expand`](Self::expand) returns
/// is valid for sixteen bytes from `16 g` on for every group.
pub(crate) unsafe trait Blocks256 {
    /// Where a block of the file has the codes.
    const PLANES: &'static [Plane];
    /// Values with a scale of their own: 16 or 32.
    const GROUP: usize;
    /// Bytes of a block of the file.
    const BYTES: usize;
    /// Where it has the scale of the scales, and sixteen bytes with the scales among them.
    const SUPER: usize;
    const HEAD: usize;
    /// Bytes that a row's scales have in a unit, at most 16.
    const SCALE_BYTES: usize;
    /// Fours of products that a sum holds: one of sixteen bits, and one of 32 until its scale changes.
    const RUN: (usize, usize);
    /// Whether such sums fit sixteen bits.
    const SUM16: bool;
    const QUANTIZE: Option<Quantize> = None;
    /// Codes of four values in sixteen rows.
    type Codes<S: Simd>: Copy;

    /// What a code stands for, in scales.
    fn value(code: u8) -> i32;
    /// The bytes of the scales, from the sixteen of the file.
    fn scale_bytes(head: &[u8; 16]) -> [u8; 16];
    /// The scale of group `g`.
    fn scale_of(bytes: &[u8; 16], g: usize) -> i32;

    /// What codes have above their values.
    fn offset<S: Simd>() -> i32;
    unsafe fn codes<S: Simd>(s: S, codes: S::B) -> Self::Codes<S>;
    unsafe fn dot<S: Simd>(s: S, dots: S::Acc, w: Self::Codes<S>, x: S::X) -> S::Acc;
    /// A byte for each scale: the packed ones, or what is made of them in `room`.
    #[inline(always)]
    unsafe fn expand<S: Simd>(_s: S, packed: *const u8, _room: *mut u8) -> *const u8 {
        packed
    }
    /// The scales of group `g`.
    #[inline(always)]
    unsafe fn scale<S: Simd>(s: S, expanded: *const u8, g: usize) -> S::I {
        s.i_load_i8(expanded.add(g * LANES).cast())
    }
}

/// A format of such blocks.
pub(crate) struct Centred<W>(PhantomData<W>);

impl<W: Blocks256> Centred<W> {
    const BITS: u32 = planes::bits(W::PLANES);
    /// Bytes of a packed block of 32 codes.
    const PACKED: usize = code_bytes(Self::BITS);
    /// Where a unit of a panel has what comes after the codes.
    const SCALES: usize = 8 * Self::PACKED;
    const SUPER: usize = Self::SCALES + W::SCALE_BYTES * LANES;
}

impl<W: Blocks256> Definition for Centred<W> {
    const BLOCK: (usize, usize) = (256, W::BYTES);
    const SCALES: &'static [usize] = &[W::SUPER];
    const UNIT: (usize, usize) = (256, (Self::SUPER + HALVES).next_multiple_of(64));
    const ACTIVATION: Activation = Activation::Q8K;
    const QUANTIZE: Option<Quantize> = W::QUANTIZE;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = half_at(block, W::SUPER);
        let head = block[W::HEAD..].first_chunk().expect("sixteen bytes with scales");
        let scales = W::scale_bytes(head);
        for (i, out) in out.iter_mut().enumerate() {
            let value = W::value(planes::code_in_file(W::PLANES, block, i));
            *out = d * W::scale_of(&scales, i / W::GROUP) as f32 * value as f32;
        }
    }

    fn pack(rows: &Stack<'_>, panel: &mut [u8]) {
        for (u, unit) in panel.chunks_exact_mut(Self::UNIT.1).enumerate() {
            let at = u * Self::BLOCK.1;
            let (codes, tail) = unit.split_at_mut(Self::SCALES);
            for (b, out) in codes.chunks_exact_mut(Self::PACKED).enumerate() {
                planes::pack(W::PLANES, rows, at, b, out);
            }
            let (scales, tail) = tail.split_at_mut(W::SCALE_BYTES * LANES);
            let (d, padding) = tail.split_at_mut(HALVES);
            padding.fill(0);
            for lane in 0..LANES {
                let bytes = W::scale_bytes(rows.bytes(lane, at + W::HEAD));
                for (scales, byte) in scales.chunks_exact_mut(LANES).zip(bytes) {
                    scales[lane] = byte;
                }
                d[2 * lane..][..2].copy_from_slice(rows.bytes::<2>(lane, at + W::SUPER));
            }
        }
    }

    fn unpack(unit: &[u8], lane: usize, out: &mut [f32]) {
        let d = half_at(unit, Self::SUPER + 2 * lane);
        let mut scales = [0; 16];
        let packed = unit[Self::SCALES..Self::SUPER].chunks_exact(LANES);
        scales.iter_mut().zip(packed).for_each(|(scale, lanes)| *scale = lanes[lane]);
        for (i, out) in out.iter_mut().enumerate() {
            let codes = &unit[i / BLOCK * Self::PACKED..];
            let value = W::value(code(Self::BITS, codes, lane, i % BLOCK));
            *out = d * W::scale_of(&scales, i / W::GROUP) as f32 * value as f32;
        }
    }
}

/// The scales of the halves of a block; and, where sums of products cannot start with what the codes'
/// offset makes of the activations, both times that offset as pairs of `i16`, negative.
#[derive(Clone, Copy)]
pub(crate) struct HalfScales<I> {
    halves: [I; 2],
    offsets: I,
}

/// What each group's sum of products starts with: minus the codes' offset times the sum of its
/// activations. Groups of 16 have the even ones first.
#[derive(Clone, Copy)]
struct Starts(MaybeUninit<[i32; 2 * LANES]>);

impl Starts {
    /// Whether sums can start so: sixteen-bit ones cannot.
    #[inline(always)]
    fn serve<S: Simd, W: Blocks256>() -> bool {
        S::WIDE && W::offset::<S>() != 0
    }

    /// # Safety
    /// `x` is valid for a record; else as the methods of [`Simd`].
    #[inline(always)]
    unsafe fn of<S: Simd, W: Blocks256>(s: S, x: *const u8) -> Self {
        let mut starts = Self(MaybeUninit::uninit());
        if Self::serve::<S, W>() {
            // The record has eight pairs there, and as many bytes after them.
            let sums = s.i_from_b(s.b_load(x.add(q8k::SUMS_16)));
            let zero = s.i_splat(0);
            let minus = -W::offset::<S>();
            let (even, odd) = (minus & 0xffff, minus << 16);
            let out = starts.0.as_mut_ptr().cast();
            if W::GROUP == BLOCK {
                s.i_store(out, s.dot_pairs(zero, s.i_splat(even | odd), sums));
            } else {
                s.i_store(out, s.dot_pairs(zero, s.i_splat(even), sums));
                s.i_store(out.add(LANES), s.dot_pairs(zero, s.i_splat(odd), sums));
            }
        }
        starts
    }

    /// Sums of half `half` of block `b` begin.
    #[inline(always)]
    unsafe fn begin<S: Simd, W: Blocks256>(&self, s: S, b: usize, half: usize) -> S::Acc {
        if Self::serve::<S, W>() {
            s.acc_start(self.0.as_ptr().cast::<i32>().add(half * LANES + b))
        } else {
            s.acc_zero()
        }
    }
}

/// Where a unit comes from. Methods may be called on a unit that is there, for `b` and `j` below 8, and as
/// those of [`Simd`].
trait Source<S: Simd, W: Blocks256>: Copy {
    /// Fetches what blocks some way after `b` will need.
    unsafe fn fetch(self, s: S, b: usize);
    /// Group `j` of block `b`.
    unsafe fn codes(self, s: S, b: usize, j: usize) -> W::Codes<S>;
    unsafe fn scales(self, s: S, b: usize) -> HalfScales<S::I>;
    unsafe fn scale(self, s: S) -> S::F;
}

/// A unit as the panel keeps it, and a byte for each of its scales.
#[derive(Clone, Copy)]
struct Packed {
    unit: *const u8,
    scales: *const u8,
}

impl Packed {
    /// # Safety
    /// `unit` is valid for a unit, and `room` outlives the result; else as [`Simd`].
    #[inline(always)]
    unsafe fn new<S: Simd, W: Blocks256>(s: S, unit: *const u8, room: &mut ScaleRoom) -> Self {
        let packed = unit.add(Centred::<W>::SCALES);
        Self { unit, scales: W::expand(s, packed, room.as_mut_ptr().cast()) }
    }
}

impl<S: Simd, W: Blocks256> Source<S, W> for Packed {
    #[inline(always)]
    unsafe fn fetch(self, s: S, b: usize) {
        fetch_part(s, self.unit, Centred::<W>::UNIT.1, b, 8);
    }
    #[inline(always)]
    unsafe fn codes(self, s: S, b: usize, j: usize) -> W::Codes<S> {
        let block = self.unit.add(b * Centred::<W>::PACKED);
        W::codes(s, planes::group(s, Centred::<W>::BITS, block, j))
    }
    #[inline(always)]
    unsafe fn scales(self, s: S, b: usize) -> HalfScales<S::I> {
        let first = W::scale(s, self.scales, b * BLOCK / W::GROUP);
        let second = if W::GROUP == BLOCK { first } else { W::scale(s, self.scales, 2 * b + 1) };
        let prepared = |scale| if W::SUM16 { s.prep_scale16(scale) } else { s.prep_scale(scale) };
        let halves = [prepared(first), prepared(second)];
        let zero = s.i_splat(0);
        if S::WIDE {
            return HalfScales { halves, offsets: zero };
        }
        let offset = W::offset::<S>();
        let low = s.i_and(s.i_sub(zero, times(s, first, offset)), s.i_splat(0xffff));
        let high = s.i_shl::<16>(s.i_sub(zero, times(s, second, offset)));
        HalfScales { halves, offsets: s.i_add(low, high) }
    }
    #[inline(always)]
    unsafe fn scale(self, s: S) -> S::F {
        s.f_load_f16(self.unit.add(Centred::<W>::SUPER).cast())
    }
}

/// Times a power of two of those that are offsets.
#[inline(always)]
unsafe fn times<S: Simd>(s: S, a: S::I, by: i32) -> S::I {
    match by {
        0 => s.i_splat(0),
        4 => s.i_shl::<2>(a),
        32 => s.i_shl::<5>(a),
        128 => s.i_shl::<7>(a),
        _ => unreachable!("no format has it"),
    }
}

/// A unit with its codes unpacked.
#[derive(Clone, Copy)]
pub(crate) struct Unpacked<C, I, F> {
    codes: [[C; 8]; 8],
    scales: [HalfScales<I>; 8],
    scale: F,
}

impl<S: Simd, W: Blocks256> Source<S, W> for &Unpacked<W::Codes<S>, S::I, S::F> {
    #[inline(always)]
    unsafe fn fetch(self, _s: S, _b: usize) {}
    #[inline(always)]
    unsafe fn codes(self, _s: S, b: usize, j: usize) -> W::Codes<S> {
        self.codes[b][j]
    }
    #[inline(always)]
    unsafe fn scales(self, _s: S, b: usize) -> HalfScales<S::I> {
        self.scales[b]
    }
    #[inline(always)]
    unsafe fn scale(self, _s: S) -> S::F {
        self.scale
    }
}

/// Adds one unit's part of `MR` rows:
/// `x_scale * scale * sum of scale[h] * (dot[h] - offset * x_sum[h])`.
#[inline(always)]
unsafe fn add_centred<S: Simd, W: Blocks256, const MR: usize>(
    s: S,
    unit: impl Source<S, W>,
    x: *const u8,
    acc: &mut [S::F; MR],
) {
    let mut total = [s.i_splat(0); MR];
    let mut starts = [Starts(MaybeUninit::uninit()); MR];
    each!(m < MR => { starts[m] = Starts::of::<S, W>(s, x.add(m * Q8K_RECORD)); });
    let mut b = 0;
    while b < 8 {
        if MR <= 4 {
            unit.fetch(s, b);
        }
        let scales = unit.scales(s, b);
        let mut dots = [s.acc_zero(); MR];
        each!(m < MR => { dots[m] = starts[m].begin::<S, W>(s, b, 0); });
        each!(j < 8 => {
            let w = unit.codes(s, b, j);
            each!(m < MR => {
                let x = x.add(m * Q8K_RECORD + 32 * b + 4 * j);
                dots[m] = W::dot(s, dots[m], w, s.x_load(x.cast()));
            });
            let run = if S::WIDE { W::RUN.1 } else { W::RUN.0 };
            if (j + 1).is_multiple_of(run) {
                let scale = scales.halves[j / 4];
                each!(m < MR => {
                    total[m] = if W::SUM16 {
                        s.scale_add16(total[m], dots[m], scale)
                    } else {
                        s.scale_add(total[m], dots[m], scale)
                    };
                    dots[m] = starts[m].begin::<S, W>(s, b, 1);
                });
            }
        });
        if W::offset::<S>() != 0 && !S::WIDE {
            each!(m < MR => {
                let sums = s.i_splat_at(x.add(m * Q8K_RECORD + q8k::SUMS_16 + 4 * b).cast());
                total[m] = s.dot_pairs(total[m], scales.offsets, sums);
            });
        }
        b += 1;
    }
    let scale = unit.scale(s);
    each!(m < MR => {
        let x_scale = s.f_splat_at(x.add(m * Q8K_RECORD + q8k::SCALE).cast());
        acc[m] = s.f_add(acc[m], s.f_mul(s.f_mul(s.i_to_f(total[m]), scale), x_scale));
    });
}

// SAFETY: blocks, scales and their scale lie in a unit as `pack` puts them there; `decode` writes
// every field.
unsafe impl<W: Blocks256> Quantized for Centred<W> {
    type Unit<S: Simd> = Unpacked<W::Codes<S>, S::I, S::F>;

    #[inline(always)]
    unsafe fn decode<S: Simd>(s: S, unit: *const u8, out: *mut Self::Unit<S>) {
        let mut room = ScaleRoom::uninit();
        let packed = Packed::new::<S, W>(s, unit, &mut room);
        let mut b = 0;
        while b < 8 {
            each!(j < 8 => {
                (*out).codes[b][j] = Source::<S, W>::codes(packed, s, b, j);
            });
            (*out).scales[b] = Source::<S, W>::scales(packed, s, b);
            b += 1;
        }
        (*out).scale = Source::<S, W>::scale(packed, s);
    }
    #[inline(always)]
    unsafe fn add<S: Simd, const MR: usize>(
        s: S,
        unit: &Self::Unit<S>,
        x: *const u8,
        acc: &mut [S::F; MR],
    ) {
        add_centred::<S, W, MR>(s, unit, x, acc);
    }
    #[inline(always)]
    unsafe fn add_packed<S: Simd, const MR: usize>(
        s: S,
        unit: *const u8,
        x: *const u8,
        acc: &mut [S::F; MR],
    ) {
        let mut room = ScaleRoom::uninit();
        add_centred::<S, W, MR>(s, Packed::new::<S, W>(s, unit, &mut room), x, acc);
    }
}
