//! What recurrent mixers share: convolutions of channels by themselves, and states that go past the
//! rows of each run.

use std::ops::Range;

use super::Walk;
use super::scratch::Place;
use crate::config::limits::TAPS;
use crate::model::weights::Loaded;
use crate::spec::Convolution;
use crate::threads::{Block, ColumnBlock, Poisoned, Shared, Worker};

/// What a task convolves.
pub(super) struct Channels<'c> {
    pub(super) conv: &'c Convolution<Loaded>,
    pub(super) channels: Range<usize>,
    /// Whether SiLU follows.
    pub(super) silu: bool,
    /// Which of the states' parts has the tails, and which of them is the task's.
    pub(super) part: usize,
    pub(super) task: usize,
}

/// The matrices of a mixer's heads in the states.
pub(super) struct Matrices {
    /// Which of the states' parts.
    pub(super) part: usize,
    pub(super) heads: usize,
    /// Numbers of one head's.
    pub(super) numbers: usize,
}

impl Walk<'_> {
    /// Convolves the channels of all rows into as many columns of `out`; `input` writes those of a row.
    /// Of each run the state has the last inputs, `[taps - 1, channels]`, oldest first; `after` gets
    /// those that it will have.
    pub(super) fn convolve(
        &self,
        w: &Worker<'_>,
        window: &mut [f32],
        what: &Channels<'_>,
        mut input: impl FnMut(usize, &mut [f32]),
        (out, after): (&mut Block<'_, f32>, &mut ColumnBlock<'_, f32>),
    ) {
        let Channels { conv, ref channels, silu, part, task } = *what;
        let (taps, width) = (conv.taps, channels.len());
        let weight = |tap: usize| &conv.weights[tap * conv.channels..][channels.clone()];
        let weights: [&[f32]; TAPS] =
            std::array::from_fn(|tap| if tap < taps { weight(tap) } else { &[] });
        let bias = conv.bias.as_ref().map(|bias| &bias[channels.clone()]);
        for (run, place) in self.places.iter().enumerate() {
            let after = after.row(run);
            let before = &self.b.before.read(w, part, run)[task * after.len()..];
            // Input i of the run, those of the tail first, is in slot i modulo the number of taps.
            window[..(taps - 1) * width].copy_from_slice(&before[..(taps - 1) * width]);
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
            for (i, kept) in after.chunks_exact_mut(width).take(taps - 1).enumerate() {
                kept.copy_from_slice(&window[(place.rows + i) % taps * width..][..width]);
            }
        }
    }

    /// A task is a head: `pass` moves a copy of its state past the rows of every run, and writes what
    /// they read, `width` numbers of each.
    pub(super) fn each_state(
        &self,
        w: &mut Worker<'_>,
        Matrices { part, heads, numbers }: Matrices,
        (read, width): (&Shared<'_, f32>, usize),
        mut pass: impl FnMut(&Worker<'_>, usize, &Place, &mut [f32], &mut Block<'_, f32>),
    ) -> Result<(), Poisoned> {
        let grids = (read.grid(w, self.rows, width), self.b.after.columns(w, part, numbers));
        w.each(heads, 1, grids, |claim, (mut out, mut after)| {
            let head = claim.start;
            for (run, place) in self.places.iter().enumerate() {
                let before = &self.b.before.read(w, part, run)[head * numbers..][..numbers];
                let state = after.row(run);
                state.copy_from_slice(before);
                pass(w, head, place, state, &mut out.some_rows(place.first, place.rows));
            }
        });
        w.barrier()
    }
}
