//! The formats of 256 values with 6-bit scales and minima inside: Q4_K and Q5_K.
//!
//! A block of the file is the scale of the scales, that of the minima, twelve bytes of both, perhaps
//! 32 bytes of fifth bits, and the codes: four times 32 bytes whose low nibbles are one block of 32
//! and whose high nibbles are the next. A unit of a panel is such a block of sixteen rows:
//!
//! ```text
//! scales d (16 f16) | minimum scales (16 f16) | 8 x 16 scales u8 | 2 x 64 minima u8 | 8 blocks of codes
//! ```
//!
//! Minima lie as codes do (four of one row side by side), so that they multiply in pairs.

use std::marker::PhantomData;

use super::{Codes, Quantized, fetch_part, planes};
use crate::activation::{Activation, Q8K_RECORD, q8k};
use crate::format::Definition;
use crate::panel::{
    BLOCK, HALVES, Stack, VECTOR, code, code_bytes, half_at, high_bits, paired_nibbles, spread,
};
use crate::simd::{LANES, MAGIC, Simd};

/// What distinguishes these formats: the width of the codes, and with it of the sums.
///
/// Methods may be called as those of [`Simd`]; no memory is touched.
pub(crate) trait Blocks256 {
    /// Bits of a code: 4, or 5, of which sixteen-bit sums hold four products, not eight.
    const BITS: u32;
    /// Sixteen scales of a block.
    type Scale<S: Simd>: Copy;
    /// A sum of four blocks, each times its scale: an integer, exactly.
    type Sum<S: Simd>: Copy;

    unsafe fn scale<S: Simd>(s: S, scale: S::I) -> Self::Scale<S>;
    unsafe fn zero<S: Simd>(s: S) -> Self::Sum<S>;
    unsafe fn scale_add<S: Simd>(
        s: S,
        sum: Self::Sum<S>,
        dots: S::Acc,
        scale: Self::Scale<S>,
    ) -> Self::Sum<S>;
    /// The sum of both, rounded once.
    unsafe fn join<S: Simd>(s: S, low: Self::Sum<S>, high: Self::Sum<S>) -> S::F;
}

/// A format of such blocks.
pub(crate) struct Affine<W>(PhantomData<W>);

/// Where a unit of a panel has what; it begins with the scales of scales.
const SCALES: usize = 2 * HALVES;
const MINIMA: usize = SCALES + 8 * LANES;
const CODES: usize = MINIMA + 2 * VECTOR;

/// Where a block of the file has its 6-bit scales, and its fifth bits.
const SIX_BITS: usize = 4;
const FIFTH_BITS: usize = 16;

impl<W: Blocks256> Affine<W> {
    /// Where a block of the file has its codes.
    const FILE_CODES: usize = if W::BITS == 5 { FIFTH_BITS + 32 } else { FIFTH_BITS };
    /// Bytes of a packed block of 32 codes.
    const PACKED: usize = {
        assert!(W::BITS == 4 || W::BITS == 5, "a nibble, perhaps with a fifth bit");
        code_bytes(W::BITS)
    };
}

impl<W: Blocks256> Definition for Affine<W> {
    const BLOCK: (usize, usize) = (256, Self::FILE_CODES + 128);
    const SCALES: &'static [usize] = &[0, 2];
    const UNIT: (usize, usize) = (256, CODES + 8 * Self::PACKED);
    const ACTIVATION: Activation = Activation::Q8K;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let (d, dmin) = (half_at(block, 0), half_at(block, 2));
        let codes = &block[Self::FILE_CODES..];
        for (i, out) in out.iter_mut().enumerate() {
            let j = i / BLOCK;
            let (scale, min) = scale_min(&block[SIX_BITS..], j);
            let low = codes[i / 64 * 32 + i % 32] >> (j % 2 * 4) & 15;
            let high = if W::BITS == 5 { block[FIFTH_BITS + i % 32] >> j & 1 } else { 0 };
            *out = d * f32::from(scale) * f32::from(low | high << 4) - dmin * f32::from(min);
        }
    }

    fn pack(rows: &Stack<'_>, panel: &mut [u8]) {
        for (u, unit) in panel.chunks_exact_mut(Self::UNIT.1).enumerate() {
            let at = u * Self::BLOCK.1;
            for lane in 0..LANES {
                let head = rows.bytes::<16>(lane, at);
                unit[2 * lane..][..2].copy_from_slice(&head[..2]);
                unit[HALVES + 2 * lane..][..2].copy_from_slice(&head[2..4]);
                let (scales, minima) = scales_minima(head);
                for (j, scale) in scales.into_iter().enumerate() {
                    unit[SCALES + j * LANES + lane] = scale;
                }
                unit[MINIMA + 4 * lane..][..4].copy_from_slice(&minima[..4]);
                unit[MINIMA + VECTOR + 4 * lane..][..4].copy_from_slice(&minima[4..]);
            }
            for (j, out) in unit[CODES..].chunks_exact_mut(Self::PACKED).enumerate() {
                let (nibbles, high) = out.split_first_chunk_mut().expect("nibbles come first");
                let from = at + Self::FILE_CODES + j / 2 * 32;
                spread(|lane| paired_nibbles(rows.bytes(lane, from), j % 2 == 1), nibbles);
                for (lane, out) in high.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                    let bits = rows.bytes::<32>(lane, at + FIFTH_BITS);
                    *out = high_bits::<1>(bits, j as u32);
                }
            }
        }
    }

    fn unpack(unit: &[u8], lane: usize, out: &mut [f32]) {
        let (d, dmin) = (half_at(unit, 2 * lane), half_at(unit, HALVES + 2 * lane));
        for (j, out) in out.chunks_mut(BLOCK).enumerate() {
            let scale = f32::from(unit[SCALES + j * LANES + lane]);
            let min = f32::from(unit[MINIMA + j / 4 * VECTOR + 4 * lane + j % 4]);
            let codes = &unit[CODES + j * Self::PACKED..];
            for (i, out) in out.iter_mut().enumerate() {
                *out = d * scale * f32::from(code(W::BITS, codes, lane, i)) - dmin * min;
            }
        }
    }
}

