//! The ops beside the products: norms, rotary positions, gated activations, softmax and the like,
//! each over rows of `f32`.
//!
//! Element i of a row is lane i mod 16 of its vector on every instruction set, and a tail goes
//! through sixteen padded lanes, so the bits do not depend on the machine.

use crate::math;
use crate::simd::{LANES, Simd};

/// Which elements of a head a rotary embedding turns together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeStyle {
    /// Neighbours: dimensions 2 i and 2 i + 1 (llama.cpp's "norm").
    Pairs,
    /// Dimension i and the one half the rotated width further (Hugging Face, "neox").
    Halves,
}

/// The nonlinearity of a feed-forward layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nonlinearity {
    /// `x sigmoid(x)`.
    Silu,
    /// GELU in its tanh approximation.
    GeluTanh,
    /// GELU as defined, by the error function.
    GeluErf,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `max(x, 0)^2`.
    ReluSquared,
}

/// Copies `n` floats, fewer than 16, by powers of two: a loop of any length would become a call of
/// `memcpy`.
///
/// # Safety
/// `from` and `to` are valid for `n` elements and do not overlap.
#[inline(always)]
pub(crate) unsafe fn copy_tail(mut from: *const f32, mut to: *mut f32, n: usize) {
    macro_rules! copy {
        ($($count:literal)*) => { $(
            if n & $count != 0 {
                type Part = [f32; $count];
                to.cast::<Part>().write_unaligned(from.cast::<Part>().read_unaligned());
                (from, to) = (from.add($count), to.add($count));
            }
        )* };
    }
    // SAFETY: the bits of `n` add up to `n`.
    unsafe {
        copy!(8 4 2);
        if n & 1 != 0 {
            *to = *from;
        }
    }
}

/// Sixteen lanes of the `left` elements at `p`, the missing ones `pad`.
///
/// # Safety
/// `p` is valid for min(16, `left`) elements, and as for every method of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn load<S: Simd>(s: S, p: *const f32, left: usize, pad: f32) -> S::F {
    // SAFETY: whole vectors are read only where they exist; the buffer has sixteen lanes.
    unsafe {
        if left >= LANES {
            return s.f_load(p);
        }
        let mut lanes = [pad; LANES];
        copy_tail(p, lanes.as_mut_ptr(), left);
        s.f_load(lanes.as_ptr())
    }
}

/// Stores the first min(16, `left`) lanes at `p`.
///
/// # Safety
/// `p` is valid for as many elements, and as for every method of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn store<S: Simd>(s: S, p: *mut f32, left: usize, v: S::F) {
    // SAFETY: whole vectors are written only where they exist; the buffer has sixteen lanes.
    unsafe {
        if left >= LANES {
            return s.f_store(p, v);
        }
        let mut lanes = [0.0; LANES];
        s.f_store(lanes.as_mut_ptr(), v);
        copy_tail(lanes.as_ptr(), p, left);
    }
}

/// Sum of `x - centre`, or of its squares. Four vectors of partial sums hide the latency of the
/// additions.
///
/// # Safety
/// `x` is valid for `n` elements, and as for every method of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn sum<S: Simd, const SQUARED: bool>(
    s: S,
    x: *const f32,
    n: usize,
    centre: f32,
) -> f32 {
    const WAYS: usize = 4;
    // SAFETY: every read is below `n`.
    unsafe {
        let c = s.f_splat(centre);
        let mut sums = [s.f_splat(0.0); WAYS];
        let mut i = 0;
        while i < n {
            let mut way = 0;
            while way < WAYS {
                let at = i + way * LANES;
                if at < n {
                    // The padding is the centre, and adds nothing.
                    let d = s.f_sub(load(s, x.add(at), n - at, centre), c);
                    sums[way] = s.f_add(sums[way], if SQUARED { s.f_mul(d, d) } else { d });
                }
                way += 1;
            }
            i += WAYS * LANES;
        }
        s.f_sum(s.f_add(s.f_add(sums[0], sums[1]), s.f_add(sums[2], sums[3])))
    }
}

/// # Safety
/// `x` and `out` are the same or disjoint, valid for `rows * weight.len()` elements; and as for
/// every method of [`Simd`].
#[inline(always)]
unsafe fn rms_rows<S: Simd>(
    s: S,
    x: *const f32,
    rows: usize,
    weight: &[f32],
    eps: f32,
    out: *mut f32,
) {
    let n = weight.len();
    for row in 0..rows {
        // SAFETY: `row < rows`, and every access is below `n` within the row.
        unsafe {
            let (x, out) = (x.add(row * n), out.add(row * n));
            let mean = sum::<S, true>(s, x, n, 0.0) / n as f32;
            let scale = s.f_splat(1.0 / (mean + eps).sqrt());
            let mut i = 0;
            while i < n {
                let scaled = s.f_mul(load(s, x.add(i), n - i, 0.0), scale);
                let w = load(s, weight.as_ptr().add(i), n - i, 0.0);
                store(s, out.add(i), n - i, s.f_mul(scaled, w));
                i += LANES;
            }
        }
    }
}

