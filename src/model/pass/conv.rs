//! The mixer that is little else than a convolution.

use super::Walk;
use super::needs::{Rows, side_by_side};
use super::product::At;
use super::recurrent::Channels;
use super::scratch::Lane;
use crate::model::weights::Loaded;
use crate::spec::ShortConv;
use crate::threads::{Poisoned, Worker};

const CHANNELS: usize = ShortConv::<Loaded>::CHANNELS;

impl Walk<'_> {
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
            let input = |row: usize, to: &mut [f32]| {
                to.copy_from_slice(part(row, 0));
                self.graph.kernels.multiply(to, part(row, 2));
            };
            let what = Channels {
                conv: &mixer.conv,
                channels: channels.clone(),
                silu: false,
                part: tails,
                task: claim.start,
            };
            self.convolve(w, &mut lane.window, &what, input, (&mut out, &mut after));
            for row in 0..self.rows {
                let out = &mut out.row(row)[..channels.len()];
                self.graph.kernels.multiply(out, part(row, 1));
            }
        });
        w.barrier()?;
        self.residual(w, lane, at, &self.made(made, hidden), &mixer.output)
    }
}
