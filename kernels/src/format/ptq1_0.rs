//! PTQ1_0: TQ1_0 with a scale per 128.
//!
//! A block of the file is 24 bytes of five ternary digits, two of four, and the scale. Digit n of
//! the first sixteen bytes is k = 16 n + m of byte m, of the next eight k = 80 + 8 n + m, of the
//! last two k = 120 + 2 n + m.
//!
//! A unit of a panel has the 24 bytes of each of two blocks, as TQ1_0 has its own, and four bytes
//! whose digits 0 and 1 are the last eight values of the first block, 2 and 3 those of the second.

use super::tq1_0::{FLIPPED, digit, digits};
use crate::matmul::low_bit::{LowBit, LowBits, Packing, Visit};
use crate::panel::{Stack, VECTOR};
use crate::simd::Simd;

/// The format.
#[allow(non_camel_case_types, reason = "formats keep the GGUF spelling")]
pub(crate) type PTQ1_0 = LowBits<Codes>;

/// Its codes.
pub(crate) struct Codes;

/// Which byte of a block has value `i`, and which digit of it.
fn place(i: usize) -> (usize, usize) {
    match i {
        0..80 => (i % 16, i / 16),
        80..120 => (16 + i % 8, (i - 80) / 8),
        _ => (24 + i % 2, (i - 120) / 2),
    }
}

// SAFETY: six vectors for each span and one for both, each group of four in one of them.
unsafe impl LowBit for Codes {
    const SPAN: usize = 128;
    const BLOCK: (usize, usize) = (24 + 2 + 2, 26);
    const CODES: usize = 13 * VECTOR;
    const PACKING: Packing = Packing::Ternary;

    fn code(block: &[u8], i: usize) -> u8 {
        let (byte, n) = place(i);
        digit(block[byte], n)
    }

    fn pack(rows: &Stack<'_>, lane: usize, at: usize, codes: &mut [u8]) {
        let (fives, last) = codes.split_at_mut(12 * VECTOR);
        for (v, vector) in fives.chunks_exact_mut(VECTOR).enumerate() {
            let word = rows.bytes::<4>(lane, at + v / 6 * Self::BLOCK.0 + v % 6 * 4);
            vector[4 * lane..][..4].copy_from_slice(&word.map(|b| b ^ FLIPPED));
        }
        for c in 0..4 {
            let digits = (0..4).map(|n| {
                let block = rows.bytes::<26>(lane, at + n / 2 * Self::BLOCK.0);
                u16::from(Self::code(block, 120 + n % 2 * 4 + c))
            });
            // Four digits after the point, rounded up: no digit is lost to the division.
            let fraction = digits.fold(0, |all, digit| 3 * all + digit) * 3;
            last[4 * lane + c] = (fraction * 256).div_ceil(243) as u8 ^ FLIPPED;
        }
    }

    fn packed(codes: &[u8], lane: usize, i: usize) -> u8 {
        let (h, i) = (i / 128, i % 128);
        let (vector, byte, n) = match place(i) {
            (byte, n) if byte < 24 => (6 * h + byte / 4, byte % 4, n),
            _ => (12, i % 4, 2 * h + (i - 120) / 4),
        };
        digit(codes[vector * VECTOR + 4 * lane + byte] ^ FLIPPED, n)
    }

    #[inline(always)]
    unsafe fn walk<S: Simd>(s: S, codes: *const u8, h: usize, visit: &mut impl Visit<S>) {
        let own = codes.add(6 * h * VECTOR);
        let mut v = 0;
        while v < 4 {
            digits::<S, 5>(s, own.add(v * VECTOR), 32 * h + v, 4, visit);
            v += 1;
        }
        while v < 6 {
            digits::<S, 5>(s, own.add(v * VECTOR), 32 * h + 20 + v - 4, 2, visit);
            v += 1;
        }
        let mut both = s.b_load(codes.add(12 * VECTOR));
        if h > 0 {
            both = s.b_triple(s.b_triple(both));
        }
        visit.digits::<2>(s, 32 * h + 30, 1, both);
    }
}