/// RMS norm: each row of `weight.len()` elements of `x` is divided by the root of its mean square
/// plus `eps`, and multiplied by `weight`. Several rows may lie one after the other, such as the
/// heads of a query.
///
/// # Panics
/// If `x` is no whole number of rows, or `out` is not as long.
///
/// # Safety
/// As for every method of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn rms_norm<S: Simd>(s: S, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert!(!weight.is_empty() && x.len().is_multiple_of(weight.len()), "rows of x");
    assert_eq!(x.len(), out.len(), "lengths of x and out");
    // SAFETY: the asserts above; two slices are disjoint.
    unsafe {
        rms_rows(s, x.as_ptr(), x.len() / weight.len(), weight, eps, out.as_mut_ptr());
    }
}

/// [`rms_norm`] that replaces its argument.
///
/// # Panics
/// If `x` is no whole number of rows.
///
/// # Safety
/// As for every method of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn rms_norm_in_place<S: Simd>(s: S, x: &mut [f32], weight: &[f32], eps: f32) {
    assert!(!weight.is_empty() && x.len().is_multiple_of(weight.len()), "rows of x");
    let (p, rows) = (x.as_mut_ptr(), x.len() / weight.len());
    // SAFETY: the assert above; source and destination are the same.
    unsafe { rms_rows(s, p, rows, weight, eps, p) };
}

/// Layer norm of each row of `weight.len()` elements: the mean is taken away, the rest divided by
/// the root of its variance plus `eps`, multiplied by `weight`; then `bias` is added.
///
/// # Panics
/// If `x` is no whole number of rows, or another length does not fit.
///
/// # Safety
/// As for every method of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn layer_norm<S: Simd>(
    s: S,
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    eps: f32,
    out: &mut [f32],
) {
    let n = weight.len();
    assert!(n > 0 && x.len().is_multiple_of(n), "rows of x");
    assert_eq!(x.len(), out.len(), "lengths of x and out");
    assert!(bias.is_none_or(|b| b.len() == n), "lengths of weight and bias");
    for row in 0..x.len() / n {
        // SAFETY: the row lies in `x` and `out`, and every access is below `n` within it.
        unsafe {
            let (x, out) = (x.as_ptr().add(row * n), out.as_mut_ptr().add(row * n));
            let mean = sum::<S, false>(s, x, n, 0.0) / n as f32;
            let variance = sum::<S, true>(s, x, n, mean) / n as f32;
            let (mean, scale) = (s.f_splat(mean), s.f_splat(1.0 / (variance + eps).sqrt()));
            let mut i = 0;
            while i < n {
                let left = n - i;
                let scaled = s.f_mul(s.f_sub(load(s, x.add(i), left, 0.0), mean), scale);
                let mut y = s.f_mul(scaled, load(s, weight.as_ptr().add(i), left, 0.0));
                if let Some(bias) = bias {
                    y = s.f_add(y, load(s, bias.as_ptr().add(i), left, 0.0));
                }
                store(s, out.add(i), left, y);
                i += LANES;
            }
        }
    }
}

/// Rotary position embedding of the heads of one position, `head_dim` elements each: the first
/// 2 `cos.len()` dimensions of each head turn by the angles whose cosines and sines are given.
///
/// # Panics
/// If `x` is no whole number of heads, `cos` and `sin` differ in length, or they reach past a head.
///
/// # Safety
/// As for every method of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn rope<S: Simd>(
    _s: S,
    style: RopeStyle,
    x: &mut [f32],
    head_dim: usize,
    cos: &[f32],
    sin: &[f32],
) {
    let half = cos.len();
    assert!(head_dim > 0 && x.len().is_multiple_of(head_dim), "heads of x");
    assert!(sin.len() == half && 2 * half <= head_dim, "lengths of cos and sin");
    // Plain loops: element by element there is one order only, and the compiler vectorises both
    // with the instruction set of the entry point.
    let mut first = 0;
    while first < x.len() {
        let turned = &mut x[first..first + 2 * half];
        match style {
            RopeStyle::Pairs => {
                let mut i = 0;
                while i < half {
                    let (a, b) = (turned[2 * i], turned[2 * i + 1]);
                    turned[2 * i] = a * cos[i] - b * sin[i];
                    turned[2 * i + 1] = b * cos[i] + a * sin[i];
                    i += 1;
                }
            }
            RopeStyle::Halves => {
                let (low, high) = turned.split_at_mut(half);
                let mut i = 0;
                while i < half {
                    let (a, b) = (low[i], high[i]);
                    low[i] = a * cos[i] - b * sin[i];
                    high[i] = b * cos[i] + a * sin[i];
                    i += 1;
                }
            }
        }
        first += head_dim;
    }
}

