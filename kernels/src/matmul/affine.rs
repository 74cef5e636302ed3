//! The formats of 256 values with scales and minima inside: Q2_K, Q4_K and Q5_K.
//!
//! A block of the file is the scale of the scales, that of the minima, both themselves, and planes of
//! codes. A unit of a panel is such a block of sixteen rows:
//!
//! ```text
//! scales d (16 f16) | minimum scales (16 f16) | 128 bytes of scales | 128 bytes of minima | 8 blocks of codes
//! ```
//!
//! Of 8 groups of 32 values, scales and minima are bytes; of 16 groups of 16, nibbles. A vector of minima
//! has four bytes of a row side by side, as one of codes has: they multiply in pairs.

use std::marker::PhantomData;

use super::planes::{self, Plane};
use super::{Codes, Quantized, fetch_part};
use crate::activation::{Activation, Q8K_RECORD, q8k};
use crate::format::{Definition, Quantize};
use crate::panel::{BLOCK, HALVES, Stack, VECTOR, code, code_bytes, half_at};
use crate::simd::{LANES, MAGIC, Simd};

/// What distinguishes these formats: the width of the codes, and with it of the sums.
///
/// # Safety
/// Of `at` no more is read than 16 bytes from `16 b` on.
pub(crate) unsafe trait Blocks256 {
    /// Where a block of the file has the codes.
    const PLANES: &'static [Plane];
    /// Values with a scale and a minimum of their own: 16 or 32.
    const GROUP: usize;
    /// Bytes of a block of the file.
    const BYTES: usize;
    /// Where it has the scale of the scales, before that of the minima.
    const SUPER: usize;
    const QUANTIZE: Option<Quantize> = None;
    /// The scales of a block of 32 values in sixteen rows.
    type Scales<S: Simd>: Copy;
    /// A sum of four blocks, each times its scale: an integer, exactly.
    type Sum<S: Simd>: Copy;

    /// The scales and minima of all groups, from the first bytes of a block of the file.
    fn scales_minima(head: &[u8; 16]) -> ([u8; 16], [u8; 16]);

