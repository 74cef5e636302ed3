//! Elementary functions over sixteen lanes: one polynomial for every instruction set.
//!
//! Multiplications and additions are never fused, so all of them give the same bits everywhere.

use crate::simd::Simd;

/// The halves of `exp(x) = 2^n (1 + p)`: `2^n` and `p`, where `x - n ln 2` is at most `ln 2 / 2`
/// in magnitude. `2^n` is 0 from n = -127 down and infinite from n = 128 up; `x` has been clamped
/// so that n stays within both.
///
/// # Safety
/// As for every method of [`Simd`].
#[inline(always)]
unsafe fn exp_parts<S: Simd>(s: S, x: S::F) -> (S::F, S::F) {
    // ln 2 in two parts (Cody and Waite): the first has 9 bits, so its product with n is exact.
    const LN2_HIGH: f32 = 355.0 / 512.0;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Minimax of (exp(r) - 1 - r) / r^2, highest power first (Cephes, expf).
    const P: [f32; 6] =
        [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
    // SAFETY: the caller vouches for the instruction set; no memory is touched.
    unsafe {
        let n = s.f_to_i(s.f_mul(x, s.f_splat(std::f32::consts::LOG2_E)));
        let nf = s.i_to_f(n);
        let r = s.f_sub(x, s.f_mul(nf, s.f_splat(LN2_HIGH)));
        let r = s.f_sub(r, s.f_mul(nf, s.f_splat(LN2_LOW)));
        let mut p = s.f_splat(P[0]);
        let mut i = 1;
        while i < P.len() {
            p = s.f_add(s.f_mul(p, r), s.f_splat(P[i]));
            i += 1;
        }
        let p = s.f_add(s.f_mul(p, s.f_mul(r, r)), r);
        let scale = s.f_from_bits(s.i_shl::<23>(s.i_add(n, s.i_splat(127))));
        (scale, p)
    }
}

/// `exp(x)` within 2e-7 of its value for x in [-87, 88]; 0 below -87.7, infinite above 88.4, NaN
/// for NaN.
///
/// # Safety
/// As for every method of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    // SAFETY: the caller vouches for the instruction set; no memory is touched.
    unsafe {
        // The bound comes first in both: a NaN then passes through.
        let x = s.f_min(s.f_splat(89.0), s.f_max(s.f_splat(-88.0), x));
        let (scale, p) = exp_parts(s, x);
        s.f_mul(s.f_add(p, s.f_splat(1.0)), scale)
    }
}

/// [`exp`] of one number.
///
/// # Safety
/// As for every method of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn exp_one<S: Simd>(s: S, x: f32) -> f32 {
    let mut lanes = [0.0f32; crate::simd::LANES];
    // SAFETY: `lanes` has sixteen lanes; the caller vouches for the instruction set.
    unsafe { s.f_store(lanes.as_mut_ptr(), exp(s, s.f_splat(x))) };
    lanes[0]
}

/// `1 / (1 + exp(-x))`.
///
/// # Safety
/// As for every method of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn sigmoid<S: Simd>(s: S, x: S::F) -> S::F {
    // SAFETY: the caller vouches for the instruction set; no memory is touched.
    unsafe {
        let one = s.f_splat(1.0);
        s.f_div(one, s.f_add(one, exp(s, s.f_sub(s.f_splat(0.0), x))))
    }
}

/// `x / (1 + exp(-x))`; NaN for negative infinity.
///
/// # Safety
/// As for every method of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn silu<S: Simd>(s: S, x: S::F) -> S::F {
    // SAFETY: the caller vouches for the instruction set; no memory is touched.
    unsafe { s.f_div(x, s.f_add(s.f_splat(1.0), exp(s, s.f_sub(s.f_splat(0.0), x)))) }
}

