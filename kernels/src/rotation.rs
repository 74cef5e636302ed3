//! The Walsh-Hadamard transform of a row, block by block: the rotation of models whose weights were
//! quantised in a rotated basis.

use crate::simd::{LANES, Simd};

/// `x = H x / sqrt(block)`, for each block of a row; `H[i][j]` is -1 where `i & j` has an odd number
/// of bits, else 1.
///
/// Sums of neighbours come first, then of neighbouring pairs, and so on: the order is the same on
/// every instruction set.
///
/// # Safety
/// The CPU has the instruction set of `s`.
#[inline(always)]
pub(crate) unsafe fn walsh_hadamard<S: Simd>(s: S, block: usize, x: &mut [f32]) {
    let fits = block.is_power_of_two() && x.len().is_multiple_of(block);
    assert!(fits, "{} values in blocks of {block}", x.len());
    let scale = 1.0 / (block as f32).sqrt();
    for x in x.chunks_exact_mut(block) {
        if block < LANES {
            small(x, scale);
            continue;
        }
        for lanes in x.as_chunks_mut::<LANES>().0 {
            step::<1>(lanes);
            step::<2>(lanes);
            step::<4>(lanes);
            step::<8>(lanes);
        }
        let mut half = LANES;
        while half < block {
            // SAFETY: the block is a whole number of such pairs of halves.
            unsafe { wide_step(s, x.as_mut_ptr(), block, half) };
            half *= 2;
        }
        // SAFETY: the caller vouches for the instruction set; no memory is touched.
        let factor = unsafe { s.f_splat(scale) };
        for lanes in x.as_chunks_mut::<LANES>().0 {
            let p = lanes.as_mut_ptr();
            // SAFETY: sixteen lanes.
            unsafe { s.f_store(p, s.f_mul(s.f_load(p), factor)) };
        }
    }
}

/// Sums and differences of elements `HALF` apart.
#[inline(always)]
fn step<const HALF: usize>(x: &mut [f32; LANES]) {
    let mut i = 0;
    while i < LANES {
        if i & HALF == 0 {
            (x[i], x[i + HALF]) = (x[i] + x[i + HALF], x[i] - x[i + HALF]);
        }
        i += 1;
    }
}

/// Sums and differences of elements `half` apart, a multiple of sixteen.
///
/// # Safety
/// `x` is valid for `n` elements, a multiple of `2 * half`; and as for every method of [`Simd`].
#[inline(always)]
unsafe fn wide_step<S: Simd>(s: S, x: *mut f32, n: usize, half: usize) {
    let mut at = 0;
    while at < n {
        let mut i = at;
        while i < at + half {
            // SAFETY: both are below `at + 2 * half`, which is at most `n`.
            unsafe {
                let (low, high) = (x.add(i), x.add(i + half));
                let (a, b) = (s.f_load(low), s.f_load(high));
                s.f_store(low, s.f_add(a, b));
                s.f_store(high, s.f_sub(a, b));
            }
            i += LANES;
        }
        at += 2 * half;
    }
}

/// A block of fewer than sixteen.
#[inline(always)]
fn small(x: &mut [f32], scale: f32) {
    let mut half = 1;
    while half < x.len() {
        for i in 0..x.len() {
            if i & half == 0 {
                (x[i], x[i + half]) = (x[i] + x[i + half], x[i] - x[i + half]);
            }
        }
        half *= 2;
    }
    x.iter_mut().for_each(|x| *x *= scale);
}
