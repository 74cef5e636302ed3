//! Attention's steps: keys and values into the cache, then every head over what it sees.

use goldcrest_kernels::{Attend, AttendOut, CHUNK, KvLayout, RopeStyle, Span, partial_len};

use super::forward::{Graph, Walk};
use super::scratch::{ATTENTION_ROWS, Lane};
use super::weights::{Layer, QkNorm};
use crate::config::{self, Config};
use crate::threads::{Poisoned, Worker};

/// How the attention of one pass is divided.
pub(super) struct Attention {
    layout: KvLayout,
    /// The position of the pass's first row.
    start: usize,
    rows: usize,
    n_heads: usize,
    n_kv_heads: usize,
    scale: f32,
    style: RopeStyle,
    /// One row's context is cut into chunks, so that all workers have a share.
    split: bool,
}

impl Attention {
    pub(super) fn new(
        graph: &Graph,
        layout: KvLayout,
        start: usize,
        rows: usize,
        workers: usize,
    ) -> Self {
        let Config { n_heads, n_kv_heads, head_dim, .. } = graph.config;
        // Whole heads need two barriers less; the bits are the same either way.
        let uneven = n_kv_heads % workers != 0 && n_kv_heads < 4 * workers;
        let style = match graph.config.rope.style {
            config::RopeStyle::Pairs => RopeStyle::Pairs,
            config::RopeStyle::Halves => RopeStyle::Halves,
        };
        Self {
            layout,
            start,
            rows,
            n_heads,
            n_kv_heads,
            scale: 1.0 / (head_dim as f32).sqrt(),
            style,
            split: rows == 1 && uneven && start >= CHUNK,
        }
    }

    fn group(&self) -> usize {
        self.n_heads / self.n_kv_heads
    }

    /// Elements of a position's queries that share a key/value head.
    fn width(&self) -> usize {
        self.group() * self.layout.head_dim()
    }

    /// Numbers of one chunk's partial result.
    pub(super) fn partial(&self) -> usize {
        self.group() * partial_len(self.layout.head_dim())
    }

    /// Numbers of all partial results.
    pub(super) fn partials(&self) -> usize {
        if !self.split {
            return 0;
        }
        // Room for the whole context, so that no later step allocates.
        self.n_kv_heads * self.layout.positions().div_ceil(CHUNK) * self.partial()
    }

    /// What row `row` sees in a layer of this window.
    fn span(&self, row: usize, window: Option<usize>) -> Span {
        let end = self.start + row + 1;
        Span { start: window.map_or(0, |window| end.saturating_sub(window)), end }
    }

    pub(super) fn run(
        &self,
        walk: &Walk<'_>,
        w: &mut Worker<'_>,
        lane: &mut Lane,
        index: usize,
        layer: &Layer,
    ) -> Result<(), Poisoned> {
        let window = walk.graph.config.windows[index];
        let first = index * self.n_kv_heads;
        if self.rows == 1 && !self.split {
            return self.one_row(walk, w, lane, first, layer, window);
        }
        self.store(walk, w, lane, first, layer)?;
        if self.split {
            self.chunks(walk, w, lane, first, layer, window)
        } else {
            self.many_rows(walk, w, lane, first, layer, window)
        }
    }

    /// One row: a task is a head's key, value and attention.
    fn one_row(
        &self,
        walk: &Walk<'_>,
        w: &mut Worker<'_>,
        lane: &mut Lane,
        first: usize,
        layer: &Layer,
        window: Option<usize>,
    ) -> Result<(), Poisoned> {
        let cache = walk.cache.grid_from(w, first, 1, usize::MAX);
        let out = walk.b.attended.grid(w, 1, self.width());
        let qkv = walk.b.qkv.read(w);
        w.each(self.n_kv_heads, 1, (cache, out), |claim, (mut cache, mut out)| {
            let head = claim.start;
            let (k, v) = cache.row(0).split_at_mut(self.layout.k_bytes());
            self.store_row(walk, lane, head, 0, qkv, (&mut *k, &mut *v), layer);
            self.queries(walk, lane, head, 0, 1, qkv, layer);
            let Lane { queries, scores, .. } = lane;
            let out = AttendOut::Rows(out.head_rows());
            self.attend(walk, (k, v), queries, &[self.span(0, window)], out, scores);
        });
        w.barrier()
    }

    /// Keys and values of all rows, a head a task.
    fn store(
        &self,
        walk: &Walk<'_>,
        w: &mut Worker<'_>,
        lane: &mut Lane,
        first: usize,
        layer: &Layer,
    ) -> Result<(), Poisoned> {
        let cache = walk.cache.grid_from(w, first, 1, usize::MAX);
        let qkv = walk.b.qkv.read(w);
        w.each(self.n_kv_heads, 1, cache, |claim, mut cache| {
            let (k, v) = cache.row(0).split_at_mut(self.layout.k_bytes());
            for row in 0..self.rows {
                self.store_row(walk, lane, claim.start, row, qkv, (&mut *k, &mut *v), layer);
            }
        });
        w.barrier()
    }

