//! The formats of 256 values with integer scales inside: Q4_K, Q5_K, Q6_K.

use super::layout::{self, NIBBLES, VECTOR, affine, q6_k};
use super::simple::{fifth_bits, nibbles};
use super::{Quantized, prefetch};
use crate::activation::{Q8K_RECORD, q8k};
use crate::format::Format;
use crate::simd::{LANES, MAGIC, Simd};

/// Where a unit's codes come from; what else it has is the format's.
trait Codes<S: Simd>: Copy {
    unsafe fn fetch(self, s: S, b: usize);
    unsafe fn codes(self, s: S, b: usize, j: usize) -> S::U8;
}

/// Fetches an eighth of a unit, in whole lines, ahead of block `b`: the blocks in turn fetch all
/// of it, with what stands beside the codes.
#[inline(always)]
unsafe fn fetch_part<S: Simd>(s: S, unit: *const u8, format: Format, b: usize) {
    let part = layout::unit(format).1.div_ceil(8).next_multiple_of(64);
    prefetch(s, unit.add(b * part), part);
}

/// What distinguishes Q4_K and Q5_K: the width of the codes, and with it of the sums.
pub(crate) trait Affine {
    const FORMAT: Format;
    /// Whether codes have a fifth bit, of which sixteen-bit sums hold four products, not eight.
    const FIFTH: bool = layout::high_bytes(Self::FORMAT) > 0;
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

/// Where a unit of an affine format comes from.
trait AffineUnit<S: Simd, W: Affine>: Codes<S> {
    unsafe fn scale(self, s: S, b: usize) -> W::Scale<S>;
    /// The minima of blocks `0 2`, `1 3`, `4 6` or `5 7` as pairs of `i16`.
    unsafe fn minima(self, s: S, part: usize) -> S::I;
    /// The scale of the scales and that of the minima.
    unsafe fn scales(self, s: S) -> (S::F, S::Factor);
}

/// A unit as the panel keeps it.
struct Packed<W>(*const u8, std::marker::PhantomData<W>);

impl<W> Clone for Packed<W> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<W> Copy for Packed<W> {}

impl<S: Simd, W: Affine> Codes<S> for Packed<W> {
    #[inline(always)]
    unsafe fn fetch(self, s: S, b: usize) {
        fetch_part(s, self.0, W::FORMAT, b);
    }
    #[inline(always)]
    unsafe fn codes(self, s: S, b: usize, j: usize) -> S::U8 {
        let block = self.0.add(affine::CODES + b * layout::code_bytes(W::FORMAT));
        let codes = nibbles(s, block, j);
        s.prep_u(if W::FIFTH { fifth_bits(s, block, j, codes) } else { codes })
    }
}

impl<S: Simd, W: Affine> AffineUnit<S, W> for Packed<W> {
    #[inline(always)]
    unsafe fn scale(self, s: S, b: usize) -> W::Scale<S> {
        W::scale(s, s.i_load_u8(self.0.add(affine::SCALES + b * LANES)))
    }
    #[inline(always)]
    unsafe fn minima(self, s: S, part: usize) -> S::I {
        let mins = s.b_load(self.0.add(affine::MINS + part / 2 * VECTOR));
        let mins = if part.is_multiple_of(2) { mins } else { s.b_shr::<8>(mins) };
        s.i_and(s.i_from_b(mins), s.i_splat(0x00ff_00ff))
    }
    #[inline(always)]
    unsafe fn scales(self, s: S) -> (S::F, S::Factor) {
        let min = s.f_load_f16(self.0.add(layout::HALVES).cast());
        (s.f_load_f16(self.0.cast()), s.factor(min))
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
    <W as Affine>::Scale<S>,
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

impl<S: Simd, W: Affine> AffineUnit<S, W> for &AffineUnpackedOf<S, W> {
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
unsafe fn add_affine<S: Simd, W: Affine, const MR: usize>(
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
unsafe fn add_half<S: Simd, W: Affine, const MR: usize>(
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
            if j == 7 || (W::FIFTH && !S::WIDE && j == 3) {
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

/// Kernels of Q4_K.
#[allow(non_camel_case_types, reason = "formats keep the GGUF spelling")]
pub(crate) struct Q4_K;

/// At most `4 * 63 * 32 * 15 * 127 < 2^24`: single precision has the sum of four blocks exactly.
impl Affine for Q4_K {
    const FORMAT: Format = Format::Q4_K;
    type Scale<S: Simd> = S::Scale24;
    type Sum<S: Simd> = S::Sum24;

    #[inline(always)]
    unsafe fn scale<S: Simd>(s: S, scale: S::I) -> S::Scale24 {
        s.prep_scale24(scale)
    }
    #[inline(always)]
    unsafe fn zero<S: Simd>(s: S) -> S::Sum24 {
        s.sum24_zero()
    }
    #[inline(always)]
    unsafe fn scale_add<S: Simd>(s: S, sum: S::Sum24, dots: S::Acc, scale: S::Scale24) -> S::Sum24 {
        s.scale_add24(sum, dots, scale)
    }
    #[inline(always)]
    unsafe fn join<S: Simd>(s: S, low: S::Sum24, high: S::Sum24) -> S::F {
        s.sum24_join(low, high)
    }
}

/// Kernels of Q5_K.
#[allow(non_camel_case_types, reason = "formats keep the GGUF spelling")]
pub(crate) struct Q5_K;

impl Affine for Q5_K {
    const FORMAT: Format = Format::Q5_K;
    type Scale<S: Simd> = S::I;
    type Sum<S: Simd> = S::I;

    #[inline(always)]
    unsafe fn scale<S: Simd>(s: S, scale: S::I) -> S::I {
        s.prep_scale(scale)
    }
    #[inline(always)]
    unsafe fn zero<S: Simd>(s: S) -> S::I {
        s.i_splat(0)
    }
    #[inline(always)]
    unsafe fn scale_add<S: Simd>(s: S, sum: S::I, dots: S::Acc, scale: S::I) -> S::I {
        s.scale_add(sum, dots, scale)
    }
    #[inline(always)]
    unsafe fn join<S: Simd>(s: S, low: S::I, high: S::I) -> S::F {
        s.i_to_f(s.i_add(low, high))
    }
}

macro_rules! affine_products {
    ($($name:ident)*) => { $(
        impl Quantized for $name {
            type Unit<S: Simd> = AffineUnpackedOf<S, Self>;
            const UNITS: usize = 2;
            const UNIT_BYTES: usize = layout::unit(Format::$name).1;
            const RECORD: usize = Q8K_RECORD;

            #[inline(always)]
            unsafe fn unpack<S: Simd>(s: S, unit: *const u8, out: *mut Self::Unit<S>) {
                let packed = Packed::<Self>(unit, std::marker::PhantomData);
                let mut b = 0;
                while b < 8 {
                    Codes::<S>::fetch(packed, s, b);
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
                add_affine::<S, Self, MR>(s, unit, x, acc);
            }
            #[inline(always)]
            unsafe fn add_packed<S: Simd, const MR: usize>(
                s: S,
                unit: *const u8,
                x: *const u8,
                acc: &mut [S::F; MR],
            ) {
                let packed = Packed::<Self>(unit, std::marker::PhantomData);
                add_affine::<S, Self, MR>(s, packed, x, acc);
            }
        }
    )* };
}

affine_products! { Q4_K Q5_K }

/// Kernels of Q6_K.
#[allow(non_camel_case_types, reason = "formats keep the GGUF spelling")]
pub(crate) struct Q6_K;

/// The scales of the halves of a block of Q6_K, and both times -32 as pairs of `i16`: the codes'
/// offset, for the sums of activations that are known beforehand.
#[derive(Clone, Copy)]
pub(crate) struct HalfScales<I> {
    halves: [I; 2],
    offsets: I,
}

/// Where a unit of Q6_K comes from.
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
        fetch_part(s, self.0, Format::Q6_K, b);
    }
    #[inline(always)]
    unsafe fn codes(self, s: S, b: usize, j: usize) -> S::U8 {
        let block = self.0.add(b * layout::code_bytes(Format::Q6_K));
        s.prep_u(six_bits(s, block, j))
    }
}

impl<S: Simd> SixBitUnit<S> for PackedSix {
    #[inline(always)]
    unsafe fn scales(self, s: S, b: usize) -> HalfScales<S::I> {
        let at = self.0.add(q6_k::SCALES + 2 * b * LANES).cast::<i8>();
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
        s.f_load_f16(self.0.add(q6_k::SUPER).cast())
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

impl Quantized for Q6_K {
    type Unit<S: Simd> = SixBits<S::U8, S::I, S::F>;
    const UNITS: usize = 2;
    const UNIT_BYTES: usize = layout::unit(Format::Q6_K).1;
    const RECORD: usize = Q8K_RECORD;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(s: S, unit: *const u8, out: *mut Self::Unit<S>) {
        let packed = PackedSix(unit);
        let mut b = 0;
        while b < 8 {
            Codes::<S>::fetch(packed, s, b);
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

/// Group `j`: a nibble, and bits five and six from the vectors after them.
#[inline(always)]
unsafe fn six_bits<S: Simd>(s: S, block: *const u8, j: usize) -> S::B {
    let bits = s.b_load(block.add(NIBBLES + j / 4 * VECTOR));
    let moved = match j % 4 {
        0 => s.b_shl::<4>(bits),
        1 => s.b_shl::<2>(bits),
        2 => bits,
        _ => s.b_shr::<2>(bits),
    };
    s.b_or(nibbles(s, block, j), s.b_and(moved, s.b_splat(0x30)))
}
