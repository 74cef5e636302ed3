//! The formats of two bits or less: `scale * (code - 1)`, a code of 0 to 3, a scale per 64, 128 or
//! 256 values: TQ1_0, TQ2_0, Q1_0, Q2_0, PQ2_0, PTQ1_0.
//!
//! How a block of the file lies, and its codes in a panel, each format says for itself. A unit of a
//! panel is 256 values of sixteen rows:
//!
//! ```text
//! codes | 1, 2 or 4 x scales (16 f16)
//! ```
//!
//! Codes are small enough that sixteen-bit sums hold the products of 128 values, and the code's
//! offset is one number per scale: the sum of the activations.

use std::marker::PhantomData;

use super::{Quantized, fetch_line};
use crate::activation::{Activation, Q8K_RECORD, Q8K_UNIT, q8k};
use crate::format::Definition;
use crate::panel::{HALVES, Stack, VECTOR, half_at};
use crate::simd::{LANES, MAGIC, Simd};

/// Groups of four values in a unit.
const GROUPS: usize = Q8K_UNIT / 4;

/// What distinguishes these formats: the blocks of the file, and how codes lie in a panel.
///
/// # Safety
/// [`walk`](Self::walk) reads no more than [`CODES`](Self::CODES) bytes of a unit, and visits each
/// group of the span once.
pub(crate) unsafe trait LowBit {
    /// Values of a block: those that share a scale. 64, 128 or 256.
    const SPAN: usize;
    /// Bytes of a block, and where among them it has its scale.
    const BLOCK: (usize, usize);
    /// Bytes of a unit's codes in sixteen rows.
    const CODES: usize;
    /// What its vectors are.
    const PACKING: Packing;

    /// Code `i` of a block of the file.
    fn code(block: &[u8], i: usize) -> u8;
    /// Writes the codes of row `lane` of a unit, whose first block is at `at` of the row.
    fn pack(rows: &Stack<'_>, lane: usize, at: usize, codes: &mut [u8]);
    /// Code `i` of row `lane` of a unit.
    fn packed(codes: &[u8], lane: usize, i: usize) -> u8;

    /// Shows the codes of span `h` of a unit to `visit`.
    ///
    /// # Safety
    /// `codes` is valid for a unit, `h` is below `256 / SPAN`; and as for every method of [`Simd`].
    unsafe fn walk<S: Simd>(s: S, codes: *const u8, h: usize, visit: &mut impl Visit<S>);
}

/// How codes lie in a byte, those of one row and of four values a group.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Packing {
    /// One bit each, the lowest first: codes 0 and 2.
    Bits,
    /// Two bits each, the lowest first.
    Pairs,
    /// Digits of a fraction.
    Ternary,
}

/// What is done with the codes of a unit.
///
/// # Safety
/// Methods may be called as those of [`Simd`].
pub(crate) trait Visit<S: Simd> {
    /// A vector is about to be read.
    unsafe fn vector(&mut self, s: S);
    /// `D` codes of each of `bytes`: groups `first`, `first + 1`, and so on.
    unsafe fn fields<const D: usize>(&mut self, s: S, first: usize, bytes: S::B);
    /// The first `D` digits of `fractions`: groups `first`, `first + step`, and so on.
    unsafe fn digits<const D: usize>(&mut self, s: S, first: usize, step: usize, fractions: S::B);
}

/// A format of such blocks.
pub(crate) struct LowBits<W>(PhantomData<W>);

impl<W: LowBit> LowBits<W> {
    /// Scales of a unit.
    const SCALES: usize = {
        assert!(W::SPAN == 64 || W::SPAN == 128 || W::SPAN == 256, "a sum of activations for each");
        Q8K_UNIT / W::SPAN
    };

    /// Where a unit has scale `h`.
    const fn scale_at(h: usize) -> usize {
        W::CODES + h * HALVES
    }
}

