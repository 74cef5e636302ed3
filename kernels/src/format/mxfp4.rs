//! MXFP4: `2^(exponent - 128) * twice the code`, a nibble a code, a float of a sign, two bits of exponent
//! and one of mantissa (<https://www.opencompute.org/documents/ocp-microscaling-formats-mx-v1-0-spec-final-pdf>).

use super::Quantize;
use crate::matmul::simple::{Exponent, Nibbles, Scale, Simple, Unsigned, biased};

/// The format.
pub(crate) type MXFP4 = Simple<Unsigned<Codes>, Exponent>;

/// Twice what the codes of E2M1 stand for.
pub(super) const TWICE: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Its codes.
pub(crate) struct Codes;

impl Nibbles for Codes {
    const BITS: u32 = 4;
    const OFFSET: i32 = 16;
    const MIN: bool = false;
    const QUANTIZE: Option<Quantize> = Some(quantize);
    const TABLE: Option<[u8; 16]> = Some(biased(TWICE, Self::OFFSET));
}

/// The exponent of the greatest magnitude becomes that of 4, as the specification has it; what is above 6
/// then becomes 6.
fn quantize(x: &[f32], b: &mut [u8]) {
    let greatest = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    b[0] = (greatest.to_bits() >> 23).saturating_sub(2) as u8;
    let scale = Exponent::value(b);
    // Half way between magnitudes; the lesser one has the middle itself.
    let middles = [0.5, 1.5, 2.5, 3.5, 5.0, 7.0, 10.0].map(|v: f32| v * scale);
    let code = |v: f32| {
        let magnitude = middles.iter().map(|&m| u8::from(v.abs() > m)).sum::<u8>();
        if v < 0.0 && magnitude > 0 { magnitude | 8 } else { magnitude }
    };
    for i in 0..16 {
        b[1 + i] = code(x[i]) | code(x[i + 16]) << 4;
    }
}
