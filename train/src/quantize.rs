//! Rows of weights in the types of GGUF files.
//!
//! The kernels' own quantisers take the greatest value of a block as its scale, which is right
//! where a model is loaded: it is fast. Here time does not matter, and the small models of this
//! crate notice every bit: scales are searched for the least squared error.

use goldcrest::Format;
use goldcrest::load::GgmlType;
use half::f16;

use crate::error::{Result, input};

/// The bytes of a row as `ty`.
pub(crate) fn quantize_row(ty: GgmlType, row: &[f32], out: &mut [u8]) -> Result<()> {
    let Some(format) = ty.kernel_format() else { return input(format!("{ty} has no kernels")) };
    let blocks = row.chunks_exact(ty.block_len()).zip(out.chunks_exact_mut(ty.block_bytes()));
    match format {
        Format::Q4_0 => blocks.for_each(|(x, b)| q4_0(x, b)),
        Format::Q4_K => blocks.for_each(|(x, b)| q4_k(x, b)),
        Format::Q6_K => blocks.for_each(|(x, b)| q6_k(x, b)),
        _ => {
            let no_quantizer = |e| crate::Error::Input(format!("{e}"));
            format.quantize(row, out).map_err(no_quantizer)?;
        }
    }
    Ok(())
}

/// The scale that leaves the least squared error when values are rounded to codes from `low` to
/// `high`, among scales around the one that puts the greatest value at an end of the range.
fn best_scale(x: &[f32], low: f32, high: f32) -> f32 {
    let extreme = x.iter().fold(0.0f32, |m, &v| if v.abs() > m.abs() { v } else { m });
    if extreme == 0.0 {
        return 0.0;
    }
    let mut best = (f32::INFINITY, 0.0);
    for step in -24..=24 {
        for end in [low, high] {
            let first = extreme / (end + end.signum() * step as f32 * 0.1);
            // The best scale for the codes that this one gives.
            let (mut xq, mut qq) = (0.0, 0.0);
            for &v in x {
                let q = (v / first).round().clamp(low, high);
                xq += v * q;
                qq += q * q;
            }
            let scale = if qq > 0.0 { xq / qq } else { first };
            // What is stored is a half.
            let scale = f16::from_f32(scale).to_f32();
            let error = error_of(x, scale, low, high);
            if error < best.0 {
                best = (error, scale);
            }
        }
    }
    best.1
}

fn error_of(x: &[f32], scale: f32, low: f32, high: f32) -> f32 {
    let inverse = inverse(scale);
    x.iter().map(|&v| (v - scale * (v * inverse).round().clamp(low, high)).powi(2)).sum()
}

fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

