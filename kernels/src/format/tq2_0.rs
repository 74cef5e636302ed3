//! TQ2_0: `scale * (code - 1)`, two bits a code, a scale per 256.
//!
//! A block of the file is 64 bytes of codes and the scale. Byte m of 32 has the values m, m + 32,
//! m + 64 and m + 96 of half a block.

use crate::matmul::low_bit::{LowBit, LowBits, Packing, Visit, two_bits};
use crate::panel::{Stack, high_bits};
use crate::simd::Simd;

/// The format.
#[allow(non_camel_case_types, reason = "formats keep the GGUF spelling")]
pub(crate) type TQ2_0 = LowBits<Codes>;

/// Its codes.
pub(crate) struct Codes;

// SAFETY: the codes are those of `two_bits`.
unsafe impl LowBit for Codes {
    const SPAN: usize = 256;
    const BLOCK: (usize, usize) = (64 + 2, 64);
    const CODES: usize = two_bits::CODES;
    const PACKING: Packing = Packing::Pairs;

    fn code(block: &[u8], i: usize) -> u8 {
        block[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3
    }

    fn pack(rows: &Stack<'_>, lane: usize, at: usize, codes: &mut [u8]) {
        for v in 0..16 {
            let bytes = rows.bytes::<16>(lane, at + v / 8 * 32 + v % 2 * 16);
            *two_bits::word(codes, v, lane) = high_bits::<2>(bytes, (v / 2 % 4 * 2) as u32);
        }
    }

    fn packed(codes: &[u8], lane: usize, i: usize) -> u8 {
        two_bits::packed(codes, lane, i)
    }

    #[inline(always)]
    unsafe fn walk<S: Simd>(s: S, codes: *const u8, h: usize, visit: &mut impl Visit<S>) {
        two_bits::walk::<S, 256>(s, codes, h, visit);
    }
}
