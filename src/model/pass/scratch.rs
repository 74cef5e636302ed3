//! The buffers of a forward pass, kept from one to the next.

use std::sync::{Mutex, PoisonError};

use goldcrest_kernels::{Activation, KvLayout, PANEL_ROWS};

use super::needs::{self, KINDS, Kinds, Needs, WIDTHS, slot};
use super::product::GRAIN;
use super::{Graph, Run, attention, experts, latent};
use crate::session::CancelToken;
use crate::threads::{RowList, Scattered, Shared};

/// Where a run is in the pass.
#[derive(Debug)]
pub(super) struct Place {
    /// Its first row, and how many it has.
    pub(super) first: usize,
    pub(super) rows: usize,
    /// The position of its first row.
    pub(super) start: usize,
    /// How each attention block's keys and values lie.
    layouts: Vec<KvLayout>,
    /// Those of blocks on a device.
    #[cfg(feature = "gpu")]
    pub(super) on_device: Option<std::sync::Arc<goldcrest_gpu::Cache>>,
}

impl Place {
    /// The position of row `row` of the pass.
    pub(super) fn position(&self, row: usize) -> usize {
        self.start + row - self.first
    }

    pub(super) fn layout(&self, block: usize) -> KvLayout {
        self.layouts[block]
    }
}

/// What belongs to one worker alone.
#[derive(Default)]
pub(super) struct Lane {
    /// One row, normalised.
    pub(super) row: Vec<f32>,
    /// One row in each form that is wanted.
    quantized: [Vec<u8>; 3],
    /// `[rows, 2 * grain * 16]`: a product on its way into the residual or the gate.
    pub(super) tile: Vec<f32>,
    /// `[rows of a task, group, head_dim]`: rotated queries.
    pub(super) queries: Vec<f32>,
    /// `[2, head_dim]`: a rotated key, and a normalised value or a gate.
    pub(super) key: Vec<f32>,
    /// `[taps, channels of a task]`: the inputs that a convolution sees, in a ring.
    pub(super) window: Vec<f32>,
    /// What the attention kernel works in.
    pub(super) scores: Vec<f32>,
    pub(super) routes: experts::Routes,
    pub(super) latent: latent::Room,
}

impl Lane {
    pub(super) fn quantized(&mut self, kind: Activation) -> &mut Vec<u8> {
        &mut self.quantized[slot(kind)]
    }

    pub(super) fn form(&self, kind: Activation) -> &[u8] {
        &self.quantized[slot(kind)]
    }

    fn bytes(needs: &Needs, rows: usize) -> usize {
        let tile = (rows * GRAIN.1).max(GRAIN.0) * 2 * PANEL_ROWS;
        let Needs { longest, queries, key, window, scores, .. } = *needs;
        let floats = longest + tile + queries + key + window + scores;
        floats * size_of::<f32>() + form_bytes(needs.kinds, longest)
    }

    fn grow(&mut self, needs: &Needs, rows: usize) {
        self.row.resize(needs.longest, 0.0);
        for kind in needs.kinds.iter() {
            self.quantized(kind).resize(kind.row_bytes(needs.longest), 0);
        }
        self.tile.resize((rows * GRAIN.1).max(GRAIN.0) * 2 * PANEL_ROWS, 0.0);
        self.queries.resize(needs.queries, 0.0);
        self.key.resize(needs.key, 0.0);
        self.window.resize(needs.window, 0.0);
        self.scores.resize(needs.scores, 0.0);
        self.routes.grow(&needs.routing, rows, needs.group);
        self.latent.latents.resize(needs.latents, 0.0);
        self.latent.products.resize(needs.head_products, 0.0);
        self.latent.forms.resize(needs.head_forms, 0);
    }
}

