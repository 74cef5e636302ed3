//! Latent attention: latents and the shared part of keys into the states; then every head over
//! them, as attention of one key and value head; and the projection of what its values are.

use std::ops::Range;

use goldcrest_kernels::{
    Attend, AttendOut, HeadRowsMut, PANEL_ROWS, Place as InGroup, Rows as Activations, Span, Tile,
};

use super::attention::ATTENTION_ROWS;
use super::needs::Rows;
use super::product::{At, Input};
use super::scratch::{Lane, Place};
use super::{Rotation, Walk};
use crate::model::weights::{Loaded, Matrix};
use crate::spec::{Latent, LatentHeads};
use crate::threads::{Block, Poisoned, Shared, Worker};

/// Heads of a task at most: they share what is read of the cache.
pub(super) const LATENT_HEADS: usize = 8;

/// The widths of its buffers, all different: a buffer is known by its width.
#[derive(Debug, Clone, Copy)]
pub(super) struct Widths {
    /// Of a row of the first products, and where its latent begins.
    pub(super) first: usize,
    latent: usize,
    /// Of the queries, where they are made of the first.
    pub(super) queries: Option<usize>,
}

impl Widths {
    pub(super) fn new(mixer: &Latent<Loaded>) -> Self {
        let whole = |matrix: &Matrix| matrix.panels() * PANEL_ROWS;
        let apart = |mut width: usize, others: &[usize]| {
            while others.contains(&width) {
                width += PANEL_ROWS;
            }
            width
        };
        let [queries, latents] = mixer.inputs.each_ref().map(|linear| whole(&linear.matrix));
        let made = mixer.heads.values();
        let first = apart(queries + latents, &[made]);
        let low_rank = mixer.low_rank.as_ref();
        let expanded = low_rank.map(|(_, linear)| apart(whole(&linear.matrix), &[made, first]));
        Self { first, latent: queries, queries: expanded }
    }
}

/// What a worker's task has, for [`ATTENTION_ROWS`] rows.
#[derive(Default)]
pub(super) struct Room {
    /// `[rows, heads, rank]`: what is attended to.
    pub(super) latents: Vec<f32>,
    /// `[rows, rank or value]`: a product of one head.
    pub(super) products: Vec<f32>,
    /// What it is made of, in the form that its matrix reads.
    pub(super) forms: Vec<u8>,
}

/// One block's latent attention in one pass.
struct Step<'s, 'a> {
    walk: &'s Walk<'a>,
    mixer: &'s Latent<Loaded>,
    heads: LatentHeads,
    /// With where its angles begin in a row of them.
    rotation: (&'s Rotation, usize),
    widths: Widths,
    /// `[rows, first]`
    first: &'s Shared<'a, f32>,
    /// `[rows, n_heads * (nope + rope) and more]`
    queries: &'s Shared<'a, f32>,
    /// `[rows, n_heads * value]`
    made: &'s Shared<'a, f32>,
}

impl Walk<'_> {
    /// x += output(values(attend(keys(queries(norm(x))))))
    pub(super) fn latent(
        &self,
        w: &mut Worker<'_>,
        lane: &mut Lane,
        at: At<'_>,
        mixer: &Latent<Loaded>,
    ) -> Result<(), Poisoned> {
        let widths = Widths::new(mixer);
        let first = self.b.floats(widths.first, Rows::Pass);
        self.side_by_side(w, lane, &self.hidden(at.pre()), mixer.inputs.iter(), first)?;
        let mut queries = first;
        if let (Some((norm, linear)), Some(width)) = (&mixer.low_rank, widths.queries) {
            let input = Input { norm: Some(norm), ..self.made(first, linear.matrix.k) };
            queries = self.b.floats(width, Rows::Pass);
            self.side_by_side(w, lane, &input, std::iter::once(linear), queries)?;
        }
        let step = Step {
            walk: self,
            mixer,
            heads: mixer.heads,
            rotation: self.rotation(mixer.rope),
            widths,
            first,
            queries,
            made: self.b.floats(mixer.heads.values(), Rows::Pass),
        };
        step.store(w, lane)?;
        step.attend_all(w, lane)?;
        let input = self.made(step.made, mixer.heads.values());
        self.residual(w, lane, at, &input, &mixer.output)
    }
}

impl Step<'_, '_> {
    /// Latents and turned keys of all rows; a task is a run.
    fn store(&self, w: &mut Worker<'_>, lane: &mut Lane) -> Result<(), Poisoned> {
        let LatentHeads { rank, .. } = self.heads;
        let kernels = self.walk.graph.kernels;
        let cache = self.walk.b.caches.cells(w, self.mixer.kept, 1);
        w.each(self.walk.places.len(), 1, cache, |claim, cache| {
            let place = &self.walk.places[claim.start];
            let layout = place.layout(self.mixer.kept);
            let (k, v) = cache.split_at_mut(layout.k_bytes());
            for row in place.first..place.first + place.rows {
                let made = &self.first.row(w, row)[self.widths.latent..][..self.heads.key()];
                let key = &mut lane.key[..made.len()];
                self.walk.normalise(&self.mixer.norm, rank, &made[..rank], &mut key[..rank]);
                key[rank..].copy_from_slice(&made[rank..]);
                self.turn(w, &mut key[rank..], row);
                kernels.kv_store(layout, k, v, place.position(row), key, &key[..rank]);
            }
        });
        w.barrier()
    }

