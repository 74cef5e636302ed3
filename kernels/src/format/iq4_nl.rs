//! IQ4_NL: `scale * value of the code`, a nibble a code, which stands for one of sixteen bytes.

use half::f16;

use super::Quantize;
use super::quantize::{NOTHING, extreme};
use crate::matmul::simple::{Codebook, Looked, Signed, Simple};

/// The format.
#[allow(non_camel_case_types, reason = "formats keep the GGUF spelling")]
pub(crate) type IQ4_NL = Simple<Signed<Looked<Codes>>>;

/// Its codes.
pub(crate) struct Codes;

impl Codebook for Codes {
    const VALUES: [i8; 16] =
        [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
    const QUANTIZE: Option<Quantize> = Some(quantize);
}

/// The nearest of the values.
fn nearest(v: f32) -> usize {
    let values = Codes::VALUES;
    let above = values.partition_point(|&value| f32::from(value) <= v).clamp(1, 15);
    let below = above - 1;
    if v - f32::from(values[below]) < f32::from(values[above]) - v { below } else { above }
}

/// A scale, and the codes under it.
fn quantize(x: &[f32], b: &mut [u8]) {
    let scale = scale(x);
    b[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let code = |x: f32| nearest(inverse * x) as u8;
    for i in 0..16 {
        b[2 + i] = code(x[i]) | code(x[i + 16]) << 4;
    }
}

/// The best of scales around the one that makes the extreme value the codebook's least, by errors weighed
/// with the squares of the values.
fn scale(x: &[f32]) -> f32 {
    let extreme = extreme(x);
    if extreme.abs() < NOTHING {
        return 0.0;
    }
    let sums = |inverse: f32| {
        x.iter().fold((0.0, 0.0), |(qx, q2), &x| {
            let (weight, q) = (x * x, f32::from(Codes::VALUES[nearest(inverse * x)]));
            (qx + weight * q * x, q2 + weight * q * q)
        })
    };
    let least = f32::from(Codes::VALUES[0]);
    let (qx, q2) = sums(1.0 / (-extreme / least));
    let mut scale = if q2 > 0.0 { qx / q2 } else { 0.0 };
    let mut best = scale * qx;
    for step in -7..=7 {
        let (qx, q2) = sums((step as f32 + least) / extreme);
        if q2 > 0.0 && qx * qx > best * q2 {
            scale = qx / q2;
            best = scale * qx;
        }
    }
    scale
}
