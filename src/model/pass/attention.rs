//! Attention: queries, keys and values; keys and values into the states; then every head over what
//! it sees; and the projection of that.

use goldcrest_kernels::{Attend, AttendOut, CHUNK, KvLayout, PANEL_ROWS, Span, partial_len};

use super::needs::{Kinds, Rows};
use super::product::Input;
use super::scratch::{Lane, Place};
use super::{Rotation, Walk};
use crate::model::weights::Loaded;
use crate::spec::{Attention, Block, Heads, Norm};
use crate::threads::{Poisoned, Shared, Worker};

/// Rows of an attention task in a pass of prompts.
pub(super) const ATTENTION_ROWS: usize = 16;

/// Where queries, keys and values lie in a row of their products: each from a whole panel on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Widths {
    key: usize,
    value: usize,
    /// Of the row.
    pub(super) qkv: usize,
}

impl Widths {
    pub(super) fn new(heads: Heads) -> Self {
        let whole = |n: usize| n.next_multiple_of(PANEL_ROWS);
        let key = whole(heads.q());
        let value = key + whole(heads.kv());
        Self { key, value, qkv: value + whole(heads.kv()) }
    }
}

/// Numbers of the partial results of one row over its whole context, where that is cut into chunks.
pub(super) fn partials(heads: Heads, layout: KvLayout) -> usize {
    // What a window sees may begin and end within a chunk.
    let chunks = layout.positions().div_ceil(CHUNK) + 1;
    heads.n_kv_heads * chunks * partial(heads)
}

/// Numbers of one chunk's partial result.
fn partial(heads: Heads) -> usize {
    heads.group() * partial_len(heads.head_dim)
}

/// One block's attention in one pass.
struct Step<'s, 'a> {
    walk: &'s Walk<'a>,
    mixer: &'s Attention<Loaded>,
    heads: Heads,
    widths: Widths,
    rotation: &'s Rotation,
    /// Where the angles of this rotation begin.
    angles: usize,
    /// Which of the states' blocks.
    kept: usize,
    /// `[rows, qkv]`
    qkv: &'s Shared<'a, f32>,
    /// `[rows, n_heads * head_dim]`
    attended: &'s Shared<'a, f32>,
}

impl Walk<'_> {
    /// x += output(attend(qkv(norm(x))))
    pub(super) fn attention(
        &self,
        w: &mut Worker<'_>,
        lane: &mut Lane,
        block: &Block<Loaded>,
        mixer: &Attention<Loaded>,
        kept: usize,
    ) -> Result<(), Poisoned> {
        let heads = mixer.heads;
        let widths = Widths::new(heads);
        let rotations = &self.graph.rotations;
        let step = Step {
            walk: self,
            mixer,
            heads,
            widths,
            rotation: &rotations[mixer.rope],
            angles: rotations[..mixer.rope].iter().map(|rotation| 2 * rotation.pairs()).sum(),
            kept,
            qkv: self.b.floats(widths.qkv, Rows::Pass),
            attended: self.b.floats(heads.q(), Rows::Pass),
        };
        step.qkv(w, lane, &block.pre)?;
        step.attend_all(w, lane)?;
        self.residual(w, lane, block, &self.made(step.attended, heads.q()), &mixer.output)
    }
}

impl Step<'_, '_> {
    /// x -> norm -> `[rows, qkv]`
    fn qkv(
        &self,
        w: &mut Worker<'_>,
        lane: &mut Lane,
        norm: &Norm<Loaded>,
    ) -> Result<(), Poisoned> {
        let walk = self.walk;
        let turned = self.mixer.qkv[0].matrix.turned;
        let input = Input { turned, ..walk.hidden(norm) };
        let kinds = self.mixer.qkv.iter().map(|linear| linear.matrix.kind());
        walk.prepare(w, lane, &input, Kinds::of(kinds))?;
        let grid = self.qkv.grid(w, walk.rows, PANEL_ROWS);
        w.each(self.widths.qkv / PANEL_ROWS, walk.grain(), grid, |claim, mut block| {
            let mut first = 0;
            for linear in &self.mixer.qkv {
                let matrix = &linear.matrix;
                let all = first..first + matrix.panels();
                let (start, end) = (claim.start.max(all.start), claim.end.min(all.end));
                if start < end {
                    let columns =
                        (start - first) * PANEL_ROWS..((end - first) * PANEL_ROWS).min(matrix.rows);
                    let at = (start - claim.start) * PANEL_ROWS;
                    let rows = walk.input_rows(w, lane, &input, matrix);
                    let tile = block.tile(at, columns.len());
                    walk.multiply(matrix, start - first..end - first, rows, tile);
                    if let Some(bias) = &linear.bias {
                        for row in 0..walk.rows {
                            let out = &mut block.row(row)[at..][..columns.len()];
                            walk.graph.kernels.add(out, &bias[columns.clone()]);
                        }
                    }
                }
                first = all.end;
            }
        });
        w.barrier()
    }

