//! The scan of a state space (Dao and Gu 2024, "Mamba-2").

use super::{TokenRows, check_state};
use crate::attention::HeadRowsMut;
use crate::ops::{load, store};
use crate::simd::{LANES, Simd};

/// What some tokens bring to one head of a state space. The head's state H, `[d_state, head_dim]`,
/// decays, takes the input along B, and is read along C:
///
/// ```text
/// H = decay H + B (step x)^T;  out = H^T C + skip x
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Scan<'a> {
    /// How many tokens.
    pub tokens: usize,
    /// Width of B and C.
    pub d_state: usize,
    /// Width of the input and of what comes out.
    pub head_dim: usize,
    /// `[tokens, head_dim]`
    pub x: TokenRows<'a>,
    /// `[tokens, d_state]`: where the input goes.
    pub b: TokenRows<'a>,
    /// `[tokens, d_state]`: where the result is read.
    pub c: TokenRows<'a>,
    /// `[tokens, 1]`
    pub decay: TokenRows<'a>,
    /// `[tokens, 1]`: the length of the token's step in time, a factor on its input.
    pub step: TokenRows<'a>,
    /// How much of the input goes by the state.
    pub skip: f32,
}

/// Moves the state of one head past some tokens and writes what each reads there.
///
/// # Panics
/// If a length does not fit.
///
/// # Safety
/// As for every method of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn scan<S: Simd>(s: S, a: &Scan<'_>, state: &mut [f32], out: HeadRowsMut<'_>) {
    check_state(state.len(), a.d_state, a.head_dim);
    a.x.check(a.tokens, a.head_dim);
    a.b.check(a.tokens, a.d_state);
    a.c.check(a.tokens, a.d_state);
    a.decay.check(a.tokens, 1);
    a.step.check(a.tokens, 1);
    out.check(a.tokens, a.head_dim);
    let mut column = 0;
    while column < a.head_dim {
        let left = a.head_dim - column;
        let mut row = 0;
        while row < a.tokens {
            // SAFETY: the checks above; rows lie below `a.tokens`, columns below `a.head_dim`, and
            // a strip has `d_state` vectors.
            unsafe {
                let strip = state.as_mut_ptr().add(column * a.d_state);
                let x = load(s, a.x.at(row).add(column), left, 0.0);
                let input = s.f_mul(x, s.f_splat(*a.step.at(row)));
                let read = pass(s, a, row, input, strip);
                let past = s.f_mul(x, s.f_splat(a.skip));
                store(s, out.row(row).add(column), left, s.f_add(read, past));
            }
            row += 1;
        }
        column += LANES;
    }
}

/// One token's way over a strip. Even and odd rows of it are read into sums of their own, which
/// hides the latency of the additions.
///
/// # Safety
/// `row` is below `a.tokens`, the strip has `d_state` vectors; and as for every method of [`Simd`].
#[inline(always)]
unsafe fn pass<S: Simd>(s: S, a: &Scan<'_>, row: usize, input: S::F, strip: *mut f32) -> S::F {
    // SAFETY: the caller's promise.
    unsafe {
        let (b, c, decay) = (a.b.at(row), a.c.at(row), s.f_splat(*a.decay.at(row)));
        let mut read = [s.f_splat(0.0); 2];
        let mut i = 0;
        while i < a.d_state {
            let at = strip.add(i * LANES);
            let taken = s.f_mul(input, s.f_splat_at(b.add(i)));
            let x = s.f_add(s.f_mul(s.f_load(at), decay), taken);
            s.f_store(at, x);
            read[i & 1] = s.f_add(read[i & 1], s.f_mul(x, s.f_splat_at(c.add(i))));
            i += 1;
        }
        s.f_add(read[0], read[1])
    }
}
