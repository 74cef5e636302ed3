//! Causal convolutions of channels by themselves: those of recurrent mixers, and the mixer that is
//! little else.

use std::ops::Range;

use super::Walk;
use super::needs::{Rows, side_by_side};
use super::product::At;
use super::scratch::{Lane, Place};
use crate::config::limits::TAPS;
use crate::model::weights::Loaded;
use crate::spec::{Convolution, ShortConv};
use crate::threads::{Block, Poisoned, Worker};

const CHANNELS: usize = ShortConv::<Loaded>::CHANNELS;

/// Some channels of a run: what the state has of their inputs, and what it will have.
pub(super) struct Tail<'t> {
    /// `[taps - 1, channels]`, oldest first.
    pub(super) before: &'t [f32],
    pub(super) after: &'t mut [f32],
}

impl Walk<'_> {
    /// Convolves `channels` of all rows of a run into as many columns of `out`; `input` writes those
    /// of a row. Then SiLU, where `silu` says so.
    pub(super) fn convolve(
        &self,
        window: &mut [f32],
        (conv, channels, silu): (&Convolution<Loaded>, Range<usize>, bool),
        place: &Place,
        tail: Tail<'_>,
        mut input: impl FnMut(usize, &mut [f32]),
        out: &mut Block<'_, f32>,
    ) {
        let (taps, width) = (conv.taps, channels.len());
        let weight = |tap: usize| &conv.weights[tap * conv.channels..][channels.clone()];
        let weights: [&[f32]; TAPS] =
            std::array::from_fn(|tap| if tap < taps { weight(tap) } else { &[] });
        let bias = conv.bias.as_ref().map(|bias| &bias[channels.clone()]);
        // Input i of the run, those of the tail first, is in slot i modulo the number of taps.
        window[..(taps - 1) * width].copy_from_slice(&tail.before[..(taps - 1) * width]);
        for row in 0..place.rows {
            let newest = row + taps - 1;
            input(place.first + row, &mut window[newest % taps * width..][..width]);
            let seen: [&[f32]; TAPS] = std::array::from_fn(|tap| match tap < taps {
                true => &window[(row + tap) % taps * width..][..width],
                false => &[],
            });
            let out = &mut out.row(place.first + row)[..width];
            self.graph.kernels.short_conv(&seen[..taps], &weights[..taps], bias, silu, out);
        }
        for (i, kept) in tail.after.chunks_exact_mut(width).take(taps - 1).enumerate() {
            kept.copy_from_slice(&window[(place.rows + i) % taps * width..][..width]);
        }
    }

    /// x += output(c * conv(b * x))
    pub(super) fn short_conv(
        &self,
        w: &mut Worker<'_>,
        lane: &mut Lane,
        at: At<'_>,
        mixer: &ShortConv<Loaded>,
    ) -> Result<(), Poisoned> {
        let hidden = mixer.conv.channels;
        let inputs = self.b.floats(side_by_side([&mixer.input]), Rows::Pass);
        let made = self.b.floats(hidden, Rows::Convolved);
        self.side_by_side(w, lane, &self.hidden(at.pre()), std::iter::once(&mixer.input), inputs)?;

        let tails = 2 * mixer.kept;
        let tail = mixer.conv.tail(CHANNELS);
        let grids = (made.grid(w, self.rows, CHANNELS), self.b.after.columns(w, tails, tail));
        let inputs = (inputs.read(w), inputs.stride());
        w.each(mixer.tasks(), 1, grids, |claim, (mut out, mut after)| {
            let first = claim.start * CHANNELS;
            let channels = first..hidden.min(first + CHANNELS);
            let part = |row: usize, which: usize| {
                &inputs.0[row * inputs.1 + which * hidden + first..][..channels.len()]
            };
            for (run, place) in self.places.iter().enumerate() {
                let before = self.b.before.read(w, tails, run);
                let before = &before[claim.start * tail..][..tail];
                let tail = Tail { before, after: after.row(run) };
                let input = |row: usize, to: &mut [f32]| {
                    to.copy_from_slice(part(row, 0));
                    self.graph.kernels.multiply(to, part(row, 2));
                };
                let what = (&mixer.conv, channels.clone(), false);
                self.convolve(&mut lane.window, what, place, tail, input, &mut out);
                for row in place.first..place.first + place.rows {
                    let out = &mut out.row(row)[..channels.len()];
                    self.graph.kernels.multiply(out, part(row, 1));
                }
            }
        });
        w.barrier()?;
        self.residual(w, lane, at, &self.made(made, hidden), &mixer.output)
    }
}