    fn attend_all(&self, w: &mut Worker<'_>, lane: &mut Lane) -> Result<(), Poisoned> {
        let places = self.walk.places;
        if places.iter().any(|place| place.rows > 1) {
            self.store(w, lane)?;
            return self.rows(w, lane, ATTENTION_ROWS);
        }
        match places {
            [place] if self.splits(w, place) => {
                self.store(w, lane)?;
                self.chunks(w, lane, place)
            }
            _ => self.single_rows(w, lane),
        }
    }

    /// Whether a lone row's context is cut into chunks, so that all workers have a share. Whole heads
    /// need two barriers less; the bits are the same either way.
    fn splits(&self, w: &Worker<'_>, place: &Place) -> bool {
        let (heads, workers) = (self.heads.n_kv_heads, w.team_size());
        let uneven = heads % workers != 0 && heads < 4 * workers;
        let span = self.span(place, 0);
        uneven && place.start >= CHUNK && span.end - span.start > CHUNK
    }

    /// A row of every run: a task is a head's key, value and attention.
    fn single_rows(&self, w: &mut Worker<'_>, lane: &mut Lane) -> Result<(), Poisoned> {
        let heads = self.heads.n_kv_heads;
        let cache = self.walk.b.caches.cells(w, self.kept, heads);
        let out = self.attended.grid(w, 1, self.width());
        let qkv = self.qkv.read(w);
        w.each(self.walk.rows * heads, 1, (cache, out), |claim, (cache, mut out)| {
            let (row, head) = (claim.start / heads, claim.start % heads);
            let place = &self.walk.places[row];
            let layout = place.layout(self.kept);
            let (k, v) = cache.split_at_mut(layout.k_bytes());
            self.store_row(w, lane, (place, row, head), qkv, (&mut *k, &mut *v));
            self.queries(w, lane, head, row, 1, qkv);
            let Lane { queries, scores, .. } = lane;
            let out = AttendOut::Rows(out.head_rows());
            self.attend(layout, (k, v), queries, &[self.span(place, row)], out, scores);
        });
        w.barrier()
    }

    /// Keys and values of all rows; a task is a run's head.
    fn store(&self, w: &mut Worker<'_>, lane: &mut Lane) -> Result<(), Poisoned> {
        let heads = self.heads.n_kv_heads;
        let cache = self.walk.b.caches.cells(w, self.kept, heads);
        let qkv = self.qkv.read(w);
        w.each(self.walk.places.len() * heads, 1, cache, |claim, cache| {
            let place = &self.walk.places[claim.start / heads];
            let (k, v) = cache.split_at_mut(place.layout(self.kept).k_bytes());
            for row in place.first..place.first + place.rows {
                let at = (place, row, claim.start % heads);
                self.store_row(w, lane, at, qkv, (&mut *k, &mut *v));
            }
        });
        w.barrier()
    }

    /// A task is `height` rows of the heads that share keys and values, whatever runs they are of.
    fn rows(&self, w: &mut Worker<'_>, lane: &mut Lane, height: usize) -> Result<(), Poisoned> {
        let heads = self.heads.n_kv_heads;
        let out = self.attended.grid(w, height, self.width());
        let qkv = self.qkv.read(w);
        let tasks = self.walk.rows.div_ceil(height) * heads;
        w.each(tasks, 1, out, |claim, mut out| {
            let (first, head) = (claim.start / heads * height, claim.start % heads);
            let end = (first + height).min(self.walk.rows);
            for (run, place) in self.walk.places.iter().enumerate() {
                let rows = first.max(place.first)..end.min(place.first + place.rows);
                if rows.is_empty() {
                    continue;
                }
                self.queries(w, lane, head, rows.start, rows.len(), qkv);
                let mut spans = [Span::default(); ATTENTION_ROWS];
                for (span, row) in spans.iter_mut().zip(rows.clone()) {
                    *span = self.span(place, row);
                }
                let Lane { queries, scores, .. } = lane;
                let region = self.region(w, run, place, head);
                let mut out = out.some_rows(rows.start - first, rows.len());
                let out = AttendOut::Rows(out.head_rows());
                let layout = place.layout(self.kept);
                self.attend(layout, region, queries, &spans[..rows.len()], out, scores);
            }
        });
        w.barrier()
    }