    /// A task is some rows, whatever runs they are of, and some heads.
    fn attend_all(&self, w: &mut Worker<'_>, lane: &mut Lane) -> Result<(), Poisoned> {
        let LatentHeads { n_heads, value, .. } = self.heads;
        let rows = self.walk.rows;
        let (height, width) = match rows {
            // So that all workers have a share.
            1 => (1, n_heads.div_ceil(w.team_size()).min(LATENT_HEADS)),
            _ => (ATTENTION_ROWS, LATENT_HEADS),
        };
        let across = n_heads.div_ceil(width);
        let out = self.made.grid(w, height, width * value);
        w.each(rows.div_ceil(height) * across, 1, out, |claim, mut out| {
            let (first, head) = (claim.start / across * height, claim.start % across * width);
            let heads = head..n_heads.min(head + width);
            let end = (first + height).min(rows);
            for (run, place) in self.walk.places.iter().enumerate() {
                let rows = first.max(place.first)..end.min(place.first + place.rows);
                if !rows.is_empty() {
                    let mut out = out.some_rows(rows.start - first, rows.len());
                    self.attend(w, lane, (run, place), rows, heads.clone(), &mut out);
                }
            }
        });
        w.barrier()
    }

    /// Rows of a run and some of their heads, to the values of these.
    fn attend(
        &self,
        w: &Worker<'_>,
        lane: &mut Lane,
        (run, place): (usize, &Place),
        rows: Range<usize>,
        heads: Range<usize>,
        out: &mut Block<'_, f32>,
    ) {
        let LatentHeads { rank, value, scale, .. } = self.heads;
        let (group, kept) = (heads.len(), self.mixer.kept);
        self.absorb(w, lane, rows.clone(), heads.clone());
        let mut spans = [Span::default(); ATTENTION_ROWS];
        for (span, row) in spans.iter_mut().zip(rows.clone()) {
            span.end = place.position(row) + 1;
        }
        let layout = place.layout(kept);
        let (k, v) = self.walk.b.caches.read(w, kept, run).split_at(layout.k_bytes());
        let attend = Attend {
            layout,
            k,
            v,
            q: &lane.queries,
            q_stride: group * self.heads.key(),
            group,
            spans: &spans[..rows.len()],
            scale,
            softcap: None,
            sinks: None,
        };
        let Room { latents, products, forms } = &mut lane.latent;
        let to = HeadRowsMut::new(latents, group * rank);
        self.walk.graph.kernels.attend(&attend, AttendOut::Rows(to), &mut lane.scores);
        for (i, head) in heads.enumerate() {
            let latent = |row: usize| &latents[(row * group + i) * rank..][..rank];
            self.multiply_rows(&self.mixer.values[head], rows.len(), latent, forms, products);
            for (row, product) in products.chunks_exact(value).take(rows.len()).enumerate() {
                out.row(row)[i * value..][..value].copy_from_slice(product);
            }
        }
    }

    /// The queries of some rows and heads in the space of latents, and their turned part, into the
    /// lane.
    fn absorb(&self, w: &Worker<'_>, lane: &mut Lane, rows: Range<usize>, heads: Range<usize>) {
        let LatentHeads { rank, nope, .. } = self.heads;
        let (group, width) = (heads.len(), self.heads.key());
        let Lane { queries, latent: Room { products, forms, .. }, .. } = lane;
        for (i, head) in heads.enumerate() {
            let query = |row: usize| {
                let queries = self.queries.row(w, rows.start + row);
                &queries[head * self.heads.query()..][..self.heads.query()]
            };
            let still = |row: usize| &query(row)[..nope];
            self.multiply_rows(&self.mixer.keys[head], rows.len(), still, forms, products);
            for (row, product) in products.chunks_exact(rank).take(rows.len()).enumerate() {
                let out = &mut queries[(row * group + i) * width..][..width];
                out[..rank].copy_from_slice(product);
                out[rank..].copy_from_slice(&query(row)[nope..]);
                self.turn(w, &mut out[rank..], rows.start + row);
            }
        }
    }

    /// The products of a head's matrix with `count` rows, one after another.
    fn multiply_rows<'r>(
        &self,
        matrix: &Matrix,
        count: usize,
        row: impl Fn(usize) -> &'r [f32],
        forms: &mut [u8],
        products: &mut [f32],
    ) {
        let kernels = self.walk.graph.kernels;
        let (kind, group) = (matrix.kind(), kernels.group());
        let bytes = kind.row_bytes(matrix.k);
        let forms = &mut forms[..count * bytes];
        for (first, out) in (0..).step_by(group).zip(forms.chunks_mut(group * bytes)) {
            let rows = out.len() / bytes;
            for at in 0..rows {
                let place = InGroup { rows, row: at };
                kernels.quantize_row(kind, row(first + at), out, place);
            }
        }
        let rows = Activations::new(kind, matrix.k, forms, count, group);
        let out = Tile::new(products, matrix.rows, count, matrix.rows);
        self.walk.multiply(matrix, 0..matrix.panels(), rows, out);
    }

    /// Rotates the turning part of a key or a query to its row's position.
    fn turn(&self, w: &Worker<'_>, x: &mut [f32], row: usize) {
        self.walk.rotate(w, self.rotation, x, self.heads.rope, row);
    }
}
