//! IQ3_XXS: `d * (scale + 1/2) / 2 * value`, IQ3_S: `d * (2 scale + 1) * value`; four values of eight
//! levels by an index, and signs.

use super::codebooks::{self, even_signs, nibble, signed};
use crate::matmul::decoded::{Decode, Decoded};
use crate::panel::half_at;

/// The format.
#[allow(non_camel_case_types, reason = "formats keep the GGUF spelling")]
pub(crate) type IQ3_XXS = Decoded<Smallest>;
/// The format.
#[allow(non_camel_case_types, reason = "formats keep the GGUF spelling")]
pub(crate) type IQ3_S = Decoded<Small>;

/// Blocks of IQ3_XXS: half float, 64 indices, and for each 32 values four times seven signs and a scale
/// of four bits.
pub(crate) struct Smallest;

impl Decode for Smallest {
    const BLOCK: (usize, usize) = (256, 98);
    const SCALES: &'static [usize] = &[0];

    fn dequantize(b: &[u8], out: &mut [f32]) {
        let (d, indices, rest) = (half_at(b, 0), &b[2..66], b[66..].as_chunks().0);
        for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let rest = u32::from_le_bytes(rest[i / 4]);
            let scale = d * (0.5 + (rest >> 28) as f32) * 0.5;
            let entry = |j: usize| &codebooks::IQ3_XXS[usize::from(indices[j])];
            let signs = even_signs(rest >> (7 * (i % 4)));
            signed([entry(2 * i), entry(2 * i + 1)], signs, scale, out);
        }
    }
}

/// Blocks of IQ3_S: half float, 64 low bytes of indices, 64 high bits, 32 bytes of signs, eight scales
/// of four bits.
pub(crate) struct Small;

impl Decode for Small {
    const BLOCK: (usize, usize) = (256, 110);
    const SCALES: &'static [usize] = &[0];

    fn dequantize(b: &[u8], out: &mut [f32]) {
        let (low, high, signs, scales) = (&b[2..66], &b[66..74], &b[74..106], &b[106..110]);
        let d = half_at(b, 0);
        for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let scale = d * f32::from(1 + 2 * nibble(scales, i / 4));
            let entry = |j: usize| {
                let high = usize::from(high[j / 8] >> (j % 8) & 1);
                &codebooks::IQ3_S[usize::from(low[j]) | high << 8]
            };
            signed([entry(2 * i), entry(2 * i + 1)], signs[i], scale, out);
        }
    }
}
