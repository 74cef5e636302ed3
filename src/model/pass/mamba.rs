//! The state space of Mamba-2: products; convolutions and steps in time; every head's state past all
//! rows of each run; gates and norms; and the projection of what was read.

use goldcrest_kernels::{GateOrder, Nonlinearity, Scan, TokenRows};

use super::Walk;
use super::conv::Tail;
use super::needs::{Rows, side_by_side};
use super::product::At;
use super::scratch::{Lane, Place};
use crate::model::weights::Loaded;
use crate::spec::{Mamba, MambaHeads, Norm};
use crate::threads::{Block, Poisoned, Shared, Worker};

/// Numbers of a row after the convolution: a slot for every head's inputs, every group's B and every
/// group's C, and one for the steps of all heads, then how much of their states is kept.
pub(super) fn convolved(heads: MambaHeads) -> usize {
    (heads.convolved() + 1) * heads.slot()
}

/// One block's state space in one pass.
struct Step<'s, 'a> {
    walk: &'s Walk<'a>,
    mixer: &'s Mamba<Loaded>,
    heads: MambaHeads,
    /// `[rows, gates | inputs | B | C | steps]`
    inputs: &'s Shared<'a, f32>,
    /// `[rows, convolved]`
    convolved: &'s Shared<'a, f32>,
    /// `[rows, n_heads * head_dim]`
    read: &'s Shared<'a, f32>,
}

impl Walk<'_> {
    /// x += output(norm(scan(conv(input(norm(x)))) * silu(gate)))
    pub(super) fn mamba(
        &self,
        w: &mut Worker<'_>,
        lane: &mut Lane,
        at: At<'_>,
        mixer: &Mamba<Loaded>,
    ) -> Result<(), Poisoned> {
        let heads = mixer.heads;
        let step = Step {
            walk: self,
            mixer,
            heads,
            inputs: self.b.floats(side_by_side([&mixer.input]), Rows::Pass),
            convolved: self.b.floats(convolved(heads), Rows::Convolved),
            read: self.b.floats(heads.inner(), Rows::Pass),
        };
        let input = self.hidden(at.pre());
        self.side_by_side(w, lane, &input, std::iter::once(&mixer.input), step.inputs)?;
        step.convolve(w, lane)?;
        step.advance(w, lane)?;
        if let Some(norm) = &mixer.norm {
            step.normalise(w, norm)?;
        }
        self.residual(w, lane, at, &self.made(step.read, heads.inner()), &mixer.output)
    }
}

impl Step<'_, '_> {
    /// A task is what a slot holds.
    fn convolve(&self, w: &mut Worker<'_>, lane: &mut Lane) -> Result<(), Poisoned> {
        let (walk, heads, tails) = (self.walk, self.heads, 2 * self.mixer.kept);
        let MambaHeads { n_heads, head_dim, d_state, .. } = heads;
        let tail = self.mixer.conv.tail(heads.slot());
        let grids =
            (self.convolved.grid(w, walk.rows, heads.slot()), walk.b.after.columns(w, tails, tail));
        let (inputs, stride) = (self.inputs.read(w), self.inputs.stride());
        w.each(heads.convolved() + 1, 1, grids, |claim, (mut out, mut after)| {
            let slot = claim.start;
            let channels = match slot.checked_sub(n_heads) {
                None => slot * head_dim..(slot + 1) * head_dim,
                Some(_) if slot == heads.convolved() => return self.steps(w, &mut out),
                Some(group) => {
                    let first = heads.inner() + group * d_state;
                    first..first + d_state
                }
            };
            let column = heads.inner() + channels.start;
            for (run, place) in walk.places.iter().enumerate() {
                let before = walk.b.before.read(w, tails, run);
                let tail = Tail { before: &before[slot * tail..][..tail], after: after.row(run) };
                let input = |row: usize, to: &mut [f32]| {
                    to.copy_from_slice(&inputs[row * stride + column..][..to.len()]);
                };
                let what = (&self.mixer.conv, channels.clone(), true);
                walk.convolve(&mut lane.window, what, place, tail, input, &mut out);
            }
        });
        w.barrier()
    }

