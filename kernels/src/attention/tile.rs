//! One chunk for a few rows that share what is read: scores, exponentials, weighted values.

use super::partial::{clear, partial_of};
use super::{Attend, CHUNK, MAX_TILE, Span};
use crate::kv::{BLOCK, Code, KvLayout};
use crate::math;
use crate::ops::mul_add;
use crate::simd::{LANES, Simd};

/// One chunk for `R` rows: partial results at `to`.
///
/// # Safety
/// `a` has been checked and has rows `row .. row + R`; `q` holds their packed queries, `scores`
/// `R * CHUNK` elements, `to` `R` partial results; and as for every method of [`Simd`].
#[inline(always)]
pub(super) unsafe fn tile<
    S: Simd,
    C: Code,
    const TILE: usize,
    const R: usize,
    const FUSED: bool,
>(
    s: S,
    a: &Attend<'_>,
    row: usize,
    chunk: usize,
    q: *const f32,
    scores: *mut f32,
    to: *mut f32,
) {
    let value_dim = a.layout.value_dim();
    let partial = partial_of(value_dim);
    let base = chunk * CHUNK;
    let mut seen = [Span { start: 0, end: 0 }; R];
    let mut any = Span::NOTHING;
    let mut r = 0;
    while r < R {
        seen[r] = a.spans[(row + r) / a.group].clip(base, base + CHUNK);
        any = any.join(seen[r]);
        // SAFETY: `to` holds `R` partial results.
        unsafe { clear(s, value_dim, to.add(r * partial)) };
        r += 1;
    }
    if any.is_empty() {
        return;
    }
    // Panels of the chunk.
    let (first_panel, last_panel) = ((any.start - base) / LANES, (any.end - base).div_ceil(LANES));
    // SAFETY: every span ends within the cache, or that is a ring, which has all of every chunk:
    // hence every panel up to `last_panel` exists. The scores of the panels lie within the `CHUNK`
    // of a row.
    unsafe {
        let at = a.layout.slot(chunk) * (CHUNK / LANES);
        let k_panel = a.layout.k_panel_bytes();
        let keys = a.k.as_ptr().add(at * k_panel);
        let mut panel = first_panel;
        while panel < last_panel {
            let k = keys.add(panel * k_panel);
            let at = scores.add(panel * LANES);
            // Few rows take several panels at once, to have enough independent sums.
            if R == 1 && TILE == 8 && panel + 4 <= last_panel {
                dots::<S, C, R, 4, FUSED>(s, a.layout, k, q, at);
                panel += 4;
            } else if (R == 2 && TILE == 8 || R == 1 && TILE == 2) && panel + 2 <= last_panel {
                dots::<S, C, R, 2, FUSED>(s, a.layout, k, q, at);
                panel += 2;
            } else {
                dots::<S, C, R, 1, FUSED>(s, a.layout, k, q, at);
                panel += 1;
            }
        }
        let mut r = 0;
        while r < R {
            let state = to.add(r * partial + value_dim.next_multiple_of(LANES));
            exponentials(s, a, seen[r], base, scores.add(r * CHUNK), state);
            r += 1;
        }
        let v_panel = a.layout.v_panel_bytes();
        let values = a.v.as_ptr().add(at * v_panel);
        let mut panel = first_panel;
        while panel < last_panel {
            let v = values.add(panel * v_panel);
            let (first, at) = (base + panel * LANES, scores.add(panel * LANES));
            weigh_panel::<S, C, TILE, R, FUSED>(s, a.layout, v, &seen, first, at, to);
            panel += 1;
        }
    }
}

