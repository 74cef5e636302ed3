//! Q2_0: `scale * (code - 1)`, two bits a code, a scale per 64.
//!
//! A block of the file is the scale and a byte for every four values, the first in its lowest bits.

use crate::matmul::low_bit::{LowBit, LowBits, Packing, Visit, two_bits};
use crate::panel::Stack;
use crate::simd::Simd;

/// The format.
#[allow(non_camel_case_types, reason = "formats keep the GGUF spelling")]
pub(crate) type Q2_0 = LowBits<Codes<64>>;

/// Its codes, in blocks of `SPAN`.
pub(crate) struct Codes<const SPAN: usize>;

// SAFETY: the codes are those of `two_bits`.
unsafe impl<const SPAN: usize> LowBit for Codes<SPAN> {
    const SPAN: usize = SPAN;
    const BLOCK: (usize, usize) = (2 + SPAN / 4, 0);
    const CODES: usize = two_bits::CODES;
    const PACKING: Packing = Packing::Pairs;

    fn code(block: &[u8], i: usize) -> u8 {
        block[2 + i / 4] >> (i % 4 * 2) & 3
    }

    fn pack(rows: &Stack<'_>, lane: usize, at: usize, codes: &mut [u8]) {
        for v in 0..16 {
            let (block, i) = (16 * v / SPAN, 16 * v % SPAN);
            let word = *rows.bytes::<4>(lane, at + block * Self::BLOCK.0 + 2 + i / 4);
            let word = transposed(u32::from_le_bytes(word));
            *two_bits::word(codes, v, lane) = word.to_le_bytes();
        }
    }

    fn packed(codes: &[u8], lane: usize, i: usize) -> u8 {
        two_bits::packed(codes, lane, i)
    }

    #[inline(always)]
    unsafe fn walk<S: Simd>(s: S, codes: *const u8, h: usize, visit: &mut impl Visit<S>) {
        two_bits::walk::<S, SPAN>(s, codes, h, visit);
    }
}

/// Four bytes of four codes as a matrix, transposed: by pairs of codes, then by pairs of those.
fn transposed(word: u32) -> u32 {
    let swapped = |word: u32, mask: u32, by: u32| {
        let differ = (word >> by ^ word) & mask;
        word ^ differ ^ differ << by
    };
    swapped(swapped(word, 0x00cc_00cc, 6), 0x0000_f0f0, 12)
}
