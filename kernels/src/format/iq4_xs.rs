//! IQ4_XS: `d * (scale - 32) * value of the code`, the codes of IQ4_NL, six bits a scale per 32.

use super::iq4_nl;
use crate::matmul::centred::{Blocks256, Centred};
use crate::matmul::planes::Plane;
use crate::matmul::simple::{Codebook, looked};
use crate::simd::Simd;

/// The format.
#[allow(non_camel_case_types, reason = "formats keep the GGUF spelling")]
pub(crate) type IQ4_XS = Centred<Codes>;

/// Its codes.
pub(crate) struct Codes;

// SAFETY: the scales of a unit are read as they are.
unsafe impl Blocks256 for Codes {
    const PLANES: &'static [Plane] = &[Plane::paired(8)];
    const GROUP: usize = 32;
    const BYTES: usize = 136;
    const SUPER: usize = 0;
    const HEAD: usize = 0;
    const SCALE_BYTES: usize = 8;
    const RUN: (usize, usize) = (1, 8);
    const SUM16: bool = false;
    type Codes<S: Simd> = S::S8;

    fn value(code: u8) -> i32 {
        iq4_nl::Codes::VALUES[usize::from(code)].into()
    }
    /// A byte for each: the file has nibbles, and the two bits above them apart.
    fn scale_bytes(head: &[u8; 16]) -> [u8; 16] {
        let high = u16::from_le_bytes([head[2], head[3]]);
        let mut bytes = [0; 16];
        for (g, byte) in bytes.iter_mut().take(8).enumerate() {
            let low = head[4 + g / 2] >> (g % 2 * 4) & 15;
            let high = (high >> (2 * g) & 3) as u8;
            *byte = (low | high << 4).wrapping_sub(32);
        }
        bytes
    }
    fn scale_of(bytes: &[u8; 16], g: usize) -> i32 {
        (bytes[g] as i8).into()
    }

    fn offset<S: Simd>() -> i32 {
        S::S8_BIAS
    }
    #[inline(always)]
    unsafe fn codes<S: Simd>(s: S, codes: S::B) -> S::S8 {
        looked::<S, iq4_nl::Codes>(s, codes)
    }
    #[inline(always)]
    unsafe fn dot<S: Simd>(s: S, dots: S::Acc, w: S::S8, x: S::X) -> S::Acc {
        s.dot_biased(dots, w, x)
    }
}
