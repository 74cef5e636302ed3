//! The formats of 32 values with one scale: Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL, MXFP4.
//!
//! A block of the file is the scale, perhaps a minimum, perhaps 32 fifth bits, and the codes; a
//! byte of nibbles has k and k + 16. A unit of a panel is two blocks, so that every unit begins on
//! a cache line (of MXFP4, whose scales are bytes, every other one):
//!
//! ```text
//! codes of block 0 | codes of block 1 | scales of 0, of 1 (16 each) | minima of 0, of 1
//! ```
//!
//! Fifth bits are one vector after the nibbles of a block: bit j of byte c of a lane is k = 4 j + c.

use std::marker::PhantomData;

use super::{Quantized, fetch_part, planes};
use crate::activation::{Activation, Q8_RECORD, q8};
use crate::format::{Definition, Quantize};
use crate::panel::{BLOCK, HALVES, NIBBLES, Stack, code, code_bytes, half_at, spread};
use crate::simd::{LANES, MAGIC, Simd};

/// What distinguishes these formats: what a code is, how it is read and multiplied.
///
/// Methods may be called with a packed block, a record of [`Activation::Q8`], `j` below 8 and `b`
/// below 2, and as those of [`Simd`].
///
/// # Safety
/// Of a block no more is read than [`code_bytes`] of `BITS`, of a record than [`Q8_RECORD`].
pub(crate) unsafe trait Blocks {
    /// Bits of a code: 4, 5 or 8.
    const BITS: u32;
    /// Whether a block has a minimum.
    const MIN: bool;
    /// Whether sixteen-bit sums hold the products of half a block only: codes of 16 to 31.
    const FLUSH: bool;
    const QUANTIZE: Option<Quantize> = None;
    /// Codes of four values in sixteen rows, ready for [`dot`](Self::dot).
    type Codes<S: Simd>: Copy;
    /// Running dot products.
    type Dots<S: Simd>: Copy;

    /// What a code stands for, in scales.
    fn value(code: u8) -> i32;

    /// Group `j` (values `4 j .. 4 j + 4`) of a packed block.
    unsafe fn codes<S: Simd>(s: S, block: *const u8, j: usize) -> Self::Codes<S>;
    /// Dot products of no codes yet, for block `b` of the record `x`.
    unsafe fn start<S: Simd>(s: S, x: *const u8, b: usize) -> Self::Dots<S>;
    unsafe fn dot<S: Simd>(s: S, dots: Self::Dots<S>, w: Self::Codes<S>, x: S::X) -> Self::Dots<S>;
    /// Widens narrow sums; called after half a block where [`FLUSH`](Self::FLUSH) says so.
    unsafe fn flush<S: Simd>(s: S, dots: Self::Dots<S>) -> Self::Dots<S>;
    /// The dot products, above [`MAGIC`].
    unsafe fn finish<S: Simd>(s: S, dots: Self::Dots<S>, x: *const u8, b: usize) -> S::I;
}

/// What a scale is.
pub(crate) trait Scale {
    /// Bytes of one, in the file and in a panel.
    const BYTES: usize;
    /// Sixteen of them.
    type Of<S: Simd>: Copy;

    fn value(bytes: &[u8]) -> f32;
    /// # Safety
    /// `p` is valid for sixteen; else as the methods of [`Simd`].
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> Self::Of<S>;
    /// `(dots - MAGIC) * scale`, rounded once.
    ///
    /// # Safety
    /// As the methods of [`Simd`].
    unsafe fn scaled<S: Simd>(s: S, dots: S::I, scale: Self::Of<S>) -> S::F;
}

/// A half float.
pub(crate) struct Half;

impl Scale for Half {
    const BYTES: usize = 2;
    type Of<S: Simd> = S::Factor;