impl<W: LowBit> Definition for LowBits<W> {
    const BLOCK: (usize, usize) = (W::SPAN, W::BLOCK.0);
    const SCALES: &'static [usize] = &[W::BLOCK.1];
    const UNIT: (usize, usize) = (Q8K_UNIT, Self::scale_at(Self::SCALES));
    const ACTIVATION: Activation = Activation::Q8K;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let scale = half_at(block, W::BLOCK.1);
        for (i, out) in out.iter_mut().enumerate() {
            *out = scale * (f32::from(W::code(block, i)) - 1.0);
        }
    }

    fn pack(rows: &Stack<'_>, panel: &mut [u8]) {
        panel.fill(0);
        for (u, unit) in panel.chunks_exact_mut(Self::UNIT.1).enumerate() {
            let at = u * Self::SCALES * W::BLOCK.0;
            let (codes, scales) = unit.split_at_mut(W::CODES);
            for lane in 0..LANES {
                W::pack(rows, lane, at, codes);
                for (h, scales) in scales.chunks_exact_mut(HALVES).enumerate() {
                    let scale = rows.bytes::<2>(lane, at + h * W::BLOCK.0 + W::BLOCK.1);
                    scales[2 * lane..][..2].copy_from_slice(scale);
                }
            }
        }
    }

    fn unpack(unit: &[u8], lane: usize, out: &mut [f32]) {
        for (i, out) in out.iter_mut().enumerate() {
            let scale = half_at(unit, Self::scale_at(i / W::SPAN) + 2 * lane);
            *out = scale * (f32::from(W::packed(unit, lane, i)) - 1.0);
        }
    }
}

/// Multiplies the codes with `MR` rows as they come from the panel.
struct Multiply<T, const MR: usize> {
    x: *const u8,
    sums: [T; MR],
    /// What is fetched some way ahead of it comes next: lines in their order, though scales stand after
    /// the codes.
    line: *const u8,
}

impl<T: Copy, const MR: usize> Multiply<T, MR> {
    /// The activations of row `m` for `D` groups.
    #[inline(always)]
    unsafe fn groups<S: Simd, const D: usize>(
        &self,
        s: S,
        m: usize,
        first: usize,
        step: usize,
    ) -> [S::X; D] {
        let x = self.x.add(m * Q8K_RECORD + 4 * first);
        let mut groups = [s.x_load(x.cast()); D];
        each!(n < D => { groups[n] = s.x_load(x.add(4 * n * step).cast()); });
        groups
    }
}

impl<S: Simd, const MR: usize> Visit<S> for Multiply<S::Sums, MR> {
    #[inline(always)]
    unsafe fn vector(&mut self, s: S) {
        fetch_line(s, self.line);
        self.line = self.line.wrapping_add(VECTOR);
    }
    #[inline(always)]
    unsafe fn fields<const D: usize>(&mut self, s: S, first: usize, bytes: S::B) {
        each!(m < MR => {
            let x = self.groups::<S, D>(s, m, first, 1);
            self.sums[m] = s.dot_fields(self.sums[m], bytes, x);
        });
    }
    #[inline(always)]
    unsafe fn digits<const D: usize>(&mut self, s: S, first: usize, step: usize, fractions: S::B) {
        each!(m < MR => {
            let x = self.groups::<S, D>(s, m, first, step);
            self.sums[m] = s.dot_digits(self.sums[m], fractions, x);
        });
    }
}

/// Writes the codes down, in their order along K.
struct Unpack<C>(*mut [C; GROUPS]);

impl<C> Unpack<C> {
    #[inline(always)]
    unsafe fn put(&mut self, j: usize, codes: C) {
        self.0.cast::<C>().add(j).write(codes);
    }
}