/// Dot products of `R` queries with the keys of `P` panels. Even and odd dimensions have a sum
/// each; with scales, every block has them.
///
/// # Safety
/// `k` is `P` panels of keys, `q` the packed queries, `scores` rows of `CHUNK` elements with room
/// for `P` vectors; and as for every method of [`Simd`].
#[inline(always)]
unsafe fn dots<S: Simd, C: Code, const R: usize, const P: usize, const FUSED: bool>(
    s: S,
    layout: KvLayout,
    k: *const u8,
    q: *const f32,
    scores: *mut f32,
) {
    let head_dim = layout.head_dim();
    let panel = layout.k_panel_bytes();
    let step = LANES * C::BYTES;
    // SAFETY: `d` stays below `head_dim`, which is even, and panels below `P`.
    unsafe {
        let zero = s.f_splat(0.0);
        let codes = k.add(layout.k_scale_bytes());
        let mut totals = [[zero; R]; P];
        let mut d = 0;
        while d < head_dim {
            let stop = if C::SCALED && head_dim - d > BLOCK { d + BLOCK } else { head_dim };
            let scales = k.add(d / BLOCK * LANES * 2);
            let mut even = [[zero; R]; P];
            let mut odd = [[zero; R]; P];
            while d < stop {
                let mut p = 0;
                while p < P {
                    let at = codes.add(p * panel + d * step);
                    let (k0, k1) = (C::load(s, at), C::load(s, at.add(step)));
                    let mut r = 0;
                    while r < R {
                        let q0 = s.f_splat_at(q.add(d * R + r));
                        let q1 = s.f_splat_at(q.add((d + 1) * R + r));
                        even[p][r] = mul_add::<S, FUSED>(s, k0, q0, even[p][r]);
                        odd[p][r] = mul_add::<S, FUSED>(s, k1, q1, odd[p][r]);
                        r += 1;
                    }
                    p += 1;
                }
                d += 2;
            }
            let mut p = 0;
            while p < P {
                let mut r = 0;
                while r < R {
                    let sum = s.f_add(even[p][r], odd[p][r]);
                    totals[p][r] = if C::SCALED {
                        let scale = s.f_load_f16(scales.add(p * panel).cast());
                        s.f_add(totals[p][r], s.f_mul(sum, scale))
                    } else {
                        sum
                    };
                    r += 1;
                }
                p += 1;
            }
        }
        let mut p = 0;
        while p < P {
            let mut r = 0;
            while r < R {
                s.f_store(scores.add(r * CHUNK + p * LANES), totals[p][r]);
                r += 1;
            }
            p += 1;
        }
    }
}

/// Turns the dot products of a row into exponentials relative to the greatest score, 0 where the
/// row does not see; the greatest score and the sum go to `state`.
///
/// # Safety
/// `seen` lies within the chunk that begins at `base`, whose `CHUNK` scores `scores` holds;
/// `state` holds two elements; and as for every method of [`Simd`].
#[inline(always)]
unsafe fn exponentials<S: Simd>(
    s: S,
    a: &Attend<'_>,
    seen: Span,
    base: usize,
    scores: *mut f32,
    state: *mut f32,
) {
    if seen.is_empty() {
        return;
    }
    let (start, end) = (seen.start - base, seen.end - base);
    let (first, last) = (start / LANES * LANES, end.next_multiple_of(LANES));
    // SAFETY: `last <= CHUNK`.
    unsafe {
        let scale = s.f_splat(a.scale);
        let mut i = first;
        while i < last {
            let at = scores.add(i);
            let mut x = s.f_mul(s.f_load(at), scale);
            if let Some(cap) = a.softcap {
                let t = math::tanh(s, s.f_mul(x, s.f_splat(1.0 / cap)));
                x = s.f_mul(t, s.f_splat(cap));
            }
            s.f_store(at, x);
            i += LANES;
        }
        i = first;
        while i < start {
            *scores.add(i) = f32::NEG_INFINITY;
            i += 1;
        }
        i = end;
        while i < last {
            *scores.add(i) = f32::NEG_INFINITY;
            i += 1;
        }
        let mut greatest = s.f_splat(f32::NEG_INFINITY);
        i = first;
        while i < last {
            greatest = s.f_max(greatest, s.f_load(scores.add(i)));
            i += LANES;
        }
        let greatest = s.f_greatest(greatest);
        // Scores that are all negative infinity weigh nothing.
        let origin = s.f_splat(if greatest == f32::NEG_INFINITY { 0.0 } else { greatest });
        let mut sum = s.f_splat(0.0);
        i = first;
        while i < last {
            let at = scores.add(i);
            let e = math::exp(s, s.f_sub(s.f_load(at), origin));
            s.f_store(at, e);
            sum = s.f_add(sum, e);
            i += LANES;
        }
        *state = greatest;
        *state.add(1) = s.f_sum(sum);
    }
}

/// Adds the values of one panel to the sums of `R` rows. Positions that all rows see are taken
/// together, the others row by row: what one row does not see never touches its sum, be it NaN.
///
/// # Safety
/// `v` is a panel of values whose first position is `base`, `weights` the rows' exponentials at
/// that position, `to` `R` partial results; and as for every method of [`Simd`].
#[inline(always)]
unsafe fn weigh_panel<S: Simd, C: Code, const TILE: usize, const R: usize, const FUSED: bool>(
    s: S,
    layout: KvLayout,
    v: *const u8,
    seen: &[Span; R],
    base: usize,
    weights: *const f32,
    to: *mut f32,
) {
    let partial = partial_of(layout.value_dim());
    let mut common = Span { start: base, end: base + LANES };
    let mut r = 0;
    while r < R {
        common = common.clip(seen[r].start, seen[r].end);
        r += 1;
    }
    // Before the common positions; these; after them. Without any, all come first.
    let split = if common.is_empty() { base + LANES } else { common.start };
    let rest = if common.is_empty() { base + LANES } else { common.end };
    // SAFETY: positions stay within the panel, rows below `R`.
    unsafe {
        let mut phase = 0;
        while phase < 3 {
            if phase == 1 {
                if !common.is_empty() {
                    let (from, until) = (common.start - base, common.end - base);
                    weigh::<S, C, TILE, R, FUSED>(s, layout, v, from, until, weights, to);
                }
            } else {
                let (from, until) = if phase == 0 { (base, split) } else { (rest, base + LANES) };
                let mut r = 0;
                while r < R {
                    let own = seen[r].clip(from, until);
                    if !own.is_empty() {
                        let weights = weights.add(r * CHUNK);
                        let to = to.add(r * partial);
                        let (from, until) = (own.start - base, own.end - base);
                        weigh::<S, C, TILE, 1, FUSED>(s, layout, v, from, until, weights, to);
                    }
                    r += 1;
                }
            }
            phase += 1;
        }
    }
}

