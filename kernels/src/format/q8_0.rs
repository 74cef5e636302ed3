//! Q8_0: `scale * code`, a signed byte a code.

use half::f16;

use super::Quantize;
use crate::matmul::simple::{Signed, SignedCodes, Simple};
use crate::panel::VECTOR;
use crate::simd::Simd;

/// The format.
#[allow(non_camel_case_types, reason = "formats keep the GGUF spelling")]
pub(crate) type Q8_0 = Simple<Signed<Codes>>;

/// Its codes.
pub(crate) struct Codes;

// SAFETY: group j is vector j of eight.
unsafe impl SignedCodes for Codes {
    const BITS: u32 = 8;
    const QUANTIZE: Option<Quantize> = Some(quantize);

    fn value(code: u8) -> i32 {
        i32::from(code as i8)
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(s: S, block: *const u8, j: usize) -> S::S8 {
        s.prep_s(s.b_load(block.add(j * VECTOR)))
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
