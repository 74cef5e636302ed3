//! The formats of 32 values with one scale: Q8_0, Q4_0, Q4_1, Q5_0, Q5_1.

use super::layout::{self, HALVES, NIBBLES, VECTOR};
use super::{Unpack, Weight};
use crate::activation::{Q8_RECORD, q8};
use crate::format::Format;
use crate::simd::Simd;

/// How far ahead of the block at work the panel is fetched, in bytes.
pub(super) const AHEAD: usize = 2048;

/// Fetches the lines that the bytes from `at` to `at + bytes` stand for, [`AHEAD`] of them. The
/// address may lie past the panel: a prefetch never faults.
#[inline(always)]
pub(super) unsafe fn prefetch<S: Simd>(s: S, at: *const u8, bytes: usize) {
    let mut line = 0;
    while line < bytes {
        s.prefetch(at.wrapping_add(AHEAD + line));
        line += 64;
    }
}

/// A format of nibbles, perhaps with a fifth bit.
macro_rules! nibble_format {
    ($($name:ident: offset at $start:expr;)*) => { $(
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
                let start: Option<usize> = $start;

                let mut acc = [s.f_splat(0.0); MR];
                let mut u = 0;
                while u < units {
                    let unit = panel.add(u * UNIT);
                    let x = x.add(u * Q8_RECORD);
                    if MR <= 4 {
                        prefetch(s, unit, UNIT);
                    }
                    each!(b < 2 => {
                        let codes = unit.add(b * CODES);
                        let mut dots = [s.acc_zero(); MR];
                        if let Some(at) = start {
                            each!(m < MR => {
                                dots[m] = s.acc_start(x.add(m * x_stride + at + 4 * b).cast());
                            });
                        }
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
                            if HIGH && j == 1 {
                                each!(m < MR => { dots[m] = s.flush(dots[m]); });
                            }
                        });
                        let tail = unit.add(2 * CODES + b * HALVES);
                        let scale = s.f_load_f16(tail.cast());
                        each!(m < MR => {
                            let x = x.add(m * x_stride + 4 * b);
                            let dot = match start {
                                Some(at) => s.finish(dots[m], x.add(at).cast()),
                                None => s.finish(dots[m], ZERO.as_ptr()),
                            };
                            let scale = s.f_mul(scale, s.f_splat_at(x.add(q8::SCALE).cast()));
                            acc[m] = s.f_add(acc[m], s.f_mul(s.i_to_f(dot), scale));
                        });
                        if layout::has_min(FORMAT) {
                            let min = s.f_load_f16(tail.add(2 * HALVES).cast());
                            each!(m < MR => {
                                let sum = x.add(m * x_stride + 4 * b + q8::SCALED_SUM);
                                acc[m] = s.f_add(acc[m], s.f_mul(min, s.f_splat_at(sum.cast())));
                            });
                        }
                    });
                    u += 1;
                }
                acc
            }
        }

        impl Unpack for $name {
            type Unit<S: Simd> = Unpacked<S::U8, S::F>;
            const UNITS: usize = 8;
            const UNIT_BYTES: usize = layout::unit(Format::$name).1;
            const RECORD: usize = Q8_RECORD;

            #[inline(always)]
            unsafe fn unpack<S: Simd>(s: S, unit: *const u8, out: *mut Self::Unit<S>) {
                const FORMAT: Format = Format::$name;
                const CODES: usize = layout::code_bytes(FORMAT);
                const HIGH: bool = layout::high_bytes(FORMAT) > 0;
                each!(b < 2 => {
                    each!(j < 4 => {
                        let (low, high) = nibbles::<S, HIGH>(s, unit.add(b * CODES), j);
                        (*out).codes[b][j] = s.prep_u(low);
                        (*out).codes[b][j + 4] = s.prep_u(high);
                    });
                    let tail = unit.add(2 * CODES + b * HALVES);
                    (*out).scale[b] = s.f_load_f16(tail.cast());
                    (*out).min[b] = if layout::has_min(FORMAT) {
                        s.f_load_f16(tail.add(2 * HALVES).cast())
                    } else {
                        s.f_splat(0.0)
                    };
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
                let start: Option<usize> = $start;
                let mut b = 0;
                while b < 2 {
                    let mut dots = [s.acc_zero(); MR];
                    if let Some(at) = start {
                        each!(m < MR => {
                            dots[m] = s.acc_start(x.add(m * x_stride + at + 4 * b).cast());
                        });
                    }
                    each!(j < 8 => {
                        let w = unit.codes[b][j];
                        each!(m < MR => {
                            let x = x.add(m * x_stride + 32 * b + 4 * j).cast();
                            dots[m] = s.dot_u(dots[m], w, s.x_load(x));
                        });
                        if HIGH && j == 3 {
                            each!(m < MR => { dots[m] = s.flush(dots[m]); });
                        }
                    });
                    each!(m < MR => {
                        let x = x.add(m * x_stride + 4 * b);
                        let dot = match start {
                            Some(at) => s.finish(dots[m], x.add(at).cast()),
                            None => s.finish(dots[m], ZERO.as_ptr()),
                        };
                        let scale = s.f_mul(unit.scale[b], s.f_splat_at(x.add(q8::SCALE).cast()));
                        acc[m] = s.f_add(acc[m], s.f_mul(s.i_to_f(dot), scale));
                    });
                    if layout::has_min(Format::$name) {
                        each!(m < MR => {
                            let sum = x.add(m * x_stride + 4 * b + q8::SCALED_SUM);
                            let min = s.f_mul(unit.min[b], s.f_splat_at(sum.cast()));
                            acc[m] = s.f_add(acc[m], min);
                        });
                    }
                    b += 1;
                }
            }
        }
    )* };
}

