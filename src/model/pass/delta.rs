//! The gated delta rule: products; convolutions, norms and gates; every head's state past all rows of
//! each run; and the projection of what was read.

use goldcrest_kernels::{Delta, GateOrder, Nonlinearity, PANEL_ROWS, TokenRows};

use super::Walk;
use super::needs::{Rows, side_by_side};
use super::product::At;
use super::recurrent::{Channels, Matrices};
use super::scratch::{Lane, Place};
use crate::model::weights::Loaded;
use crate::spec::{DeltaHeads, DeltaNet};
use crate::threads::{Block, ColumnBlock, Poisoned, Shared, Worker};

/// What is added to the sum of a key's squares.
const L2_EPS: f32 = 1e-6;

/// Numbers of a row after the convolution: a slot for every head of queries, keys and values, and one
/// for the gates: how much of each value head's state is kept, then how far it moves.
pub(super) fn convolved(heads: DeltaHeads) -> usize {
    (heads.convolved() + 1) * heads.slot()
}

/// One block's delta rule in one pass.
struct Step<'s, 'a> {
    walk: &'s Walk<'a>,
    mixer: &'s DeltaNet<Loaded>,
    heads: DeltaHeads,
    /// Where each of the inputs begins in a row.
    columns: [usize; 6],
    /// `[rows, inputs side by side]`
    inputs: &'s Shared<'a, f32>,
    /// `[rows, convolved]`
    convolved: &'s Shared<'a, f32>,
    /// `[rows, n_v * d_v]`
    read: &'s Shared<'a, f32>,
}

impl Walk<'_> {
    /// x += output(norm(delta_rule(conv(inputs(norm(x))))) * silu(gate))
    pub(super) fn delta_net(
        &self,
        w: &mut Worker<'_>,
        lane: &mut Lane,
        at: At<'_>,
        mixer: &DeltaNet<Loaded>,
    ) -> Result<(), Poisoned> {
        let heads = mixer.heads;
        let mut end = 0;
        let step = Step {
            walk: self,
            mixer,
            heads,
            columns: mixer.inputs.each_ref().map(|linear| {
                let start = end;
                end += linear.matrix.panels() * PANEL_ROWS;
                start
            }),
            inputs: self.b.floats(side_by_side(&mixer.inputs), Rows::Pass),
            convolved: self.b.floats(convolved(heads), Rows::Convolved),
            read: self.b.floats(heads.values(), Rows::Pass),
        };
        self.side_by_side(w, lane, &self.hidden(at.pre()), mixer.inputs.iter(), step.inputs)?;
        step.convolve(w, lane)?;
        step.advance(w)?;
        self.residual(w, lane, at, &self.made(step.read, heads.values()), &mixer.output)
    }
}

impl Step<'_, '_> {
    /// A task is a head of queries, keys or values, or the gates of all.
    fn convolve(&self, w: &mut Worker<'_>, lane: &mut Lane) -> Result<(), Poisoned> {
        let (heads, tails) = (self.heads, 2 * self.mixer.kept);
        let tail = self.mixer.conv.tail(heads.slot());
        let grids = (
            self.convolved.grid(w, self.walk.rows, heads.slot()),
            self.walk.b.after.columns(w, tails, tail),
        );
        w.each(heads.convolved() + 1, 1, grids, |claim, (mut out, mut after)| {
            if claim.start == heads.convolved() {
                self.gates(w, lane, &mut out);
            } else {
                self.convolve_head(w, lane, claim.start, &mut out, &mut after);
            }
        });
        w.barrier()
    }