    fn value(bytes: &[u8]) -> f32 {
        half_at(bytes, 0)
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::Factor {
        s.factors(p.cast())
    }
    #[inline(always)]
    unsafe fn scaled<S: Simd>(s: S, dots: S::I, scale: S::Factor) -> S::F {
        s.scaled(dots, scale)
    }
}

/// Half the power of two whose biased exponent a byte is (E8M0, for codes of halves).
///
/// Products take 2^-128, the least of them, for zero: blocks of zeros have it, and operands that are no
/// normal numbers are slow. 255 is NaN, which no model may have.
pub(crate) struct Exponent;

impl Scale for Exponent {
    const BYTES: usize = 1;
    /// No [`Simd::Factor`]: 1.5 * 2^23 times a great power of two would be infinite.
    type Of<S: Simd> = S::F;

    fn value(bytes: &[u8]) -> f32 {
        let e = u32::from(bytes[0]);
        f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (e - 1) << 23 })
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::F {
        let power = s.f_from_bits(s.i_shl::<23>(s.i_load_u8(p)));
        s.f_mul(power, s.f_splat(0.5))
    }
    #[inline(always)]
    unsafe fn scaled<S: Simd>(s: S, dots: S::I, scale: S::F) -> S::F {
        let magic = s.f_splat(f32::from_bits(MAGIC as u32));
        s.f_mul(s.f_sub(s.f_from_bits(dots), magic), scale)
    }
}

/// A format of such blocks.
pub(crate) struct Simple<W, K = Half>(PhantomData<(W, K)>);

impl<W: Blocks, K: Scale> Simple<W, K> {
    /// Where a block of the file has its fifth bits, and where its codes.
    const HIGH: usize = {
        assert!(!W::MIN || K::BYTES == 2, "a minimum is a half float, as its scale");
        if W::MIN { 4 } else { K::BYTES }
    };
    const CODES: usize = if W::BITS == 5 { Self::HIGH + 4 } else { Self::HIGH };
    /// Bytes of a packed block's codes.
    const PACKED: usize = code_bytes(W::BITS);

    /// Bytes of the scales of a packed block.
    const SCALES: usize = LANES * K::BYTES;

    /// Where a unit has scale `b` of row `lane`.
    fn scale_at(lane: usize, b: usize) -> usize {
        2 * Self::PACKED + b * Self::SCALES + K::BYTES * lane
    }
}

impl<W: Blocks, K: Scale> Definition for Simple<W, K> {
    const BLOCK: (usize, usize) =
        (BLOCK, Self::CODES + if W::BITS == 8 { BLOCK } else { BLOCK / 2 });
    const SCALES: &'static [usize] = match (K::BYTES, W::MIN) {
        (2, true) => &[0, 2],
        (2, false) => &[0],
        _ => &[],
    };
    const UNIT: (usize, usize) =
        (2 * BLOCK, 2 * Self::PACKED + if W::MIN { 4 } else { 2 } * LANES * K::BYTES);
    const ACTIVATION: Activation = Activation::Q8;
    const QUANTIZE: Option<Quantize> = W::QUANTIZE;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let scale = K::value(block);
        let minimum = if W::MIN { half_at(block, 2) } else { 0.0 };
        let codes = &block[Self::CODES..];
        for (i, out) in out.iter_mut().enumerate() {
            let code = match W::BITS {
                8 => codes[i],
                bits => {
                    let low = codes[i % 16] >> (i / 16 * 4) & 15;
                    let high = if bits == 5 { block[Self::HIGH + i / 8] >> (i % 8) & 1 } else { 0 };
                    low | high << 4
                }
            };
            let value = scale * W::value(code) as f32;
            *out = if W::MIN { value + minimum } else { value };
        }
    }

    fn pack(rows: &Stack<'_>, panel: &mut [u8]) {
        let (mut at, block_bytes) = (0, Self::BLOCK.1);
        for unit in panel.chunks_exact_mut(Self::UNIT.1) {
            for b in 0..2 {
                for lane in 0..LANES {
                    let scale = Self::scale_at(lane, b);
                    let from = rows.bytes::<2>(lane, at);
                    unit[scale..][..K::BYTES].copy_from_slice(&from[..K::BYTES]);
                    if W::MIN {
                        let min = scale + 2 * HALVES;
                        unit[min..min + 2].copy_from_slice(rows.bytes::<2>(lane, at + 2));
                    }
                }
                let out = &mut unit[b * Self::PACKED..][..Self::PACKED];
                for (i, out) in out.as_chunks_mut::<NIBBLES>().0.iter_mut().enumerate() {
                    spread(|lane| *rows.bytes::<16>(lane, at + Self::CODES + 16 * i), out);
                }
                if W::BITS == 5 {
                    for (lane, out) in out[NIBBLES..].as_chunks_mut::<4>().0.iter_mut().enumerate()
                    {
                        *out = fifth_bits_of(*rows.bytes::<4>(lane, at + Self::HIGH));
                    }
                }
                at += block_bytes;
            }
        }
    }

    fn unpack(unit: &[u8], lane: usize, out: &mut [f32]) {
        for (b, out) in out.chunks_mut(BLOCK).enumerate() {
            let at = Self::scale_at(lane, b);
            let scale = K::value(&unit[at..]);
            let minimum = if W::MIN { half_at(unit, at + 2 * HALVES) } else { 0.0 };
            let codes = &unit[b * Self::PACKED..];
            for (i, out) in out.iter_mut().enumerate() {
                let value = scale * W::value(code(W::BITS, codes, lane, i)) as f32;
                *out = if W::MIN { value + minimum } else { value };
            }
        }
    }
}

