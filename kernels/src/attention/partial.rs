//! A row's partial result: what some chunks give, and how those of several are folded into one.

use crate::extent::extent;
use crate::kv::MAX_HEAD_DIM;
use crate::math;
use crate::ops;
use crate::simd::{LANES, Simd};

/// Elements of a row's partial result: the sum of the values, rounded up to sixteen, then its
/// greatest score and the sum of its exponentials.
///
/// # Panics
/// If a value of this length does not fit in memory.
#[inline(always)]
#[track_caller]
pub const fn partial_len(value_dim: usize) -> usize {
    assert!(value_dim <= MAX_HEAD_DIM, "a value of this length does not fit in memory");
    partial_of(value_dim)
}

/// [`partial_len`] of a value that a layout has.
#[inline(always)]
pub(super) const fn partial_of(value_dim: usize) -> usize {
    value_dim.next_multiple_of(LANES) + LANES
}

/// Whether `len` elements are the partial results of `chunks` times `rows` rows.
#[inline(always)]
pub(super) const fn are_partials(
    len: usize,
    value_dim: usize,
    rows: Option<usize>,
    chunks: usize,
) -> bool {
    let partial = partial_len(value_dim);
    if let Some(rows) = rows
        && let Some(chunk) = extent(rows, partial, partial)
        && let Some(need) = extent(chunks, chunk, chunk)
    {
        return need == len;
    }
    false
}

/// Makes a partial result that of nothing.
///
/// # Safety
/// `state` holds [`partial_len`] elements, and as for every method of [`Simd`].
#[inline(always)]
pub(super) unsafe fn clear<S: Simd>(s: S, value_dim: usize, state: *mut f32) {
    let width = value_dim.next_multiple_of(LANES);
    let mut d = 0;
    while d <= width {
        // SAFETY: a partial result has `width` elements and sixteen more.
        unsafe { s.f_store(state.add(d), s.f_splat(0.0)) };
        d += LANES;
    }
    // SAFETY: as above.
    unsafe { *state.add(width) = f32::NEG_INFINITY };
}

/// Folds a chunk's partial result into that of the chunks before it. One that saw nothing changes
/// nothing, and the first is taken as it is.
///
/// # Safety
/// Both hold [`partial_len`] elements and are disjoint, and as for every method of [`Simd`].
#[inline(always)]
pub(super) unsafe fn fold<S: Simd>(s: S, value_dim: usize, state: *mut f32, part: *const f32) {
    let width = value_dim.next_multiple_of(LANES);
    // SAFETY: every access lies within the two partial results.
    unsafe {
        if *part.add(width + 1) == 0.0 {
            return;
        }
        if *state.add(width + 1) == 0.0 {
            state.copy_from_nonoverlapping(part, width + LANES);
            return;
        }
        let (old, new) = (*state.add(width), *part.add(width));
        let greatest = if old > new { old } else { new };
        let old = math::exp_one(s, old - greatest);
        let new = math::exp_one(s, new - greatest);
        *state.add(width) = greatest;
        *state.add(width + 1) = *state.add(width + 1) * old + *part.add(width + 1) * new;
        let (old, new) = (s.f_splat(old), s.f_splat(new));
        let mut d = 0;
        while d < width {
            let kept = s.f_mul(s.f_load(state.add(d)), old);
            s.f_store(state.add(d), s.f_add(kept, s.f_mul(s.f_load(part.add(d)), new)));
            d += LANES;
        }
    }
}

/// Divides the sums of a row by the sum of its weights, to which a sink adds its own; zeros if it
/// saw nothing.
///
/// # Safety
/// `state` holds [`partial_len`] elements, `out` `value_dim`; and as for every method of [`Simd`].
#[inline(always)]
pub(super) unsafe fn finish<S: Simd>(
    s: S,
    value_dim: usize,
    state: *const f32,
    sink: Option<f32>,
    out: *mut f32,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let width = value_dim.next_multiple_of(LANES);
        let mut sum = *state.add(width + 1);
        if sum == 0.0 {
            // The sums of a row that saw nothing are 0.
            sum = 1.0;
        } else if let Some(sink) = sink {
            // Beyond the largest float it leaves nothing for the rest.
            sum += math::exp_one(s, sink - *state.add(width));
        }
        let sum = s.f_splat(sum);
        let mut d = 0;
        while d < value_dim {
            ops::store(s, out.add(d), value_dim - d, s.f_div(s.f_load(state.add(d)), sum));
            d += LANES;
        }
    }
}
