//! The forward pass: embed, each block in turn, head; walked by all workers at once.
//!
//! A pass runs the tokens of several sequences. Their rows are one matrix for norms and products;
//! attention alone looks at the runs, and a row's bits do not depend on what is beside it.
//!
//! Steps are separated by barriers. Several rows are normalised and quantised by all workers
//! together; a single row by each for itself, which costs less than a barrier. A layer of llama has five
//! barriers for one row.

mod attention;
mod conv;
mod delta;
mod dense;
#[cfg(feature = "gpu")]
mod device;
mod experts;
mod latent;
mod layer_input;
mod low_rank;
mod mamba;
mod needs;
mod product;
mod recurrent;
mod rope;
mod scratch;
mod spans;
mod streams;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use goldcrest_kernels::{Kernels, PANEL_ROWS, Tile};

use super::queue::Seat;
use super::weights::{Loaded, Weights};
use crate::error::{Error, ErrorKind, Result};
use crate::session::CancelToken;
use crate::spec::{Mixer, Spec};
use crate::state::State;
use crate::threads::{Poisoned, Team, Worker, lock};
use needs::Needs;
#[cfg(feature = "gpu")]
pub(crate) use product::mixes;
use product::{At, Input};
use rope::Rotation;
pub(crate) use scratch::Scratch;
use scratch::{Buffers, Lane, Place, Shares};
#[cfg(feature = "gpu")]
pub(crate) use spans::Angles;
pub(crate) use spans::Span;

/// Rows of prompts that go through the blocks together, where any run on the CPU.
pub(crate) const BATCH: usize = 256;

/// All that a pass reads and no pass changes.
pub(crate) struct Graph {
    pub(crate) weights: Weights,
    pub(crate) kernels: &'static Kernels,
    rotations: Vec<Rotation>,
    needs: Needs,
    /// Weights of norms that have none.
    ones: Vec<f32>,
    /// The blocks, by what runs them.
    spans: Vec<Span>,
}

/// What a pass works with: one at a time has it.
pub(crate) struct Engine {
    pub(crate) team: Team,
    pub(crate) scratch: Scratch,
    /// The runs of the pass, and where their sessions wait.
    pub(crate) runs: Vec<Run>,
    pub(crate) seats: Vec<Arc<Seat>>,
}

impl Engine {
    pub(crate) fn new(team: Team) -> Self {
        Self { team, scratch: Scratch::default(), runs: Vec::new(), seats: Vec::new() }
    }
}

/// One sequence's part of a pass: `ids` at the positions from its state's length on.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) ids: Vec<u32>,
    pub(crate) state: State,
    /// The logits of how many of its last rows are wanted.
    pub(crate) wants: usize,
    /// `[wants, vocab]`
    pub(crate) logits: Vec<f32>,
    pub(crate) cancel: CancelToken,
}

impl Default for Run {
    /// What stands in a session for a run that is in a pass. Allocates nothing.
    fn default() -> Self {
        Self {
            ids: Vec::new(),
            state: State::default(),
            wants: 0,
            logits: Vec::new(),
            cancel: CancelToken::never().clone(),
        }
    }
}

/// Bytes of the buffers of a pass over a whole piece of a prompt.
///
/// # Errors
/// As [`Graph::new`].
pub(crate) fn scratch_bytes(spec: &Spec<Loaded>, kernels: &Kernels, threads: usize) -> Result<u64> {
    let rotations: Vec<_> = spec.ropes.iter().map(|rope| Rotation::new(rope, 0)).collect();
    let needs = Needs::new(spec, &rotations, kernels.group())?;
    Ok(Scratch::bytes(&needs, spec.hidden, BATCH, threads) as u64)
}

impl Graph {
    /// Rows of prompts of a pass: a device that has all blocks wants more of them to be busy.
    pub(crate) fn batch(&self) -> usize {
        #[cfg(feature = "gpu")]
        if self.spans.iter().all(|span| matches!(span, Span::Gpu(_))) {
            return goldcrest_gpu::ROWS - super::queue::RUNS;
        }
        BATCH
    }

    /// For contexts of `context` positions at most, on the CPU.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for a model of more different widths than a pass has buffers for.
    pub(crate) fn new(weights: Weights, kernels: &'static Kernels, context: usize) -> Result<Self> {
        let ropes = weights.spec.ropes.iter();
        let rotations: Vec<_> = ropes.map(|rope| Rotation::new(rope, context)).collect();
        let needs = Needs::new(&weights.spec, &rotations, kernels.group())?;
        let ones = vec![1.0; needs.longest];
        let spans = vec![Span::Cpu(0..weights.spec.blocks.len())];
        Ok(Self { weights, kernels, rotations, needs, ones, spans })
    }