/// The bits of 32 values, bit k of a word, as a lane of their vector.
pub(crate) fn fifth_bits_of(bits: [u8; 4]) -> [u8; 4] {
    let bits = u32::from_le_bytes(bits);
    // The product has four bits seven apart; the mask leaves the lowest of each byte.
    let group = |j: u32| (((bits >> (4 * j) & 15) * 0x0020_4081) & 0x0101_0101) << j;
    (0..8).fold(0, |all, j| all | group(j)).to_le_bytes()
}

/// Where a unit's codes and scales come from.
///
/// Methods may be called on a unit that is there, for `b` below 2 and `j` below 8, and as those of
/// [`Simd`]; `min` only where the format has minima.
trait Source<S: Simd, W: Blocks, K: Scale>: Copy {
    unsafe fn fetch(self, s: S, b: usize);
    unsafe fn codes(self, s: S, b: usize, j: usize) -> W::Codes<S>;
    unsafe fn scale(self, s: S, b: usize) -> K::Of<S>;
    unsafe fn min(self, s: S, b: usize) -> S::F;
}

/// A unit as the panel keeps it.
#[derive(Clone, Copy)]
struct Packed(*const u8);

impl<S: Simd, W: Blocks, K: Scale> Source<S, W, K> for Packed {
    #[inline(always)]
    unsafe fn fetch(self, s: S, b: usize) {
        fetch_part(s, self.0, Simple::<W, K>::UNIT.1, b, 2);
    }
    #[inline(always)]
    unsafe fn codes(self, s: S, b: usize, j: usize) -> W::Codes<S> {
        W::codes(s, self.0.add(b * Simple::<W, K>::PACKED), j)
    }
    #[inline(always)]
    unsafe fn scale(self, s: S, b: usize) -> K::Of<S> {
        let scales = self.0.add(2 * Simple::<W, K>::PACKED);
        K::load(s, scales.add(b * Simple::<W, K>::SCALES))
    }
    #[inline(always)]
    unsafe fn min(self, s: S, b: usize) -> S::F {
        let minima = self.0.add(2 * Simple::<W, K>::PACKED + 2 * HALVES);
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

impl<S: Simd, W: Blocks, K: Scale> Source<S, W, K> for &Unpacked<W::Codes<S>, K::Of<S>, S::F> {
    #[inline(always)]
    unsafe fn fetch(self, _s: S, _b: usize) {}
    #[inline(always)]
    unsafe fn codes(self, _s: S, b: usize, j: usize) -> W::Codes<S> {
        self.codes[b][j]
    }
    #[inline(always)]
    unsafe fn scale(self, _s: S, b: usize) -> K::Of<S> {
        self.scale[b]
    }
    #[inline(always)]
    unsafe fn min(self, _s: S, b: usize) -> S::F {
        self.min[b]
    }
}

/// Adds one unit's part of `MR` rows: `dot * scale * x_scale + min * x_scale * x_sum`.
#[inline(always)]
unsafe fn add_unit<S: Simd, W: Blocks, K: Scale, const MR: usize>(
    s: S,
    unit: impl Source<S, W, K>,
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
            let product = K::scaled(s, W::finish(s, dots[m], x, b), scale);
            let x_scale = s.f_splat_at(x.add(q8::SCALE + 4 * b).cast());
            acc[m] = s.f_add(acc[m], s.f_mul(product, x_scale));
        });
        if W::MIN {
            let min = unit.min(s, b);
            each!(m < MR => {
                let sum = s.f_splat_at(x.add(m * Q8_RECORD + q8::SCALED_SUM + 4 * b).cast());
                acc[m] = s.f_add(acc[m], s.f_mul(min, sum));
            });
        }
    });
}

