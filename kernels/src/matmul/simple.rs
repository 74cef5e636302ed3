//! The formats of 32 values with one scale: Q8_0, Q4_0, Q4_1, Q5_0, Q5_1.

use super::layout::{self, HALVES, NIBBLES, VECTOR};
use super::{Quantized, prefetch};
use crate::activation::{Q8_RECORD, q8};
use crate::format::Format;
use crate::simd::{MAGIC, Simd};

/// What distinguishes these formats: how codes are read and multiplied.
pub(crate) trait Blocks {
    const FORMAT: Format;
    /// Whether narrow accumulators must be widened after half a block.
    const FLUSH: bool;
    /// Codes of four values in sixteen rows, ready for [`dot`](Self::dot).
    type Codes<S: Simd>: Copy;
    /// Running dot products.
    type Dots<S: Simd>: Copy;

    /// Group `j` (values `4 j .. 4 j + 4`) of a packed block.
    unsafe fn codes<S: Simd>(s: S, block: *const u8, j: usize) -> Self::Codes<S>;
    /// Dot products of no codes yet, for block `b` of the record `x`.
    unsafe fn start<S: Simd>(s: S, x: *const u8, b: usize) -> Self::Dots<S>;
    unsafe fn dot<S: Simd>(s: S, dots: Self::Dots<S>, w: Self::Codes<S>, x: S::X) -> Self::Dots<S>;
    unsafe fn flush<S: Simd>(s: S, dots: Self::Dots<S>) -> Self::Dots<S>;
    /// The dot products, above [`MAGIC`].
    unsafe fn finish<S: Simd>(s: S, dots: Self::Dots<S>, x: *const u8, b: usize) -> S::I;
}

/// Where a unit's codes and scales come from.
trait Source<S: Simd, W: Blocks>: Copy {
    unsafe fn fetch(self, s: S, b: usize);
    unsafe fn codes(self, s: S, b: usize, j: usize) -> W::Codes<S>;
    unsafe fn scale(self, s: S, b: usize) -> S::Factor;
    unsafe fn min(self, s: S, b: usize) -> S::F;
}

/// A unit as the panel keeps it.
#[derive(Clone, Copy)]
struct Packed(*const u8);

impl<S: Simd, W: Blocks> Source<S, W> for Packed {
    #[inline(always)]
    unsafe fn fetch(self, s: S, b: usize) {
        let half = layout::unit(W::FORMAT).1 / 2;
        prefetch(s, self.0.add(b * half), half);
    }
    #[inline(always)]
    unsafe fn codes(self, s: S, b: usize, j: usize) -> W::Codes<S> {
        W::codes(s, self.0.add(b * layout::code_bytes(W::FORMAT)), j)
    }
    #[inline(always)]
    unsafe fn scale(self, s: S, b: usize) -> S::Factor {
        let scales = self.0.add(2 * layout::code_bytes(W::FORMAT));
        s.factor(s.f_load_f16(scales.add(b * HALVES).cast()))
    }
    #[inline(always)]
    unsafe fn min(self, s: S, b: usize) -> S::F {
        let minima = self.0.add(2 * layout::code_bytes(W::FORMAT) + 2 * HALVES);
        s.f_load_f16(minima.add(b * HALVES).cast())
    }
}

/// A unit with its codes unpacked.
#[derive(Clone, Copy)]
pub(crate) struct Unpacked<C, K, F> {
    codes: [[C; 8]; 2],
    scale: [K; 2],
    min: [F; 2],
}

impl<S: Simd, W: Blocks> Source<S, W> for &Unpacked<W::Codes<S>, S::Factor, S::F> {
    #[inline(always)]
    unsafe fn fetch(self, _s: S, _b: usize) {}
    #[inline(always)]
    unsafe fn codes(self, _s: S, b: usize, j: usize) -> W::Codes<S> {
        self.codes[b][j]
    }
    #[inline(always)]
    unsafe fn scale(self, _s: S, b: usize) -> S::Factor {
        self.scale[b]
    }
    #[inline(always)]
    unsafe fn min(self, _s: S, b: usize) -> S::F {
        self.min[b]
    }
}

