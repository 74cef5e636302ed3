//! Q6_K: `d * scale * (code - 32)`, a nibble and two bits a code, a signed scale per 16.

use super::{Quantize, quantize};
use crate::matmul::centred::{Blocks256, Centred};
use crate::matmul::planes::{Plane, put_codes};
use crate::simd::Simd;

/// The format.
#[allow(non_camel_case_types, reason = "formats keep the GGUF spelling")]
pub(crate) type Q6_K = Centred<Codes>;

/// Its codes.
pub(crate) struct Codes;

// SAFETY: the scales of a unit are read as they are.
unsafe impl Blocks256 for Codes {
    const PLANES: &'static [Plane] = &[Plane::crossed(0), Plane::new(2, 128)];
    const GROUP: usize = 16;
    const BYTES: usize = 210;
    const SUPER: usize = 208;
    const HEAD: usize = 192;
    const SCALE_BYTES: usize = 16;
    const RUN: (usize, usize) = (2, 4);
    const SUM16: bool = false;
    const QUANTIZE: Option<Quantize> = Some(quantize);
    type Codes<S: Simd> = S::U8;

    fn value(code: u8) -> i32 {
        i32::from(code) - 32
    }
    fn scale_bytes(head: &[u8; 16]) -> [u8; 16] {
        *head
    }
    fn scale_of(bytes: &[u8; 16], g: usize) -> i32 {
        (bytes[g] as i8).into()
    }

    fn offset<S: Simd>() -> i32 {
        32
    }
    #[inline(always)]
    unsafe fn codes<S: Simd>(s: S, codes: S::B) -> S::U8 {
        s.prep_u(codes)
    }
    #[inline(always)]
    unsafe fn dot<S: Simd>(s: S, dots: S::Acc, w: S::U8, x: S::X) -> S::Acc {
        s.dot_u(dots, w, x)
    }
}

fn quantize(x: &[f32], b: &mut [u8]) {
    b.fill(0);
    let block = quantize::centred(x, 32, 128, quantize::of_many_scales);
    let Some(scales) = block.scales else { return };
    put_codes(Codes::PLANES, b, &block.codes);
    b[192..208].copy_from_slice(&scales.map(|scale| scale as u8));
    b[208..].copy_from_slice(&block.d.to_le_bytes());
}