    /// One row over a long context: a task is a chunk of it; then the chunks of each head are
    /// folded in order.
    fn chunks(&self, w: &mut Worker<'_>, lane: &mut Lane, place: &Place) -> Result<(), Poisoned> {
        let heads = self.heads.n_kv_heads;
        let (span, layout) = (self.span(place, 0), place.layout(self.kept));
        let seen = span.start / CHUNK..span.end.div_ceil(CHUNK);
        let partial = partial(self.heads);
        let partials = self.walk.b.partials.grid(w, 1, partial);
        let qkv = self.qkv.read(w);
        w.each(heads * seen.len(), 1, partials, |claim, mut partials| {
            let (head, chunk) = (claim.start / seen.len(), claim.start % seen.len());
            self.queries(w, lane, head, 0, 1, qkv);
            let Lane { queries, scores, .. } = lane;
            let partials = &mut partials.row(0)[..partial];
            let out = AttendOut::Chunk { chunk: seen.start + chunk, partials };
            self.attend(layout, self.region(w, 0, place, head), queries, &[span], out, scores);
        });
        w.barrier()?;

        let out = self.attended.grid(w, 1, self.width());
        let partials = self.walk.b.partials.read(w);
        w.each(heads, 1, out, |claim, mut out| {
            let len = seen.len() * partial;
            self.walk.graph.kernels.attend_merge(
                self.heads.head_dim,
                self.heads.group(),
                1,
                seen.len(),
                &partials[claim.start * len..][..len],
                out.head_rows(),
                &mut lane.scores,
            );
        });
        w.barrier()
    }

    /// Numbers of a row's queries that share a key/value head.
    fn width(&self) -> usize {
        self.heads.group() * self.heads.head_dim
    }

    /// What row `row` of the pass, which is the place's, sees.
    fn span(&self, place: &Place, row: usize) -> Span {
        let end = place.position(row) + 1;
        Span { start: self.heads.window.map_or(0, |window| end.saturating_sub(window)), end }
    }

    fn attend(
        &self,
        layout: KvLayout,
        (k, v): (&[u8], &[u8]),
        q: &[f32],
        spans: &[Span],
        out: AttendOut<'_>,
        scratch: &mut [f32],
    ) {
        let attend = Attend {
            layout,
            k,
            v,
            q,
            q_stride: self.width(),
            group: self.heads.group(),
            spans,
            scale: self.heads.scale,
            softcap: None,
        };
        self.walk.graph.kernels.attend(&attend, out, scratch);
    }

    /// The keys and values of a run's head.
    fn region<'w>(
        &'w self,
        w: &'w Worker<'_>,
        run: usize,
        place: &Place,
        head: usize,
    ) -> (&'w [u8], &'w [u8]) {
        let cache = self.walk.b.caches.read(w, self.kept, run);
        let bytes = cache.len() / self.heads.n_kv_heads;
        cache[head * bytes..][..bytes].split_at(place.layout(self.kept).k_bytes())
    }

    /// Rotates the key of a row and stores it with its value.
    fn store_row(
        &self,
        w: &Worker<'_>,
        lane: &mut Lane,
        (place, row, head): (&Place, usize, usize),
        qkv: &[f32],
        (k_region, v_region): (&mut [u8], &mut [u8]),
    ) {
        let head_dim = self.heads.head_dim;
        let at = |first: usize| &qkv[row * self.widths.qkv + first + head * head_dim..][..head_dim];
        let k = &mut lane.key[..head_dim];
        k.copy_from_slice(at(self.widths.key));
        self.turn(w, k, row, self.mixer.qk_norm.as_ref().map(|[_, norm]| norm));
        let layout = place.layout(self.kept);
        let position = place.position(row);
        let v = at(self.widths.value);
        self.walk.graph.kernels.kv_store(layout, k_region, v_region, position, k, v);
    }

    /// The rotated queries of `count` rows that share `head`'s keys, into the lane.
    fn queries(
        &self,
        w: &Worker<'_>,
        lane: &mut Lane,
        head: usize,
        from: usize,
        count: usize,
        qkv: &[f32],
    ) {
        let width = self.width();
        for (i, out) in lane.queries.chunks_exact_mut(width).take(count).enumerate() {
            let row = from + i;
            out.copy_from_slice(&qkv[row * self.widths.qkv + head * width..][..width]);
            self.turn(w, out, row, self.mixer.qk_norm.as_ref().map(|[norm, _]| norm));
        }
    }

    /// Normalises heads, where the model does, and rotates them to their row's position.
    fn turn(&self, w: &Worker<'_>, heads: &mut [f32], row: usize, norm: Option<&Norm<Loaded>>) {
        let kernels = self.walk.graph.kernels;
        if let Some(Norm { weight, eps }) = norm {
            kernels.rms_norm_in_place(heads, weight, *eps);
        }
        let pairs = self.rotation.pairs();
        let angles = &self.walk.b.angles.row(w, row)[self.angles..][..2 * pairs];
        let (cos, sin) = angles.split_at(pairs);
        kernels.rope(self.rotation.style, heads, self.heads.head_dim, cos, sin);
    }
}