/// Adds one unit's part of `MR` rows: `dot * scale * x_scale + min * x_scale * x_sum`.
#[inline(always)]
unsafe fn add_unit<S: Simd, W: Blocks, const MR: usize>(
    s: S,
    unit: impl Source<S, W>,
    x: *const u8,
    acc: &mut [S::F; MR],
) {
    // Written out: a loop here would make every operand an indexed one, which the front end splits.
    each!(b < 2 => {
        if MR <= 4 {
            unit.fetch(s, b);
        }
        let mut dots = [W::start(s, x, b); MR];
        each!(m < MR => { dots[m] = W::start(s, x.add(m * Q8_RECORD), b); });
        each!(j < 8 => {
            let w = unit.codes(s, b, j);
            each!(m < MR => {
                let x = x.add(m * Q8_RECORD + 32 * b + 4 * j);
                dots[m] = W::dot(s, dots[m], w, s.x_load(x.cast()));
            });
            if W::FLUSH && j == 3 {
                each!(m < MR => { dots[m] = W::flush(s, dots[m]); });
            }
        });
        let scale = unit.scale(s, b);
        each!(m < MR => {
            let x = x.add(m * Q8_RECORD);
            let product = s.scaled(W::finish(s, dots[m], x, b), scale);
            let x_scale = s.f_splat_at(x.add(q8::SCALE + 4 * b).cast());
            acc[m] = s.f_add(acc[m], s.f_mul(product, x_scale));
        });
        if layout::has_min(W::FORMAT) {
            let min = unit.min(s, b);
            each!(m < MR => {
                let sum = s.f_splat_at(x.add(m * Q8_RECORD + q8::SCALED_SUM + 4 * b).cast());
                acc[m] = s.f_add(acc[m], s.f_mul(min, sum));
            });
        }
    });
}

/// A format of nibbles, perhaps with a fifth bit; `start` is where the activations keep what the
/// codes' offset makes of their sums.
macro_rules! nibble_format {
    ($($name:ident: start $start:expr;)*) => { $(
        #[doc = concat!("Kernels of ", stringify!($name), ".")]
        #[allow(non_camel_case_types, reason = "formats keep the GGUF spelling")]
        pub(crate) struct $name;

        impl Blocks for $name {
            const FORMAT: Format = Format::$name;
            const FLUSH: bool = layout::high_bytes(Format::$name) > 0;
            type Codes<S: Simd> = S::U8;
            type Dots<S: Simd> = S::Acc;

            #[inline(always)]
            unsafe fn codes<S: Simd>(s: S, block: *const u8, j: usize) -> S::U8 {
                let codes = nibbles(s, block, j);
                s.prep_u(if Self::FLUSH { fifth_bits(s, block, j, codes) } else { codes })
            }
            #[inline(always)]
            unsafe fn start<S: Simd>(s: S, x: *const u8, b: usize) -> S::Acc {
                s.acc_start(start_at($start, x, b))
            }
            #[inline(always)]
            unsafe fn dot<S: Simd>(s: S, dots: S::Acc, w: S::U8, x: S::X) -> S::Acc {
                s.dot_u(dots, w, x)
            }
            #[inline(always)]
            unsafe fn flush<S: Simd>(s: S, dots: S::Acc) -> S::Acc {
                s.flush(dots)
            }
            #[inline(always)]
            unsafe fn finish<S: Simd>(s: S, dots: S::Acc, x: *const u8, b: usize) -> S::I {
                s.finish(dots, start_at($start, x, b))
            }
        }
    )* };
}

nibble_format! {
    Q4_0: start Some(q8::MINUS_8);
    Q4_1: start None;
    Q5_0: start Some(q8::MINUS_16);
    Q5_1: start None;
}

/// The start of block `b`: a field of the record, or [`MAGIC`] alone for codes without an offset.
#[inline(always)]
unsafe fn start_at(field: Option<usize>, x: *const u8, b: usize) -> *const i32 {
    match field {
        Some(at) => x.add(at + 4 * b).cast(),
        None => const { &MAGIC },
    }
}