/// The buffers themselves.
#[derive(Default)]
pub(crate) struct Scratch {
    /// For how many rows they are.
    rows: usize,
    x: Vec<f32>,
    mixed: Vec<f32>,
    branched: Vec<f32>,
    angles: Vec<f32>,
    layer_inputs: Vec<f32>,
    streams: Vec<f32>,
    floats: Vec<Vec<f32>>,
    forms: Vec<[Vec<u8>; 3]>,
    choices: Vec<experts::Choice>,
    scores: Vec<f32>,
    partials: Vec<f32>,
    lanes: Vec<Mutex<Lane>>,
    places: Vec<Place>,
    /// Places of passes with more runs, kept for their memory.
    spare: Vec<Place>,
    tokens: Vec<(u32, usize)>,
    wanted: Vec<usize>,
    cancels: Vec<CancelToken>,
    caches: RowList<u8>,
    before: RowList<f32>,
    after: RowList<f32>,
    logits: RowList<f32>,
}

/// What a pass borrows of the scratch.
pub(super) struct Shares<'a> {
    pub(super) buffers: Buffers<'a>,
    pub(super) lanes: &'a [Mutex<Lane>],
    pub(super) places: &'a [Place],
    pub(super) cancels: &'a [CancelToken],
}

/// Quantised rows of one width, in each form.
type Forms<'a> = (usize, needs::Rows, [Shared<'a, u8>; 3]);
/// Rows of floats of one width.
type Floats<'a> = (needs::Rows, Shared<'a, f32>);

/// The buffers as the workers see them.
pub(super) struct Buffers<'a> {
    /// `[rows, hidden]`: the residual stream.
    pub(super) x: Shared<'a, f32>,
    /// `[rows, hidden]`: what a block's branches made, before it is normalised and added.
    pub(super) mixed: Shared<'a, f32>,
    /// `[rows, hidden]`: what one branch made, before it is normalised and added to `mixed`.
    pub(super) branched: Shared<'a, f32>,
    /// `[rows, angles]`: cosines and sines of every rotation in turn.
    pub(super) angles: Shared<'a, f32>,
    /// `[rows, layers * width]`
    pub(super) layer_inputs: Shared<'a, f32>,
    /// `[rows, count * hidden]`: all residual streams, where `x` is a copy of one.
    pub(super) streams: Shared<'a, f32>,
    floats: [Option<Floats<'a>>; WIDTHS],
    forms: [Option<Forms<'a>>; WIDTHS],
    /// `[rows, experts]`: the router's products.
    pub(super) scores: Shared<'a, f32>,
    /// `[rows, used]`: the experts that each row goes through.
    pub(super) choices: Shared<'a, experts::Choice>,
    /// One row: attention of one row over chunks of a long context.
    pub(super) partials: Shared<'a, f32>,
    /// For each attention block, a row for each run: the block's heads side by side.
    pub(super) caches: Scattered<'a, u8>,
    /// For each recurrent block two matrices, the tail of its convolution and its own, with a row for
    /// each run: as the pass found them, and as it leaves them.
    pub(super) before: Scattered<'a, f32>,
    pub(super) after: Scattered<'a, f32>,
    /// `[wanted rows, vocab]`
    pub(super) logits: Scattered<'a, f32>,
    /// The rows whose logits are wanted.
    pub(super) wanted: &'a [usize],
    /// Token and position of each row.
    pub(super) tokens: &'a [(u32, usize)],
}

impl<'a> Buffers<'a> {
    /// The forms of rows of `k` values.
    pub(super) fn forms(&self, k: usize, rows: needs::Rows) -> &[Shared<'a, u8>; 3] {
        let mut all = self.forms.iter().flatten();
        let found = all.find(|(width, sort, _)| *width == k && *sort == rows);
        found.map(|(_, _, forms)| forms).expect("the model's needs have its forms")
    }

    /// The rows of `width` floats.
    pub(super) fn floats(&self, width: usize, rows: needs::Rows) -> &Shared<'a, f32> {
        let mut all = self.floats.iter().flatten();
        let found = all.find(|(sort, floats)| floats.stride() == width && *sort == rows);
        found.map(|(_, floats)| floats).expect("the model's needs have its widths")
    }
}