    fn convolve_head(
        &self,
        w: &Worker<'_>,
        lane: &mut Lane,
        head: usize,
        out: &mut Block<'_, f32>,
        after: &mut ColumnBlock<'_, f32>,
    ) {
        let (walk, kernels) = (self.walk, self.walk.graph.kernels);
        let DeltaHeads { n_k, d_k, d_v, .. } = self.heads;
        let (which, index) = ((head / n_k).min(2), head - (head / n_k).min(2) * n_k);
        let width = if which == 2 { d_v } else { d_k };
        let channel = which * self.heads.keys() + index * width;
        let column = self.columns[which] + index * width;
        let (inputs, stride) = (self.inputs.read(w), self.inputs.stride());
        let input = |row: usize, to: &mut [f32]| {
            to.copy_from_slice(&inputs[row * stride + column..][..width]);
        };
        let what = Channels {
            conv: &self.mixer.conv,
            channels: channel..channel + width,
            silu: true,
            part: 2 * self.mixer.kept,
            task: head,
        };
        walk.convolve(w, &mut lane.window, &what, input, (out, after));
        // Queries and keys have length 1; the scores' scale is on the queries.
        let factor = if which == 0 { 1.0 / (d_k as f32).sqrt() } else { 1.0 };
        for row in (0..walk.rows).filter(|_| which < 2) {
            kernels.l2_norm(&mut out.row(row)[..width], width, L2_EPS, factor);
        }
    }

    fn gates(&self, w: &Worker<'_>, lane: &mut Lane, out: &mut Block<'_, f32>) {
        let (kernels, n) = (self.walk.graph.kernels, self.heads.n_v);
        let decay = &self.mixer.decay;
        let [.., beta, alpha] = self.columns;
        for row in 0..self.walk.rows {
            let inputs = self.inputs.row(w, row);
            let (decays, moves) = out.row(row)[..2 * n].split_at_mut(n);
            let (x, steps) = (&inputs[alpha..][..n], &mut lane.key[..n]);
            kernels.time_steps(x, &decay.bias, &decay.rates, decay.limits, steps, decays);
            moves.copy_from_slice(&inputs[beta..][..n]);
            kernels.activate(Nonlinearity::Sigmoid, moves);
        }
    }

    /// A task is a value head.
    fn advance(&self, w: &mut Worker<'_>) -> Result<(), Poisoned> {
        let (heads, part) = (self.heads, 2 * self.mixer.kept + 1);
        let matrices = Matrices { part, heads: heads.n_v, numbers: heads.state() };
        let to = (self.read, heads.d_v);
        self.walk.each_state(w, matrices, to, |w, head, place, state, out| {
            let delta = self.delta(w, place, head);
            self.walk.graph.kernels.delta_rule(&delta, state, out.head_rows());
            self.gated_norm(w, place, head, out);
        })
    }

    /// What the rows of a run bring to a head.
    fn delta<'w>(&'w self, w: &'w Worker<'_>, place: &Place, head: usize) -> Delta<'w> {
        let (heads, stride) = (self.heads, self.convolved.stride());
        let DeltaHeads { n_k, n_v, d_k, d_v, .. } = heads;
        let all = &self.convolved.read(w)[place.first * stride..];
        let column = |column: usize| TokenRows::new(&all[column..], stride);
        let slot = |slot: usize| column(slot * heads.slot());
        let (key, gates) = (heads.key_of(head), heads.convolved() * heads.slot());
        Delta {
            tokens: place.rows,
            d_k,
            d_v,
            q: slot(key),
            k: slot(n_k + key),
            v: slot(2 * n_k + head),
            decay: column(gates + head),
            per_channel: false,
            beta: column(gates + n_v + head),
        }
    }

    fn gated_norm(&self, w: &Worker<'_>, place: &Place, head: usize, out: &mut Block<'_, f32>) {
        let (d_v, norm) = (self.heads.d_v, &self.mixer.norm);
        let weight = norm.weight.as_deref().expect("a gated norm has weights");
        for row in 0..place.rows {
            let gates = self.inputs.row(w, place.first + row);
            let gate = &gates[self.columns[3] + head * d_v..][..d_v];
            let kernels = self.walk.graph.kernels;
            kernels.gated_norm(out.row(row), gate, weight, norm.eps, GateOrder::AfterNorm);
        }
    }
}
