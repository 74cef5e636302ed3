//! Q6_K: `d * scale * (code - 32)`, a nibble and two bits a code, a signed scale per 16.
//!
//! A block of the file is 128 bytes of nibbles, 64 of the bits above them, the scales, and their
//! scale; each half of it has 128 values, whose byte `l` of 32 has the low bits of k = l, l + 32,
//! l + 64 and l + 96. A unit of a panel is such a block of sixteen rows:
//!
//! ```text
//! 8 blocks of codes | 16 x 16 scales i8 | scales d (16 f16) | 32 bytes of padding
//! ```
//!
//! Bits five and six of a block of 32 are two vectors, two bits of a byte for each of four groups.

use super::Definition;
use crate::activation::{Activation, Q8K_RECORD, q8k};
use crate::matmul::{Codes, Quantized, each, fetch_part, planes};
use crate::panel::{
    BLOCK, HALVES, Stack, VECTOR, code, code_bytes, half_at, high_bits, paired_nibbles, spread,
};
use crate::simd::{LANES, Simd};

/// The format.
#[allow(non_camel_case_types, reason = "formats keep the GGUF spelling")]
pub(crate) struct Q6_K;

/// Bytes of a packed block of 32 codes.
const PACKED: usize = code_bytes(6);
/// Where a unit of a panel has what comes after the codes.
const SCALES: usize = 8 * PACKED;
const SUPER: usize = SCALES + 16 * LANES;

/// Where a block of the file has what comes after the nibbles.
const FILE_HIGH: usize = 128;
const FILE_SCALES: usize = 192;
const FILE_SUPER: usize = 208;

impl Definition for Q6_K {
    const BLOCK: (usize, usize) = (256, FILE_SUPER + 2);
    const SCALES: &'static [usize] = &[FILE_SUPER];
    const UNIT: (usize, usize) = (256, SUPER + 2 * HALVES);
    const ACTIVATION: Activation = Activation::Q8K;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = half_at(block, FILE_SUPER);
        for (i, out) in out.iter_mut().enumerate() {
            let (part, quarter, l) = (i / 128, i / 32 % 4, i % 32);
            let low = block[part * 64 + quarter % 2 * 32 + l] >> (quarter / 2 * 4) & 15;
            let high = block[FILE_HIGH + part * 32 + l] >> (quarter * 2) & 3;
            let scale = block[FILE_SCALES + i / 16] as i8;
            *out = d * f32::from(scale) * (f32::from(low | high << 4) - 32.0);
        }
    }

    fn pack(rows: &Stack<'_>, panel: &mut [u8]) {
        for (u, unit) in panel.chunks_exact_mut(Self::UNIT.1).enumerate() {
            let at = u * Self::BLOCK.1;
            let (codes, tail) = unit.split_at_mut(SCALES);
            for (b, out) in codes.chunks_exact_mut(PACKED).enumerate() {
                let (part, quarter) = (b / 4, b % 4);
                let (nibbles, planes) = out.split_first_chunk_mut().expect("nibbles come first");
                let low = at + part * 64 + quarter % 2 * 32;
                spread(|lane| paired_nibbles(rows.bytes(lane, low), quarter >= 2), nibbles);
                let high = at + FILE_HIGH + part * 32;
                for (half, plane) in planes.chunks_exact_mut(VECTOR).enumerate() {
                    for (lane, out) in plane.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                        let bits = rows.bytes::<16>(lane, high + 16 * half);
                        *out = high_bits::<2>(bits, 2 * quarter as u32);
                    }
                }
            }
            tail.fill(0);
            for lane in 0..LANES {
                let scales = rows.bytes::<16>(lane, at + FILE_SCALES);
                for (i, &scale) in scales.iter().enumerate() {
                    tail[i * LANES + lane] = scale;
                }
                let d = rows.bytes::<2>(lane, at + FILE_SUPER);
                tail[SUPER - SCALES + 2 * lane..][..2].copy_from_slice(d);
            }
        }
    }

    fn unpack(unit: &[u8], lane: usize, out: &mut [f32]) {
        let d = half_at(unit, SUPER + 2 * lane);
        for (i, out) in out.iter_mut().enumerate() {
            let scale = unit[SCALES + i / 16 * LANES + lane] as i8;
            let code = code(6, &unit[i / BLOCK * PACKED..], lane, i % BLOCK);
            *out = d * f32::from(scale) * (f32::from(code) - 32.0);
        }
    }
}

/// The scales of the halves of a block of Q6_K, and both times -32 as pairs of `i16`: the codes'
/// offset, for the sums of activations that are known beforehand.
#[derive(Clone, Copy)]
pub(crate) struct HalfScales<I> {
    halves: [I; 2],
    offsets: I,
}

/// Where a unit of Q6_K comes from; methods as those of [`Codes`].
trait SixBitUnit<S: Simd>: Codes<S> {
    unsafe fn scales(self, s: S, b: usize) -> HalfScales<S::I>;
    unsafe fn scale(self, s: S) -> S::F;
}