    /// The rows of a prompt: a task is some rows of the heads that share keys and values.
    fn many_rows(
        &self,
        walk: &Walk<'_>,
        w: &mut Worker<'_>,
        lane: &mut Lane,
        first: usize,
        layer: &Layer,
        window: Option<usize>,
    ) -> Result<(), Poisoned> {
        let out = walk.b.attended.grid(w, ATTENTION_ROWS, self.width());
        let (qkv, cache) = (walk.b.qkv.read(w), walk.cache.read(w));
        let tasks = self.rows.div_ceil(ATTENTION_ROWS) * self.n_kv_heads;
        w.each(tasks, 1, out, |claim, mut out| {
            let (block, head) = (claim.start / self.n_kv_heads, claim.start % self.n_kv_heads);
            let from = block * ATTENTION_ROWS;
            let count = out.rows();
            self.queries(walk, lane, head, from, count, qkv, layer);
            let mut spans = [Span::default(); ATTENTION_ROWS];
            for (i, span) in spans[..count].iter_mut().enumerate() {
                *span = self.span(from + i, window);
            }
            let Lane { queries, scores, .. } = lane;
            let region = self.region(cache, first + head);
            let out = AttendOut::Rows(out.head_rows());
            self.attend(walk, region, queries, &spans[..count], out, scores);
        });
        w.barrier()
    }

    /// One row over a long context: a task is a chunk of it; then the chunks of each head are
    /// folded in order.
    fn chunks(
        &self,
        walk: &Walk<'_>,
        w: &mut Worker<'_>,
        lane: &mut Lane,
        first: usize,
        layer: &Layer,
        window: Option<usize>,
    ) -> Result<(), Poisoned> {
        let span = self.span(0, window);
        let seen = span.start / CHUNK..span.end.div_ceil(CHUNK);
        let partials = walk.b.partials.grid(w, 1, usize::MAX);
        let (qkv, cache) = (walk.b.qkv.read(w), walk.cache.read(w));
        w.each(self.n_kv_heads * seen.len(), 1, partials, |claim, mut partials| {
            let (head, chunk) = (claim.start / seen.len(), claim.start % seen.len());
            self.queries(walk, lane, head, 0, 1, qkv, layer);
            let Lane { queries, scores, .. } = lane;
            let out = AttendOut::Chunk { chunk: seen.start + chunk, partials: partials.row(0) };
            self.attend(walk, self.region(cache, first + head), queries, &[span], out, scores);
        });
        w.barrier()?;

        let out = walk.b.attended.grid(w, 1, self.width());
        let partials = walk.b.partials.read(w);
        w.each(self.n_kv_heads, 1, out, |claim, mut out| {
            let len = seen.len() * self.partial();
            walk.graph.kernels.attend_merge(
                self.layout.head_dim(),
                self.group(),
                1,
                seen.len(),
                &partials[claim.start * len..][..len],
                out.head_rows(),
                &mut lane.scores,
            );
        });
        w.barrier()
    }

    fn attend(
        &self,
        walk: &Walk<'_>,
        (k, v): (&[u8], &[u8]),
        q: &[f32],
        spans: &[Span],
        out: AttendOut<'_>,
        scratch: &mut [f32],
    ) {
        let attend = Attend {
            layout: self.layout,
            k,
            v,
            q,
            q_stride: self.width(),
            group: self.group(),
            spans,
            scale: self.scale,
            softcap: None,
        };
        walk.graph.kernels.attend(&attend, out, scratch);
    }

    /// The keys and values of a layer's head.
    fn region<'c>(&self, cache: &'c [u8], head: usize) -> (&'c [u8], &'c [u8]) {
        let bytes = self.layout.k_bytes() + self.layout.v_bytes();
        cache[head * bytes..][..bytes].split_at(self.layout.k_bytes())
    }

    /// Rotates the key of a row and stores it with its value.
    #[expect(clippy::too_many_arguments, reason = "one task's place in every buffer")]
    fn store_row(
        &self,
        walk: &Walk<'_>,
        lane: &mut Lane,
        head: usize,
        row: usize,
        qkv: &[f32],
        (k_region, v_region): (&mut [u8], &mut [u8]),
        layer: &Layer,
    ) {
        let head_dim = self.layout.head_dim();
        let at = |first: usize| &qkv[row * walk.widths.qkv + first + head * head_dim..][..head_dim];
        let k = &mut lane.key[..];
        k.copy_from_slice(at(walk.widths.key()));
        self.turn(walk, k, row, layer.qk_norm.as_ref().map(|norm: &QkNorm| &norm.k[..]));
        let v = at(walk.widths.value());
        let position = self.start + row;
        walk.graph.kernels.kv_store(self.layout, k_region, v_region, position, k, v);
    }

    /// The rotated queries of `count` rows that share `head`'s keys, into the lane.
    #[expect(clippy::too_many_arguments, reason = "one task's place in every buffer")]
    fn queries(
        &self,
        walk: &Walk<'_>,
        lane: &mut Lane,
        head: usize,
        from: usize,
        count: usize,
        qkv: &[f32],
        layer: &Layer,
    ) {
        let width = self.width();
        for (i, out) in lane.queries.chunks_exact_mut(width).take(count).enumerate() {
            let row = from + i;
            out.copy_from_slice(&qkv[row * walk.widths.qkv + head * width..][..width]);
            self.turn(walk, out, row, layer.qk_norm.as_ref().map(|norm| &norm.q[..]));
        }
    }

    /// Normalises heads, where the model does, and rotates them to their row's position.
    fn turn(&self, walk: &Walk<'_>, heads: &mut [f32], row: usize, norm: Option<&[f32]>) {
        let Graph { kernels, rope, config, .. } = walk.graph;
        if let Some(weight) = norm {
            kernels.rms_norm_in_place(heads, weight, config.norm_eps);
        }
        let (cos, sin) = rope.at(self.start + row);
        kernels.rope(self.style, heads, self.layout.head_dim(), cos, sin);
    }
}
