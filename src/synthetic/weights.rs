//! Random weights, written straight into a format's blocks.

use half::{bf16, f16};
use rayon::prelude::*;

use crate::load::GgmlType;
use crate::sample::Random;

/// Bytes that one seed fills.
const CHUNK: usize = 1 << 20;

/// Fills `out` with blocks of `ty`: random codes under scales that give the weights a standard
/// deviation of about `std` and a mean near zero. The same seed gives the same bytes.
///
/// # Panics
/// If `ty` has no kernels, or `out` no whole number of blocks.
pub fn fill(ty: GgmlType, std: f32, seed: u64, out: &mut [u8]) {
    let bytes = ty.block_bytes();
    assert!(out.len().is_multiple_of(bytes), "{} bytes are no blocks of {ty}", out.len());
    let chunk = CHUNK / bytes * bytes;
    out.par_chunks_mut(chunk).enumerate().for_each(|(i, out)| {
        let mut random = Random::new(seed ^ (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        random.fill(out);
        for block in out.chunks_exact_mut(bytes) {
            finish(ty, std, block);
        }
    });
}

/// Rows of `k` random weights, of a standard deviation that keeps products near 1.
///
/// # Panics
/// As [`fill`], or if `k` is no whole number of blocks.
pub fn random_rows(ty: GgmlType, rows: usize, k: usize, seed: u64) -> Vec<u8> {
    let bytes = ty.bytes_for(k).expect("rows are whole blocks");
    let mut out = vec![0; rows * bytes];
    fill(ty, 1.0 / (k as f32).sqrt(), seed, &mut out);
    out
}

/// Turns a block of random bytes into a block of weights: the codes stay, scales and minima get
/// their size, where they take their variation from the bytes that were there.
fn finish(ty: GgmlType, std: f32, b: &mut [u8]) {
    // Of codes drawn evenly from 0 to 2^bits - 1.
    let deviation = |bits: i32| ((4f32.powi(bits) - 1.0) / 12.0).sqrt();
    match ty {
        GgmlType::F32 => {
            let v = std * uniform(u16::from_le_bytes([b[0], b[1]]));
            b.copy_from_slice(&v.to_le_bytes());
        }
        GgmlType::F16 => {
            let v = f16::from_f32(std * uniform(u16::from_le_bytes([b[0], b[1]])));
            b.copy_from_slice(&v.to_le_bytes());
        }
        GgmlType::BF16 => {
            let v = bf16::from_f32(std * uniform(u16::from_le_bytes([b[0], b[1]])));
            b.copy_from_slice(&v.to_le_bytes());
        }
        GgmlType::Q4_0 => symmetric(b, std / deviation(4)),
        GgmlType::Q5_0 => symmetric(b, std / deviation(5)),
        GgmlType::Q8_0 => {
            symmetric(b, std / deviation(8));
            // Quantisers never write -128, and not every engine can read it.
            b[2..].iter_mut().for_each(|code| *code = (*code as i8).max(-127) as u8);
        }
        GgmlType::Q4_1 => affine(b, std / deviation(4), 7.5),
        GgmlType::Q5_1 => affine(b, std / deviation(5), 15.5),
        GgmlType::Q4_K => k_quant(b, std / deviation(4), 7.5),
        GgmlType::Q5_K => k_quant(b, std / deviation(5), 15.5),
        GgmlType::IQ4_NL => symmetric(b, std / 67.4),
        GgmlType::MXFP4 => {
            // One of two powers of two, so that the mean square is that of the scale between them.
            let scale = std / 34.25f32.sqrt();
            let ratio = scale / power_of_two(scale);
            let up = f32::from(b[0]) < 256.0 / 3.0 * (ratio * ratio - 1.0);
            b[0] = (scale.to_bits() >> 23) as u8 + 1 + u8::from(up);
        }
        GgmlType::IQ4_XS => {
            // Scales of 24 to 31 and of -32 to -25.
            b[2..4].fill(0);
            for g in 0..8 {
                b[2 + g / 4] |= ((b[4 + g / 2] >> (g % 2 * 4) & 8) / 8 * 3) << (g % 4 * 2);
            }
            symmetric(b, std / 67.4 / 28.1);
        }
        GgmlType::Q2_K => {
            // Each minimum as its scale, of 8 to 15.
            b[..16].iter_mut().for_each(|both| *both = (8 | *both & 7) * 0x11);
            let scale = f16::from_f32(std / deviation(2) / 11.7).to_f32();
            put(b, 80, scale);
            put(b, 82, 1.5 * scale);
        }
        GgmlType::Q3_K => {
            // Scales of 24 to 31 and of -32 to -25.
            for g in 0..4 {
                let pairs =
                    [b[96 + g] & 8, b[100 + g] & 8, b[96 + g] >> 4 & 8, b[100 + g] >> 4 & 8];
                b[104 + g] = (0..4).fold(0, |all, i| all | (pairs[i] / 8 * 3) << (2 * i));
            }
            put(b, 108, std / (deviation(3).powi(2) + 0.25).sqrt() / 28.1);
        }
        GgmlType::Q6_K => {
            // Scales of 64 to 127 in magnitude, of both signs.
            b[192..208].iter_mut().for_each(|scale| {
                let magnitude = 64 + (*scale & 63) as i8;
                *scale = if *scale & 128 == 0 { magnitude } else { -magnitude } as u8;
            });
            put(b, 208, std / deviation(6) / 96.0);
        }
        // What random codes give under a scale of 1.
        GgmlType::IQ1_S => symmetric(b, std / 7.2),
        GgmlType::IQ1_M => {
            let scale = f16::from_f32(std / 7.2 * vary(b[0])).to_bits();
            let words = b[48..].as_chunks_mut::<2>().0.iter_mut();
            words.zip(0..).for_each(|(word, i)| word[1] = word[1] & 15 | nibble(scale, i) << 4);
        }
        GgmlType::IQ2_XXS => symmetric(b, std / 53.3),
        GgmlType::IQ2_XS => symmetric(b, std / 56.0),
        GgmlType::IQ2_S => symmetric(b, std / 56.5),
        GgmlType::IQ3_XXS => symmetric(b, std / 142.7),
        GgmlType::IQ3_S => symmetric(b, std / 140.9),
        // Values of E2M1: 0, 1/2, 1, 3/2, 2, 3, 4, 6, and their negatives.
        GgmlType::NVFP4 => b[..4].iter_mut().for_each(|scale| *scale = e4m3(std / 2.93, *scale)),
        GgmlType::TQ1_0 => put(b, 52, std / TRITS * vary(b[0])),
        GgmlType::PTQ1_0 => put(b, 26, std / TRITS * vary(b[0])),
        GgmlType::TQ2_0 => {
            two_bit_digits(&mut b[..64]);
            put(b, 64, std / HALF_TRITS * vary(b[0]));
        }
        GgmlType::Q2_0 | GgmlType::PQ2_0 => {
            two_bit_digits(&mut b[2..]);
            put(b, 0, std / HALF_TRITS * vary(b[0]));
        }
        GgmlType::Q1_0 => put(b, 0, std * vary(b[0])),
        other => unreachable!("no mixture has {other}"),
    }
}

fn nibble(word: u16, i: u32) -> u8 {
    (word >> (4 * i)) as u8 & 15
}

/// One of the two floats of eight bits around a positive number, by a random byte, so that many have
/// its mean.
fn e4m3(value: f32, random: u8) -> u8 {
    let code = if value < 1.0 / 64.0 {
        (value * 512.0 + f32::from(random) / 256.0) as u32
    } else {
        // The exponent, less the difference of the biases, and three bits of the mantissa.
        ((value.to_bits() + (u32::from(random) << 12)) >> 20) - ((127 - 7) << 3)
    };
    code.min(0x7e) as u8
}

/// Deviations of digits of -1, 0 and 1, as many of each, and with twice as many 0.
const TRITS: f32 = 0.816;
const HALF_TRITS: f32 = 0.707;

/// Makes 1 of the codes 3, which are no ternary digits.
fn two_bit_digits(codes: &mut [u8]) {
    codes.iter_mut().for_each(|codes| *codes &= !((*codes << 1 & *codes) & 0xaa));
}

/// A number of standard deviation 1 and mean 0.
fn uniform(bits: u16) -> f32 {
    (f32::from(bits) - 32767.5) / 65536.0 * 12f32.sqrt()
}

/// The greatest that is not above a positive number.
fn power_of_two(v: f32) -> f32 {
    f32::from_bits(v.to_bits() & 0x7f80_0000)
}

fn put(b: &mut [u8], at: usize, value: f32) {
    b[at..at + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
}

/// From three to five quarters, by a random byte.
fn vary(byte: u8) -> f32 {
    0.75 + f32::from(byte) / 512.0
}

fn symmetric(b: &mut [u8], scale: f32) {
    let sign = if b[1] & 1 == 0 { 1.0 } else { -1.0 };
    put(b, 0, sign * scale * vary(b[0]));
}

fn affine(b: &mut [u8], scale: f32, middle: f32) {
    let scale = f16::from_f32(scale * vary(b[0])).to_f32();
    put(b, 0, scale);
    put(b, 2, -middle * scale);
}

/// Scales and minima of 32 to 63, each minimum equal to its scale, so that `middle` times the
/// scale is what is taken off.
fn k_quant(b: &mut [u8], scale: f32, middle: f32) {
    let codes: [u8; 8] = std::array::from_fn(|j| 32 | b[4 + j] & 31);
    for j in 0..4 {
        let (low, high) = (codes[j], codes[j + 4]);
        b[4 + j] = low | (high >> 4) << 6;
        b[8 + j] = low | (high >> 4) << 6;
        b[12 + j] = high & 15 | high << 4;
    }
    let scale = f16::from_f32(scale / 48.0).to_f32();
    put(b, 0, scale);
    put(b, 2, middle * scale);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::has_bad_scale;
    use goldcrest_kernels::Format;

    #[test]
    fn weights_have_the_deviation_asked_for() {
        for &format in Format::ALL {
            let ty = GgmlType::ALL.iter().find(|ty| ty.name() == format.name()).copied().unwrap();
            let k = 4096;
            let rows = random_rows(ty, 16, k, 7);
            assert!(!has_bad_scale(ty, &rows), "{ty}");
            let mut values = vec![0.0; 16 * k];
            let row = format.row_bytes(k).unwrap();
            for (row, out) in rows.chunks_exact(row).zip(values.chunks_exact_mut(k)) {
                format.dequantize(row, out);
            }
            let n = values.len() as f32;
            let mean = values.iter().sum::<f32>() / n;
            let std = (values.iter().map(|v| v * v).sum::<f32>() / n).sqrt() * (k as f32).sqrt();
            assert!((0.9..1.1).contains(&std), "{ty}: {std}");
            assert!(mean.abs() * (k as f32).sqrt() < 0.05, "{ty}: {mean}");
        }
    }

    #[test]
    fn a_seed_repeats() {
        let rows = random_rows(GgmlType::Q4_K, 16, 1024, 7);
        assert_eq!(rows, random_rows(GgmlType::Q4_K, 16, 1024, 7));
        assert_ne!(rows, random_rows(GgmlType::Q4_K, 16, 1024, 8));
    }
}