    /// Has the spans run that `cut` makes.
    #[cfg(feature = "gpu")]
    pub(crate) fn cut<T>(
        &mut self,
        cut: impl FnOnce(&Weights, &Angles<'_>) -> Result<(Vec<Span>, T)>,
    ) -> Result<T> {
        let angles = Angles { rotations: &self.rotations, width: self.needs.angles };
        let (spans, rest) = cut(&self.weights, &angles)?;
        self.spans = spans;
        Ok(rest)
    }

    pub(crate) fn spec(&self) -> &Spec<Loaded> {
        &self.weights.spec
    }

    /// Runs a pass and advances every run's state.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`] where all runs were cancelled, and [`ErrorKind::Worker`]; the states
    /// are as before.
    pub(crate) fn run(&self, engine: &mut Engine, runs: &mut [Run]) -> Result<()> {
        let Engine { team, scratch, .. } = engine;
        scratch.begin(self, team.size(), runs);
        let Shares { buffers, lanes, places, cancels } = scratch.share(self, runs);
        let walk = Walk {
            graph: self,
            rows: places.iter().map(|place| place.rows).sum(),
            places,
            cancels,
            cancelled: AtomicBool::new(false),
            fault: Mutex::new(None),
            b: buffers,
        };
        team.run(&|worker| walk.run(worker, &mut lock(&lanes[worker.index()])))?;
        if let Some(fault) = lock(&walk.fault).take() {
            return Err(fault);
        }
        if walk.cancelled.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Cancelled, "cancelled"));
        }
        for run in runs {
            run.state.advance(run.ids.len());
        }
        Ok(())
    }

    /// The residual stream of a token before the first block, and the angles of its position.
    fn embed(
        &self,
        (id, position): (u32, usize),
        x: &mut [f32],
        angles: &mut [f32],
        room: &mut [f32],
    ) {
        self.weights.embed(id, x);
        if let Some(hadamard) = &self.weights.hadamard {
            hadamard.turn_back(self.kernels, x);
        }
        let scale = self.spec().embed_scale;
        if scale != 1.0 {
            self.kernels.scale(x, scale);
        }
        if let Some(table) = self.spec().positions {
            let row = &mut room[..x.len()];
            self.weights.look_up(table, position, row);
            self.kernels.add(x, row);
        }
        let mut rest = angles;
        for rotation in &self.rotations {
            let (own, after) = rest.split_at_mut(2 * rotation.pairs());
            rotation.angles(position, own);
            rest = after;
        }
    }
}

/// The graph with the buffers of one pass.
struct Walk<'a> {
    graph: &'a Graph,
    /// Rows of all runs.
    rows: usize,
    places: &'a [Place],
    cancels: &'a [CancelToken],
    /// All leave the pass together.
    cancelled: AtomicBool,
    /// And why, where nobody asked for it.
    fault: Mutex<Option<Error>>,
    b: Buffers<'a>,
}

