//! Attention of the query heads that share a key/value head, over its cached positions.
//!
//! Positions are taken in chunks of [`CHUNK`] that begin at multiples of it. Within a chunk the
//! exponentials are relative to the chunk's own greatest score; chunks are then folded in order.
//! Each row therefore has the same bits however many rows, threads or calls the work is cut into:
//! tiles of several rows share what is read, never a sum.
//!
//! A *row* is one query head at one position. Row r is head `r % group` of query position
//! `r / group`.

use std::marker::PhantomData;

use crate::extent::{extent, holds};
use crate::kv::{BLOCK, Code, F16, F32, KvLayout, KvType, MAX_HEAD_DIM, Q8};
use crate::math;
use crate::ops::{self, mul_add};
use crate::simd::{LANES, Simd};

/// Positions that are folded at once.
pub const CHUNK: usize = 256;

/// Rows that walk a chunk together, so that it is read from the cache.
const ROW_BLOCK: usize = 32;

/// The most rows in a register tile.
const MAX_TILE: usize = 8;

/// The positions that a query sees: `start` and up to, not including, `end`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// The first position: 0, or more under a sliding window.
    pub start: usize,
    /// The position after the last: that of the query plus one, in causal attention.
    pub end: usize,
}

impl Span {
    /// A span of nothing, which joins with any.
    const NOTHING: Self = Self { start: usize::MAX, end: 0 };

    #[inline(always)]
    const fn is_empty(self) -> bool {
        self.start >= self.end
    }

    /// The part within positions `from` to `to`.
    #[inline(always)]
    const fn clip(self, from: usize, to: usize) -> Self {
        let start = if self.start > from { self.start } else { from };
        let end = if self.end < to { self.end } else { to };
        Self { start, end: if end > start { end } else { start } }
    }

    /// The positions from the first to the last of both.
    #[inline(always)]
    const fn join(self, other: Self) -> Self {
        if other.is_empty() {
            return self;
        }
        Self {
            start: if other.start < self.start { other.start } else { self.start },
            end: if other.end > self.end { other.end } else { self.end },
        }
    }
}

/// What attention reads.
#[derive(Clone, Copy, Debug)]
pub struct Attend<'a> {
    /// How `k` and `v` lie.
    pub layout: KvLayout,
    /// The keys of one key/value head, `layout.k_bytes()`.
    pub k: &'a [u8],
    /// Its values, `layout.v_bytes()`.
    pub v: &'a [u8],
    /// The queries: for each position `group` heads, one after the other, of
    /// `layout.head_dim()` elements.
    pub q: &'a [f32],
    /// Elements from one position's queries to the next one's.
    pub q_stride: usize,
    /// Query heads that share the key/value head.
    pub group: usize,
    /// What each query position sees. In a ring, all of them together no more than it holds.
    pub spans: &'a [Span],
    /// Factor of the dot products, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// `Some(c)` turns a scaled score x into `c tanh(x / c)`.
    pub softcap: Option<f32>,
}

impl Attend<'_> {
    /// Query heads. [`check`](Self::check) has seen that the product does not wrap.
    const fn rows(&self) -> usize {
        self.group * self.spans.len()
    }

    #[inline(always)]
    #[track_caller]
    fn check(&self) {
        self.layout.check(self.k, self.v);
        let Self { q, q_stride, group, spans, .. } = *self;
        let head_dim = self.layout.head_dim();
        let width = extent(group, head_dim, head_dim);
        let fits = matches!(width, Some(width) if holds(q.len(), spans.len(), q_stride, width));
        assert!(
            fits && extent(spans.len(), group, group).is_some(),
            "{} elements are not {} queries of {group} heads every {q_stride}",
            q.len(),
            spans.len()
        );
        let mut seen = Span::NOTHING;
        for &span in spans {
            let fits = self.layout.is_ring() || span.end <= self.layout.positions();
            assert!(fits, "{span:?} ends outside the cache");
            seen = seen.join(span);
        }
        let fits = seen.is_empty() || self.layout.holds(seen);
        assert!(fits, "{seen:?} does not fit a ring of {}", self.layout.positions());
    }
}

/// Where rows go: for each position `group` heads one after the other, laid out like the queries.
///
/// Other heads of the same positions may be written by other threads meanwhile.
#[derive(Debug)]
pub struct HeadRowsMut<'a> {
    at: *mut f32,
    len: usize,
    stride: usize,
    buffer: PhantomData<&'a mut [f32]>,
}

impl<'a> HeadRowsMut<'a> {
    /// Rows in `out`, where `stride` elements lie between one position's heads and the next one's.
    pub const fn new(out: &'a mut [f32], stride: usize) -> Self {
        Self { at: out.as_mut_ptr(), len: out.len(), stride, buffer: PhantomData }
    }

