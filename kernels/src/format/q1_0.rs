//! Q1_0: `scale` or `-scale`, a bit a value, a scale per 128.
//!
//! A block of the file is the scale and a bit for every value, the first the lowest of its byte. A
//! vector of a panel has 32 values, of which byte c has `4 n + c` in bit n.

use crate::matmul::each;
use crate::matmul::low_bit::{LowBit, LowBits, Packing, Visit};
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
    const PACKING: Packing = Packing::Bits;

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
        each!(v < 4 => {
            visit.vector(s);
            visit.fields::<8>(s, 32 * h + 8 * v, s.b_load(codes.add((4 * h + v) * VECTOR)));
        });
    }
}
