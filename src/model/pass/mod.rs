//! The forward pass: embed, each block in turn, head; walked by all workers at once.
//!
//! A pass runs the tokens of several sequences. Their rows are one matrix for norms and products;
//! attention alone looks at the runs, and a row's bits do not depend on what is beside it.
//!
//! Steps are separated by barriers. Several rows are normalised and quantised by all workers
//! together; a single row by each for itself, which costs less than a barrier. A layer of llama has five
//! barriers for one row.

mod attention;
mod dense;
mod experts;
mod needs;
mod product;
mod rope;
mod scratch;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use goldcrest_kernels::{Kernels, PANEL_ROWS, Tile};

use super::queue::Seat;
use super::weights::{Loaded, Weights};
use crate::error::{Error, ErrorKind, Result};
use crate::session::CancelToken;
use crate::spec::{Mixer, Spec};
use crate::state::State;
use crate::threads::{Poisoned, Team, Worker, lock};
use needs::Needs;
use product::Input;
use rope::Rotation;
pub(crate) use scratch::Scratch;
use scratch::{Buffers, Lane, Place, Shares};

/// Rows of prompts that go through the blocks together.
pub(crate) const BATCH: usize = 256;

/// All that a pass reads and no pass changes.
pub(crate) struct Graph {
    pub(crate) weights: Weights,
    pub(crate) kernels: &'static Kernels,
    rotations: Vec<Rotation>,
    needs: Needs,
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

impl Graph {
    /// # Errors
    /// [`ErrorKind::Unsupported`] for a model of more different widths than a pass has buffers for.
    pub(crate) fn new(weights: Weights, kernels: &'static Kernels) -> Result<Self> {
        let rotations: Vec<_> = weights.spec.ropes.iter().map(Rotation::new).collect();
        let needs = Needs::new(&weights.spec, &rotations, kernels.group())?;
        Ok(Self { weights, kernels, rotations, needs })
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
            b: buffers,
        };
        team.run(&|worker| walk.run(worker, &mut lock(&lanes[worker.index()])))?;
        if walk.cancelled.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Cancelled, "cancelled"));
        }
        for run in runs {
            run.state.advance(run.ids.len());
        }
        Ok(())
    }

    /// The residual stream of a token before the first block, and the angles of its position.
    fn embed(&self, id: u32, position: usize, x: &mut [f32], angles: &mut [f32]) {
        self.weights.embed(id, x);
        if let Some(hadamard) = &self.weights.hadamard {
            hadamard.turn_back(self.kernels, x);
        }
        let scale = self.spec().embed_scale;
        if scale != 1.0 {
            self.kernels.scale(x, scale);
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
    cancelled: AtomicBool,
    b: Buffers<'a>,
}

impl Walk<'_> {
    fn run(&self, w: &mut Worker<'_>, lane: &mut Lane) -> Result<(), Poisoned> {
        self.embed(w)?;
        // Attention blocks have a place each in the states.
        let mut kept = 0;
        for block in &self.graph.spec().blocks {
            match &block.mixer {
                Mixer::Attention(mixer) => {
                    self.attention(w, lane, block, mixer, kept)?;
                    kept += 1;
                }
                Mixer::Dense(mixer) => self.dense(w, lane, block, mixer)?,
                Mixer::Experts(mixer) => self.experts(w, lane, block, mixer)?,
            }
            if self.cancelled.load(Ordering::Relaxed) {
                return Ok(());
            }
        }
        self.head(w, lane)
    }

    /// Rows of the embedding. A single one is there before the workers start.
    fn embed(&self, w: &mut Worker<'_>) -> Result<(), Poisoned> {
        if self.rows == 1 {
            return Ok(());
        }
        let parts = (self.b.x.grid(w, 1, usize::MAX), self.b.angles.grid(w, 1, usize::MAX));
        w.each(self.rows, 1, parts, |claim, (mut x, mut angles)| {
            let (id, position) = self.b.tokens[claim.start];
            self.graph.embed(id, position, x.row(0), angles.row(0));
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
        let turned = spec.head.turned;
        let input = Input { pick: Some(self.b.wanted), turned, ..self.hidden(&spec.norm) };
        self.prepare(w, lane, &input, spec.head.kind().into())?;
        let columns = self.b.logits.columns(w, 0, PANEL_ROWS);
        w.each(spec.head.panels(), self.grain(), columns, |claim, mut block| {
            if count == 1 {
                let cols = block.cols();
                let rows = self.input_rows(w, lane, &input, &spec.head);
                let out = Tile::new(block.row(0), cols, 1, cols);
                self.multiply(&spec.head, claim, rows, out);
                return;
            }
            self.product(w, lane, &input, &spec.head, claim, |row, product| {
                block.row(row).copy_from_slice(product);
            });
        });
        w.barrier()
    }

    /// Ends a block. One decides whether the pass goes on before the barrier, so that all leave
    /// together after it.
    fn end_block(&self, w: &mut Worker<'_>) -> Result<(), Poisoned> {
        if w.index() == 0 && self.cancels.iter().all(CancelToken::is_cancelled) {
            self.cancelled.store(true, Ordering::Relaxed);
        }
        w.barrier()
    }
}

#[cfg(test)]
mod tests;
