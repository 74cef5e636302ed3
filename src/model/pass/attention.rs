//! Attention: queries, keys and values; keys and values into the states; then every head over what
//! it sees; and the projection of that.

use goldcrest_kernels::{
    Attend, AttendOut, CHUNK, KvLayout, Merge, Nonlinearity, PANEL_ROWS, Span, partial_len,
};

use super::needs::Rows;
use super::product::{At, Input};
use super::scratch::{Lane, Place};
use super::{Rotation, Walk};
use crate::model::weights::Loaded;
use crate::spec::{Attention, Heads, Linear, Norm};
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
    pub(super) fn new(mixer: &Attention<Loaded>) -> Self {
        let width = |linear: &Linear<Loaded>| linear.matrix.panels() * PANEL_ROWS;
        let key = width(&mixer.q);
        let Some(kv) = &mixer.kv else {
            // Of another width than what is attended to: buffers are told apart by theirs.
            return Self { key, value: key, qkv: key + PANEL_ROWS };
        };
        let after = key + width(&kv.k);
        match &kv.v {
            Some(v) => Self { key, value: after, qkv: after + width(v) },
            None => Self { key, value: key, qkv: after },
        }
    }
}

/// Numbers of the partial results of one row over its whole context, where that is cut into chunks.
pub(super) fn partials(heads: Heads, layout: KvLayout) -> usize {
    // Heads that share latents are never cut.
    if heads.value_dim != heads.head_dim {
        return 0;
    }
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
    /// With where its angles begin in a row of them.
    rotation: Option<(&'s Rotation, usize)>,
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
        at: At<'_>,
        mixer: &Attention<Loaded>,
    ) -> Result<(), Poisoned> {
        let heads = mixer.heads;
        let widths = Widths::new(mixer);
        let step = Step {
            walk: self,
            mixer,
            heads,
            widths,
            rotation: mixer.rope.map(|index| self.rotation(index)),
            kept: mixer.kept,
            qkv: self.b.floats(widths.qkv, Rows::Pass),
            attended: self.b.floats(heads.q(), Rows::Pass),
        };
        step.qkv(w, lane, at.pre())?;
        if mixer.norms_whole {
            step.normalise_whole(w, lane)?;
        }
        step.attend_all(w, lane)?;
        let norm = mixer.output_norm.as_ref();
        let input = Input { norm, ..self.made(step.attended, heads.q()) };
        self.residual(w, lane, at, &input, &mixer.output)
    }
}

impl Step<'_, '_> {
    /// x -> norm -> `[rows, qkv]`
    fn qkv(
        &self,
        w: &mut Worker<'_>,
        lane: &mut Lane,
        norm: Option<&Norm<Loaded>>,
    ) -> Result<(), Poisoned> {
        let input = self.walk.hidden(norm);
        self.walk.side_by_side(w, lane, &input, self.mixer.linears(), self.qkv)
    }

    /// Normalises queries and keys over all heads together.
    fn normalise_whole(&self, w: &mut Worker<'_>, lane: &mut Lane) -> Result<(), Poisoned> {
        let k_norm = self.mixer.kv.as_ref().and_then(|kv| kv.k_norm.as_ref());
        let spans = [
            (0, self.heads.q(), self.mixer.q_norm.as_ref()),
            (self.widths.key, self.heads.kv(), k_norm),
        ];
        let grid = self.qkv.grid(w, 1, usize::MAX);
        w.each(self.walk.rows, 1, grid, |claim, mut rows| {
            debug_assert_eq!(claim.len(), 1);
            for (first, width, norm) in spans {
                let Some(norm) = norm else { continue };
                let x = &mut rows.row(0)[first..][..width];
                let copy = &mut lane.row[..width];
                copy.copy_from_slice(x);
                self.walk.normalise(norm, width, copy, x);
            }
        });
        w.barrier()
    }

