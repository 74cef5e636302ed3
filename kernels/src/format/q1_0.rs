//! Q1_0: `scale` or `-scale`, a bit a value, a scale per 128.
//!
//! A block of the file is the scale and a bit for every value, the first the lowest of its byte. A
//! vector of a panel has 32 values, of which byte c has `4 n + c` in bit n.

use crate::matmul::each;
use crate::matmul::low_bit::{LowBit, LowBits, Visit};
use crate::matmul::simple::fifth_bits_of;
use crate::panel::{Stack, VECTOR};
use crate::simd::Simd;

/// The format.
#[allow(non_camel_case_types, reason = "formats keep the GGUF spelling")]
pub(crate) type Q1_0 = LowBits<Codes>;

/// Its codes: a bit is a code of 0 or 2.
pub(crate) struct Codes;

// SAFETY: eight vectors of 32 values, four for each span.
unsafe impl LowBit for Codes {
    const SPAN: usize = 128;
    const BLOCK: (usize, usize) = (2 + 16, 0);
    const CODES: usize = 8 * VECTOR;

    fn code(block: &[u8], i: usize) -> u8 {
        (block[2 + i / 8] >> (i % 8) & 1) * 2
    }

    fn pack(rows: &Stack<'_>, lane: usize, at: usize, codes: &mut [u8]) {
        for (v, vector) in codes.chunks_exact_mut(VECTOR).enumerate() {
            let bits = rows.bytes::<4>(lane, at + v / 4 * Self::BLOCK.0 + 2 + v % 4 * 4);
            vector[4 * lane..][..4].copy_from_slice(&fifth_bits_of(*bits));
        }
    }

    fn packed(codes: &[u8], lane: usize, i: usize) -> u8 {
        (codes[i / 32 * VECTOR + 4 * lane + i % 4] >> (i / 4 % 8) & 1) * 2
    }

    #[inline(always)]
    unsafe fn walk<S: Simd>(s: S, codes: *const u8, h: usize, visit: &mut impl Visit<S>) {
        let two = s.b_splat(2);
        let mut p = 2 * h;
        while p < 2 * h + 2 {
            each!(v < 2 => {
                let at = codes.add((2 * p + v) * VECTOR);
                visit.vector(s, at);
                let mut bits = s.b_load(at);
                each!(n < 8 => {
                    let code = if n == 0 { s.b_shl::<1>(bits) } else { bits };
                    visit.group(s, 16 * p + 8 * v + n, n, s.b_and(code, two));
                    if n > 0 {
                        bits = s.b_shr::<1>(bits);
                    }
                });
            });
            p += 1;
        }
    }
}
