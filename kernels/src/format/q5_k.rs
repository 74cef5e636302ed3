//! Q5_K: `d * scale * code - dmin * minimum`, a nibble and a fifth bit a code.

use crate::matmul::affine::{Affine, Blocks256};
use crate::simd::Simd;

/// The format.
#[allow(non_camel_case_types, reason = "formats keep the GGUF spelling")]
pub(crate) type Q5_K = Affine<Codes>;

/// Its codes.
pub(crate) struct Codes;

impl Blocks256 for Codes {
    const BITS: u32 = 5;
    type Scale<S: Simd> = S::I;
    type Sum<S: Simd> = S::I;

    #[inline(always)]
    unsafe fn scale<S: Simd>(s: S, scale: S::I) -> S::I {
        s.prep_scale(scale)
    }
    #[inline(always)]
    unsafe fn zero<S: Simd>(s: S) -> S::I {
        s.i_splat(0)
    }
    #[inline(always)]
    unsafe fn scale_add<S: Simd>(s: S, sum: S::I, dots: S::Acc, scale: S::I) -> S::I {
        s.scale_add(sum, dots, scale)
    }
    #[inline(always)]
    unsafe fn join<S: Simd>(s: S, low: S::I, high: S::I) -> S::F {
        s.i_to_f(s.i_add(low, high))
    }
}