    /// A norm over each head.
    fn per_head<'n>(&self, norm: Option<&'n Norm<Loaded>>) -> Option<&'n Norm<Loaded>> {
        norm.filter(|_| !self.mixer.norms_whole)
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
            let to = AttendOut::Rows(out.head_rows());
            self.attend(head, (layout, (k, v)), queries, &[self.span(place, row)], to, scores);
            self.gate(lane, head, row, qkv, out.row(0));
        });
        w.barrier()
    }

    /// Keys and values of all rows; a task is a run's head.
    fn store(&self, w: &mut Worker<'_>, lane: &mut Lane) -> Result<(), Poisoned> {
        if self.mixer.kv.is_none() {
            return Ok(());
        }
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
                let to = AttendOut::Rows(out.head_rows());
                let layout = place.layout(self.kept);
                self.attend(head, (layout, region), queries, &spans[..rows.len()], to, scores);
                for (i, row) in rows.enumerate() {
                    self.gate(lane, head, row, qkv, out.row(i));
                }
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
            let region = self.region(w, 0, place, head);
            self.attend(head, (layout, region), queries, &[span], out, scores);
        });
        w.barrier()?;

        let out = self.attended.grid(w, 1, self.width());
        let (partials, qkv) = (self.walk.b.partials.read(w), self.qkv.read(w));
        w.each(heads, 1, out, |claim, mut out| {
            let len = seen.len() * partial;
            let merge = Merge {
                value_dim: self.heads.head_dim,
                group: self.heads.group(),
                positions: 1,
                chunks: seen.len(),
                partials: &partials[claim.start * len..][..len],
                sinks: self.sinks(claim.start),
            };
            self.walk.graph.kernels.attend_merge(&merge, out.head_rows(), &mut lane.scores);
            self.gate(lane, claim.start, 0, qkv, out.row(0));
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

    /// The sinks of the heads that share `head`'s keys.
    fn sinks(&self, head: usize) -> Option<&[f32]> {
        let group = self.heads.group();
        self.mixer.sinks.as_ref().map(|sinks| &sinks[head * group..][..group])
    }

    fn attend(
        &self,
        head: usize,
        (layout, (k, v)): (KvLayout, (&[u8], &[u8])),
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
            softcap: self.heads.cap,
            sinks: self.sinks(head),
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

    /// Rotates the key of a row and stores it with its value, where the block has its own.
    fn store_row(
        &self,
        w: &Worker<'_>,
        lane: &mut Lane,
        (place, row, head): (&Place, usize, usize),
        qkv: &[f32],
        (k_region, v_region): (&mut [u8], &mut [u8]),
    ) {
        let Some(kv) = &self.mixer.kv else { return };
        let head_dim = self.heads.head_dim;
        let at = |first: usize| &qkv[row * self.widths.qkv + first + head * head_dim..][..head_dim];
        let (k, room) = lane.key[..2 * head_dim].split_at_mut(head_dim);
        k.copy_from_slice(at(self.widths.key));
        self.turn(w, k, row, self.per_head(kv.k_norm.as_ref()), &mut lane.row);
        let mut v = at(self.widths.value);
        if let Some(norm) = &kv.v_norm {
            self.walk.normalise(norm, head_dim, v, room);
            v = room;
        }
        let layout = place.layout(self.kept);
        let position = place.position(row);
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
        let (width, head_dim) = (self.width(), self.heads.head_dim);
        let norm = self.per_head(self.mixer.q_norm.as_ref());
        for (i, out) in lane.queries.chunks_exact_mut(width).take(count).enumerate() {
            let row = from + i;
            for (query, out) in out.chunks_exact_mut(head_dim).enumerate() {
                out.copy_from_slice(&qkv[self.query(row, head, query)..][..head_dim]);
            }
            self.turn(w, out, row, norm, &mut lane.row);
            if let Some(temperature) = self.mixer.temperature {
                let factor = temperature.at(self.walk.b.tokens[row].1);
                if factor != 1.0 {
                    self.walk.graph.kernels.scale(out, factor);
                }
            }
        }
    }

    /// Where the query of a row is, the one of this number among those that share `head`'s keys;
    /// its gate follows, where it has one.
    fn query(&self, row: usize, head: usize, query: usize) -> usize {
        let step = self.heads.head_dim * if self.mixer.gated { 2 } else { 1 };
        row * self.widths.qkv + (head * self.heads.group() + query) * step
    }

    /// Multiplies what a row's heads attended to by the sigmoids of their gates.
    fn gate(&self, lane: &mut Lane, head: usize, row: usize, qkv: &[f32], attended: &mut [f32]) {
        if !self.mixer.gated {
            return;
        }
        let (head_dim, kernels) = (self.heads.head_dim, self.walk.graph.kernels);
        for (query, attended) in attended.chunks_exact_mut(head_dim).enumerate() {
            let gate = &mut lane.key[..head_dim];
            gate.copy_from_slice(&qkv[self.query(row, head, query) + head_dim..][..head_dim]);
            kernels.activate(Nonlinearity::Sigmoid, gate);
            kernels.multiply(attended, gate);
        }
    }

    /// Normalises heads, where the model does, and rotates them to their row's position, or the other
    /// way round.
    fn turn(
        &self,
        w: &Worker<'_>,
        heads: &mut [f32],
        row: usize,
        norm: Option<&Norm<Loaded>>,
        room: &mut [f32],
    ) {
        if self.mixer.norms_last {
            self.rotate(w, heads, row);
            self.normalise_heads(heads, norm, room);
        } else {
            self.normalise_heads(heads, norm, room);
            self.rotate(w, heads, row);
        }
    }

    fn normalise_heads(&self, heads: &mut [f32], norm: Option<&Norm<Loaded>>, room: &mut [f32]) {
        match norm {
            Some(Norm { centred: false, weight: Some(weight), bias: None, eps }) => {
                self.walk.graph.kernels.rms_norm_in_place(heads, weight, *eps);
            }
            Some(norm) => {
                let copy = &mut room[..heads.len()];
                copy.copy_from_slice(heads);
                self.walk.normalise(norm, self.heads.head_dim, copy, heads);
            }
            None => {}
        }
    }

    fn rotate(&self, w: &Worker<'_>, heads: &mut [f32], row: usize) {
        if let Some(rotation) = self.rotation {
            self.walk.rotate(w, rotation, heads, self.heads.head_dim, row);
        }
    }
}
