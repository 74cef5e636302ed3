//! What stands beside a recurrence: norms of keys, gated norms of what comes out, and the steps in
//! time.

use crate::math;
use crate::ops::{load, store, sum};
use crate::simd::{LANES, Simd};

/// Where the gate of a norm comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateOrder {
    /// `norm(x) * silu(gate)`
    AfterNorm,
    /// `norm(x * silu(gate))`
    BeforeNorm,
}

/// `x = factor * x / sqrt(sum(x^2) + eps)`, each row of `width` elements.
///
/// # Panics
/// If `x` is no whole number of rows.
///
/// # Safety
/// As for every method of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn l2_norm<S: Simd>(s: S, x: &mut [f32], width: usize, eps: f32, factor: f32) {
    assert!(width > 0 && x.len().is_multiple_of(width), "rows of x");
    let mut first = 0;
    while first < x.len() {
        // SAFETY: the row lies in `x`, and every access is below `width` within it.
        unsafe {
            let row = x.as_mut_ptr().add(first);
            let total = sum::<S, true>(s, row, width, 0.0);
            let scale = s.f_splat(factor / (total + eps).sqrt());
            let mut i = 0;
            while i < width {
                let scaled = s.f_mul(load(s, row.add(i), width - i, 0.0), scale);
                store(s, row.add(i), width - i, scaled);
                i += LANES;
            }
        }
        first += width;
    }
}

/// RMS norm of one row with a gate: see [`GateOrder`].
///
/// # Panics
/// If the lengths differ.
///
/// # Safety
/// As for every method of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn gated_norm<S: Simd>(
    s: S,
    x: &mut [f32],
    gate: &[f32],
    weight: &[f32],
    eps: f32,
    order: GateOrder,
) {
    let n = x.len();
    assert!(n > 0 && gate.len() == n && weight.len() == n, "lengths of x, gate and weight");
    let first = matches!(order, GateOrder::BeforeNorm);
    let x = x.as_mut_ptr();
    // SAFETY: every access is below `n`.
    unsafe {
        if first {
            let mut i = 0;
            while i < n {
                let gate = math::silu(s, load(s, gate.as_ptr().add(i), n - i, 0.0));
                store(s, x.add(i), n - i, s.f_mul(load(s, x.add(i), n - i, 0.0), gate));
                i += LANES;
            }
        }
        let mean = sum::<S, true>(s, x, n, 0.0) / n as f32;
        let scale = s.f_splat(1.0 / (mean + eps).sqrt());
        let mut i = 0;
        while i < n {
            let scaled = s.f_mul(load(s, x.add(i), n - i, 0.0), scale);
            let mut y = s.f_mul(scaled, load(s, weight.as_ptr().add(i), n - i, 0.0));
            if !first {
                y = s.f_mul(y, math::silu(s, load(s, gate.as_ptr().add(i), n - i, 0.0)));
            }
            store(s, x.add(i), n - i, y);
            i += LANES;
        }
    }
}

/// The steps in time of some heads, `softplus(x + bias)` within `limits`, and how much a state
/// decays in them, `exp(a * step)`.
///
/// # Panics
/// If the lengths differ.
///
/// # Safety
/// As for every method of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn time_steps<S: Simd>(
    s: S,
    x: &[f32],
    bias: &[f32],
    a: &[f32],
    limits: [f32; 2],
    steps: &mut [f32],
    decays: &mut [f32],
) {
    let n = x.len();
    let alike = bias.len() == n && a.len() == n && steps.len() == n && decays.len() == n;
    assert!(alike, "lengths of x, bias, a, steps and decays");
    let mut i = 0;
    while i < n {
        let left = n - i;
        // SAFETY: `i < n`, which all of the slices have.
        unsafe {
            let x = load(s, x.as_ptr().add(i), left, 0.0);
            let step = math::softplus(s, s.f_add(x, load(s, bias.as_ptr().add(i), left, 0.0)));
            let step = s.f_min(s.f_splat(limits[1]), s.f_max(s.f_splat(limits[0]), step));
            store(s, steps.as_mut_ptr().add(i), left, step);
            let decay = math::exp(s, s.f_mul(load(s, a.as_ptr().add(i), left, 0.0), step));
            store(s, decays.as_mut_ptr().add(i), left, decay);
        }
        i += LANES;
    }
}
