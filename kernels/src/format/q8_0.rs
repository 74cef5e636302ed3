//! Q8_0: `scale * code`, a signed byte a code.

use half::f16;

use super::Quantize;
use crate::matmul::simple::{Blocks, Simple, signed_start};
use crate::panel::VECTOR;
use crate::simd::Simd;

/// The format.
#[allow(non_camel_case_types, reason = "formats keep the GGUF spelling")]
pub(crate) type Q8_0 = Simple<Codes>;

/// Its codes.
pub(crate) struct Codes;

// SAFETY: group j is vector j of eight; `start` is in the record.
unsafe impl Blocks for Codes {
    const BITS: u32 = 8;
    const MIN: bool = false;
    const FLUSH: bool = false;
    const QUANTIZE: Option<Quantize> = Some(quantize);
    type Codes<S: Simd> = S::S8;
    type Dots<S: Simd> = S::I;

    fn value(code: u8) -> i32 {
        i32::from(code as i8)
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(s: S, block: *const u8, j: usize) -> S::S8 {
        s.prep_s(s.b_load(block.add(j * VECTOR)))
    }
    #[inline(always)]
    unsafe fn start<S: Simd>(s: S, x: *const u8, b: usize) -> S::I {
        signed_start(s, x, b)
    }
    #[inline(always)]
    unsafe fn dot<S: Simd>(s: S, dots: S::I, w: S::S8, x: S::X) -> S::I {
        s.dot_s(dots, w, x)
    }
    #[inline(always)]
    unsafe fn flush<S: Simd>(_s: S, dots: S::I) -> S::I {
        dots
    }
    #[inline(always)]
    unsafe fn finish<S: Simd>(_s: S, dots: S::I, _x: *const u8, _b: usize) -> S::I {
        dots
    }
}

fn quantize(x: &[f32], b: &mut [u8]) {
    let greatest = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let d = greatest / 127.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    b[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    for (b, v) in b[2..].iter_mut().zip(x) {
        *b = (v * inverse).round() as i8 as u8;
    }
}
