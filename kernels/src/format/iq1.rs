//! IQ1_S, IQ1_M: `d * (2 scale + 1) * (value + delta)`, eight values of -1, 0, 1 by an index of 11 bits.

use half::f16;

use super::codebooks::{self, nibble, word};
use crate::matmul::decoded::{Decode, Decoded};
use crate::panel::half_at;

/// The format.
#[allow(non_camel_case_types, reason = "formats keep the GGUF spelling")]
pub(crate) type IQ1_S = Decoded<Small>;
/// The format.
#[allow(non_camel_case_types, reason = "formats keep the GGUF spelling")]
pub(crate) type IQ1_M = Decoded<Medium>;

/// What is added to the values, or taken off.
const DELTA: f32 = 0.125;

fn write(index: usize, minus: bool, scale: f32, out: &mut [f32; 8]) {
    let delta = if minus { -DELTA } else { DELTA };
    for (out, &value) in out.iter_mut().zip(&codebooks::IQ1_S[index]) {
        *out = scale * (f32::from(value) + delta);
    }
}

/// Blocks of IQ1_S: half float, 32 low bytes of indices, a word for each 32 values: four times
/// three high bits, three of the scale, the sign of the delta.
pub(crate) struct Small;

impl Decode for Small {
    const BLOCK: (usize, usize) = (256, 50);
    const SCALES: &'static [usize] = &[0];

    fn dequantize(b: &[u8], out: &mut [f32]) {
        let (d, low, high) = (half_at(b, 0), &b[2..34], &b[34..50]);
        for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let high = usize::from(word(high, i / 4));
            let scale = d * (2 * (high >> 12 & 7) + 1) as f32;
            let index = usize::from(low[i]) | (high >> (3 * (i % 4)) & 7) << 8;
            write(index, high >> 15 != 0, scale, out);
        }
    }
}

/// Blocks of IQ1_M: 32 low bytes of indices, 32 nibbles of three high bits and the sign of the delta, four
/// words each of four times three bits of a scale for 16 values and four bits of the half float.
pub(crate) struct Medium;

impl Decode for Medium {
    const BLOCK: (usize, usize) = (256, 56);
    const SCALES: &'static [usize] = &[];

    fn dequantize(b: &[u8], out: &mut [f32]) {
        let (low, high, scales) = (&b[..32], &b[32..48], &b[48..56]);
        let d = (0..4).fold(0, |d, i| d | (word(scales, i) >> 12) << (4 * i));
        let d = f16::from_bits(d).to_f32();
        for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let scale = word(scales, i / 8) >> (3 * (i / 2 % 4)) & 7;
            let high = usize::from(nibble(high, i));
            let index = usize::from(low[i]) | (high & 7) << 8;
            write(index, high >> 3 != 0, d * f32::from(2 * scale + 1), out);
        }
    }
}