/// A unit as the panel keeps it.
#[derive(Clone, Copy)]
struct PackedSix(*const u8);

impl<S: Simd> Codes<S> for PackedSix {
    #[inline(always)]
    unsafe fn fetch(self, s: S, b: usize) {
        fetch_part(s, self.0, Q6_K::UNIT.1, b);
    }
    #[inline(always)]
    unsafe fn codes(self, s: S, b: usize, j: usize) -> S::U8 {
        let block = self.0.add(b * PACKED);
        s.prep_u(planes::group(s, 6, block, j))
    }
}

impl<S: Simd> SixBitUnit<S> for PackedSix {
    #[inline(always)]
    unsafe fn scales(self, s: S, b: usize) -> HalfScales<S::I> {
        let at = self.0.add(SCALES + 2 * b * LANES).cast::<i8>();
        let (first, second) = (s.i_load_i8(at), s.i_load_i8(at.add(LANES)));
        let zero = s.i_splat(0);
        let low = s.i_and(s.i_sub(zero, s.i_shl::<5>(first)), s.i_splat(0xffff));
        let high = s.i_sub(zero, s.i_shl::<21>(second));
        HalfScales {
            halves: [s.prep_scale(first), s.prep_scale(second)],
            offsets: s.i_add(low, high),
        }
    }
    #[inline(always)]
    unsafe fn scale(self, s: S) -> S::F {
        s.f_load_f16(self.0.add(SUPER).cast())
    }
}

/// A unit of Q6_K with its codes unpacked.
#[derive(Clone, Copy)]
pub(crate) struct SixBits<C, I, F> {
    codes: [[C; 8]; 8],
    scales: [HalfScales<I>; 8],
    scale: F,
}

impl<S: Simd> Codes<S> for &SixBits<S::U8, S::I, S::F> {
    #[inline(always)]
    unsafe fn fetch(self, _s: S, _b: usize) {}
    #[inline(always)]
    unsafe fn codes(self, _s: S, b: usize, j: usize) -> S::U8 {
        self.codes[b][j]
    }
}

impl<S: Simd> SixBitUnit<S> for &SixBits<S::U8, S::I, S::F> {
    #[inline(always)]
    unsafe fn scales(self, _s: S, b: usize) -> HalfScales<S::I> {
        self.scales[b]
    }
    #[inline(always)]
    unsafe fn scale(self, _s: S) -> S::F {
        self.scale
    }
}

/// Adds one unit's part of `MR` rows: `x_scale * scale * sum of scale[h] * (dot[h] - 32 x_sum[h])`.
#[inline(always)]
unsafe fn add_six_bits<S: Simd, const MR: usize>(
    s: S,
    unit: impl SixBitUnit<S>,
    x: *const u8,
    acc: &mut [S::F; MR],
) {
    let mut total = [s.i_splat(0); MR];
    let mut b = 0;
    while b < 8 {
        if MR <= 4 {
            unit.fetch(s, b);
        }
        let scales = unit.scales(s, b);
        let mut dots = [s.acc_zero(); MR];
        each!(j < 8 => {
            let w = unit.codes(s, b, j);
            each!(m < MR => {
                let x = x.add(m * Q8K_RECORD + 32 * b + 4 * j);
                dots[m] = s.dot_u(dots[m], w, s.x_load(x.cast()));
            });
            // Sixteen-bit sums hold only two 6-bit products.
            if j % 4 == 3 || (j % 2 == 1 && !S::WIDE) {
                each!(m < MR => {
                    total[m] = s.scale_add(total[m], dots[m], scales.halves[j / 4]);
                    dots[m] = s.acc_zero();
                });
            }
        });
        each!(m < MR => {
            let sums = s.i_splat_at(x.add(m * Q8K_RECORD + q8k::SUMS_16 + 4 * b).cast());
            total[m] = s.dot_pairs(total[m], scales.offsets, sums);
        });
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
unsafe impl Quantized for Q6_K {
    type Unit<S: Simd> = SixBits<S::U8, S::I, S::F>;

    #[inline(always)]
    unsafe fn decode<S: Simd>(s: S, unit: *const u8, out: *mut Self::Unit<S>) {
        let packed = PackedSix(unit);
        let mut b = 0;
        while b < 8 {
            each!(j < 8 => { (*out).codes[b][j] = Codes::<S>::codes(packed, s, b, j); });
            (*out).scales[b] = packed.scales(s, b);
            b += 1;
        }
        (*out).scale = packed.scale(s);
    }
    #[inline(always)]
    unsafe fn add<S: Simd, const MR: usize>(
        s: S,
        unit: &Self::Unit<S>,
        x: *const u8,
        acc: &mut [S::F; MR],
    ) {
        add_six_bits::<S, MR>(s, unit, x, acc);
    }
    #[inline(always)]
    unsafe fn add_packed<S: Simd, const MR: usize>(
        s: S,
        unit: *const u8,
        x: *const u8,
        acc: &mut [S::F; MR],
    ) {
        add_six_bits::<S, MR>(s, PackedSix(unit), x, acc);
    }
}