impl Walk<'_> {
    fn run(&self, w: &mut Worker<'_>, lane: &mut Lane) -> Result<(), Poisoned> {
        self.embed(w, lane)?;
        if let Some(inputs) = &self.graph.spec().layer_inputs {
            self.layer_inputs(w, lane, inputs)?;
        }
        if let Some(streams) = &self.graph.spec().streams {
            self.split_streams(w, lane, streams)?;
        }
        for span in &self.graph.spans {
            match span {
                Span::Cpu(blocks) => self.blocks(w, lane, blocks.clone())?,
                #[cfg(feature = "gpu")]
                Span::Gpu(body) => self.on_device(w, body)?,
            }
            if self.cancelled.load(Ordering::Relaxed) {
                return Ok(());
            }
        }
        match self.graph.spans.last() {
            Some(span) if span.has_head() => Ok(()),
            _ => self.head(w, lane),
        }
    }

    fn blocks(
        &self,
        w: &mut Worker<'_>,
        lane: &mut Lane,
        blocks: Range<usize>,
    ) -> Result<(), Poisoned> {
        for block in &self.graph.spec().blocks[blocks] {
            for (index, branch) in block.branches.iter().enumerate() {
                let at = At { block, index };
                match &branch.mixer {
                    Mixer::Attention(mixer) => self.attention(w, lane, at, mixer)?,
                    Mixer::Latent(mixer) => self.latent(w, lane, at, mixer)?,
                    Mixer::DeltaNet(mixer) => self.delta_net(w, lane, at, mixer)?,
                    Mixer::ShortConv(mixer) => self.short_conv(w, lane, at, mixer)?,
                    Mixer::Mamba(mixer) => self.mamba(w, lane, at, mixer)?,
                    Mixer::Dense(mixer) => self.dense(w, lane, at, mixer)?,
                    Mixer::Experts(mixer) => self.experts(w, lane, at, mixer)?,
                    Mixer::LayerInput(mixer) => self.layer_input(w, lane, at, mixer)?,
                    Mixer::LowRank(mixer) => self.low_rank(w, lane, at, mixer)?,
                    Mixer::Identity => self.identity(w, lane, at)?,
                    Mixer::Predict(mixer) => self.predict(w, lane, at, mixer)?,
                    Mixer::Correct(mixer) => self.correct(w, lane, at, mixer)?,
                }
                if self.cancelled.load(Ordering::Relaxed) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// A rotation, and where its angles begin in a row of them.
    fn rotation(&self, index: usize) -> (&Rotation, usize) {
        let (before, rest) = self.graph.rotations.split_at(index);
        (&rest[0], before.iter().map(|rotation| 2 * rotation.pairs()).sum())
    }

    /// Rotates each `width` numbers of `x` to the position of row `row`.
    fn rotate(
        &self,
        w: &Worker<'_>,
        (rotation, first): (&Rotation, usize),
        x: &mut [f32],
        width: usize,
        row: usize,
    ) {
        let pairs = rotation.pairs();
        let (cos, sin) = self.b.angles.row(w, row)[first..][..2 * pairs].split_at(pairs);
        self.graph.kernels.rope(rotation.style, x, width, cos, sin);
    }

    /// Rows of the embedding. A single one is there before the workers start.
    fn embed(&self, w: &mut Worker<'_>, lane: &mut Lane) -> Result<(), Poisoned> {
        if self.rows == 1 {
            return Ok(());
        }
        let parts = (self.b.x.grid(w, 1, usize::MAX), self.b.angles.grid(w, 1, usize::MAX));
        w.each(self.rows, 1, parts, |claim, (mut x, mut angles)| {
            let token = self.b.tokens[claim.start];
            self.graph.embed(token, x.row(0), angles.row(0), &mut lane.row);
        });
        w.barrier()
    }

    /// Final norm and the logits of the rows that want them.
    fn head(&self, w: &mut Worker<'_>, lane: &mut Lane) -> Result<(), Poisoned> {
        let count = self.b.logits.rows();
        if count == 0 {
            return Ok(());
        }
        let spec = self.graph.spec();
        if let Some(streams) = &spec.streams {
            self.join_streams(w, lane, streams)?;
        }
        let matrix = &spec.head.matrix;
        let turned = matrix.turned;
        let input = Input { pick: Some(self.b.wanted), turned, ..self.hidden(Some(&spec.norm)) };
        self.prepare(w, lane, &input, matrix.kind().into())?;
        let columns = self.b.logits.columns(w, 0, PANEL_ROWS);
        w.each(matrix.panels(), self.grain(), columns, |claim, mut block| {
            let first = claim.start * PANEL_ROWS;
            if count == 1 {
                let cols = block.cols();
                let rows = self.input_rows(w, lane, &input, matrix);
                let out = Tile::new(block.row(0), cols, 1, cols);
                self.multiply(matrix, claim, rows, out);
                self.finish_logits(first, block.row(0));
                return;
            }
            self.product(w, lane, &input, matrix, claim, |row, product| {
                self.finish_logits(first, product);
                block.row(row).copy_from_slice(product);
            });
        });
        w.barrier()
    }

    /// Makes logits, of tokens from `first` on, of the head's products.
    fn finish_logits(&self, first: usize, products: &mut [f32]) {
        let (spec, kernels) = (self.graph.spec(), self.graph.kernels);
        if let Some(bias) = &spec.head.bias {
            kernels.add(products, &bias[first..][..products.len()]);
        }
        if spec.logits.scale != 1.0 {
            kernels.scale(products, spec.logits.scale);
        }
        if let Some(cap) = spec.logits.cap {
            kernels.softcap(cap, products);
        }
    }
}

#[cfg(test)]
mod tests;