    /// The scales of block `b` of a unit that has them at `at`.
    unsafe fn scales<S: Simd>(s: S, at: *const u8, b: usize) -> Self::Scales<S>;
    unsafe fn zero<S: Simd>(s: S) -> Self::Sum<S>;
    /// Adds a sum of products of half `half` of a block.
    unsafe fn scale_add<S: Simd>(
        s: S,
        sum: Self::Sum<S>,
        dots: S::Acc,
        scales: Self::Scales<S>,
        half: usize,
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

impl<W: Blocks256> Affine<W> {
    /// Groups of a block.
    const GROUPS: usize = {
        assert!(W::GROUP == 16 || W::GROUP == 32, "half a block of 32, or all of it");
        256 / W::GROUP
    };
    const BITS: u32 = planes::bits(W::PLANES);
    /// Bytes of a packed block of 32 codes.
    const PACKED: usize = code_bytes(Self::BITS);

    /// The byte and the bit of a unit where the scale of group `g` of row `lane` begins.
    fn scale_at(g: usize, lane: usize) -> (usize, u32) {
        if Self::GROUPS == 8 {
            (SCALES + g * LANES + lane, 0)
        } else {
            (SCALES + g / 2 * LANES + lane, 4 * (g as u32 % 2))
        }
    }

    /// As [`scale_at`](Self::scale_at), of a minimum: those of a pair are two bytes apart.
    fn min_at(g: usize, lane: usize) -> (usize, u32) {
        if Self::GROUPS == 8 {
            (MINIMA + g / 4 * VECTOR + 4 * lane + g % 4, 0)
        } else {
            let byte = g % 2 * 2 + g % 8 / 4;
            (MINIMA + g / 8 * VECTOR + 4 * lane + byte, 4 * (g as u32 / 2 % 2))
        }
    }
}

impl<W: Blocks256> Definition for Affine<W> {
    const BLOCK: (usize, usize) = (256, W::BYTES);
    const SCALES: &'static [usize] = &[W::SUPER, W::SUPER + 2];
    const UNIT: (usize, usize) = (256, CODES + 8 * Self::PACKED);
    const ACTIVATION: Activation = Activation::Q8K;
    const QUANTIZE: Option<Quantize> = W::QUANTIZE;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let (d, dmin) = (half_at(block, W::SUPER), half_at(block, W::SUPER + 2));
        let head = block.first_chunk().expect("a block begins with scales");
        let (scales, minima) = W::scales_minima(head);
        for (i, out) in out.iter_mut().enumerate() {
            let g = i / W::GROUP;
            let code = planes::code_in_file(W::PLANES, block, i);
            *out = d * f32::from(scales[g]) * f32::from(code) - dmin * f32::from(minima[g]);
        }
    }

    fn pack(rows: &Stack<'_>, panel: &mut [u8]) {
        for (u, unit) in panel.chunks_exact_mut(Self::UNIT.1).enumerate() {
            let at = u * Self::BLOCK.1;
            unit[SCALES..CODES].fill(0);
            for lane in 0..LANES {
                let d = rows.bytes::<4>(lane, at + W::SUPER);
                unit[2 * lane..][..2].copy_from_slice(&d[..2]);
                unit[HALVES + 2 * lane..][..2].copy_from_slice(&d[2..]);
                let (scales, minima) = W::scales_minima(rows.bytes(lane, at));
                for g in 0..Self::GROUPS {
                    for ((at, shift), value) in
                        [(Self::scale_at(g, lane), scales[g]), (Self::min_at(g, lane), minima[g])]
                    {
                        unit[at] |= value << shift;
                    }
                }
            }
            for (b, out) in unit[CODES..].chunks_exact_mut(Self::PACKED).enumerate() {
                planes::pack(W::PLANES, rows, at, b, out);
            }
        }
    }

    fn unpack(unit: &[u8], lane: usize, out: &mut [f32]) {
        let (d, dmin) = (half_at(unit, 2 * lane), half_at(unit, HALVES + 2 * lane));
        let mask = if Self::GROUPS == 8 { 255 } else { 15 };
        let number = |(at, shift): (usize, u32)| f32::from(unit[at] >> shift & mask);
        for (i, out) in out.iter_mut().enumerate() {
            let g = i / W::GROUP;
            let codes = &unit[CODES + i / BLOCK * Self::PACKED..];
            let code = f32::from(code(Self::BITS, codes, lane, i % BLOCK));
            let (scale, min) = (number(Self::scale_at(g, lane)), number(Self::min_at(g, lane)));
            *out = d * scale * code - dmin * min;
        }
    }
}

/// Scales and minima of 6 bits, of 8 groups, from the first bytes of a block.
pub(crate) fn six_bits(head: &[u8; 16]) -> ([u8; 16], [u8; 16]) {
    let word = |i: usize| {
        let bytes = head[4 + 4 * i..].first_chunk().expect("three words");
        u32::from_le_bytes(*bytes)
    };
    let (scales, minima, both) = (word(0), word(1), word(2));
    const LOW: u32 = 0x0f0f_0f0f;
    let above = |w: u32| (w >> 6 & 0x0303_0303) << 4;
    let eight = |first: u32, second: u32| {
        (u128::from(first & 0x3f3f_3f3f) | u128::from(second) << 32).to_le_bytes()
    };
    (eight(scales, both & LOW | above(scales)), eight(minima, both >> 4 & LOW | above(minima)))
}

/// Writes what [`six_bits`] reads into a block whose bits are zero there.
pub(crate) fn put_six_bits(block: &mut [u8], scales: &[u8; 16], minima: &[u8; 16]) {
    for g in 0..4 {
        let (scale, min) = (scales[g + 4], minima[g + 4]);
        block[4 + g] = scales[g] | (scale >> 4) << 6;
        block[8 + g] = minima[g] | (min >> 4) << 6;
        block[12 + g] = scale & 15 | min << 4;
    }
}

/// Where a unit of an affine format comes from; methods as those of [`Codes`].
trait AffineUnit<S: Simd, W: Blocks256>: Codes<S> {
    unsafe fn block_scales(self, s: S, b: usize) -> W::Scales<S>;
    /// Minima as pairs of `i16`: of groups `0 2`, `1 3`, `4 6` or `5 7` of eight, or `2 part` and
    /// `2 part + 1` of sixteen.
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
        fetch_part(s, self.0, Affine::<W>::UNIT.1, b, 8);
    }
    #[inline(always)]
    unsafe fn codes(self, s: S, b: usize, j: usize) -> S::U8 {
        let block = self.0.add(CODES + b * Affine::<W>::PACKED);
        s.prep_u(planes::group(s, Affine::<W>::BITS, block, j))
    }
}

