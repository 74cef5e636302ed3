//! Q4_K: `d * scale * code - dmin * minimum`, a nibble a code.

use super::{Quantize, quantize::Search};
use crate::matmul::affine::{Affine, Blocks256, six_bits};
use crate::matmul::planes::Plane;
use crate::simd::{LANES, Simd};

/// The format.
#[allow(non_camel_case_types, reason = "formats keep the GGUF spelling")]
pub(crate) type Q4_K = Affine<Codes>;

/// Its codes. At most `4 * 63 * 32 * 15 * 127 < 2^24`: single precision has the sum of four blocks
/// exactly.
pub(crate) struct Codes;

// SAFETY: sixteen bytes.
unsafe impl Blocks256 for Codes {
    const PLANES: &'static [Plane] = &[Plane::new(4, 16)];
    const GROUP: usize = 32;
    const BYTES: usize = 144;
    const SUPER: usize = 0;
    const QUANTIZE: Option<Quantize> = Some(quantize);
    type Scales<S: Simd> = S::Scale24;
    type Sum<S: Simd> = S::Sum24;

    fn scales_minima(head: &[u8; 16]) -> ([u8; 16], [u8; 16]) {
        six_bits(head)
    }

    #[inline(always)]
    unsafe fn scales<S: Simd>(s: S, at: *const u8, b: usize) -> S::Scale24 {
        s.prep_scale24(s.i_load_u8(at.add(b * LANES)))
    }
    #[inline(always)]
    unsafe fn zero<S: Simd>(s: S) -> S::Sum24 {
        s.sum24_zero()
    }
    #[inline(always)]
    unsafe fn scale_add<S: Simd>(
        s: S,
        sum: S::Sum24,
        dots: S::Acc,
        scale: S::Scale24,
        _half: usize,
    ) -> S::Sum24 {
        s.scale_add24(sum, dots, scale)
    }
    #[inline(always)]
    unsafe fn join<S: Simd>(s: S, low: S::Sum24, high: S::Sum24) -> S::F {
        s.sum24_join(low, high)
    }
}

const SEARCH: Search = Search {
    group: 32,
    greatest_code: 15,
    greatest_scale: 63,
    first: -1.0,
    steps: 20,
    linear: false,
};

fn quantize(x: &[f32], b: &mut [u8]) {
    SEARCH.write_six_bits(Codes::PLANES, x, b);
}