/// The 6-bit scale and minimum of block `j` of eight.
fn scale_min(s: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (s[j] & 63, s[j + 4] & 63)
    } else {
        ((s[j + 4] & 15) | (s[j - 4] >> 6) << 4, (s[j + 4] >> 4) | (s[j] >> 6) << 4)
    }
}

/// All of them at once, from the first bytes of a block.
fn scales_minima(head: &[u8; 16]) -> ([u8; 8], [u8; 8]) {
    let word = |i: usize| {
        let bytes = head[SIX_BITS + 4 * i..].first_chunk().expect("three words");
        u32::from_le_bytes(*bytes)
    };
    let (scales, minima, both) = (word(0), word(1), word(2));
    const LOW: u32 = 0x0f0f_0f0f;
    let above = |w: u32| (w >> 6 & 0x0303_0303) << 4;
    let eight = |first: u32, second: u32| {
        (u64::from(first & 0x3f3f_3f3f) | u64::from(second) << 32).to_le_bytes()
    };
    (eight(scales, both & LOW | above(scales)), eight(minima, both >> 4 & LOW | above(minima)))
}

/// Where a unit of an affine format comes from; methods as those of [`Codes`].
trait AffineUnit<S: Simd, W: Blocks256>: Codes<S> {
    unsafe fn scale(self, s: S, b: usize) -> W::Scale<S>;
    /// The minima of blocks `0 2`, `1 3`, `4 6` or `5 7` as pairs of `i16`.
    unsafe fn minima(self, s: S, part: usize) -> S::I;
    /// The scale of the scales and that of the minima.
    unsafe fn scales(self, s: S) -> (S::F, S::Factor);
}

/// A unit as the panel keeps it.
struct Packed<W>(*const u8, PhantomData<W>);

impl<W> Clone for Packed<W> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<W> Copy for Packed<W> {}

impl<S: Simd, W: Blocks256> Codes<S> for Packed<W> {
    #[inline(always)]
    unsafe fn fetch(self, s: S, b: usize) {
        fetch_part(s, self.0, Affine::<W>::UNIT.1, b);
    }
    #[inline(always)]
    unsafe fn codes(self, s: S, b: usize, j: usize) -> S::U8 {
        let block = self.0.add(CODES + b * Affine::<W>::PACKED);
        s.prep_u(planes::group(s, W::BITS, block, j))
    }
}

impl<S: Simd, W: Blocks256> AffineUnit<S, W> for Packed<W> {
    #[inline(always)]
    unsafe fn scale(self, s: S, b: usize) -> W::Scale<S> {
        W::scale(s, s.i_load_u8(self.0.add(SCALES + b * LANES)))
    }
    #[inline(always)]
    unsafe fn minima(self, s: S, part: usize) -> S::I {
        let mins = s.b_load(self.0.add(MINIMA + part / 2 * VECTOR));
        let mins = if part.is_multiple_of(2) { mins } else { s.b_shr::<8>(mins) };
        s.i_and(s.i_from_b(mins), s.i_splat(0x00ff_00ff))
    }
    #[inline(always)]
    unsafe fn scales(self, s: S) -> (S::F, S::Factor) {
        (s.f_load_f16(self.0.cast()), s.factors(self.0.add(HALVES).cast()))
    }
}

/// A unit of Q4_K or Q5_K with its codes unpacked.
#[derive(Clone, Copy)]
pub(crate) struct AffineUnpacked<C, K, I, F, M> {
    codes: [[C; 8]; 8],
    scale: [K; 8],
    minima: [I; 4],
    scales: (F, M),
}

type AffineUnpackedOf<S, W> = AffineUnpacked<
    <S as Simd>::U8,
    <W as Blocks256>::Scale<S>,
    <S as Simd>::I,
    <S as Simd>::F,
    <S as Simd>::Factor,
