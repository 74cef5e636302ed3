//! Loops over slices, written so that the compiler makes vectors of them.

const LANES: usize = 16;

/// `sum(a * b)`, in an order that does not depend on the machine.
#[inline]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, b) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = [0.0f32; LANES];
    for (a, b) in a.0.iter().zip(b.0) {
        for i in 0..LANES {
            sums[i] += a[i] * b[i];
        }
    }
    let rest: f32 = a.1.iter().zip(b.1).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// The sum of the values.
#[inline]
pub(crate) fn sum(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut sums = [0.0f32; LANES];
    for chunk in chunks {
        for i in 0..LANES {
            sums[i] += chunk[i];
        }
    }
    sums.iter().sum::<f32>() + rest.iter().sum::<f32>()
}

/// The greatest value.
#[inline]
pub(crate) fn max(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut greatest = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for i in 0..LANES {
            greatest[i] = if chunk[i] > greatest[i] { chunk[i] } else { greatest[i] };
        }
    }
    greatest.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

/// The exponential, to 2 units in the last place; what underflows is the smallest normal number.
///
/// A polynomial, since calls of the C library keep a loop from becoming vectors.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    /// Adding and taking off 1.5 * 2^23 rounds to an integer.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = if x > 88.0 { 88.0 } else { x };
    let x = if x < -87.0 { -87.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_6e-1;
    let p = p * r + 5e-1;
    let p = p * r * r + r + 1.0;
    let power = (shifted.to_bits() << 23).wrapping_add(1f32.to_bits());
    p * f32::from_bits(power)
}

/// Turns values into `exp(value * scale - max)` and returns their sum and the maximum.
#[inline]
pub(crate) fn exponentials(values: &mut [f32], scale: f32) -> (f32, f32) {
    let greatest = max(values) * scale;
    for v in values.iter_mut() {
        *v = exp(*v * scale - greatest);
    }
    (sum(values), greatest)
}

/// `ln(sum(exp(value * scale)))`.
#[inline]
pub(crate) fn log_sum(values: &[f32], scale: f32) -> f32 {
    let greatest = max(values) * scale;
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut sums = [0.0f32; LANES];
    for chunk in chunks {
        for i in 0..LANES {
            sums[i] += exp(chunk[i] * scale - greatest);
        }
    }
    let rest: f32 = rest.iter().map(|v| exp(v * scale - greatest)).sum();
    (sums.iter().sum::<f32>() + rest).ln() + greatest
}

/// Multiplies all values.
#[inline]
pub(crate) fn scale(values: &mut [f32], factor: f32) {
    values.iter_mut().for_each(|v| *v *= factor);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_is_close() {
        for i in -8700..=8800 {
            let x = i as f32 / 100.0;
            let (got, want) = (exp(x), f64::from(x).exp());
            assert!((f64::from(got) / want - 1.0).abs() < 3e-7, "{x}: {got} {want}");
        }
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn reductions() {
        let values: Vec<f32> = (0..50).map(|i| (i % 7) as f32 - 3.0).collect();
        assert_eq!(sum(&values), values.iter().sum::<f32>());
        assert_eq!(dot(&values, &values), values.iter().map(|v| v * v).sum::<f32>());
        assert_eq!(max(&values), 3.0);
    }
}