    /// As [`new`](Self::new), for a buffer of `len` elements at `at` that several threads write.
    ///
    /// # Safety
    /// The `len` elements at `at` stay allocated for the lifetime `'a`. Nobody else reads or writes
    /// the rows (for every query position i, `group * head_dim` elements from `i * stride`)
    /// meanwhile; no other element is touched.
    pub const unsafe fn from_raw(at: *mut f32, len: usize, stride: usize) -> Self {
        Self { at, len, stride, buffer: PhantomData }
    }

    /// Where a position's heads begin.
    #[inline(always)]
    pub(crate) const fn row(&self, position: usize) -> *mut f32 {
        self.at.wrapping_add(position * self.stride)
    }

    #[inline(always)]
    #[track_caller]
    pub(crate) fn check(&self, positions: usize, width: usize) {
        let Self { len, stride, .. } = *self;
        let fits = holds(len, positions, stride, width);
        assert!(fits, "room for {len} elements, not {positions} times {width} every {stride}");
    }
}

/// What attention writes.
#[derive(Debug)]
pub enum AttendOut<'a> {
    /// The finished rows.
    Rows(HeadRowsMut<'a>),
    /// One chunk's partial result, to be folded by `attend_merge`.
    Chunk {
        /// Which: positions from `CHUNK * chunk`, in a ring as well.
        chunk: usize,
        /// [`partial_len`] elements for every row.
        partials: &'a mut [f32],
    },
}

/// Elements of a row's partial result: the sum of the values, rounded up to sixteen, then its
/// greatest score and the sum of its exponentials.
///
/// # Panics
/// If a head of this length does not fit in memory.
#[inline(always)]
#[track_caller]
pub const fn partial_len(head_dim: usize) -> usize {
    assert!(head_dim <= MAX_HEAD_DIM, "a head of this length does not fit in memory");
    partial_of(head_dim)
}

/// [`partial_len`] of a head that a layout has.
#[inline(always)]
const fn partial_of(head_dim: usize) -> usize {
    head_dim.next_multiple_of(LANES) + LANES
}

/// Elements of scratch space that attention needs, whatever the number of rows.
///
/// # Panics
/// If a head of this length does not fit in memory.
#[inline(always)]
#[track_caller]
pub const fn scratch_len(head_dim: usize) -> usize {
    (MAX_TILE + ROW_BLOCK) * partial_len(head_dim) + ROW_BLOCK * head_dim + MAX_TILE * CHUNK
}

/// Whether `len` elements are the partial results of `chunks` times `rows` rows.
#[inline(always)]
const fn are_partials(len: usize, head_dim: usize, rows: Option<usize>, chunks: usize) -> bool {
    let partial = partial_len(head_dim);
    if let Some(rows) = rows
        && let Some(chunk) = extent(rows, partial, partial)
        && let Some(need) = extent(chunks, chunk, chunk)
    {
        return need == len;
    }
    false
}

/// Softmax attention: for every row the sum of the values it sees, weighted by the softmax of its
/// scores. A row that sees nothing is zero. With [`AttendOut::Chunk`] only that chunk's partial
/// results.
///
/// `TILE` is how many rows of two vectors of sums the registers hold beside what is read: 8 for
/// AVX-512, 2 for sixteen 32-byte registers, 1 for sixteen of 16 bytes. It changes no bits; `FUSED`
/// does, where the instruction set has a fused multiply-add.
///
/// # Panics
/// If a length does not fit, the cache does not hold what the spans see, or `scratch` is shorter
/// than [`scratch_len`].
///
/// # Safety
/// As for every method of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn attend<S: Simd, const TILE: usize, const FUSED: bool>(
    s: S,
    a: &Attend<'_>,
    mut out: AttendOut<'_>,
    scratch: &mut [f32],
) {
    let head_dim = a.layout.head_dim();
    a.check();
    assert!(scratch.len() >= scratch_len(head_dim), "length of scratch");
    match &out {
        AttendOut::Rows(rows) => rows.check(a.spans.len(), a.group * head_dim),
        AttendOut::Chunk { chunk, partials } => {
            assert!(*chunk < usize::MAX / CHUNK, "chunk {chunk} begins beyond all positions");
            let fits = are_partials(partials.len(), head_dim, Some(a.rows()), 1);
            assert!(fits, "length of partials");
        }
    }
    // SAFETY: the asserts above are what `walk` asks for.
    unsafe {
        match a.layout.ty() {
            KvType::F32 => walk::<S, F32, TILE, FUSED>(s, a, &mut out, scratch.as_mut_ptr()),
            KvType::F16 => walk::<S, F16, TILE, FUSED>(s, a, &mut out, scratch.as_mut_ptr()),
            KvType::Q8_0 => walk::<S, Q8, TILE, FUSED>(s, a, &mut out, scratch.as_mut_ptr()),
        }
    }
}

