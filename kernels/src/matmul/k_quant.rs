//! The formats of 256 values with integer scales inside: Q4_K, Q5_K, Q6_K.

use super::layout::{self, NIBBLES, VECTOR, affine, q6_k};
use super::simple::{nibbles, prefetch};
use super::{Unpack, Weight};
use crate::activation::{Q8K_RECORD, q8k};
use crate::format::Format;
use crate::simd::{LANES, Simd};

macro_rules! affine_format {
    ($($name:ident)*) => { $(
        #[doc = concat!("Kernels of ", stringify!($name), ".")]
        #[allow(non_camel_case_types, reason = "formats keep the GGUF spelling")]
        pub(crate) struct $name;

        impl Weight for $name {
            #[inline(always)]
            unsafe fn panel<S: Simd, const MR: usize, const FUSED: bool>(
                s: S,
                panel: *const u8,
                units: usize,
                x: *const u8,
                x_stride: usize,
            ) -> [S::F; MR] {
                const FORMAT: Format = Format::$name;
                const UNIT: usize = layout::unit(FORMAT).1;
                const CODES: usize = layout::code_bytes(FORMAT);
                const HIGH: bool = layout::high_bytes(FORMAT) > 0;

                let mut acc = [s.f_splat(0.0); MR];
                let mut u = 0;
                while u < units {
                    let unit = panel.add(u * UNIT);
                    let x = x.add(u * Q8K_RECORD);
                    let mut total = [s.i_splat(0); MR];
                    let mut b = 0;
                    while b < 8 {
                        let codes = unit.add(affine::CODES + b * CODES);
                        if MR <= 4 {
                            prefetch(s, codes, CODES);
                        }
                        let mut dots = [s.acc_zero(); MR];
                        each!(j < 4 => {
                            let (low, high) = nibbles::<S, HIGH>(s, codes, j);
                            let (low, high) = (s.prep_u(low), s.prep_u(high));
                            each!(m < MR => {
                                let x = x.add(m * x_stride + 32 * b + 4 * j).cast();
                                dots[m] = s.dot_u(dots[m], low, s.x_load(x));
                            });
                            each!(m < MR => {
                                let x = x.add(m * x_stride + 32 * b + 4 * j + 16).cast();
                                dots[m] = s.dot_u(dots[m], high, s.x_load(x));
                            });
                            // Sixteen-bit sums hold eight 4-bit products, but only four 5-bit ones.
                            if HIGH && !S::WIDE && j == 1 {
                                let scale = block_scale(s, unit, b);
                                each!(m < MR => {
                                    total[m] = s.scale_add(total[m], dots[m], scale);
                                    dots[m] = s.acc_zero();
                                });
                            }
                        });
                        let scale = block_scale(s, unit, b);
                        each!(m < MR => { total[m] = s.scale_add(total[m], dots[m], scale); });
                        b += 1;
                    }
                    let mut minus = [s.i_splat(0); MR];
                    each!(half < 2 => {
                        let mins = s.b_load(unit.add(affine::MINS + half * VECTOR));
                        let even = s.i_and(s.i_from_b(mins), s.i_splat(0x00ff_00ff));
                        let odd = s.b_and(s.b_shr::<8>(mins), s.b_splat(0xff));
                        let odd = s.i_from_b(odd);
                        each!(m < MR => {
                            let sums = x.add(m * x_stride + q8k::SUMS_32 + 8 * half);
                            minus[m] = s.dot_pairs(minus[m], even, s.i_splat_at(sums.cast()));
                            let sums = sums.add(4).cast();
                            minus[m] = s.dot_pairs(minus[m], odd, s.i_splat_at(sums));
                        });
                    });
                    let scale = s.f_load_f16(unit.cast());
                    let min = s.f_load_f16(unit.add(layout::HALVES).cast());
                    each!(m < MR => {
                        let d = s.f_splat_at(x.add(m * x_stride + q8k::SCALE).cast());
                        let plus = s.f_mul(s.i_to_f(total[m]), s.f_mul(scale, d));
                        let minus = s.f_mul(s.i_to_f(minus[m]), s.f_mul(min, d));
                        acc[m] = s.f_add(acc[m], s.f_sub(plus, minus));
                    });
                    u += 1;
                }
                acc
            }
        }

        impl Unpack for $name {
            type Unit<S: Simd> = Affine<S::U8, S::I, S::F>;
            const UNITS: usize = 2;
            const UNIT_BYTES: usize = layout::unit(Format::$name).1;
            const RECORD: usize = Q8K_RECORD;

            #[inline(always)]
            unsafe fn unpack<S: Simd>(s: S, unit: *const u8, out: *mut Self::Unit<S>) {
                const FORMAT: Format = Format::$name;
                const CODES: usize = layout::code_bytes(FORMAT);
                const HIGH: bool = layout::high_bytes(FORMAT) > 0;
                (*out).scale = s.f_load_f16(unit.cast());
                (*out).min = s.f_load_f16(unit.add(layout::HALVES).cast());
                let mut b = 0;
                while b < 8 {
                    let codes = unit.add(affine::CODES + b * CODES);
                    each!(j < 4 => {
                        let (low, high) = nibbles::<S, HIGH>(s, codes, j);
                        (*out).codes[b][j] = s.prep_u(low);
                        (*out).codes[b][j + 4] = s.prep_u(high);
                    });
                    (*out).scales[b] = block_scale(s, unit, b);
                    b += 1;
                }
                each!(half < 2 => {
                    let mins = s.b_load(unit.add(affine::MINS + half * VECTOR));
                    (*out).mins[2 * half] = s.i_and(s.i_from_b(mins), s.i_splat(0x00ff_00ff));
                    let odd = s.b_and(s.b_shr::<8>(mins), s.b_splat(0xff));
                    (*out).mins[2 * half + 1] = s.i_and(s.i_from_b(odd), s.i_splat(0x00ff_00ff));
                });
            }

            #[inline(always)]
            unsafe fn add<S: Simd, const MR: usize>(
                s: S,
                unit: &Self::Unit<S>,
                x: *const u8,
                x_stride: usize,
                acc: &mut [S::F; MR],
            ) {
                const HIGH: bool = layout::high_bytes(Format::$name) > 0;
                let mut total = [s.i_splat(0); MR];
                let mut b = 0;
                while b < 8 {
                    let mut dots = [s.acc_zero(); MR];
                    each!(j < 8 => {
                        let w = unit.codes[b][j];
                        each!(m < MR => {
                            let x = x.add(m * x_stride + 32 * b + 4 * j).cast();
                            dots[m] = s.dot_u(dots[m], w, s.x_load(x));
                        });
                        if j == 7 || (HIGH && !S::WIDE && j == 3) {
                            each!(m < MR => {
                                total[m] = s.scale_add(total[m], dots[m], unit.scales[b]);
                                dots[m] = s.acc_zero();
                            });
                        }
                    });
                    b += 1;
                }
                let mut minus = [s.i_splat(0); MR];
                each!(part < 4 => {
                    each!(m < MR => {
                        let sums = x.add(m * x_stride + q8k::SUMS_32 + 4 * part);
                        minus[m] = s.dot_pairs(minus[m], unit.mins[part], s.i_splat_at(sums.cast()));
                    });
                });
                each!(m < MR => {
                    let d = s.f_splat_at(x.add(m * x_stride + q8k::SCALE).cast());
                    let plus = s.f_mul(s.i_to_f(total[m]), s.f_mul(unit.scale, d));
                    let minus = s.f_mul(s.i_to_f(minus[m]), s.f_mul(unit.min, d));
                    acc[m] = s.f_add(acc[m], s.f_sub(plus, minus));
                });
            }
        }
    )* };
}

