//! Attention of the query heads that share a key/value head, over its cached positions.
//!
//! Positions are taken in chunks of [`CHUNK`] that begin at multiples of it. Within a chunk the
//! exponentials are relative to the chunk's own greatest score; chunks are then folded in order.
//! Each row therefore has the same bits however many rows, threads or calls the work is cut into:
//! tiles of several rows share what is read, never a sum.
//!
//! A *row* is one query head at one position. Row r is head `r % group` of query position
//! `r / group`.

mod partial;
mod tile;

use std::marker::PhantomData;

use crate::extent::{extent, holds};
use crate::kv::{Code, F16, F32, KvLayout, KvType, MAX_HEAD_DIM, Q8};
use crate::simd::Simd;
pub use partial::partial_len;
use partial::{are_partials, clear, finish, fold, partial_of};
use tile::tile;

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
    /// A score for each of the `group` heads that no position has: its exponential enters the sum
    /// that divides, once, when a row is finished. Partial results are without it.
    pub sinks: Option<&'a [f32]>,
}

/// The partial results of chunks that follow each other and cover all that the rows see.
#[derive(Clone, Copy, Debug)]
pub struct Merge<'a> {
    /// Elements of a value.
    pub value_dim: usize,
    /// Query heads of a position.
    pub group: usize,
    /// Query positions.
    pub positions: usize,
    /// How many chunks.
    pub chunks: usize,
    /// `[chunks, positions * group]` times [`partial_len`].
    pub partials: &'a [f32],
    /// As [`Attend::sinks`].
    pub sinks: Option<&'a [f32]>,
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
        check_sinks(self.sinks, group);
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

#[inline(always)]
#[track_caller]
fn check_sinks(sinks: Option<&[f32]>, group: usize) {
    assert!(sinks.is_none_or(|sinks| sinks.len() == group), "a sink for each of {group} heads");
}

/// Where rows go: for each position `group` heads one after the other.
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
    /// the rows (for every query position i, `group * value_dim` elements from `i * stride`)
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

/// Elements of scratch space that attention over keys and values of these lengths needs, whatever
/// the number of rows.
///
/// # Panics
/// If a head of these lengths does not fit in memory.
#[inline(always)]
#[track_caller]
pub const fn scratch_len(head_dim: usize, value_dim: usize) -> usize {
    assert!(head_dim <= MAX_HEAD_DIM, "a key of this length does not fit in memory");
    (MAX_TILE + ROW_BLOCK) * partial_len(value_dim) + ROW_BLOCK * head_dim + MAX_TILE * CHUNK
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
    let (head_dim, value_dim) = (a.layout.head_dim(), a.layout.value_dim());
    a.check();
    assert!(scratch.len() >= scratch_len(head_dim, value_dim), "length of scratch");
    match &out {
        AttendOut::Rows(rows) => rows.check(a.spans.len(), a.group * value_dim),
        AttendOut::Chunk { chunk, partials } => {
            assert!(*chunk < usize::MAX / CHUNK, "chunk {chunk} begins beyond all positions");
            let fits = are_partials(partials.len(), value_dim, Some(a.rows()), 1);
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
    let (head_dim, value_dim) = (a.layout.head_dim(), a.layout.value_dim());
    let partial = partial_of(value_dim);
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
                        clear(s, value_dim, states.add(r * partial));
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
                            fold(s, value_dim, states.add((r + i) * partial), to.add(i * partial));
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
                    let to = out.at.add(position * out.stride + head * value_dim);
                    let sink = a.sinks.map(|sinks| sinks[head]);
                    finish(s, value_dim, states.add(r * partial), sink, to);
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

/// Folds the partial results of chunks in order, to the bits that [`attend`] gives at once.
///
/// `scratch` is [`partial_len`] elements.
///
/// # Panics
/// If a length does not fit.
///
/// # Safety
/// As for every method of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn attend_merge<S: Simd>(
    s: S,
    merge: &Merge<'_>,
    out: HeadRowsMut<'_>,
    scratch: &mut [f32],
) {
    let Merge { value_dim, group, positions, chunks, partials, sinks } = *merge;
    let fits = are_partials(partials.len(), value_dim, extent(positions, group, group), chunks);
    assert!(fits, "length of partials");
    check_sinks(sinks, group);
    // With a row, neither product wraps: a partial result is longer than a value.
    let (rows, partial) = (group * positions, partial_of(value_dim));
    assert!(scratch.len() >= partial, "length of scratch");
    out.check(positions, group * value_dim);
    let state = scratch.as_mut_ptr();
    let mut row = 0;
    while row < rows {
        let (position, head) = (row / group, row % group);
        // SAFETY: the asserts above.
        unsafe {
            clear(s, value_dim, state);
            let mut chunk = 0;
            while chunk < chunks {
                fold(s, value_dim, state, partials.as_ptr().add((chunk * rows + row) * partial));
                chunk += 1;
            }
            let to = out.at.add(position * out.stride + head * value_dim);
            finish(s, value_dim, state, sinks.map(|sinks| sinks[head]), to);
        }
        row += 1;
    }
}