/// Blocks of rows; in each the chunks in order; in each the tiles of rows.
///
/// # Safety
/// `a` and `out` have been checked, `scratch` holds [`scratch_len`] elements, `C` is the code of
/// the layout; and as for every method of [`Simd`].
#[inline(always)]
unsafe fn walk<S: Simd, C: Code, const TILE: usize, const FUSED: bool>(
    s: S,
    a: &Attend<'_>,
    out: &mut AttendOut<'_>,
    scratch: *mut f32,
) {
    let head_dim = a.layout.head_dim();
    let partial = partial_of(head_dim);
    // SAFETY: the four parts are what `scratch_len` adds up; rows of a block are at most
    // `ROW_BLOCK`, rows of a tile at most `MAX_TILE`.
    unsafe {
        let queries = scratch;
        let scores = queries.add(ROW_BLOCK * head_dim);
        let tiles = scores.add(MAX_TILE * CHUNK);
        let states = tiles.add(MAX_TILE * partial);

        let rows = a.rows();
        let mut first = 0;
        while first < rows {
            let n = if rows - first < ROW_BLOCK { rows - first } else { ROW_BLOCK };
            pack_queries::<TILE>(a, first, n, queries);
            let (mut chunk, mut last) = seen_chunks(a, first, n);
            let (results, fold_now) = match out {
                AttendOut::Rows(_) => {
                    let mut r = 0;
                    while r < n {
                        clear(s, head_dim, states.add(r * partial));
                        r += 1;
                    }
                    (tiles, true)
                }
                AttendOut::Chunk { chunk: only, partials } => {
                    (chunk, last) = (*only, *only + 1);
                    (partials.as_mut_ptr().add(first * partial), false)
                }
            };
            while chunk < last {
                let mut r = 0;
                while r < n {
                    let size = tile_size::<TILE>(n - r);
                    let q = queries.add(r * head_dim);
                    let to = if fold_now { results } else { results.add(r * partial) };
                    match size {
                        8 => tile::<S, C, TILE, 8, FUSED>(s, a, first + r, chunk, q, scores, to),
                        4 => tile::<S, C, TILE, 4, FUSED>(s, a, first + r, chunk, q, scores, to),
                        2 => tile::<S, C, TILE, 2, FUSED>(s, a, first + r, chunk, q, scores, to),
                        _ => tile::<S, C, TILE, 1, FUSED>(s, a, first + r, chunk, q, scores, to),
                    }
                    if fold_now {
                        let mut i = 0;
                        while i < size {
                            fold(s, head_dim, states.add((r + i) * partial), to.add(i * partial));
                            i += 1;
                        }
                    }
                    r += size;
                }
                chunk += 1;
            }
            if let AttendOut::Rows(out) = out {
                let mut r = 0;
                while r < n {
                    let (position, head) = ((first + r) / a.group, (first + r) % a.group);
                    let to = out.at.add(position * out.stride + head * head_dim);
                    finish(s, head_dim, states.add(r * partial), to);
                    r += 1;
                }
            }
            first += n;
        }
    }
}

/// Rows of the next tile when `left` are left.
#[inline(always)]
const fn tile_size<const TILE: usize>(left: usize) -> usize {
    if TILE >= 8 && left >= 8 {
        8
    } else if TILE >= 4 && left >= 4 {
        4
    } else if TILE >= 2 && left >= 2 {
        2
    } else {
        1
    }
}

/// The chunks that any of `n` rows sees: the first and the one after the last.
#[inline(always)]
fn seen_chunks(a: &Attend<'_>, first: usize, n: usize) -> (usize, usize) {
    let mut seen = Span::NOTHING;
    let mut position = first / a.group;
    while position <= (first + n - 1) / a.group {
        seen = seen.join(a.spans[position]);
        position += 1;
    }
    if seen.is_empty() { (0, 0) } else { (seen.start / CHUNK, seen.end.div_ceil(CHUNK)) }
}

/// Copies the queries of `n` rows tile after tile, each as [head_dim][rows of the tile]: a tile
/// then walks one pointer.
///
/// # Safety
/// `a` has been checked; `to` holds `n * head_dim` elements.
#[inline(always)]
unsafe fn pack_queries<const TILE: usize>(a: &Attend<'_>, first: usize, n: usize, to: *mut f32) {
    let head_dim = a.layout.head_dim();
    let mut r = 0;
    while r < n {
        let size = tile_size::<TILE>(n - r);
        let mut i = 0;
        while i < size {
            let row = first + r + i;
            let from = row / a.group * a.q_stride + row % a.group * head_dim;
            let mut d = 0;
            while d < head_dim {
                // SAFETY: `from + d` was checked; the tile's `size * head_dim` elements begin at
                // `r * head_dim`.
                unsafe {
                    *to.add(r * head_dim + d * size + i) = *a.q.as_ptr().add(from + d);
                }
                d += 1;
            }
            i += 1;
        }
        r += size;
    }
}

