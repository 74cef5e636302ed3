//! The searches by which K-quants are made, as ggml's reference makes them: the order of every sum is
//! its, so that the bytes are.

use half::f16;

use crate::matmul::affine::put_six_bits;
use crate::matmul::planes::{Plane, put_codes};

/// Below this a group is zero.
pub(super) const NOTHING: f32 = 1e-15;

/// The nearest integer, ties to even.
fn nearest(v: f32) -> i32 {
    v.round_ties_even() as i32
}

fn squared(x: f32) -> f32 {
    x * x
}

/// The value of greatest magnitude, sign kept.
pub(super) fn extreme(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |m: f32, &v| if v.abs() > m.abs() { v } else { m })
}

/// A block of 256 values of a centred format.
pub(super) struct Centred {
    pub(super) d: f16,
    /// In the file's range; none where all values are zero.
    pub(super) scales: Option<[i8; 16]>,
    pub(super) codes: [u8; 256],
}

/// Codes of `-half .. half`, stored above `half`, under scales of `-top .. top`; `fit` writes those of a
/// group of 16 and gives its scale.
pub(super) fn centred(
    x: &[f32],
    half: i32,
    top: i32,
    fit: fn(&[f32], i32, &mut [u8]) -> f32,
) -> Centred {
    let mut codes = [0; 256];
    let groups = x.chunks_exact(16).zip(codes.chunks_exact_mut(16));
    let mut fitted = [0.0; 16];
    groups.zip(&mut fitted).for_each(|((x, codes), scale)| *scale = fit(x, half, codes));
    let greatest = extreme(&fitted);
    if greatest.abs() < NOTHING {
        return Centred { d: f16::ZERO, scales: None, codes };
    }
    let inverse = -(top as f32) / greatest;
    let d = f16::from_f32(1.0 / inverse);
    let scales = fitted.map(|scale| nearest(inverse * scale).clamp(-top, top - 1) as i8);
    let groups = x.chunks_exact(16).zip(codes.chunks_exact_mut(16)).zip(scales);
    for ((x, codes), scale) in groups {
        let d = d.to_f32() * f32::from(scale);
        if d != 0.0 {
            for (x, code) in x.iter().zip(codes) {
                *code = (nearest(x / d).clamp(-half, half - 1) + half) as u8;
            }
        }
    }
    Centred { d, scales: Some(scales), codes }
}

/// The best of nineteen scales around the one that makes the extreme value `-half`, by errors weighed with
/// the squares of the values.
pub(super) fn of_many_scales(x: &[f32], half: i32, codes: &mut [u8]) -> f32 {
    let extreme = extreme(x);
    if extreme.abs() < NOTHING {
        return 0.0;
    }
    let code = |inverse: f32, x: f32| nearest(inverse * x).clamp(-half, half - 1);
    let sums = |inverse: f32| {
        x.iter().fold((0.0, 0.0), |(lx, l2), &x| {
            let (weight, l) = (squared(x), code(inverse, x) as f32);
            (lx + weight * x * l, l2 + weight * l * l)
        })
    };
    let mut write = |inverse: f32| {
        let pairs = codes.iter_mut().zip(x);
        pairs.for_each(|(to, &x)| *to = (code(inverse, x) + half) as u8);
    };
    let inverse = -(half as f32) / extreme;
    write(inverse);
    let (lx, l2) = sums(inverse);
    let mut scale = if l2 == 0.0 { 0.0 } else { lx / l2 };
    let mut best = scale * lx;
    for step in (-9..=9).filter(|&step| step != 0) {
        let inverse = -(half as f32 + 0.1 * step as f32) / extreme;
        let (lx, l2) = sums(inverse);
        if l2 > 0.0 && lx * lx > best * l2 {
            write(inverse);
            scale = lx / l2;
            best = scale * lx;
        }
    }
    scale
}

/// One scale, and codes that are moved one by one while that lessens the error.
pub(super) fn of_moved_codes(x: &[f32], half: i32, codes: &mut [u8]) -> f32 {
    let extreme = extreme(x);
    if extreme.abs() < NOTHING {
        return 0.0;
    }
    let clamped = |v: f32| nearest(v).clamp(-half, half - 1);
    let inverse = -(half as f32) / extreme;
    let mut chosen = [0i32; 16];
    let (mut sum_lx, mut sum_l2) = (0.0, 0.0);
    for (l, &x) in chosen.iter_mut().zip(x) {
        *l = clamped(inverse * x);
        let (weight, l) = (squared(x), *l as f32);
        sum_lx += weight * x * l;
        sum_l2 += weight * l * l;
    }
    for _ in 0..5 {
        let mut moved = false;
        for (l, &x) in chosen.iter_mut().zip(x) {
            let (weight, old) = (squared(x), *l as f32);
            let mut lx = sum_lx - weight * x * old;
            if lx <= 0.0 {
                continue;
            }
            let mut l2 = sum_l2 - weight * old * old;
            let candidate = clamped(x * l2 / lx);
            if candidate == *l {
                continue;
            }
            let new = candidate as f32;
            lx += weight * x * new;
            l2 += weight * new * new;
            if l2 > 0.0 && lx * lx * sum_l2 > sum_lx * sum_lx * l2 {
                (*l, sum_lx, sum_l2, moved) = (candidate, lx, l2, true);
            }
        }
        if !moved {
            break;
        }
    }
    codes.iter_mut().zip(chosen).for_each(|(to, l)| *to = (l + half) as u8);
    if sum_l2 > 0.0 { sum_lx / sum_l2 } else { 0.0 }
}