fn put_half(b: &mut [u8], at: usize, value: f32) {
    b[at..at + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
}

fn q4_0(x: &[f32], b: &mut [u8]) {
    let scale = best_scale(x, -8.0, 7.0);
    put_half(b, 0, scale);
    let code = |v: f32| ((v * inverse(scale)).round().clamp(-8.0, 7.0) + 8.0) as u8;
    for i in 0..16 {
        b[2 + i] = code(x[i]) | code(x[i + 16]) << 4;
    }
}

fn q6_k(x: &[f32], b: &mut [u8]) {
    let scales: Vec<f32> = x.chunks_exact(16).map(|x| best_scale(x, -32.0, 31.0)).collect();
    let greatest = scales.iter().fold(0.0f32, |m, &s| if s.abs() > m.abs() { s } else { m });
    let d = f16::from_f32(greatest / -128.0).to_f32();
    b.fill(0);
    put_half(b, 208, d);
    for (j, x) in x.chunks_exact(16).enumerate() {
        let step = (scales[j] * inverse(d)).round().clamp(-128.0, 127.0);
        b[192 + j] = step as i8 as u8;
        for (l, &v) in x.iter().enumerate() {
            let code = ((v * inverse(d * step)).round().clamp(-32.0, 31.0) + 32.0) as u8;
            let i = j * 16 + l;
            let (part, lane, quarter) = (i / 128, i % 32, i / 32 % 4);
            b[part * 64 + lane + quarter % 2 * 32] |= (code & 15) << (quarter / 2 * 4);
            b[128 + part * 32 + lane] |= (code >> 4) << (quarter * 2);
        }
    }
}

/// Scale and minimum (taken off) of the least squared error for codes from 0 to 15.
fn best_affine(x: &[f32]) -> (f32, f32) {
    let low = x.iter().copied().fold(0.0f32, f32::min);
    let high = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if high <= low {
        return (0.0, -low);
    }
    let mut best = (f32::INFINITY, 0.0, 0.0);
    for step in -12..=20 {
        let first = (high - low) / (15.0 + step as f32 * 0.1);
        let (scale, min) = fit(x, first, low);
        let error = affine_error(x, scale, min);
        if error < best.0 {
            best = (error, scale, min);
        }
    }
    (best.1, best.2)
}

/// Least squares for the codes that scale and minimum give; no minimum is below 0.
fn fit(x: &[f32], scale: f32, low: f32) -> (f32, f32) {
    let n = x.len() as f32;
    let (mut q1, mut q2, mut x1, mut xq) = (0.0, 0.0, 0.0, 0.0);
    for &v in x {
        let q = ((v - low) / scale).round().clamp(0.0, 15.0);
        q1 += q;
        q2 += q * q;
        x1 += v;
        xq += v * q;
    }
    let det = n * q2 - q1 * q1;
    if det <= 0.0 {
        return (scale, -low);
    }
    let (slope, base) = ((n * xq - q1 * x1) / det, (q2 * x1 - q1 * xq) / det);
    if base > 0.0 { (xq / q2, 0.0) } else { (slope, -base) }
}

fn affine_error(x: &[f32], scale: f32, min: f32) -> f32 {
    let inverse = inverse(scale);
    let value = |v: f32| scale * ((v + min) * inverse).round().clamp(0.0, 15.0) - min;
    x.iter().map(|&v| (v - value(v)).powi(2)).sum()
}

fn q4_k(x: &[f32], b: &mut [u8]) {
    let pairs: Vec<(f32, f32)> = x.chunks_exact(32).map(best_affine).collect();
    let greatest = |part: fn(&(f32, f32)) -> f32| pairs.iter().map(part).fold(0.0, f32::max);
    let d = f16::from_f32(greatest(|p| p.0) / 63.0).to_f32();
    let d_min = f16::from_f32(greatest(|p| p.1) / 63.0).to_f32();
    b.fill(0);
    put_half(b, 0, d);
    put_half(b, 2, d_min);
    for (j, x) in x.chunks_exact(32).enumerate() {
        let six = |v: f32, unit: f32| (v * inverse(unit)).round().clamp(0.0, 63.0);
        let (scale, min) = (six(pairs[j].0, d), six(pairs[j].1, d_min));
        put_scale_min(&mut b[4..16], j, scale as u8, min as u8);
        let (scale, min) = (d * scale, d_min * min);
        for (l, &v) in x.iter().enumerate() {
            let code = ((v + min) * inverse(scale)).round().clamp(0.0, 15.0) as u8;
            b[16 + j / 2 * 32 + l] |= code << (j % 2 * 4);
        }
    }
}

/// Six bits each of block `j` of eight, as the twelve bytes of a K-quant hold them.
fn put_scale_min(s: &mut [u8], j: usize, scale: u8, min: u8) {
    if j < 4 {
        s[j] |= scale;
        s[j + 4] |= min;
    } else {
        s[j + 4] = scale & 15 | (min & 15) << 4;
        s[j - 4] |= (scale >> 4) << 6;
        s[j] |= (min >> 4) << 6;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::normal;

    const K: usize = 256;

    /// Relative error of values that are drawn evenly distributed, through the kernels' reader.
    fn error(ty: GgmlType) -> f32 {
        let x = normal(5, 16 * K, 0.1);
        let mut bytes = vec![0; ty.bytes_for(x.len()).unwrap()];
        quantize_row(ty, &x, &mut bytes).unwrap();
        let mut back = vec![0.0; x.len()];
        ty.kernel_format().unwrap().dequantize(&bytes, &mut back);
        let off: f32 = x.iter().zip(&back).map(|(a, b)| (a - b).powi(2)).sum();
        (off / x.iter().map(|v| v * v).sum::<f32>()).sqrt()
    }

    #[test]
    fn errors_are_those_of_the_bits() {
        let limits = [
            (GgmlType::F32, 0.0),
            (GgmlType::Q8_0, 0.007),
            (GgmlType::Q6_K, 0.022),
            (GgmlType::Q4_K, 0.085),
            (GgmlType::Q4_0, 0.095),
        ];
        for (ty, limit) in limits {
            assert!(error(ty) <= limit, "{ty}: {}", error(ty));
        }
    }

    #[test]
    fn zeros_stay() {
        for ty in [GgmlType::Q4_0, GgmlType::Q4_K, GgmlType::Q6_K] {
            let mut bytes = vec![255; ty.bytes_for(K).unwrap()];
            quantize_row(ty, &[0.0; K], &mut bytes).unwrap();
            let mut back = vec![1.0; K];
            ty.kernel_format().unwrap().dequantize(&bytes, &mut back);
            assert_eq!(back, [0.0; K], "{ty}");
        }
    }
}