impl<S: Simd, W: Blocks256> AffineUnit<S, W> for Packed<W> {
    #[inline(always)]
    unsafe fn block_scales(self, s: S, b: usize) -> W::Scales<S> {
        W::scales(s, self.0.add(SCALES), b)
    }
    #[inline(always)]
    unsafe fn minima(self, s: S, part: usize) -> S::I {
        let parts = Affine::<W>::GROUPS / 4;
        let mins = s.b_load(self.0.add(MINIMA + part / parts * VECTOR));
        let (mins, mask) = match (parts, part % parts) {
            (2, 0) => (mins, 0x00ff_00ff),
            (2, _) => (s.b_shr::<8>(mins), 0x00ff_00ff),
            (_, 0) => (mins, 0x000f_000f),
            (_, 1) => (s.b_shr::<4>(mins), 0x000f_000f),
            (_, 2) => (s.b_shr::<8>(mins), 0x000f_000f),
            _ => (s.b_shr::<12>(mins), 0x000f_000f),
        };
        s.i_and(s.i_from_b(mins), s.i_splat(mask))
    }
    #[inline(always)]
    unsafe fn scales(self, s: S) -> (S::F, S::Factor) {
        (s.f_load_f16(self.0.cast()), s.factors(self.0.add(HALVES).cast()))
    }
}

/// A unit with its codes unpacked, and as many minima as the format has.
#[derive(Clone, Copy)]
pub(crate) struct AffineUnpacked<C, K, I, F, M> {
    codes: [[C; 8]; 8],
    block_scales: [K; 8],
    minima: [I; 8],
    scales: (F, M),
}

type AffineUnpackedOf<S, W> = AffineUnpacked<
    <S as Simd>::U8,
    <W as Blocks256>::Scales<S>,
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
    unsafe fn block_scales(self, _s: S, b: usize) -> W::Scales<S> {
        self.block_scales[b]
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
    each!(part < 8 => {
        if 2 * part < Affine::<W>::GROUPS {
            let minima = unit.minima(s, part);
            let of = if Affine::<W>::GROUPS == 8 { q8k::SUMS_32 } else { q8k::SUMS_16 };
            each!(m < MR => {
                let sums = s.i_splat_at(x.add(m * Q8K_RECORD + of + 4 * part).cast());
                minus[m] = s.dot_pairs(minus[m], minima, sums);
            });
        }
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
        let scales = unit.block_scales(s, b);
        let mut dots = [s.acc_zero(); MR];
        each!(j < 8 => {
            let w = unit.codes(s, b, j);
            each!(m < MR => {
                let x = x.add(m * Q8K_RECORD + 32 * b + 4 * j);
                dots[m] = s.dot_u(dots[m], w, s.x_load(x.cast()));
            });
            // Sixteen-bit sums hold only four 5-bit products.
            let half = W::GROUP == 16 || (Affine::<W>::BITS == 5 && !S::WIDE);
            if j == 7 || (half && j == 3) {
                each!(m < MR => {
                    sum[m] = W::scale_add(s, sum[m], dots[m], scales, j / 4);
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
            (*out).block_scales[b] = packed.block_scales(s, b);
            b += 1;
        }
        each!(part < 8 => {
            (*out).minima[part] =
                if 2 * part < Self::GROUPS { packed.minima(s, part) } else { s.i_splat(0) };
        });
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