impl Scratch {
    /// Lays out a pass of `runs`, and makes room for it. Allocates only where there was less.
    pub(super) fn begin(&mut self, graph: &Graph, workers: usize, runs: &mut [Run]) {
        self.place(runs);
        let rows = self.tokens.len();
        if let ([run], 1) = (&*runs, rows) {
            // Room for the whole context, so that no later step allocates.
            let kept = graph.spec().attentions().zip(run.state.layouts());
            let partials = kept.map(|(heads, layout)| attention::partials(heads, layout));
            let partials = partials.max().unwrap_or(0);
            if self.partials.len() < partials {
                self.partials.resize(partials, 0.0);
            }
        }
        self.grow(&graph.needs, graph.spec().hidden, rows, workers);
        if rows == 1 {
            let (x, angles) = (graph.spec().hidden, graph.needs.angles);
            let (x, angles) = (&mut self.x[..x], &mut self.angles[..angles]);
            let lane = self.lanes[0].get_mut().unwrap_or_else(PoisonError::into_inner);
            graph.embed(self.tokens[0], x, angles, &mut lane.row);
        }
    }

    fn place(&mut self, runs: &mut [Run]) {
        self.tokens.clear();
        self.wanted.clear();
        self.cancels.clear();
        self.spare.append(&mut self.places);
        for run in runs {
            let (first, rows, start) = (self.tokens.len(), run.ids.len(), run.state.len());
            run.state.begin(rows);
            let mut layouts = self.spare.pop().map_or_else(Vec::new, |place| place.layouts);
            layouts.clear();
            layouts.extend(run.state.layouts());
            self.places.push(Place {
                first,
                rows,
                start,
                layouts,
                #[cfg(feature = "gpu")]
                on_device: run.state.on_device(),
            });
            self.tokens.extend(run.ids.iter().copied().zip(start..));
            self.wanted.extend(first + rows - run.wants..first + rows);
            self.cancels.push(run.cancel.clone());
        }
    }

    fn grow(&mut self, needs: &Needs, hidden: usize, rows: usize, workers: usize) {
        if self.rows >= rows && self.lanes.len() == workers {
            return;
        }
        self.rows = rows.max(self.rows);
        let rows = self.rows;
        self.x.resize(rows * hidden, 0.0);
        self.mixed.resize(if needs.mixed { rows * hidden } else { 0 }, 0.0);
        self.branched.resize(if needs.branched { rows * hidden } else { 0 }, 0.0);
        self.angles.resize(rows * needs.angles, 0.0);
        self.layer_inputs.resize(rows * needs.layer_inputs, 0.0);
        self.streams.resize(rows * needs.streams, 0.0);
        self.floats.resize_with(needs.floats.len(), Vec::new);
        for (buffer, need) in self.floats.iter_mut().zip(&needs.floats) {
            buffer.resize(needs.rows_of(need.rows, rows) * need.width, 0.0);
        }
        self.forms.resize_with(needs.forms.len(), Default::default);
        for (buffers, need) in self.forms.iter_mut().zip(&needs.forms) {
            // A single row is quantised by each worker for itself.
            let rows = if rows > 1 { needs.rows_of(need.rows, rows) } else { 0 };
            grow_forms(buffers, need.kinds, rows, need.k);
        }
        let experts = needs.routing;
        self.scores.resize(rows * experts.count.next_multiple_of(PANEL_ROWS), 0.0);
        self.choices.resize(rows * experts.used, experts::Choice::default());
        self.lanes.resize_with(workers, Mutex::default);
        for lane in &mut self.lanes {
            let lane = lane.get_mut().unwrap_or_else(PoisonError::into_inner);
            lane.grow(needs, rows);
        }
    }

    /// Bytes that so many rows and workers take, but for what experts are counted in.
    pub(super) fn bytes(needs: &Needs, hidden: usize, rows: usize, workers: usize) -> usize {
        let copies = 1 + usize::from(needs.mixed) + usize::from(needs.branched);
        let experts = needs.routing.count.next_multiple_of(PANEL_ROWS);
        let row = copies * hidden + needs.angles + needs.layer_inputs + needs.streams + experts;
        let widths = needs.floats.iter().map(|need| needs.rows_of(need.rows, rows) * need.width);
        let forms = needs
            .forms
            .iter()
            .map(|need| needs.rows_of(need.rows, rows) * form_bytes(need.kinds, need.k));
        let floats = rows * row + widths.sum::<usize>();
        floats * size_of::<f32>() + forms.sum::<usize>() + workers * Lane::bytes(needs, rows)
    }