/// Unsigned codes of a nibble, perhaps with a fifth bit.
pub(crate) trait Nibbles {
    /// Bits of a code, 4 or 5.
    const BITS: u32;
    /// What a code has above its value: 0, 8 or 16.
    const OFFSET: i32;
    /// Whether a block has a minimum.
    const MIN: bool;
    /// What a nibble stands for instead of itself: numbers of five bits.
    const TABLE: Option<[u8; 16]> = None;
    const QUANTIZE: Option<Quantize> = None;
}

/// How such codes are multiplied.
pub(crate) struct Unsigned<N>(PhantomData<N>);

impl<N: Nibbles> Unsigned<N> {
    /// Where the activations keep what the codes' offset makes of their sums.
    const START: Option<usize> = match N::OFFSET {
        0 => None,
        8 => Some(q8::MINUS_8),
        16 => Some(q8::MINUS_16),
        _ => panic!("activations have no such field"),
    };
}

// SAFETY: group j is half of vector j mod 4, fifth bits are a vector after the four; `START` is a
// field of the record.
unsafe impl<N: Nibbles> Blocks for Unsigned<N> {
    const BITS: u32 = {
        assert!(N::BITS == 4 || N::BITS == 5, "a nibble, perhaps with a fifth bit");
        N::BITS
    };
    const MIN: bool = N::MIN;
    const FLUSH: bool = N::BITS == 5 || N::TABLE.is_some();
    const QUANTIZE: Option<Quantize> = N::QUANTIZE;
    type Codes<S: Simd> = S::U8;
    type Dots<S: Simd> = S::Acc;

    fn value(code: u8) -> i32 {
        i32::from(N::TABLE.map_or(code, |table| table[usize::from(code)])) - N::OFFSET
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(s: S, block: *const u8, j: usize) -> S::U8 {
        let codes = planes::group(s, N::BITS, block, j);
        s.prep_u(match const { &N::TABLE } {
            Some(table) => s.lookup(s.table(table), codes),
            None => codes,
        })
    }
    #[inline(always)]
    unsafe fn start<S: Simd>(s: S, x: *const u8, b: usize) -> S::Acc {
        s.acc_start(start_at(Self::START, x, b))
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
        s.finish(dots, start_at(Self::START, x, b))
    }
}

/// The start of block `b`: a field of the record, or [`MAGIC`] alone for codes without an offset.
#[inline(always)]
pub(crate) unsafe fn start_at(field: Option<usize>, x: *const u8, b: usize) -> *const i32 {
    match field {
        Some(at) => x.add(at + 4 * b).cast(),
        None => const { &MAGIC },
    }
}

/// Codes of a format that stand for numbers of 8 bits, signs included.
///
/// # Safety
/// As [`Blocks`].
pub(crate) unsafe trait SignedCodes {
    const BITS: u32;
    const QUANTIZE: Option<Quantize>;