/// A unit of Q4_K or Q5_K with its codes unpacked.
#[derive(Clone, Copy)]
pub(crate) struct Affine<C, I, F> {
    codes: [[C; 8]; 8],
    scales: [I; 8],
    mins: [I; 4],
    scale: F,
    min: F,
}

/// A unit of Q6_K with its codes unpacked.
#[derive(Clone, Copy)]
pub(crate) struct SixBits<C, I, F> {
    codes: [[C; 8]; 8],
    /// Of each half block.
    scales: [[I; 2]; 8],
    /// The two scales of a block as pairs.
    pairs: [I; 8],
    scale: F,
}

#[inline(always)]
unsafe fn block_scale<S: Simd>(s: S, unit: *const u8, b: usize) -> S::I {
    s.prep_scale(s.i_load_u8(unit.add(affine::SCALES + b * LANES)))
}

affine_format! { Q4_K Q5_K }

/// Kernels of Q6_K.
#[allow(non_camel_case_types, reason = "formats keep the GGUF spelling")]
pub(crate) struct Q6_K;

impl Weight for Q6_K {
    #[inline(always)]
    unsafe fn panel<S: Simd, const MR: usize, const FUSED: bool>(
        s: S,
        panel: *const u8,
        units: usize,
        x: *const u8,
        x_stride: usize,
    ) -> [S::F; MR] {
        const UNIT: usize = layout::unit(Format::Q6_K).1;
        const CODES: usize = layout::code_bytes(Format::Q6_K);
        let mut acc = [s.f_splat(0.0); MR];
        let mut u = 0;
        while u < units {
            let unit = panel.add(u * UNIT);
            let x = x.add(u * Q8K_RECORD);
            let scales = unit.add(q6_k::SCALES).cast::<i8>();
            let mut total = [s.i_splat(0); MR];
            // The offset 32 of the codes, with the sums of activations known beforehand.
            let mut offset = [s.i_splat(0); MR];
            let mut b = 0;
            while b < 8 {
                let codes = unit.add(b * CODES);
                if MR <= 4 {
                    prefetch(s, codes, CODES);
                }
                let first = s.i_load_i8(scales.add(2 * b * LANES));
                let second = s.i_load_i8(scales.add((2 * b + 1) * LANES));
                let pair = s.i_add(s.i_and(first, s.i_splat(0xffff)), s.i_shl::<16>(second));
                let (first, second) = (s.prep_scale(first), s.prep_scale(second));
                let mut low_dots = [s.acc_zero(); MR];
                let mut high_dots = [s.acc_zero(); MR];
                each!(j < 4 => {
                    let (low, high) = six_bits(s, codes, j);
                    let (low, high) = (s.prep_u(low), s.prep_u(high));
                    each!(m < MR => {
                        let x = x.add(m * x_stride + 32 * b + 4 * j).cast();
                        low_dots[m] = s.dot_u(low_dots[m], low, s.x_load(x));
                    });
                    each!(m < MR => {
                        let x = x.add(m * x_stride + 32 * b + 4 * j + 16).cast();
                        high_dots[m] = s.dot_u(high_dots[m], high, s.x_load(x));
                    });
                    // Sixteen-bit sums hold only two 6-bit products.
                    if j == 3 || (j == 1 && !S::WIDE) {
                        each!(m < MR => {
                            total[m] = s.scale_add(total[m], low_dots[m], first);
                            total[m] = s.scale_add(total[m], high_dots[m], second);
                                low_dots[m] = s.acc_zero();
                            high_dots[m] = s.acc_zero();
                        });
                    }
                });
                each!(m < MR => {
                    let sums = x.add(m * x_stride + q8k::SUMS_16 + 4 * b);
                    offset[m] = s.dot_pairs(offset[m], pair, s.i_splat_at(sums.cast()));
                });
                b += 1;
            }
            let scale = s.f_load_f16(unit.add(q6_k::SUPER).cast());
            each!(m < MR => {
                let dot = s.i_sub(total[m], s.i_shl::<5>(offset[m]));
                let d = s.f_splat_at(x.add(m * x_stride + q8k::SCALE).cast());
                acc[m] = s.f_add(acc[m], s.f_mul(s.i_to_f(dot), s.f_mul(scale, d)));
            });
            u += 1;
        }
        acc
    }
}