/// # Safety
/// As for every method of [`Simd`].
#[inline(always)]
unsafe fn apply<S: Simd>(s: S, f: Nonlinearity, x: S::F) -> S::F {
    // SAFETY: the caller vouches for the instruction set; no memory is touched.
    unsafe {
        match f {
            Nonlinearity::Silu => math::silu(s, x),
            Nonlinearity::GeluTanh => math::gelu_tanh(s, x),
            Nonlinearity::GeluErf => math::gelu_erf(s, x),
            Nonlinearity::Sigmoid => math::sigmoid(s, x),
            Nonlinearity::ReluSquared => {
                let x = s.f_max(s.f_splat(0.0), x);
                s.f_mul(x, x)
            }
        }
    }
}

/// `a * b + c`, fused only if `FUSED`.
///
/// # Safety
/// As for every method of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn mul_add<S: Simd, const FUSED: bool>(s: S, a: S::F, b: S::F, c: S::F) -> S::F {
    // SAFETY: the caller vouches for the instruction set; no memory is touched.
    unsafe { if FUSED { s.f_fma(a, b, c) } else { s.f_add(s.f_mul(a, b), c) } }
}

/// Adds up the 32-bit words of `bytes`, wrapping, and fetches them `ahead` bytes before they are
/// read, and into the second-level cache at four times that (not at all if it is 0): as fast a way to read memory as a product's can be. Of the last
/// bytes, what is no whole vector of 64 is left out.
///
/// # Safety
/// As for every method of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn sum_words<S: Simd>(s: S, bytes: &[u8], ahead: usize, sum: &mut i32) {
    const VECTOR: usize = 64;
    const STREAMS: usize = 4;
    let vectors = bytes.len() / VECTOR;
    // SAFETY: vectors below `vectors` lie in `bytes`; a prefetch may name any address.
    unsafe {
        let mut sums = [s.i_splat(0); STREAMS];
        let mut i = 0;
        while i < vectors {
            let mut j = 0;
            while j < STREAMS && i + j < vectors {
                let at = bytes.as_ptr().add((i + j) * VECTOR);
                if ahead > 0 {
                    s.prefetch(at.wrapping_add(ahead));
                    s.prefetch_far(at.wrapping_add(ahead.wrapping_mul(4)));
                }
                sums[j] = s.i_add(sums[j], s.i_from_b(s.b_load(at)));
                j += 1;
            }
            i += STREAMS;
        }
        let mut all = sums[0];
        let mut j = 1;
        while j < STREAMS {
            all = s.i_add(all, sums[j]);
            j += 1;
        }
        *sum = s.i_sum(all);
    }
}

/// `out = f(gate) * up`, element by element: SwiGLU, GEGLU. `pairs` is sixteen gates, then the
/// sixteen factors that belong to them, and so on: what the product of two matrices leaves whose
/// panels alternate.
///
/// # Panics
/// If the lengths do not fit.
///
/// # Safety
/// As for every method of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn gated<S: Simd>(s: S, f: Nonlinearity, pairs: &[f32], out: &mut [f32]) {
    let n = out.len();
    assert_eq!(pairs.len(), 2 * n.next_multiple_of(LANES), "lengths of pairs and out");
    let mut i = 0;
    while i < n {
        // SAFETY: `i < n`, and `pairs` has two vectors for every begun one of `out`.
        unsafe {
            let pair = pairs.as_ptr().add(2 * i);
            let product = s.f_mul(apply(s, f, s.f_load(pair)), s.f_load(pair.add(LANES)));
            store(s, out.as_mut_ptr().add(i), n - i, product);
        }
        i += LANES;
    }
}

