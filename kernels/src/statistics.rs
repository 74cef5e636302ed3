//! Ops that look at a whole row before they change an element of it, and products of a row with a few
//! others as they are.
//!
//! Sums are in the order of [`ops`](crate::ops): the bits do not depend on the machine.

use crate::ops::{load, store, sum};
use crate::simd::{LANES, Simd};

/// Gaussian top-k: `x = max(x - (mean + deviations * deviation), 0)`, of the row's mean and standard
/// deviation. Of a normal distribution a known share is left.
///
/// # Panics
/// If the row is empty.
///
/// # Safety
/// As for every method of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn gaussian_top_k<S: Simd>(s: S, x: &mut [f32], deviations: f32) {
    let n = x.len();
    assert!(n > 0, "an empty row");
    let x = x.as_mut_ptr();
    // SAFETY: every access is below `n`.
    unsafe {
        let mean = sum::<S, false>(s, x, n, 0.0) / n as f32;
        let variance = sum::<S, true>(s, x, n, mean) / n as f32;
        let (least, zero) = (s.f_splat(mean + deviations * variance.sqrt()), s.f_splat(0.0));
        let mut i = 0;
        while i < n {
            let above = s.f_sub(load(s, x.add(i), n - i, 0.0), least);
            store(s, x.add(i), n - i, s.f_max(zero, above));
            i += LANES;
        }
    }
}

/// Gives `x` the root mean square of `like`; of its own mean square, `least` at least is counted.
///
/// # Panics
/// If the rows are empty or their lengths differ.
///
/// # Safety
/// As for every method of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn match_rms<S: Simd>(s: S, x: &mut [f32], like: &[f32], least: f32) {
    let n = x.len();
    assert!(n > 0 && like.len() == n, "lengths of x and like");
    let x = x.as_mut_ptr();
    // SAFETY: every access is below `n`, which both rows have.
    unsafe {
        let wanted = sum::<S, true>(s, like.as_ptr(), n, 0.0) / n as f32;
        let own = sum::<S, true>(s, x, n, 0.0) / n as f32;
        let own = if own > least { own } else { least };
        let factor = s.f_splat(wanted.sqrt() / own.sqrt());
        let mut i = 0;
        while i < n {
            store(s, x.add(i), n - i, s.f_mul(load(s, x.add(i), n - i, 0.0), factor));
            i += LANES;
        }
    }
}

/// `out[i] = x . rows[i]`, every product rounded before it is added.
///
/// # Panics
/// If `rows` is not a row of `x.len()` for each element of `out`.
///
/// # Safety
/// As for every method of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn dots<S: Simd>(s: S, x: &[f32], rows: &[f32], out: &mut [f32]) {
    let n = x.len();
    assert!(rows.len() == n * out.len(), "{} values in rows of {n}", rows.len());
    for (row, out) in out.iter_mut().enumerate() {
        // SAFETY: the row lies in `rows`, and every access is below `n` within it.
        unsafe {
            let w = rows.as_ptr().add(row * n);
            let mut total = s.f_splat(0.0);
            let mut i = 0;
            while i < n {
                let x = load(s, x.as_ptr().add(i), n - i, 0.0);
                total = s.f_add(total, s.f_mul(x, load(s, w.add(i), n - i, 0.0)));
                i += LANES;
            }
            *out = s.f_sum(total);
        }
    }
}