    /// Bytes that there are.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        let of = |floats: &Vec<f32>| floats.len() * size_of::<f32>();
        let own = [&self.x, &self.mixed, &self.branched, &self.angles, &self.layer_inputs];
        let floats =
            own.into_iter().chain([&self.streams, &self.scores]).chain(&self.floats).map(of);
        let forms = self.forms.iter().flatten().map(Vec::len);
        let lanes = self.lanes.iter().map(|lane| {
            let lane = crate::threads::lock(lane);
            let floats = [&lane.row, &lane.tile, &lane.queries, &lane.key, &lane.window];
            let floats = floats.into_iter().chain([&lane.scores]).map(of);
            floats.chain(lane.quantized.iter().map(Vec::len)).sum()
        });
        floats.chain(forms).chain(lanes).sum()
    }

    /// The buffers of the pass that [`begin`](Self::begin) laid out, and the workers' own.
    pub(super) fn share<'a>(&'a mut self, graph: &Graph, runs: &'a mut [Run]) -> Shares<'a> {
        let (needs, hidden) = (&graph.needs, graph.spec().hidden);
        let vocab = graph.spec().vocab;
        let kept = self.places.first().map_or(0, |place| place.layouts.len());
        let mut caches = self.caches.lend(kept);
        let recurrent = 2 * graph.spec().recurrences().count();
        let (mut before, mut after) = (self.before.lend(recurrent), self.after.lend(recurrent));
        let mut logits = self.logits.lend(1);
        for Run { state, logits: own, wants, .. } in runs {
            let (blocks, parts) = state.lend();
            caches.extend(blocks);
            for [old, new] in parts {
                before.extend(std::iter::once(old));
                after.extend(std::iter::once(new));
            }
            logits.extend(own.chunks_exact_mut(vocab).take(*wants));
        }
        let mut floats = self
            .floats
            .iter_mut()
            .zip(&needs.floats)
            .map(|(buffer, need)| (need.rows, Shared::new(buffer, need.width)));
        let mut forms = self.forms.iter_mut().zip(&needs.forms).map(|(buffers, need)| {
            let mut kinds = KINDS.into_iter();
            let forms = buffers.each_mut().map(|buffer| {
                let stride = kinds.next().map_or(1, |kind| kind.row_bytes(need.k));
                Shared::new(buffer, stride)
            });
            (need.k, need.rows, forms)
        });
        let buffers = Buffers {
            x: Shared::new(&mut self.x, hidden),
            mixed: Shared::new(&mut self.mixed, hidden),
            branched: Shared::new(&mut self.branched, hidden),
            angles: Shared::new(&mut self.angles, needs.angles),
            layer_inputs: Shared::new(&mut self.layer_inputs, needs.layer_inputs),
            streams: Shared::new(&mut self.streams, needs.streams),
            floats: std::array::from_fn(|_| floats.next()),
            forms: std::array::from_fn(|_| forms.next()),
            scores: Shared::new(&mut self.scores, needs.routing.count.next_multiple_of(PANEL_ROWS)),
            choices: Shared::new(&mut self.choices, needs.routing.used),
            partials: {
                let len = self.partials.len();
                Shared::new(&mut self.partials, len)
            },
            caches: caches.done(),
            before: before.done(),
            after: after.done(),
            logits: logits.done(),
            wanted: &self.wanted,
            tokens: &self.tokens,
        };
        Shares { buffers, lanes: &self.lanes, places: &self.places, cancels: &self.cancels }
    }
}

/// Bytes of a row of `k` values in all of its forms.
fn form_bytes(kinds: Kinds, k: usize) -> usize {
    kinds.iter().map(|kind| kind.row_bytes(k)).sum()
}

fn grow_forms(buffers: &mut [Vec<u8>; 3], kinds: Kinds, rows: usize, k: usize) {
    for kind in kinds.iter() {
        buffers[slot(kind)].resize(rows * kind.row_bytes(k), 0);
    }
}