impl Unpack for Q6_K {
    type Unit<S: Simd> = SixBits<S::U8, S::I, S::F>;
    const UNITS: usize = 2;
    const UNIT_BYTES: usize = layout::unit(Format::Q6_K).1;
    const RECORD: usize = Q8K_RECORD;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(s: S, unit: *const u8, out: *mut Self::Unit<S>) {
        const CODES: usize = layout::code_bytes(Format::Q6_K);
        let scales = unit.add(q6_k::SCALES).cast::<i8>();
        (*out).scale = s.f_load_f16(unit.add(q6_k::SUPER).cast());
        let mut b = 0;
        while b < 8 {
            each!(j < 4 => {
                let (low, high) = six_bits(s, unit.add(b * CODES), j);
                (*out).codes[b][j] = s.prep_u(low);
                (*out).codes[b][j + 4] = s.prep_u(high);
            });
            let first = s.i_load_i8(scales.add(2 * b * LANES));
            let second = s.i_load_i8(scales.add((2 * b + 1) * LANES));
            (*out).pairs[b] = s.i_add(s.i_and(first, s.i_splat(0xffff)), s.i_shl::<16>(second));
            (*out).scales[b] = [s.prep_scale(first), s.prep_scale(second)];
            b += 1;
        }
    }

    #[inline(always)]
    unsafe fn add<S: Simd, const MR: usize>(
        s: S,
        unit: &Self::Unit<S>,
        x: *const u8,
        x_stride: usize,
        acc: &mut [S::F; MR],
    ) {
        let mut total = [s.i_splat(0); MR];
        let mut offset = [s.i_splat(0); MR];
        let mut b = 0;
        while b < 8 {
            let mut dots = [s.acc_zero(); MR];
            each!(j < 8 => {
                let w = unit.codes[b][j];
                each!(m < MR => {
                    let x = x.add(m * x_stride + 32 * b + 4 * j).cast();
                    dots[m] = s.dot_u(dots[m], w, s.x_load(x));
                });
                if j % 4 == 3 || (j % 2 == 1 && !S::WIDE) {
                    each!(m < MR => {
                        total[m] = s.scale_add(total[m], dots[m], unit.scales[b][j / 4]);
                        dots[m] = s.acc_zero();
                    });
                }
            });
            each!(m < MR => {
                let sums = x.add(m * x_stride + q8k::SUMS_16 + 4 * b);
                offset[m] = s.dot_pairs(offset[m], unit.pairs[b], s.i_splat_at(sums.cast()));
            });
            b += 1;
        }
        each!(m < MR => {
            let dot = s.i_sub(total[m], s.i_shl::<5>(offset[m]));
            let d = s.f_splat_at(x.add(m * x_stride + q8k::SCALE).cast());
            acc[m] = s.f_add(acc[m], s.f_mul(s.i_to_f(dot), s.f_mul(unit.scale, d)));
        });
    }
}

/// Groups `j` and `j + 4` of a block: nibbles, and bits five and six from the vectors after them.
#[inline(always)]
unsafe fn six_bits<S: Simd>(s: S, codes: *const u8, j: usize) -> (S::B, S::B) {
    let (low, high) = nibbles::<S, false>(s, codes, j);
    let first = s.b_load(codes.add(NIBBLES));
    let second = s.b_load(codes.add(NIBBLES + VECTOR));
    let (first, second) = match j {
        0 => (s.b_shl::<4>(first), s.b_shl::<4>(second)),
        1 => (s.b_shl::<2>(first), s.b_shl::<2>(second)),
        2 => (first, second),
        _ => (s.b_shr::<2>(first), s.b_shr::<2>(second)),
    };
    let mask = s.b_splat(0x30);
    (s.b_or(low, s.b_and(first, mask)), s.b_or(high, s.b_and(second, mask)))
}
