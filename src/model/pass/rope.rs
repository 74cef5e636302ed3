//! Cosines and sines of the rotary embedding, for the rows of a pass.

use std::f64::consts::TAU;

use crate::config::{Rope, RopeScaling, RopeStyle};

/// A rotation: the angle that each pair of dimensions turns by from one position to the next.
///
/// Angles are computed in f64: one at position 100 000 has no correct digit left in f32. They are
/// computed for the rows of a pass and not kept: a table for a context of 131 072 takes 67 MB.
///
/// Sines, cosines and powers come from the crate `libm`: those of the standard library are the
/// system's, and differ from one to the next in the last bit.
pub(crate) struct Rotation {
    pub(super) style: goldcrest_kernels::RopeStyle,
    frequencies: Vec<f64>,
    /// On cosines and sines.
    factor: f64,
}

impl Rotation {
    /// For contexts of `context` positions at most: keys are kept rotated, so LongRoPE's choice of
    /// divisors cannot change as a text grows.
    pub(crate) fn new(rope: &Rope, context: usize) -> Self {
        let (frequencies, factor) = frequencies(rope, context);
        let style = match rope.style {
            RopeStyle::Pairs => goldcrest_kernels::RopeStyle::Pairs,
            RopeStyle::Halves => goldcrest_kernels::RopeStyle::Halves,
        };
        Self { style, frequencies, factor }
    }

    /// Pairs of dimensions.
    pub(super) fn pairs(&self) -> usize {
        self.frequencies.len()
    }

    /// The cosines of a position into the first half of `out`, its sines into the second.
    pub(super) fn angles(&self, position: usize, out: &mut [f32]) {
        let (cos, sin) = out.split_at_mut(self.pairs());
        for ((cos, sin), frequency) in cos.iter_mut().zip(sin).zip(&self.frequencies) {
            let angle = position as f64 * frequency;
            *cos = (libm::cos(angle) * self.factor) as f32;
            *sin = (libm::sin(angle) * self.factor) as f32;
        }
    }
}

/// The angle per position of each pair, and the factor on cosines and sines.
fn frequencies(rope: &Rope, context: usize) -> (Vec<f64>, f64) {
    let (dim, theta) = (rope.dim as f64, f64::from(rope.theta));
    let plain = (0..rope.dim / 2).map(|i| libm::pow(theta, -2.0 * i as f64 / dim));
    match &rope.scaling {
        RopeScaling::None => (plain.collect(), 1.0),
        RopeScaling::Linear { factor } => (plain.map(|f| f / f64::from(*factor)).collect(), 1.0),
        RopeScaling::Factors(factors) => {
            (plain.zip(factors).map(|(f, d)| f / f64::from(*d)).collect(), 1.0)
        }
        RopeScaling::Long { short, long, original_context, attention_factor } => {
            let factors = if context > *original_context { long } else { short };
            let stretched = plain.zip(factors).map(|(f, d)| f / f64::from(*d));
            (stretched.collect(), f64::from(*attention_factor))
        }
        &RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            let [factor, low, high] = [factor, low_freq_factor, high_freq_factor].map(f64::from);
            let stretch = |frequency: f64| {
                // Full turns within the context of pre-training.
                let turns = original_context as f64 * frequency / TAU;
                let keep = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                frequency * keep + frequency / factor * (1.0 - keep)
            };
            (plain.map(stretch).collect(), 1.0)
        }
        &RopeScaling::Yarn {
            factor,
            original_context,
            beta_fast,
            beta_slow,
            attention_factor,
            truncate,
        } => {
            let pair = |turns: f32| {
                let length = original_context as f64 / (f64::from(turns) * TAU);
                dim * libm::log(length) / (2.0 * libm::log(theta))
            };
            let (mut low, mut high) = (pair(beta_fast), pair(beta_slow));
            if truncate {
                (low, high) = (low.floor(), high.ceil());
            }
            let (low, high) = (low.max(0.0), high.min(dim - 1.0));
            let stretch = |(i, frequency): (usize, f64)| {
                let ramp = ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                frequency * (1.0 - ramp) + frequency / f64::from(factor) * ramp
            };
            (plain.enumerate().map(stretch).collect(), f64::from(attention_factor))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(scaling: RopeScaling) -> Rope {
        Rope { theta: 10000.0, dim: 8, style: RopeStyle::Halves, scaling }
    }

    #[test]
    fn plain_angles() {
        let mut angles = [0.0; 8];
        Rotation::new(&rope(RopeScaling::None), 64).angles(10, &mut angles);
        let (cos, sin) = angles.split_at(4);
        for i in 0..4 {
            let angle = 10.0 / 10f64.powi(i);
            assert!((f64::from(cos[i as usize]) - angle.cos()).abs() < 1e-7);
            assert!((f64::from(sin[i as usize]) - angle.sin()).abs() < 1e-7);
        }
    }

    #[test]
    fn llama3_has_three_bands() {
        // Turns within 64 positions: 10.2, 1.02, 0.10, 0.01.
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 64,
        };
        let (f, _) = frequencies(&rope(scaling), 64);
        assert_eq!(f[0], 1.0);
        assert!(f[1] > 0.1 / 8.0 && f[1] < 0.1);
        assert!((f[2] - 0.01 / 8.0).abs() < 1e-12 && (f[3] - 0.001 / 8.0).abs() < 1e-12);
    }

    #[test]
    fn yarn_keeps_fast_pairs_and_divides_slow_ones() {
        let scaling = RopeScaling::Yarn {
            factor: 4.0,
            original_context: 512,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: 1.1386,
            truncate: true,
        };
        let (f, factor) = frequencies(&rope(scaling), 64);
        assert_eq!(f[0], 1.0);
        assert!((f[3] - 0.001 / 4.0).abs() < 1e-12);
        assert!((factor - 1.1386).abs() < 1e-6);
    }

    #[test]
    fn linear_and_factors_divide() {
        let (linear, _) = frequencies(&rope(RopeScaling::Linear { factor: 2.0 }), 64);
        let (factors, _) = frequencies(&rope(RopeScaling::Factors(vec![2.0; 4])), 64);
        assert_eq!(linear, factors);
        assert!((linear[1] - 0.05).abs() < 1e-12);
    }

    #[test]
    fn longrope_goes_by_the_context_that_is_loaded() {
        let scaling = RopeScaling::Long {
            short: vec![1.0; 4],
            long: vec![4.0; 4],
            original_context: 64,
            attention_factor: 1.25,
        };
        let (short, factor) = frequencies(&rope(scaling.clone()), 64);
        let (long, _) = frequencies(&rope(scaling), 65);
        assert_eq!(factor, 1.25);
        assert!(short.iter().zip(&long).all(|(short, long)| *short == 4.0 * long));
    }
}
