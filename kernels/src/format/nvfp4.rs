//! NVFP4: `scale * value`, a float of four bits (E2M1) with a scale of eight (E4M3) per 16.

use super::mxfp4::TWICE;
use crate::matmul::decoded::{Decode, Decoded};

/// The format.
pub(crate) type NVFP4 = Decoded<Blocks>;

/// An E4M3 without its sign; ggml takes the NaN of a positive one for zero.
fn e4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = (u32::from(byte >> 3 & 15), u32::from(byte & 7));
    match (byte, exponent) {
        (0x7f, _) => 0.0,
        (_, 0) => mantissa as f32 / 512.0,
        _ => f32::from_bits((exponent + 127 - 7) << 23 | mantissa << 20),
    }
}

/// Four scales, then for each 16 values the first eight in low nibbles, the others in high ones.
pub(crate) struct Blocks;

impl Decode for Blocks {
    const BLOCK: (usize, usize) = (64, 36);
    const SCALES: &'static [usize] = &[];

    fn dequantize(b: &[u8], out: &mut [f32]) {
        let (scales, codes) = b.split_at(4);
        let parts = codes.as_chunks::<8>().0.iter().zip(out.as_chunks_mut::<16>().0);
        for (&scale, (codes, out)) in scales.iter().zip(parts) {
            let scale = e4m3(scale);
            let value = |code: u8| scale * (f32::from(TWICE[usize::from(code)]) * 0.5);
            let (low, high) = out.split_at_mut(8);
            for (code, (low, high)) in codes.iter().zip(low.iter_mut().zip(high)) {
                *low = value(code & 15);
                *high = value(code >> 4);
            }
        }
    }
}
