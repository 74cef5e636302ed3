//! The gated delta rule (Yang and others 2024, "Gated Delta Networks").

use super::{TokenRows, check_state};
use crate::attention::HeadRowsMut;
use crate::ops::{load, store};
use crate::simd::{LANES, Simd};

/// Tokens that pass by a strip before the next strip's turn.
const PIECE: usize = 64;

/// What some tokens bring to one head of a gated delta rule. The head's state S, `[d_k, d_v]`,
/// first decays; then what it has under the key moves towards the value; then the query reads it:
///
/// ```text
/// S = decay S;  S = S + k (beta (v - S^T k))^T;  out = S^T q
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Delta<'a> {
    /// How many tokens.
    pub tokens: usize,
    /// Width of a key.
    pub d_k: usize,
    /// Width of a value.
    pub d_v: usize,
    /// `[tokens, d_k]`
    pub q: TokenRows<'a>,
    /// `[tokens, d_k]`
    pub k: TokenRows<'a>,
    /// `[tokens, d_v]`
    pub v: TokenRows<'a>,
    /// `[tokens, 1]`, or `[tokens, d_k]` where every channel of the key has its own.
    pub decay: TokenRows<'a>,
    /// Whether every channel has its own decay.
    pub per_channel: bool,
    /// `[tokens, 1]`: how far the value under the key moves, 0 to 1.
    pub beta: TokenRows<'a>,
}

/// Moves the state of one head past some tokens and writes what each reads there.
///
/// Since `S^T q` is `(decay S)^T q + (k q) delta`, a token passes over the state once: what the one
/// before it wrote is added as it goes.
///
/// # Panics
/// If a length does not fit.
///
/// # Safety
/// As for every method of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn delta_rule<S: Simd>(
    s: S,
    a: &Delta<'_>,
    state: &mut [f32],
    out: HeadRowsMut<'_>,
) {
    check_state(state.len(), a.d_k, a.d_v);
    a.q.check(a.tokens, a.d_k);
    a.k.check(a.tokens, a.d_k);
    a.v.check(a.tokens, a.d_v);
    a.decay.check(a.tokens, if a.per_channel { a.d_k } else { 1 });
    a.beta.check(a.tokens, 1);
    out.check(a.tokens, a.d_v);
    let mut from = 0;
    while from < a.tokens {
        let tokens = if a.tokens - from < PIECE { a.tokens - from } else { PIECE };
        // SAFETY: the checks above; tokens lie below `a.tokens`, columns below `a.d_v` rounded up.
        unsafe {
            let mut overlap = [0.0; PIECE];
            let mut t = 0;
            while t < tokens {
                overlap[t] = dot(s, a.q.at(from + t), a.k.at(from + t), a.d_k);
                t += 1;
            }
            let mut column = 0;
            while column < a.d_v {
                let strip = state.as_mut_ptr().add(column * a.d_k);
                advance(s, a, (from, tokens), column, &overlap, strip, &out);
                column += LANES;
            }
        }
        from += PIECE;
    }
}

/// Moves the strip of a head's state that begins at `column` past the tokens.
///
/// # Safety
/// The lengths have been checked; and as for every method of [`Simd`].
#[inline(always)]
unsafe fn advance<S: Simd>(
    s: S,
    a: &Delta<'_>,
    (from, tokens): (usize, usize),
    column: usize,
    overlap: &[f32; PIECE],
    strip: *mut f32,
    out: &HeadRowsMut<'_>,
) {
    let left = a.d_v - column;
    // SAFETY: rows below `a.tokens` and columns below `a.d_v` exist; the strip has `d_k` vectors.
    unsafe {
        let mut delta = s.f_splat(0.0);
        let mut t = 0;
        while t < tokens {
            let row = from + t;
            let (under, read) = match t {
                0 => pass::<S, false>(s, a, row, delta, strip),
                _ => pass::<S, true>(s, a, row, delta, strip),
            };
            let value = load(s, a.v.at(row).add(column), left, 0.0);
            delta = s.f_mul(s.f_sub(value, under), s.f_splat(*a.beta.at(row)));
            let written = s.f_mul(delta, s.f_splat(overlap[t]));
            store(s, out.row(row).add(column), left, s.f_add(read, written));
            t += 1;
        }
        let key = a.k.at(from + tokens - 1);
        let mut i = 0;
        while i < a.d_k {
            let at = strip.add(i * LANES);
            let written = s.f_mul(delta, s.f_splat_at(key.add(i)));
            s.f_store(at, s.f_add(s.f_load(at), written));
            i += 1;
        }
    }
}

/// Adds what the token before wrote, if it is `PENDING`, lets the strip decay, and returns what is
/// there under the token's key and under its query.
///
/// # Safety
/// As for [`advance`].
#[inline(always)]
unsafe fn pass<S: Simd, const PENDING: bool>(
    s: S,
    a: &Delta<'_>,
    row: usize,
    delta: S::F,
    strip: *mut f32,
) -> (S::F, S::F) {
    // SAFETY: as for `advance`; the token before is of the same piece where it is pending.
    unsafe {
        let (q, k, decay) = (a.q.at(row), a.k.at(row), a.decay.at(row));
        let before = if PENDING { a.k.at(row - 1) } else { k };
        let step = if a.per_channel { 1 } else { 0 };
        let (mut under, mut read) = (s.f_splat(0.0), s.f_splat(0.0));
        let mut i = 0;
        while i < a.d_k {
            let at = strip.add(i * LANES);
            let mut x = s.f_load(at);
            if PENDING {
                x = s.f_add(x, s.f_mul(delta, s.f_splat_at(before.add(i))));
            }
            x = s.f_mul(x, s.f_splat_at(decay.add(i * step)));
            s.f_store(at, x);
            under = s.f_add(under, s.f_mul(x, s.f_splat_at(k.add(i))));
            read = s.f_add(read, s.f_mul(x, s.f_splat_at(q.add(i))));
            i += 1;
        }
        (under, read)
    }
}

/// # Safety
/// `x` and `y` are valid for `n` elements; and as for every method of [`Simd`].
#[inline(always)]
unsafe fn dot<S: Simd>(s: S, x: *const f32, y: *const f32, n: usize) -> f32 {
    // SAFETY: every read is below `n`.
    unsafe {
        let mut sum = s.f_splat(0.0);
        let mut i = 0;
        while i < n {
            let product = s.f_mul(load(s, x.add(i), n - i, 0.0), load(s, y.add(i), n - i, 0.0));
            sum = s.f_add(sum, product);
            i += LANES;
        }
        s.f_sum(sum)
    }
}
