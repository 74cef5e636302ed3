//! Q4_K: `d * scale * code - dmin * minimum`, a nibble a code.

use crate::matmul::affine::{Affine, Blocks256};
use crate::simd::Simd;

/// The format.
#[allow(non_camel_case_types, reason = "formats keep the GGUF spelling")]
pub(crate) type Q4_K = Affine<Codes>;

/// Its codes. At most `4 * 63 * 32 * 15 * 127 < 2^24`: single precision has the sum of four blocks
/// exactly.
pub(crate) struct Codes;

impl Blocks256 for Codes {
    const BITS: u32 = 4;
    type Scale<S: Simd> = S::Scale24;
    type Sum<S: Simd> = S::Sum24;

    #[inline(always)]
    unsafe fn scale<S: Simd>(s: S, scale: S::I) -> S::Scale24 {
        s.prep_scale24(scale)
    }
    #[inline(always)]
    unsafe fn zero<S: Simd>(s: S) -> S::Sum24 {
        s.sum24_zero()
    }
    #[inline(always)]
    unsafe fn scale_add<S: Simd>(s: S, sum: S::Sum24, dots: S::Acc, scale: S::Scale24) -> S::Sum24 {
        s.scale_add24(sum, dots, scale)
    }
    #[inline(always)]
    unsafe fn join<S: Simd>(s: S, low: S::Sum24, high: S::Sum24) -> S::F {
        s.sum24_join(low, high)
    }
}