impl<S: Simd> Visit<S> for Unpack<S::U8> {
    #[inline(always)]
    unsafe fn vector(&mut self, _s: S) {}
    #[inline(always)]
    unsafe fn fields<const D: usize>(&mut self, s: S, first: usize, mut bytes: S::B) {
        // Of bits, twice each is the code.
        let mask = s.b_splat(if D == 8 { 2 } else { 3 });
        let low = if D == 8 { s.b_shl::<1>(bytes) } else { bytes };
        self.put(first, s.prep_u(s.b_and(low, mask)));
        each!(n < D => {
            if n > 0 {
                if D == 4 || n > 1 {
                    bytes = if D == 8 { s.b_shr::<1>(bytes) } else { s.b_shr::<2>(bytes) };
                }
                self.put(first + n, s.prep_u(s.b_and(bytes, mask)));
            }
        });
    }
    #[inline(always)]
    unsafe fn digits<const D: usize>(
        &mut self,
        s: S,
        first: usize,
        step: usize,
        mut fractions: S::B,
    ) {
        each!(n < D => {
            self.put(first + n * step, s.prep_u(s.b_digits(fractions)));
            fractions = s.b_triple(fractions);
        });
    }
}

/// A unit with its codes unpacked.
#[derive(Clone, Copy)]
pub(crate) struct Unpacked<C, K> {
    codes: [C; GROUPS],
    scales: [K; 4],
}

/// `scale * (dots - sum of the span's activations)`, for dot products above [`MAGIC`].
#[inline(always)]
unsafe fn scaled<S: Simd, W: LowBit>(
    s: S,
    dots: S::I,
    x: *const u8,
    h: usize,
    scale: S::Factor,
) -> S::F {
    // Sums of 64 lie in pairs; which of a pair count is a pair of factors.
    let pair = |i: usize| x.add(q8k::SUMS_64 + 4 * i).cast();
    let dots = match W::SPAN {
        64 => {
            let minus = s.i_splat(if h.is_multiple_of(2) { 0xffff } else { -0x1_0000 });
            s.dot_pairs(dots, minus, s.i_splat_at(pair(h / 2)))
        }
        128 => s.dot_pairs(dots, s.i_splat(-1), s.i_splat_at(pair(h))),
        _ => {
            let dots = s.dot_pairs(dots, s.i_splat(-1), s.i_splat_at(pair(0)));
            s.dot_pairs(dots, s.i_splat(-1), s.i_splat_at(pair(1)))
        }
    };
    s.scaled(dots, scale)
}

/// Adds the spans' parts of a unit to a row: `x_scale * sum of parts`.
#[inline(always)]
unsafe fn add_parts<S: Simd>(s: S, acc: S::F, parts: S::F, x: *const u8) -> S::F {
    let x_scale = s.f_splat_at(x.add(q8k::SCALE).cast());
    s.f_add(acc, s.f_mul(parts, x_scale))
}

// SAFETY: `walk` stays inside the codes, after which are the scales; `decode` writes every field.
unsafe impl<W: LowBit> Quantized for LowBits<W> {
    type Unit<S: Simd> = Unpacked<S::U8, S::Factor>;

    #[inline(always)]
    unsafe fn decode<S: Simd>(s: S, unit: *const u8, out: *mut Self::Unit<S>) {
        let mut h = 0;
        while h < Self::SCALES {
            W::walk(s, unit, h, &mut Unpack(&raw mut (*out).codes));
            h += 1;
        }
        each!(h < 4 => {
            // What the format has no scales for is never read.
            let at = Self::scale_at(if h < Self::SCALES { h } else { 0 });
            (*out).scales[h] = s.factors(unit.add(at).cast());
        });
    }