/// `ln(1 + exp(x))`; NaN for NaN.
///
/// # Safety
/// As for every method of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn softplus<S: Simd>(s: S, x: S::F) -> S::F {
    // ln(1 + y) = 2 artanh(y / (2 + y)), whose argument is at most 1/3: eight terms of the series.
    const ARTANH: [f32; 8] =
        [2.0 / 15.0, 2.0 / 13.0, 2.0 / 11.0, 2.0 / 9.0, 2.0 / 7.0, 2.0 / 5.0, 2.0 / 3.0, 2.0];
    // SAFETY: the caller vouches for the instruction set; no memory is touched.
    unsafe {
        let y = exp(s, s.f_sub(s.f_splat(0.0), s.f_abs(x)));
        let t = s.f_div(y, s.f_add(s.f_splat(2.0), y));
        let square = s.f_mul(t, t);
        let mut p = s.f_splat(ARTANH[0]);
        let mut i = 1;
        while i < ARTANH.len() {
            p = s.f_add(s.f_mul(p, square), s.f_splat(ARTANH[i]));
            i += 1;
        }
        s.f_add(s.f_max(s.f_splat(0.0), x), s.f_mul(p, t))
    }
}

/// The hyperbolic tangent, accurate for small arguments too.
///
/// # Safety
/// As for every method of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn tanh<S: Simd>(s: S, x: S::F) -> S::F {
    // SAFETY: the caller vouches for the instruction set; no memory is touched.
    unsafe {
        let twice = s.f_add(x, x);
        let twice = s.f_min(s.f_splat(20.0), s.f_max(s.f_splat(-20.0), twice));
        let (scale, p) = exp_parts(s, twice);
        // exp(2 x) - 1 without cancellation.
        let e = s.f_add(s.f_mul(scale, p), s.f_sub(scale, s.f_splat(1.0)));
        s.f_div(e, s.f_add(e, s.f_splat(2.0)))
    }
}

/// GELU in its tanh approximation: `x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3))`.
///
/// # Safety
/// As for every method of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn gelu_tanh<S: Simd>(s: S, x: S::F) -> S::F {
    const LINEAR: f32 = 1.595_769;
    const CUBIC: f32 = 0.071_354_814;
    // SAFETY: the caller vouches for the instruction set; no memory is touched.
    unsafe {
        let inner = s.f_add(s.f_splat(LINEAR), s.f_mul(s.f_splat(CUBIC), s.f_mul(x, x)));
        s.f_mul(x, sigmoid(s, s.f_mul(x, inner)))
    }
}