>;

impl<S: Simd, K: Copy> Codes<S> for &AffineUnpacked<S::U8, K, S::I, S::F, S::Factor> {
    #[inline(always)]
    unsafe fn fetch(self, _s: S, _b: usize) {}
    #[inline(always)]
    unsafe fn codes(self, _s: S, b: usize, j: usize) -> S::U8 {
        self.codes[b][j]
    }
}

impl<S: Simd, W: Blocks256> AffineUnit<S, W> for &AffineUnpackedOf<S, W> {
    #[inline(always)]
    unsafe fn scale(self, _s: S, b: usize) -> W::Scale<S> {
        self.scale[b]
    }
    #[inline(always)]
    unsafe fn minima(self, _s: S, part: usize) -> S::I {
        self.minima[part]
    }
    #[inline(always)]
    unsafe fn scales(self, _s: S) -> (S::F, S::Factor) {
        self.scales
    }
}

/// Adds one unit's part of `MR` rows:
/// `x_scale * (scale * sum of scale[b] * dot[b] - min_scale * sum of min[b] * x_sum[b])`.
#[inline(always)]
unsafe fn add_affine<S: Simd, W: Blocks256, const MR: usize>(
    s: S,
    unit: impl AffineUnit<S, W>,
    x: *const u8,
    acc: &mut [S::F; MR],
) {
    let low = add_half::<S, W, MR>(s, unit, x, 0);
    let high = add_half::<S, W, MR>(s, unit, x, 4);
    let mut minus = [s.i_splat(MAGIC); MR];
    each!(part < 4 => {
        let minima = unit.minima(s, part);
        each!(m < MR => {
            let sums = s.i_splat_at(x.add(m * Q8K_RECORD + q8k::SUMS_32 + 4 * part).cast());
            minus[m] = s.dot_pairs(minus[m], minima, sums);
        });
    });
    let (scale, min_scale) = unit.scales(s);
    each!(m < MR => {
        let plus = s.f_mul(W::join(s, low[m], high[m]), scale);
        let difference = s.f_sub(plus, s.scaled(minus[m], min_scale));
        let x_scale = s.f_splat_at(x.add(m * Q8K_RECORD + q8k::SCALE).cast());
        acc[m] = s.f_add(acc[m], s.f_mul(difference, x_scale));
    });
}

/// The scaled dot products of four blocks.
#[inline(always)]
unsafe fn add_half<S: Simd, W: Blocks256, const MR: usize>(
    s: S,
    unit: impl AffineUnit<S, W>,
    x: *const u8,
    first: usize,
) -> [W::Sum<S>; MR] {
    let mut sum = [W::zero(s); MR];
    let mut b = first;
    while b < first + 4 {
        if MR <= 4 {
            unit.fetch(s, b);
        }
        let scale = unit.scale(s, b);
        let mut dots = [s.acc_zero(); MR];
        each!(j < 8 => {
            let w = unit.codes(s, b, j);
            each!(m < MR => {
                let x = x.add(m * Q8K_RECORD + 32 * b + 4 * j);
                dots[m] = s.dot_u(dots[m], w, s.x_load(x.cast()));
            });
            if j == 7 || (W::BITS == 5 && !S::WIDE && j == 3) {
                each!(m < MR => {
                    sum[m] = W::scale_add(s, sum[m], dots[m], scale);
                    dots[m] = s.acc_zero();
                });
            }
        });
        b += 1;
    }
    sum
}

// SAFETY: scales, minima and blocks lie in a unit as `pack` puts them there; `decode` writes every
// field.
unsafe impl<W: Blocks256> Quantized for Affine<W> {
    type Unit<S: Simd> = AffineUnpackedOf<S, W>;

    #[inline(always)]
    unsafe fn decode<S: Simd>(s: S, unit: *const u8, out: *mut Self::Unit<S>) {
        let packed = Packed::<W>(unit, PhantomData);
        let mut b = 0;
        while b < 8 {
            each!(j < 8 => { (*out).codes[b][j] = Codes::<S>::codes(packed, s, b, j); });
            (*out).scale[b] = packed.scale(s, b);
            b += 1;
        }
        each!(part < 4 => { (*out).minima[part] = packed.minima(s, part); });
        (*out).scales = packed.scales(s);
    }
    #[inline(always)]
    unsafe fn add<S: Simd, const MR: usize>(
        s: S,
        unit: &Self::Unit<S>,
        x: *const u8,
        acc: &mut [S::F; MR],
    ) {
        add_affine::<S, W, MR>(s, unit, x, acc);
    }
    #[inline(always)]
    unsafe fn add_packed<S: Simd, const MR: usize>(
        s: S,
        unit: *const u8,
        x: *const u8,
        acc: &mut [S::F; MR],
    ) {
        add_affine::<S, W, MR>(s, Packed::<W>(unit, PhantomData), x, acc);
    }
}