/// Two blocks with their codes unpacked.
#[derive(Clone, Copy)]
pub(crate) struct Unpacked<C, F> {
    codes: [[C; 8]; 2],
    scale: [F; 2],
    min: [F; 2],
}

/// What a format without an offset starts from.
static ZERO: [i32; 1] = [0];

nibble_format! {
    Q4_0: offset at Some(q8::MINUS_8);
    Q4_1: offset at None;
    Q5_0: offset at Some(q8::MINUS_16);
    Q5_1: offset at None;
}

/// Groups `j` and `j + 4` of a block: 4-bit codes, or 5-bit ones whose last bits follow the nibbles.
#[inline(always)]
pub(super) unsafe fn nibbles<S: Simd, const HIGH: bool>(
    s: S,
    codes: *const u8,
    j: usize,
) -> (S::B, S::B) {
    let mask = s.b_splat(15);
    let both = s.b_load(codes.add(j * VECTOR));
    let low = s.b_and(both, mask);
    let high = s.b_and(s.b_shr::<4>(both), mask);
    if !HIGH {
        return (low, high);
    }
    let bits = s.b_load(codes.add(NIBBLES));
    let bit = s.b_splat(16);
    // Bit j moves to bit 4, and bit j + 4 as well.
    let (first, second) = match j {
        0 => (s.b_shl::<4>(bits), bits),
        1 => (s.b_shl::<3>(bits), s.b_shr::<1>(bits)),
        2 => (s.b_shl::<2>(bits), s.b_shr::<2>(bits)),
        _ => (s.b_shl::<1>(bits), s.b_shr::<3>(bits)),
    };
    (s.b_or(low, s.b_and(first, bit)), s.b_or(high, s.b_and(second, bit)))
}

/// Kernels of Q8_0.
#[allow(non_camel_case_types, reason = "formats keep the GGUF spelling")]
pub(crate) struct Q8_0;

impl Weight for Q8_0 {
    #[inline(always)]
    unsafe fn panel<S: Simd, const MR: usize, const FUSED: bool>(
        s: S,
        panel: *const u8,
        units: usize,
        x: *const u8,
        x_stride: usize,
    ) -> [S::F; MR] {
        const UNIT: usize = layout::unit(Format::Q8_0).1;
        const CODES: usize = layout::code_bytes(Format::Q8_0);
        let mut acc = [s.f_splat(0.0); MR];
        let mut u = 0;
        while u < units {
            let unit = panel.add(u * UNIT);
            let x = x.add(u * Q8_RECORD);
            if MR <= 4 {
                prefetch(s, unit, UNIT);
            }
            each!(b < 2 => {
                let mut dots = [s.i_splat(0); MR];
                if S::S8_BIAS != 0 {
                    each!(m < MR => {
                        let start = x.add(m * x_stride + q8::MINUS_128 + 4 * b);
                        dots[m] = s.i_splat_at(start.cast());
                    });
                }
                each!(j < 8 => {
                    let w = s.prep_s(s.b_load(unit.add(b * CODES + j * VECTOR)));
                    each!(m < MR => {
                        let x = x.add(m * x_stride + 32 * b + 4 * j).cast();
                        dots[m] = s.dot_s(dots[m], w, s.x_load(x));
                    });
                });
                let scale = s.f_load_f16(unit.add(2 * CODES + b * HALVES).cast());
                each!(m < MR => {
                    let x = x.add(m * x_stride + 4 * b + q8::SCALE);
                    let scale = s.f_mul(scale, s.f_splat_at(x.cast()));
                    acc[m] = s.f_add(acc[m], s.f_mul(s.i_to_f(dots[m]), scale));
                });
            });
            u += 1;
        }
        acc
    }
}

impl Unpack for Q8_0 {
    type Unit<S: Simd> = Unpacked<S::S8, S::F>;
    const UNITS: usize = 8;
    const UNIT_BYTES: usize = layout::unit(Format::Q8_0).1;
    const RECORD: usize = Q8_RECORD;

    #[inline(always)]
    unsafe fn unpack<S: Simd>(s: S, unit: *const u8, out: *mut Self::Unit<S>) {
        const CODES: usize = layout::code_bytes(Format::Q8_0);
        each!(b < 2 => {
            each!(j < 8 => {
                (*out).codes[b][j] = s.prep_s(s.b_load(unit.add(b * CODES + j * VECTOR)));
            });
            (*out).scale[b] = s.f_load_f16(unit.add(2 * CODES + b * HALVES).cast());
            (*out).min[b] = s.f_splat(0.0);
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
        let mut b = 0;
        while b < 2 {
            let mut dots = [s.i_splat(0); MR];
            if S::S8_BIAS != 0 {
                each!(m < MR => {
                    let start = x.add(m * x_stride + q8::MINUS_128 + 4 * b);
                    dots[m] = s.i_splat_at(start.cast());
                });
            }
            each!(j < 8 => {
                let w = unit.codes[b][j];
                each!(m < MR => {
                    let x = x.add(m * x_stride + 32 * b + 4 * j).cast();
                    dots[m] = s.dot_s(dots[m], w, s.x_load(x));
                });
            });
            each!(m < MR => {
                let x = x.add(m * x_stride + 4 * b + q8::SCALE);
                let scale = s.f_mul(unit.scale[b], s.f_splat_at(x.cast()));
                acc[m] = s.f_add(acc[m], s.f_mul(s.i_to_f(dots[m]), scale));
            });
            b += 1;
        }
    }
}