    fn steps(&self, w: &Worker<'_>, out: &mut Block<'_, f32>) {
        let (n, decay) = (self.heads.n_heads, &self.mixer.decay);
        let first = self.heads.inner() + self.heads.channels();
        for row in 0..self.walk.rows {
            let x = &self.inputs.row(w, row)[first..][..n];
            let (steps, decays) = out.row(row)[..2 * n].split_at_mut(n);
            let kernels = self.walk.graph.kernels;
            kernels.time_steps(x, &decay.bias, &decay.rates, decay.limits, steps, decays);
        }
    }

    /// A task is a head: its state goes past the rows of every run.
    fn advance(&self, w: &mut Worker<'_>, lane: &mut Lane) -> Result<(), Poisoned> {
        let (heads, matrices) = (self.heads, 2 * self.mixer.kept + 1);
        let grids = (
            self.read.grid(w, self.walk.rows, heads.head_dim),
            self.walk.b.after.columns(w, matrices, heads.state()),
        );
        w.each(heads.n_heads, 1, grids, |claim, (mut out, mut after)| {
            let head = claim.start;
            for (run, place) in self.walk.places.iter().enumerate() {
                let before = self.walk.b.before.read(w, matrices, run);
                let state = after.row(run);
                state.copy_from_slice(&before[head * heads.state()..][..heads.state()]);
                let mut out = out.some_rows(place.first, place.rows);
                let scan = self.scan(w, place, head);
                self.walk.graph.kernels.scan(&scan, state, out.head_rows());
                if self.mixer.norm.is_none() {
                    self.gate(w, lane, place, head, &mut out);
                }
            }
        });
        w.barrier()
    }

    /// What the rows of a run bring to a head.
    fn scan<'w>(&'w self, w: &'w Worker<'_>, place: &Place, head: usize) -> Scan<'w> {
        let (heads, stride) = (self.heads, self.convolved.stride());
        let all = &self.convolved.read(w)[place.first * stride..];
        let column = |column: usize| TokenRows::new(&all[column..], stride);
        let slot = |slot: usize| column(slot * heads.slot());
        let (group, steps) = (heads.group_of(head), heads.convolved() * heads.slot());
        Scan {
            tokens: place.rows,
            d_state: heads.d_state,
            head_dim: heads.head_dim,
            x: slot(head),
            b: slot(heads.n_heads + group),
            c: slot(heads.n_heads + heads.n_groups + group),
            step: column(steps + head),
            decay: column(steps + heads.n_heads + head),
            skip: self.mixer.skip[head],
        }
    }

    /// x * silu(gate)
    fn gate(
        &self,
        w: &Worker<'_>,
        lane: &mut Lane,
        place: &Place,
        head: usize,
        out: &mut Block<'_, f32>,
    ) {
        let (width, kernels) = (self.heads.head_dim, self.walk.graph.kernels);
        for row in 0..place.rows {
            let gate = &mut lane.key[..width];
            let gates = self.inputs.row(w, place.first + row);
            gate.copy_from_slice(&gates[head * width..][..width]);
            kernels.activate(Nonlinearity::Silu, gate);
            kernels.multiply(out.row(row), gate);
        }
    }

    fn normalise(&self, w: &mut Worker<'_>, norm: &Norm<Loaded>) -> Result<(), Poisoned> {
        let inner = self.heads.inner();
        let width = inner / self.heads.n_groups;
        let weight = norm.weight.as_deref().expect("a gated norm has weights");
        let grid = self.read.grid(w, 1, usize::MAX);
        w.each(self.walk.rows, 1, grid, |claim, mut rows| {
            let gates = &self.inputs.row(w, claim.start)[..inner];
            let groups = rows.row(0).chunks_exact_mut(width).zip(gates.chunks_exact(width));
            for ((x, gate), weight) in groups.zip(weight.chunks_exact(width)) {
                let kernels = self.walk.graph.kernels;
                kernels.gated_norm(x, gate, weight, norm.eps, GateOrder::BeforeNorm);
            }
        });
        w.barrier()
    }
}
