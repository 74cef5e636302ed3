//! Q4_0: `scale * (code - 8)`, a nibble a code.

use half::f16;

use super::Quantize;
use crate::matmul::simple::{Nibbles, Simple, Unsigned};

/// The format.
#[allow(non_camel_case_types, reason = "formats keep the GGUF spelling")]
pub(crate) type Q4_0 = Simple<Unsigned<Codes>>;

/// Its codes.
pub(crate) struct Codes;

impl Nibbles for Codes {
    const BITS: u32 = 4;
    const OFFSET: i32 = 8;
    const MIN: bool = false;
    const QUANTIZE: Option<Quantize> = Some(quantize);
}

fn quantize(x: &[f32], b: &mut [u8]) {
    // The value of greatest magnitude, sign kept, becomes -8: the range is -8 to 7.
    let extreme = x.iter().fold(0.0f32, |m, &v| if v.abs() > m.abs() { v } else { m });
    let d = extreme / -8.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    b[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    let code = |v: f32| ((v * inverse + 8.5) as i8).clamp(0, 15) as u8;
    for i in 0..16 {
        b[2 + i] = code(x[i]) | code(x[i + 16]) << 4;
    }
}