/// GELU as defined, `x (1 + erf(x / sqrt 2)) / 2`, within about 1e-7 (1 + |x|).
///
/// # Safety
/// As for every method of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn gelu_erf<S: Simd>(s: S, x: S::F) -> S::F {
    // Abramowitz and Stegun 7.1.26, halved: the upper tail of the normal distribution is
    // exp(-x^2 / 2) times a polynomial in 1 / (1 + p |x|).
    const P: f32 = 0.3275911 * std::f32::consts::FRAC_1_SQRT_2;
    const A: [f32; 5] = [
        0.5 * 1.061_405_4,
        0.5 * -1.453_152,
        0.5 * 1.421_413_7,
        0.5 * -0.284_496_74,
        0.5 * 0.254_829_6,
    ];
    // SAFETY: the caller vouches for the instruction set; no memory is touched.
    unsafe {
        let size = s.f_abs(x);
        let one = s.f_splat(1.0);
        let t = s.f_div(one, s.f_add(one, s.f_mul(s.f_splat(P), size)));
        let mut poly = s.f_splat(A[0]);
        let mut i = 1;
        while i < A.len() {
            poly = s.f_add(s.f_mul(poly, t), s.f_splat(A[i]));
            i += 1;
        }
        let decay = exp(s, s.f_mul(s.f_mul(s.f_splat(-0.5), x), x));
        let tail = s.f_mul(s.f_mul(poly, t), decay);
        s.f_sub(s.f_max(s.f_splat(0.0), x), s.f_mul(size, tail))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::simd::{LANES, Portable};

    fn map<S: Simd>(s: S, xs: &[f32], f: unsafe fn(S, S::F) -> S::F) -> Vec<f32> {
        let mut out = vec![0.0; xs.len().next_multiple_of(LANES)];
        let mut padded = xs.to_vec();
        padded.resize(out.len(), 0.0);
        for (i, o) in padded.chunks_exact(LANES).zip(out.chunks_exact_mut(LANES)) {
            // SAFETY: both chunks have sixteen lanes; the caller's token vouches for the CPU.
            unsafe { s.f_store(o.as_mut_ptr(), f(s, s.f_load(i.as_ptr()))) };
        }
        out.truncate(xs.len());
        out
    }

    fn steps(from: f32, to: f32, n: usize) -> Vec<f32> {
        (0..=n).map(|i| from + (to - from) * i as f32 / n as f32).collect()
    }

    fn erf(x: f64) -> f64 {
        // Maclaurin series: enough terms for |x| < 5 in double precision.
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    /// Every function against double precision, on one instruction set.
    pub(crate) fn check<S: Simd>(s: S) {
        let xs = steps(-87.0, 88.0, 200_000);
        for (&x, y) in xs.iter().zip(map(s, &xs, exp::<S>)) {
            let want = f64::from(x).exp();
            assert!(((f64::from(y) - want) / want).abs() < 2e-7, "exp({x}) = {y}, not {want}");
        }
        let edges = [f32::NEG_INFINITY, -1e30, -104.0, 0.0, -0.0, 1e30, f32::INFINITY];
        let got = map(s, &edges, exp::<S>);
        assert_eq!(got, [0.0, 0.0, 0.0, 1.0, 1.0, f32::INFINITY, f32::INFINITY]);
        assert!(map(s, &[f32::NAN], exp::<S>)[0].is_nan());
        // SAFETY: the caller's token vouches for the CPU.
        assert_eq!(unsafe { exp_one(s, -1.5) }.to_bits(), map(s, &[-1.5], exp::<S>)[0].to_bits());

        let xs = steps(-30.0, 30.0, 50_000);
        for (&x, y) in xs.iter().zip(map(s, &xs, sigmoid::<S>)) {
            let want = 1.0 / (1.0 + (-f64::from(x)).exp());
            assert!(((f64::from(y) - want) / want).abs() < 5e-7, "sigmoid({x}) = {y}");
        }
        for (&x, y) in xs.iter().zip(map(s, &xs, silu::<S>)) {
            let want = f64::from(x) / (1.0 + (-f64::from(x)).exp());
            assert!((f64::from(y) - want).abs() <= 5e-7 * want.abs(), "silu({x}) = {y}");
        }
        assert_eq!(map(s, &[-1000.0, 1000.0], silu::<S>), [-0.0, 1000.0]);
        for (&x, y) in xs.iter().zip(map(s, &xs, softplus::<S>)) {
            let want = f64::from(x).exp().ln_1p();
            assert!((f64::from(y) - want).abs() <= 5e-7 * want.abs(), "softplus({x}) = {y}");
        }
        assert_eq!(map(s, &[-1000.0, 1000.0], softplus::<S>), [0.0, 1000.0]);
        let mut small = steps(-0.01, 0.01, 1000);
        small.extend(steps(-30.0, 30.0, 50_000));
        for (&x, y) in small.iter().zip(map(s, &small, tanh::<S>)) {
            let want = f64::from(x).tanh();
            assert!((f64::from(y) - want).abs() <= 5e-7 * want.abs(), "tanh({x}) = {y}");
        }
        assert_eq!(map(s, &[f32::NEG_INFINITY, f32::INFINITY], tanh::<S>), [-1.0, 1.0]);
        for (&x, y) in xs.iter().zip(map(s, &xs, gelu_tanh::<S>)) {
            let x = f64::from(x);
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            let want = 0.5 * x * (1.0 + inner.tanh());
            assert!((f64::from(y) - want).abs() < 4e-7 * (1.0 + x.abs()), "gelu_tanh({x}) = {y}");
        }
        let xs = steps(-6.0, 6.0, 50_000);
        for (&x, y) in xs.iter().zip(map(s, &xs, gelu_erf::<S>)) {
            let x = f64::from(x);
            let want = 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2));
            assert!((f64::from(y) - want).abs() < 2e-7 * (1.0 + x.abs()), "gelu_erf({x}) = {y}");
        }
        assert_eq!(map(s, &[-1000.0, 1000.0], gelu_erf::<S>), [0.0, 1000.0]);
    }

    #[test]
    fn portable() {
        check(Portable);
    }
}
