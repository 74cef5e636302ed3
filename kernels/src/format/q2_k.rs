//! Q2_K: `d * scale * code - dmin * minimum`, two bits a code, a nibble each for scale and minimum.

use super::{Quantize, quantize::Search};
use crate::matmul::affine::{Affine, Blocks256};
use crate::matmul::planes::{Plane, put_codes};
use crate::simd::{LANES, Simd};

/// The format.
#[allow(non_camel_case_types, reason = "formats keep the GGUF spelling")]
pub(crate) type Q2_K = Affine<Codes>;

/// Its codes. Of 16 products the sum is at most `16 * 3 * 127 < 2^15`.
pub(crate) struct Codes;

// SAFETY: sixteen bytes.
unsafe impl Blocks256 for Codes {
    const PLANES: &'static [Plane] = &[Plane::new(2, 16)];
    const GROUP: usize = 16;
    const BYTES: usize = 84;
    const SUPER: usize = 80;
    const QUANTIZE: Option<Quantize> = Some(quantize);
    /// Of both halves.
    type Scales<S: Simd> = [S::I; 2];
    type Sum<S: Simd> = S::I;

    fn scales_minima(head: &[u8; 16]) -> ([u8; 16], [u8; 16]) {
        (head.map(|both| both & 15), head.map(|both| both >> 4))
    }

    #[inline(always)]
    unsafe fn scales<S: Simd>(s: S, at: *const u8, b: usize) -> [S::I; 2] {
        let both = s.i_load_u8(at.add(b * LANES));
        [s.prep_scale16(s.i_and(both, s.i_splat(15))), s.prep_scale16(s.i_shr::<4>(both))]
    }
    #[inline(always)]
    unsafe fn zero<S: Simd>(s: S) -> S::I {
        s.i_splat(0)
    }
    #[inline(always)]
    unsafe fn scale_add<S: Simd>(
        s: S,
        sum: S::I,
        dots: S::Acc,
        scales: [S::I; 2],
        half: usize,
    ) -> S::I {
        s.scale_add16(sum, dots, scales[half])
    }
    #[inline(always)]
    unsafe fn join<S: Simd>(s: S, low: S::I, high: S::I) -> S::F {
        s.i_to_f(s.i_add(low, high))
    }
}

const SEARCH: Search = Search {
    group: 16,
    greatest_code: 3,
    greatest_scale: 15,
    first: -0.5,
    steps: 15,
    linear: true,
};

fn quantize(x: &[f32], b: &mut [u8]) {
    b.fill(0);
    let block = SEARCH.block(x);
    put_codes(Codes::PLANES, b, &block.codes);
    for (b, (scale, min)) in b.iter_mut().zip(block.scales.into_iter().zip(block.minima)) {
        *b = scale | min << 4;
    }
    b[80..82].copy_from_slice(&block.d.to_le_bytes());
    b[82..].copy_from_slice(&block.dmin.to_le_bytes());
}
