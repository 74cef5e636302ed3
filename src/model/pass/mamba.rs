//! The state space of Mamba-2: products; convolutions and steps in time; every head's state past all
//! rows of each run; gates and norms; and the projection of what was read.

use goldcrest_kernels::{Nonlinearity, Scan, TokenRows};

use super::Walk;
use super::needs::{Rows, side_by_side};
use super::product::At;
use super::recurrent::{Channels, Matrices};
use super::scratch::{Lane, Place};
use crate::model::weights::Loaded;
use crate::spec::{Mamba, MambaHeads};
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
    /// x += output(norm(scan(conv(input(norm(x)))) * silu(gate))), or with the gate after the norm, or
    /// without one
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
        if let Some(factors) = mixer.factors {
            step.multiply(w, factors)?;
        }
        step.convolve(w, lane)?;
        step.advance(w)?;
        step.gate(w, lane)?;
        self.residual(w, lane, at, &self.made(step.read, heads.inner()), &mixer.output)
    }
}

impl Step<'_, '_> {
    /// Multiplies each part of the inputs by its factor.
    fn multiply(&self, w: &mut Worker<'_>, factors: [f32; 5]) -> Result<(), Poisoned> {
        let grid = self.inputs.grid(w, 1, usize::MAX);
        w.each(self.walk.rows, 1, grid, |_, mut rows| {
            let mut rest = rows.row(0);
            for (len, factor) in self.heads.parts().into_iter().zip(factors) {
                let (part, after) = rest.split_at_mut(len);
                self.walk.graph.kernels.scale(part, factor);
                rest = after;
            }
        });
        w.barrier()
    }

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
            let input = |row: usize, to: &mut [f32]| {
                to.copy_from_slice(&inputs[row * stride + column..][..to.len()]);
            };
            let conv = &self.mixer.conv;
            let what = Channels { conv, channels, silu: true, part: tails, task: slot };
            walk.convolve(w, &mut lane.window, &what, input, (&mut out, &mut after));
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

    fn advance(&self, w: &mut Worker<'_>) -> Result<(), Poisoned> {
        let (heads, part) = (self.heads, 2 * self.mixer.kept + 1);
        let matrices = Matrices { part, heads: heads.n_heads, numbers: heads.state() };
        let to = (self.read, heads.head_dim);
        self.walk.each_state(w, matrices, to, |w, head, place, state, out| {
            let scan = self.scan(w, place, head);
            self.walk.graph.kernels.scan(&scan, state, out.head_rows());
        })
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

    /// Gates and normalises every group.
    fn gate(&self, w: &mut Worker<'_>, lane: &mut Lane) -> Result<(), Poisoned> {
        let inner = self.heads.inner();
        let grid = self.read.grid(w, 1, usize::MAX);
        w.each(self.walk.rows, 1, grid, |claim, mut rows| {
            let gates = &self.inputs.row(w, claim.start)[..inner];
            self.gate_row(rows.row(0), gates, &mut lane.row[..inner]);
        });
        w.barrier()
    }

    fn gate_row(&self, x: &mut [f32], gates: &[f32], room: &mut [f32]) {
        let kernels = self.walk.graph.kernels;
        let Some((norm, order)) = &self.mixer.norm else {
            room.copy_from_slice(gates);
            kernels.activate(Nonlinearity::Silu, room);
            return kernels.multiply(x, room);
        };
        let weight = norm.weight.as_deref().expect("a gated norm has weights");
        let width = x.len() / self.heads.n_groups;
        let groups = x.chunks_exact_mut(width).zip(gates.chunks_exact(width));
        for ((x, gate), weight) in groups.zip(weight.chunks_exact(width)) {
            kernels.gated_norm(x, gate, weight, norm.eps, *order);
        }
    }
}