/// `out = gate * sigmoid(1.702 gate) * (up + 1)` of `pairs` as [`gated`] has them, with gates of at
/// most `limit` and factors within `limit` of 0: the experts of gpt-oss.
///
/// # Panics
/// If the lengths do not fit.
///
/// # Safety
/// As for every method of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn gated_clamped<S: Simd>(s: S, limit: f32, pairs: &[f32], out: &mut [f32]) {
    let n = out.len();
    assert_eq!(pairs.len(), 2 * n.next_multiple_of(LANES), "lengths of pairs and out");
    let mut i = 0;
    while i < n {
        // SAFETY: `i < n`, and `pairs` has two vectors for every begun one of `out`.
        unsafe {
            let (pair, most) = (pairs.as_ptr().add(2 * i), s.f_splat(limit));
            let gate = s.f_min(most, s.f_load(pair));
            let up = s.f_max(s.f_splat(-limit), s.f_min(most, s.f_load(pair.add(LANES))));
            let gated = s.f_mul(gate, math::sigmoid(s, s.f_mul(gate, s.f_splat(1.702))));
            let product = s.f_mul(gated, s.f_add(up, s.f_splat(1.0)));
            store(s, out.as_mut_ptr().add(i), n - i, product);
        }
        i += LANES;
    }
}

/// `x = f(x)`, element by element.
///
/// # Safety
/// As for every method of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn activate<S: Simd>(s: S, f: Nonlinearity, x: &mut [f32]) {
    let n = x.len();
    let mut i = 0;
    while i < n {
        // SAFETY: `i < n`.
        unsafe {
            let p = x.as_mut_ptr().add(i);
            store(s, p, n - i, apply(s, f, load(s, p, n - i, 0.0)));
        }
        i += LANES;
    }
}

/// `x = cap tanh(x / cap)`: the soft cap of final logits.
///
/// # Safety
/// As for every method of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn softcap<S: Simd>(s: S, cap: f32, x: &mut [f32]) {
    let n = x.len();
    let mut i = 0;
    while i < n {
        // SAFETY: `i < n`.
        unsafe {
            let p = x.as_mut_ptr().add(i);
            let t = math::tanh(s, s.f_mul(load(s, p, n - i, 0.0), s.f_splat(1.0 / cap)));
            store(s, p, n - i, s.f_mul(t, s.f_splat(cap)));
        }
        i += LANES;
    }
}

/// `acc += x`, element by element.
///
/// # Panics
/// If the lengths differ.
///
/// # Safety
/// As for every method of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn add<S: Simd>(_s: S, acc: &mut [f32], x: &[f32]) {
    assert_eq!(acc.len(), x.len(), "lengths of acc and x");
    let mut i = 0;
    while i < x.len() {
        acc[i] += x[i];
        i += 1;
    }
}

/// `x *= y`, element by element.
///
/// # Panics
/// If the lengths differ.
///
/// # Safety
/// As for every method of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn multiply<S: Simd>(_s: S, x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "lengths of x and y");
    let mut i = 0;
    while i < y.len() {
        x[i] *= y[i];
        i += 1;
    }
}

/// `acc += scale * x`, element by element; the product is rounded before it is added, on every
/// instruction set.
///
/// # Panics
/// If the lengths differ.
///
/// # Safety
/// As for every method of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn add_scaled<S: Simd>(_s: S, acc: &mut [f32], x: &[f32], scale: f32) {
    assert_eq!(acc.len(), x.len(), "lengths of acc and x");
    let mut i = 0;
    while i < x.len() {
        acc[i] += scale * x[i];
        i += 1;
    }
}

/// `x *= factor`, element by element.
///
/// # Safety
/// As for every method of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn scale<S: Simd>(_s: S, x: &mut [f32], factor: f32) {
    let mut i = 0;
    while i < x.len() {
        x[i] *= factor;
        i += 1;
    }
}

/// Softmax of a row, in place. Elements may be negative infinity, which become 0, but not all.
///
/// # Safety
/// As for every method of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn softmax<S: Simd>(s: S, x: &mut [f32]) {
    let n = x.len();
    let p = x.as_mut_ptr();
    // SAFETY: every access is below `n`.
    unsafe {
        let lowest = f32::NEG_INFINITY;
        let mut greatest = s.f_splat(lowest);
        let mut i = 0;
        while i < n {
            greatest = s.f_max(greatest, load(s, p.add(i), n - i, lowest));
            i += LANES;
        }
        let greatest = s.f_splat(s.f_greatest(greatest));
        let mut total = s.f_splat(0.0);
        i = 0;
        while i < n {
            let e = math::exp(s, s.f_sub(load(s, p.add(i), n - i, lowest), greatest));
            total = s.f_add(total, e);
            store(s, p.add(i), n - i, e);
            i += LANES;
        }
        let total = s.f_splat(s.f_sum(total));
        i = 0;
        while i < n {
            store(s, p.add(i), n - i, s.f_div(load(s, p.add(i), n - i, 0.0), total));
            i += LANES;
        }
    }
}
