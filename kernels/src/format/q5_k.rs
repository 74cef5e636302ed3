//! Q5_K: `d * scale * code - dmin * minimum`, a nibble and a fifth bit a code.

use super::{Quantize, quantize::Search};
use crate::matmul::affine::{Affine, Blocks256, six_bits};
use crate::matmul::planes::Plane;
use crate::simd::{LANES, Simd};

/// The format.
#[allow(non_camel_case_types, reason = "formats keep the GGUF spelling")]
pub(crate) type Q5_K = Affine<Codes>;

/// Its codes.
pub(crate) struct Codes;

// SAFETY: sixteen bytes.
unsafe impl Blocks256 for Codes {
    const PLANES: &'static [Plane] = &[Plane::new(4, 48), Plane::new(1, 16)];
    const GROUP: usize = 32;
    const BYTES: usize = 176;
    const SUPER: usize = 0;
    const QUANTIZE: Option<Quantize> = Some(quantize);
    type Scales<S: Simd> = S::I;
    type Sum<S: Simd> = S::I;

    fn scales_minima(head: &[u8; 16]) -> ([u8; 16], [u8; 16]) {
        six_bits(head)
    }

    #[inline(always)]
    unsafe fn scales<S: Simd>(s: S, at: *const u8, b: usize) -> S::I {
        s.prep_scale(s.i_load_u8(at.add(b * LANES)))
    }
    #[inline(always)]
    unsafe fn zero<S: Simd>(s: S) -> S::I {
        s.i_splat(0)
    }
    #[inline(always)]
    unsafe fn scale_add<S: Simd>(s: S, sum: S::I, dots: S::Acc, scale: S::I, _half: usize) -> S::I {
        s.scale_add(sum, dots, scale)
    }
    #[inline(always)]
    unsafe fn join<S: Simd>(s: S, low: S::I, high: S::I) -> S::F {
        s.i_to_f(s.i_add(low, high))
    }
}

const SEARCH: Search = Search {
    group: 32,
    greatest_code: 31,
    greatest_scale: 63,
    first: -0.5,
    steps: 15,
    linear: false,
};

fn quantize(x: &[f32], b: &mut [u8]) {
    SEARCH.write_six_bits(Codes::PLANES, x, b);
}