    /// What a code stands for, in scales.
    fn value(code: u8) -> i32;
    /// Group `j` of a packed block.
    unsafe fn codes<S: Simd>(s: S, block: *const u8, j: usize) -> S::S8;
}

/// How such codes are multiplied.
pub(crate) struct Signed<T>(PhantomData<T>);

// SAFETY: the codes are; `start` is in the record.
unsafe impl<T: SignedCodes> Blocks for Signed<T> {
    const BITS: u32 = T::BITS;
    const MIN: bool = false;
    const FLUSH: bool = false;
    const QUANTIZE: Option<Quantize> = T::QUANTIZE;
    type Codes<S: Simd> = S::S8;
    type Dots<S: Simd> = S::I;

    fn value(code: u8) -> i32 {
        T::value(code)
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(s: S, block: *const u8, j: usize) -> S::S8 {
        T::codes(s, block, j)
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

/// Nibbles that stand for numbers of 8 bits.
pub(crate) trait Codebook {
    const VALUES: [i8; 16];
    const QUANTIZE: Option<Quantize> = None;
}

/// Codes that are looked up so.
pub(crate) struct Looked<T>(PhantomData<T>);

// SAFETY: group j is half of vector j mod 4.
unsafe impl<T: Codebook> SignedCodes for Looked<T> {
    const BITS: u32 = 4;
    const QUANTIZE: Option<Quantize> = T::QUANTIZE;

    fn value(code: u8) -> i32 {
        T::VALUES[usize::from(code)].into()
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(s: S, block: *const u8, j: usize) -> S::S8 {
        looked::<S, T>(s, planes::group(s, 4, block, j))
    }
}

/// What nibbles stand for.
///
/// # Safety
/// As the methods of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn looked<S: Simd, T: Codebook>(s: S, nibbles: S::B) -> S::S8 {
    let table = const { &biased(T::VALUES, S::S8_BIAS) };
    s.prep_biased(s.lookup(s.table(table), nibbles))
}

/// The values above `bias`, as a table of codes.
pub(crate) const fn biased(values: [i8; 16], bias: i32) -> [u8; 16] {
    let mut out = [0; 16];
    let mut i = 0;
    while i < 16 {
        out[i] = (values[i] as i32 + bias) as u8;
        i += 1;
    }
    out
}

// SAFETY: a unit has both blocks, their scales and, where the format has them, minima; `decode`
// writes every field.
unsafe impl<W: Blocks, K: Scale> Quantized for Simple<W, K> {
    type Unit<S: Simd> = Unpacked<W::Codes<S>, K::Of<S>, S::F>;

    #[inline(always)]
    unsafe fn decode<S: Simd>(s: S, unit: *const u8, out: *mut Self::Unit<S>) {
        let packed = Packed(unit);
        each!(b < 2 => {
            each!(j < 8 => {
                (*out).codes[b][j] = Source::<S, W, K>::codes(packed, s, b, j);
            });
            (*out).scale[b] = Source::<S, W, K>::scale(packed, s, b);
            (*out).min[b] =
                if W::MIN { Source::<S, W, K>::min(packed, s, b) } else { s.f_splat(0.0) };
        });
    }
    #[inline(always)]
    unsafe fn add<S: Simd, const MR: usize>(
        s: S,
        unit: &Self::Unit<S>,
        x: *const u8,
        acc: &mut [S::F; MR],
    ) {
        add_unit::<S, W, K, MR>(s, unit, x, acc);
    }
    #[inline(always)]
    unsafe fn add_packed<S: Simd, const MR: usize>(
        s: S,
        unit: *const u8,
        x: *const u8,
        acc: &mut [S::F; MR],
    ) {
        add_unit::<S, W, K, MR>(s, Packed(unit), x, acc);
    }
}