/// The nibbles of group `j`.
#[inline(always)]
pub(super) unsafe fn nibbles<S: Simd>(s: S, block: *const u8, j: usize) -> S::B {
    let both = s.b_load(block.add(j % 4 * VECTOR));
    s.b_and(if j < 4 { both } else { s.b_shr::<4>(both) }, s.b_splat(15))
}

/// Adds the fifth bits of group `j`: bit j of each byte moves to bit 4.
#[inline(always)]
pub(super) unsafe fn fifth_bits<S: Simd>(s: S, block: *const u8, j: usize, low: S::B) -> S::B {
    let bits = s.b_load(block.add(NIBBLES));
    let moved = match j {
        0 => s.b_shl::<4>(bits),
        1 => s.b_shl::<3>(bits),
        2 => s.b_shl::<2>(bits),
        3 => s.b_shl::<1>(bits),
        4 => bits,
        5 => s.b_shr::<1>(bits),
        6 => s.b_shr::<2>(bits),
        _ => s.b_shr::<3>(bits),
    };
    s.b_or(low, s.b_and(moved, s.b_splat(16)))
}

/// Kernels of Q8_0.
#[allow(non_camel_case_types, reason = "formats keep the GGUF spelling")]
pub(crate) struct Q8_0;

impl Blocks for Q8_0 {
    const FORMAT: Format = Format::Q8_0;
    const FLUSH: bool = false;
    type Codes<S: Simd> = S::S8;
    type Dots<S: Simd> = S::I;

    #[inline(always)]
    unsafe fn codes<S: Simd>(s: S, block: *const u8, j: usize) -> S::S8 {
        s.prep_s(s.b_load(block.add(j * VECTOR)))
    }
    #[inline(always)]
    unsafe fn start<S: Simd>(s: S, x: *const u8, b: usize) -> S::I {
        let biased = if S::S8_BIAS == 0 { None } else { Some(q8::MINUS_128) };
        s.i_splat_at(start_at(biased, x, b))
    }
    #[inline(always)]
    unsafe fn dot<S: Simd>(s: S, dots: S::I, w: S::S8, x: S::X) -> S::I {
        s.dot_s(dots, w, x)
    }
    #[inline(always)]
    unsafe fn flush<S: Simd>(_s: S, dots: S::I) -> S::I {
        dots
    }
    #[inline(always)]
    unsafe fn finish<S: Simd>(_s: S, dots: S::I, _x: *const u8, _b: usize) -> S::I {
        dots
    }
}

macro_rules! products {
    ($($name:ident)*) => { $(
        impl Quantized for $name {
            type Unit<S: Simd> = Unpacked<<Self as Blocks>::Codes<S>, S::Factor, S::F>;
            const UNITS: usize = 8;
            const UNIT_BYTES: usize = layout::unit(Format::$name).1;
            const RECORD: usize = Q8_RECORD;

            #[inline(always)]
            unsafe fn unpack<S: Simd>(s: S, unit: *const u8, out: *mut Self::Unit<S>) {
                let packed = Packed(unit);
                each!(b < 2 => {
                    Source::<S, Self>::fetch(packed, s, b);
                    each!(j < 8 => {
                        (*out).codes[b][j] = Source::<S, Self>::codes(packed, s, b, j);
                    });
                    (*out).scale[b] = Source::<S, Self>::scale(packed, s, b);
                    (*out).min[b] = if layout::has_min(Format::$name) {
                        Source::<S, Self>::min(packed, s, b)
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
                acc: &mut [S::F; MR],
            ) {
                add_unit::<S, Self, MR>(s, unit, x, acc);
            }
            #[inline(always)]
            unsafe fn add_packed<S: Simd, const MR: usize>(
                s: S,
                unit: *const u8,
                x: *const u8,
                acc: &mut [S::F; MR],
            ) {
                add_unit::<S, Self, MR>(s, Packed(unit), x, acc);
            }
        }
    )* };
}

products! { Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 }