    #[inline(always)]
    unsafe fn add<S: Simd, const MR: usize>(
        s: S,
        unit: &Self::Unit<S>,
        x: *const u8,
        acc: &mut [S::F; MR],
    ) {
        let mut parts = [s.f_splat(0.0); MR];
        let mut h = 0;
        while h < Self::SCALES {
            let mut dots = [s.acc_start(&MAGIC); MR];
            let first = h * W::SPAN / 32;
            let mut b = 0;
            while b < W::SPAN / 32 {
                each!(j < 8 => {
                    let w = unit.codes[8 * (first + b) + j];
                    each!(m < MR => {
                        let x = x.add(m * Q8K_RECORD + 32 * (first + b) + 4 * j);
                        dots[m] = s.dot_u(dots[m], w, s.x_load(x.cast()));
                    });
                });
                if W::SPAN == 256 && !S::WIDE && b == 3 {
                    each!(m < MR => { dots[m] = s.flush(dots[m]); });
                }
                b += 1;
            }
            each!(m < MR => {
                let x = x.add(m * Q8K_RECORD);
                let dots = s.finish(dots[m], &MAGIC);
                parts[m] = s.f_add(parts[m], scaled::<S, W>(s, dots, x, h, unit.scales[h]));
            });
            h += 1;
        }
        each!(m < MR => { acc[m] = add_parts(s, acc[m], parts[m], x.add(m * Q8K_RECORD)); });
    }

    #[inline(always)]
    unsafe fn add_packed<S: Simd, const MR: usize>(
        s: S,
        unit: *const u8,
        x: *const u8,
        acc: &mut [S::F; MR],
    ) {
        let mut parts = [s.f_splat(0.0); MR];
        let mut products = Multiply { x, sums: [s.sums_zero(); MR], line: unit };
        let mut h = 0;
        while h < Self::SCALES {
            products.sums = [s.sums_zero(); MR];
            W::walk(s, unit, h, &mut products);
            let scale = s.factors(unit.add(Self::scale_at(h)).cast());
            each!(m < MR => {
                let dots = match W::PACKING {
                    Packing::Bits => s.i_shl::<1>(s.fields_sum::<8>(products.sums[m])),
                    Packing::Pairs => s.fields_sum::<4>(products.sums[m]),
                    Packing::Ternary => s.digits_sum(products.sums[m]),
                };
                let dots = s.i_add(dots, s.i_splat(MAGIC));
                let part = scaled::<S, W>(s, dots, x.add(m * Q8K_RECORD), h, scale);
                parts[m] = s.f_add(parts[m], part);
            });
            h += 1;
        }
        while products.line < unit.wrapping_add(Self::UNIT.1) {
            Visit::<S>::vector(&mut products, s);
        }
        each!(m < MR => { acc[m] = add_parts(s, acc[m], parts[m], x.add(m * Q8K_RECORD)); });
    }
}

/// Codes of two bits in a panel: vector v has the values `16 v .. 16 v + 16`, of which byte c has
/// `4 n + c` in bits `2 n` and `2 n + 1`. This is how the codes of a format begin in such a panel.
pub(crate) mod two_bits {
    use super::{LANES, Simd, VECTOR, Visit};

    /// Bytes of a unit's codes.
    pub(crate) const CODES: usize = 16 * VECTOR;

    /// Where row `lane` has its word of vector `v`.
    pub(crate) fn word(codes: &mut [u8], v: usize, lane: usize) -> &mut [u8; 4] {
        &mut codes[v * VECTOR..][..VECTOR].as_chunks_mut::<4>().0[lane]
    }

    /// Code `i` of row `lane`.
    pub(crate) fn packed(codes: &[u8], lane: usize, i: usize) -> u8 {
        debug_assert!(lane < LANES);
        codes[i / 16 * VECTOR + 4 * lane + i % 4] >> (i / 4 % 4 * 2) & 3
    }

    /// Shows span `h` of `SPAN` values to `visit`.
    ///
    /// # Safety
    /// As [`LowBit::walk`](super::LowBit::walk).
    #[inline(always)]
    pub(crate) unsafe fn walk<S: Simd, const SPAN: usize>(
        s: S,
        codes: *const u8,
        h: usize,
        visit: &mut impl Visit<S>,
    ) {
        let mut q = h * SPAN / 64;
        while q < (h + 1) * SPAN / 64 {
            each!(v < 4 => {
                visit.vector(s);
                visit.fields::<4>(s, 16 * q + 4 * v, s.b_load(codes.add((4 * q + v) * VECTOR)));
            });
            q += 1;
        }
    }
}
