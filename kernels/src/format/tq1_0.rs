//! TQ1_0: `scale * (code - 1)`, five ternary digits a byte, a scale per 256.
//!
//! A byte is a fraction of 256 in base 3: its first digit is `3 b / 256`, and what is left, `3 b`
//! modulo 256, begins with the next one. A block of the file is 48 bytes of five digits, four of
//! four, and the scale. Digit n of the first 32 bytes is k = 32 n + m of byte m, of the next
//! sixteen k = 160 + 16 n + m, of the last four k = 240 + 4 n + m.
//!
//! A panel keeps the bytes as they are, four of a row side by side, but for their top bit, which is
//! flipped so that signed comparisons find the digit; tripling is the same with and without it.

use crate::matmul::low_bit::{LowBit, LowBits, Packing, Visit};
use crate::panel::{Stack, VECTOR};
use crate::simd::Simd;

/// The format.
#[allow(non_camel_case_types, reason = "formats keep the GGUF spelling")]
pub(crate) type TQ1_0 = LowBits<Codes>;

/// Its codes.
pub(crate) struct Codes;

/// The bit that differs between a byte of the file and one of a panel.
pub(crate) const FLIPPED: u8 = 0x80;

/// Digit `n` of a byte of the file.
pub(crate) fn digit(byte: u8, n: usize) -> u8 {
    const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
    let left = u16::from(byte.wrapping_mul(POWERS[n]));
    ((3 * left) >> 8) as u8
}

/// Which byte of a block has value `i`, and which digit of it.
fn place(i: usize) -> (usize, usize) {
    match i {
        0..160 => (i % 32, i / 32),
        160..240 => (32 + i % 16, (i - 160) / 16),
        _ => (48 + i % 4, (i - 240) / 4),
    }
}

// SAFETY: vectors 0 to 7 have the groups v, v + 8, ..., v + 32; vectors 8 to 11 those from 40 on
// by fours; the last one has the last four.
unsafe impl LowBit for Codes {
    const SPAN: usize = 256;
    const BLOCK: (usize, usize) = (48 + 4 + 2, 52);
    const CODES: usize = 13 * VECTOR;
    const PACKING: Packing = Packing::Ternary;

    fn code(block: &[u8], i: usize) -> u8 {
        let (byte, n) = place(i);
        digit(block[byte], n)
    }

    fn pack(rows: &Stack<'_>, lane: usize, at: usize, codes: &mut [u8]) {
        for (v, vector) in codes.chunks_exact_mut(VECTOR).enumerate() {
            let word = rows.bytes::<4>(lane, at + 4 * v);
            vector[4 * lane..][..4].copy_from_slice(&word.map(|b| b ^ FLIPPED));
        }
    }

    fn packed(codes: &[u8], lane: usize, i: usize) -> u8 {
        let (byte, n) = place(i);
        digit(codes[byte / 4 * VECTOR + 4 * lane + byte % 4] ^ FLIPPED, n)
    }

    #[inline(always)]
    unsafe fn walk<S: Simd>(s: S, codes: *const u8, _h: usize, visit: &mut impl Visit<S>) {
        let mut v = 0;
        while v < 8 {
            digits::<S, 5>(s, codes.add(v * VECTOR), v, 8, visit);
            v += 1;
        }
        while v < 12 {
            digits::<S, 5>(s, codes.add(v * VECTOR), 40 + v - 8, 4, visit);
            v += 1;
        }
        digits::<S, 4>(s, codes.add(12 * VECTOR), 60, 1, visit);
    }
}

/// Shows the first `D` digits of the vector at `at`: groups `first`, `first + step`, and so on.
///
/// # Safety
/// As [`LowBit::walk`], of one vector.
#[inline(always)]
pub(crate) unsafe fn digits<S: Simd, const D: usize>(
    s: S,
    at: *const u8,
    first: usize,
    step: usize,
    visit: &mut impl Visit<S>,
) {
    visit.vector(s);
    visit.digits::<D>(s, first, step, s.b_load(at));
}