/// One chunk for `R` rows: partial results at `to`.
///
/// # Safety
/// `a` has been checked and has rows `row .. row + R`; `q` holds their packed queries, `scores`
/// `R * CHUNK` elements, `to` `R` partial results; and as for every method of [`Simd`].
#[inline(always)]
unsafe fn tile<S: Simd, C: Code, const TILE: usize, const R: usize, const FUSED: bool>(
    s: S,
    a: &Attend<'_>,
    row: usize,
    chunk: usize,
    q: *const f32,
    scores: *mut f32,
    to: *mut f32,
) {
    let head_dim = a.layout.head_dim();
    let partial = partial_of(head_dim);
    let base = chunk * CHUNK;
    let mut seen = [Span { start: 0, end: 0 }; R];
    let mut any = Span::NOTHING;
    let mut r = 0;
    while r < R {
        seen[r] = a.spans[(row + r) / a.group].clip(base, base + CHUNK);
        any = any.join(seen[r]);
        // SAFETY: `to` holds `R` partial results.
        unsafe { clear(s, head_dim, to.add(r * partial)) };
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
            let state = to.add(r * partial + head_dim.next_multiple_of(LANES));
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
        let codes = k.add(layout.scale_bytes());
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
    let partial = partial_of(layout.head_dim());
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
    let partial = partial_of(layout.head_dim());
    let row_bytes = layout.v_row() * C::BYTES;
    // SAFETY: the caller's contract.
    unsafe {
        let codes = v.add(layout.scale_bytes() + d * C::BYTES);
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

/// Makes a partial result that of nothing.
///
/// # Safety
/// `state` holds [`partial_len`] elements, and as for every method of [`Simd`].
#[inline(always)]
unsafe fn clear<S: Simd>(s: S, head_dim: usize, state: *mut f32) {
    let width = head_dim.next_multiple_of(LANES);
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
unsafe fn fold<S: Simd>(s: S, head_dim: usize, state: *mut f32, part: *const f32) {
    let width = head_dim.next_multiple_of(LANES);
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

/// Divides the sums of a row by the sum of its weights; zeros if it saw nothing.
///
/// # Safety
/// `state` holds [`partial_len`] elements, `out` `head_dim`; and as for every method of [`Simd`].
#[inline(always)]
unsafe fn finish<S: Simd>(s: S, head_dim: usize, state: *const f32, out: *mut f32) {
    // SAFETY: the caller's contract.
    unsafe {
        let sum = *state.add(head_dim.next_multiple_of(LANES) + 1);
        // The sums of a row that saw nothing are 0.
        let sum = s.f_splat(if sum == 0.0 { 1.0 } else { sum });
        let mut d = 0;
        while d < head_dim {
            ops::store(s, out.add(d), head_dim - d, s.f_div(s.f_load(state.add(d)), sum));
            d += LANES;
        }
    }
}

/// Folds the partial results of chunks in order, to the bits that [`attend`] gives at once.
///
/// `partials` is [chunk][row][[`partial_len`]], for chunks that follow each other and cover all
/// that the rows see. `scratch` is [`scratch_len`] elements.
///
/// # Panics
/// If a length does not fit.
///
/// # Safety
/// As for every method of [`Simd`].
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "shapes of plain slices")]
pub(crate) unsafe fn attend_merge<S: Simd>(
    s: S,
    head_dim: usize,
    group: usize,
    positions: usize,
    chunks: usize,
    partials: &[f32],
    out: HeadRowsMut<'_>,
    scratch: &mut [f32],
) {
    let fits = are_partials(partials.len(), head_dim, extent(positions, group, group), chunks);
    assert!(fits, "length of partials");
    // With a row, neither product wraps: a partial result is longer than a head.
    let (rows, partial) = (group * positions, partial_of(head_dim));
    assert!(scratch.len() >= partial, "length of scratch");
    out.check(positions, group * head_dim);
    let state = scratch.as_mut_ptr();
    let mut row = 0;
    while row < rows {
        // SAFETY: the asserts above.
        unsafe {
            clear(s, head_dim, state);
            let mut chunk = 0;
            while chunk < chunks {
                fold(s, head_dim, state, partials.as_ptr().add((chunk * rows + row) * partial));
                chunk += 1;
            }
            let to = out.at.add(row / group * out.stride + row % group * head_dim);
            finish(s, head_dim, state, to);
        }
        row += 1;
    }
}
