//! IQ2_XXS, IQ2_XS, IQ2_S: `d * (scale + 1/2) / 4 * value`, eight values of 8, 25, 43 by an index, and
//! their signs.

use super::codebooks::{self, even_signs, nibble, signed, word};
use crate::matmul::decoded::{Decode, Decoded};
use crate::panel::half_at;

/// The format.
#[allow(non_camel_case_types, reason = "formats keep the GGUF spelling")]
pub(crate) type IQ2_XXS = Decoded<Smallest>;
/// The format.
#[allow(non_camel_case_types, reason = "formats keep the GGUF spelling")]
pub(crate) type IQ2_XS = Decoded<Smaller>;
/// The format.
#[allow(non_camel_case_types, reason = "formats keep the GGUF spelling")]
pub(crate) type IQ2_S = Decoded<Small>;

fn scale(d: f32, code: u8) -> f32 {
    d * (0.5 + f32::from(code)) * 0.25
}

/// Blocks of IQ2_XXS: half float; for each 32 values four indices, and four times seven signs and a
/// scale of four bits.
pub(crate) struct Smallest;

impl Decode for Smallest {
    const BLOCK: (usize, usize) = (256, 66);
    const SCALES: &'static [usize] = &[0];

    fn dequantize(b: &[u8], out: &mut [f32]) {
        let groups = b[2..].as_chunks::<8>().0.iter();
        for (&[i0, i1, i2, i3, rest @ ..], out) in groups.zip(out.as_chunks_mut::<32>().0) {
            let rest = u32::from_le_bytes(rest);
            let scale = scale(half_at(b, 0), (rest >> 28) as u8);
            let out = out.as_chunks_mut().0.iter_mut();
            for (j, (index, out)) in [i0, i1, i2, i3].into_iter().zip(out).enumerate() {
                let entry = &codebooks::IQ2_XXS[usize::from(index)];
                signed([entry], even_signs(rest >> (7 * j)), scale, out);
            }
        }
    }
}

/// Blocks of IQ2_XS: half float, 32 words of an index of nine bits and seven signs, 16 scales of four
/// bits.
pub(crate) struct Smaller;

impl Decode for Smaller {
    const BLOCK: (usize, usize) = (256, 74);
    const SCALES: &'static [usize] = &[0];

    fn dequantize(b: &[u8], out: &mut [f32]) {
        let (d, words, scales) = (half_at(b, 0), &b[2..66], &b[66..74]);
        for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let word = word(words, i);
            let entry = &codebooks::IQ2_XS[usize::from(word & 511)];
            signed([entry], even_signs(u32::from(word >> 9)), scale(d, nibble(scales, i / 2)), out);
        }
    }
}

/// Blocks of IQ2_S: half float, 32 low bytes of indices, 32 bytes of signs, 32 times two high bits of
/// indices, 16 scales of four bits.
pub(crate) struct Small;

impl Decode for Small {
    const BLOCK: (usize, usize) = (256, 82);
    const SCALES: &'static [usize] = &[0];

    fn dequantize(b: &[u8], out: &mut [f32]) {
        let (low, signs, high, scales) = (&b[2..34], &b[34..66], &b[66..74], &b[74..82]);
        let d = half_at(b, 0);
        for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let high = usize::from(high[i / 4] >> (2 * (i % 4)) & 3);
            let entry = &codebooks::IQ2_S[usize::from(low[i]) | high << 8];
            signed([entry], signs[i], scale(d, nibble(scales, i / 2)), out);
        }
    }
}