/// Adds the values of positions `from` to `until` of a panel, weighted, to the sums of `R` rows.
///
/// # Safety
/// As for [`weigh_panel`], with `from` and `until` within the panel.
#[inline(always)]
unsafe fn weigh<S: Simd, C: Code, const TILE: usize, const R: usize, const FUSED: bool>(
    s: S,
    layout: KvLayout,
    v: *const u8,
    from: usize,
    until: usize,
    weights: *const f32,
    to: *mut f32,
) {
    let width = layout.v_row();
    // SAFETY: dimensions stay below the padded width, rows below `R`; the buffer of scaled weights
    // has sixteen lanes for each row.
    unsafe {
        let mut scaled = [0.0f32; MAX_TILE * LANES];
        let mut d = 0;
        while d < width {
            let (mut w, mut w_row) = (weights, CHUNK);
            if C::SCALED {
                let scales = s.f_load_f16(v.add(d / BLOCK * LANES * 2).cast());
                let mut r = 0;
                while r < R {
                    let own = s.f_mul(s.f_load(weights.add(r * CHUNK)), scales);
                    s.f_store(scaled.as_mut_ptr().add(r * LANES), own);
                    r += 1;
                }
                (w, w_row) = (scaled.as_ptr(), LANES);
            }
            // Few rows take more dimensions at once, to have enough independent sums.
            let wide = !C::SCALED && (TILE == 8 && R <= 2 || TILE == 2 && R == 1);
            if wide && width - d >= 4 * LANES {
                weigh_dims::<S, C, R, 4, FUSED>(s, layout, v, d, from, until, w, w_row, to);
                d += 4 * LANES;
            } else if width - d >= 2 * LANES {
                weigh_dims::<S, C, R, 2, FUSED>(s, layout, v, d, from, until, w, w_row, to);
                d += 2 * LANES;
            } else {
                weigh_dims::<S, C, R, 1, FUSED>(s, layout, v, d, from, until, w, w_row, to);
                d += LANES;
            }
        }
    }
}

/// [`weigh`] for `D` vectors of dimensions from `d`.
///
/// # Safety
/// As for [`weigh`], with the dimensions within the padded width and `w_row` elements from one
/// row's weights to the next.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the innermost loop: everything is in a register")]
unsafe fn weigh_dims<S: Simd, C: Code, const R: usize, const D: usize, const FUSED: bool>(
    s: S,
    layout: KvLayout,
    v: *const u8,
    d: usize,
    from: usize,
    until: usize,
    w: *const f32,
    w_row: usize,
    to: *mut f32,
) {
    let partial = partial_of(layout.value_dim());
    let row_bytes = layout.v_row() * C::BYTES;
    // SAFETY: the caller's contract.
    unsafe {
        let codes = v.add(layout.v_scale_bytes() + d * C::BYTES);
        let mut sums = [[s.f_splat(0.0); D]; R];
        let mut r = 0;
        while r < R {
            let mut j = 0;
            while j < D {
                sums[r][j] = s.f_load(to.add(r * partial + d + j * LANES));
                j += 1;
            }
            r += 1;
        }
        let mut i = from;
        while i < until {
            let mut j = 0;
            while j < D {
                let value = C::load(s, codes.add(i * row_bytes + j * LANES * C::BYTES));
                let mut r = 0;
                while r < R {
                    let weight = s.f_splat_at(w.add(r * w_row + i));
                    sums[r][j] = mul_add::<S, FUSED>(s, value, weight, sums[r][j]);
                    r += 1;
                }
                j += 1;
            }
            i += 1;
        }
        let mut r = 0;
        while r < R {
            let mut j = 0;
            while j < D {
                s.f_store(to.add(r * partial + d + j * LANES), sums[r][j]);
                j += 1;
            }
            r += 1;
        }
    }
}