/// How an affine format searches.
pub(super) struct Search {
    /// Values of a group.
    pub(super) group: usize,
    pub(super) greatest_code: u8,
    /// Of a scale or a minimum, in the file.
    pub(super) greatest_scale: u8,
    /// The ranges that are tried begin so many codes beside the whole one, and go on in tenths.
    pub(super) first: f32,
    pub(super) steps: i32,
    /// Whether errors count by their size, and values weigh by theirs; else errors count by their squares,
    /// and values weigh by their size above the group's root mean square.
    pub(super) linear: bool,
}

/// A block of 256 values of an affine format.
pub(super) struct Affine {
    pub(super) d: f16,
    pub(super) dmin: f16,
    /// Of as many groups as there are.
    pub(super) scales: [u8; 16],
    pub(super) minima: [u8; 16],
    pub(super) codes: [u8; 256],
}

impl Search {
    pub(super) fn block(&self, x: &[f32]) -> Affine {
        let mut codes = [0; 256];
        let (mut scales, mut minima) = ([0.0f32; 16], [0.0f32; 16]);
        let groups = x.chunks_exact(self.group).zip(codes.chunks_exact_mut(self.group));
        for (g, (x, codes)) in groups.enumerate() {
            (scales[g], minima[g]) = self.group(x, codes);
        }
        let (d, scales) = self.integers(&scales);
        let (dmin, minima) = self.integers(&minima);
        let groups = x.chunks_exact(self.group).zip(codes.chunks_exact_mut(self.group));
        for (g, (x, codes)) in groups.enumerate() {
            let (d, min) =
                (d.to_f32() * f32::from(scales[g]), dmin.to_f32() * f32::from(minima[g]));
            if d != 0.0 {
                for (x, code) in x.iter().zip(codes) {
                    *code = self.code((x + min) / d);
                }
            }
        }
        Affine { d, dmin, scales, minima, codes }
    }

    /// A block whose scales and minima have six bits, which begins with their scales.
    pub(super) fn write_six_bits(&self, planes: &[Plane], x: &[f32], b: &mut [u8]) {
        b.fill(0);
        let block = self.block(x);
        put_codes(planes, b, &block.codes);
        put_six_bits(b, &block.scales, &block.minima);
        b[..2].copy_from_slice(&block.d.to_le_bytes());
        b[2..4].copy_from_slice(&block.dmin.to_le_bytes());
    }

    fn code(&self, v: f32) -> u8 {
        nearest(v).clamp(0, self.greatest_code.into()) as u8
    }

    /// Numbers as multiples of one.
    fn integers(&self, v: &[f32; 16]) -> (f16, [u8; 16]) {
        let (greatest, top) = (v.iter().fold(0.0, |m: f32, &v| m.max(v)), self.greatest_scale);
        if greatest <= 0.0 {
            return (f16::ZERO, [0; 16]);
        }
        let inverse = f32::from(top) / greatest;
        let unit = f16::from_f32(greatest / f32::from(top));
        (unit, v.map(|v| nearest(inverse * v).clamp(0, top.into()) as u8))
    }

    /// Codes of a group, its scale, and what is to be taken off: the best of ranges of codes a little
    /// wider or narrower than the values', each with the scale and minimum of least squares.
    fn group(&self, x: &[f32], codes: &mut [u8]) -> (f32, f32) {
        let mut weights = [0.0; 32];
        let weights = &mut weights[..x.len()];
        let size = if self.linear {
            0.0
        } else {
            (x.iter().map(|&x| squared(x)).fold(0.0, |sum, v| sum + v) / x.len() as f32).sqrt()
        };
        weights.iter_mut().zip(x).for_each(|(weight, x)| *weight = size + x.abs());
        let (sum_w, sum_x) = weights
            .iter()
            .zip(x)
            .fold((0.0, 0.0), |(w, wx), (&weight, &x)| (w + weight, wx + weight * x));
        let max = x.iter().fold(x[0], |m, &v| if v > m { v } else { m });
        let mut min = x.iter().fold(x[0], |m, &v| if v < m { v } else { m }).min(0.0);
        if max == min {
            return (0.0, -min);
        }
        let greatest = f32::from(self.greatest_code);
        let inverse = greatest / (max - min);
        let mut scale = 1.0 / inverse;
        codes.iter_mut().zip(x).for_each(|(to, x)| *to = self.code(inverse * (x - min)));
        let mut best = self.error(x, weights, codes, scale, min);
        let mut tried = [0; 32];
        let tried = &mut tried[..x.len()];
        for step in 0..=self.steps {
            let inverse = (self.first + 0.1 * step as f32 + greatest) / (max - min);
            let (mut sum_l, mut sum_l2, mut sum_xl) = (0.0, 0.0, 0.0);
            for ((to, &x), &weight) in tried.iter_mut().zip(x).zip(&*weights) {
                *to = self.code(inverse * (x - min));
                let l = f32::from(*to);
                sum_l += weight * l;
                sum_l2 += weight * l * l;
                sum_xl += weight * l * x;
            }
            let determinant = sum_w * sum_l2 - sum_l * sum_l;
            if determinant <= 0.0 {
                continue;
            }
            let mut this_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
            let mut this_min = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
            if this_min > 0.0 {
                this_min = 0.0;
                this_scale = sum_xl / sum_l2;
            }
            let error = self.error(x, weights, tried, this_scale, this_min);
            if error < best {
                codes.copy_from_slice(tried);
                (best, scale, min) = (error, this_scale, this_min);
            }
        }
        (scale, -min)
    }

    fn error(&self, x: &[f32], weights: &[f32], codes: &[u8], scale: f32, min: f32) -> f32 {
        let terms = x.iter().zip(weights).zip(codes).map(|((x, weight), &code)| {
            let difference = scale * f32::from(code) + min - x;
            weight * if self.linear { difference.abs() } else { squared(difference) }
        });
        terms.fold(0.0, |sum, term| sum + term)
    }
}
