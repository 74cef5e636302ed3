//! Several residual streams: made of the embeddings, predicted before each layer, corrected after it,
//! and averaged in the end. They lie side by side, apart from the one that blocks see.

use super::Walk;
use super::product::{At, Input};
use super::scratch::Lane;
use crate::config::limits::STREAMS;
use crate::model::weights::Loaded;
use crate::spec::{Correct, Predict, Router, Streams};
use crate::threads::{Poisoned, Worker};

impl Walk<'_> {
    /// streams = x, and what the matrices make of it with its root mean square
    pub(super) fn split_streams(
        &self,
        w: &mut Worker<'_>,
        lane: &mut Lane,
        streams: &Streams<Loaded>,
    ) -> Result<(), Poisoned> {
        for (stream, matrix) in (1..).zip(&streams.split) {
            self.multiply_all(w, lane, &self.hidden(None), matrix, &self.b.branched)?;
            let grid = self.b.streams.grid(w, 1, usize::MAX);
            w.each(self.rows, 1, grid, |claim, mut row| {
                let x = self.b.x.row(w, claim.start);
                let (first, others) = row.row(0).split_at_mut(x.len());
                first.copy_from_slice(x);
                let own = &mut others[(stream - 1) * x.len()..][..x.len()];
                own.copy_from_slice(self.b.branched.row(w, claim.start));
                self.graph.kernels.match_rms(own, x, Streams::<Loaded>::LEAST);
            });
            w.barrier()?;
        }
        Ok(())
    }

    /// x = the mean of the first stream and of what the matrices make of the others, with its root
    /// mean square
    pub(super) fn join_streams(
        &self,
        w: &mut Worker<'_>,
        lane: &mut Lane,
        streams: &Streams<Loaded>,
    ) -> Result<(), Poisoned> {
        let (kernels, hidden) = (self.graph.kernels, self.graph.spec().hidden);
        for (stream, matrix) in (1..).zip(&streams.join) {
            self.multiply_all(w, lane, &self.stream(stream), matrix, &self.b.branched)?;
            let grid = self.b.x.grid(w, 1, usize::MAX);
            w.each(self.rows, 1, grid, |claim, mut x| {
                let (x, made) = (x.row(0), &mut lane.row[..hidden]);
                let first = &self.b.streams.row(w, claim.start)[..hidden];
                made.copy_from_slice(self.b.branched.row(w, claim.start));
                kernels.match_rms(made, first, Streams::<Loaded>::LEAST);
                if stream == 1 {
                    x.copy_from_slice(first);
                }
                kernels.add(x, made);
                if stream + 1 == streams.count {
                    kernels.scale(x, 1.0 / streams.count as f32);
                }
            });
            w.barrier()?;
        }
        Ok(())
    }

    /// One of the streams.
    fn stream(&self, index: usize) -> Input<'_, '_> {
        let k = self.graph.spec().hidden;
        Input { first: index * k, ..self.made(&self.b.streams, k) }
    }

    /// stream i += sum over j of c(i, j) * stream j; x = the active one
    pub(super) fn predict(
        &self,
        w: &mut Worker<'_>,
        lane: &mut Lane,
        at: At<'_>,
        mixer: &Predict<Loaded>,
    ) -> Result<(), Poisoned> {
        let (kernels, hidden) = (self.graph.kernels, self.graph.spec().hidden);
        let Router { count, active, .. } = mixer.router;
        let grids = (self.b.streams.grid(w, 1, usize::MAX), self.b.x.grid(w, 1, usize::MAX));
        w.each(self.rows, 1, grids, |_, (mut streams, mut x)| {
            let streams = streams.row(0);
            let seen = &streams[active * hidden..][..hidden];
            let modalities = self.modalities(at, &mixer.router, seen, &mut lane.row);
            let before = &mut lane.row[..streams.len()];
            before.copy_from_slice(streams);
            let coefficients = mixer.coefficients.chunks_exact(count * count);
            for (stream, coefficients) in streams.chunks_exact_mut(hidden).zip(coefficients) {
                let each = before.chunks_exact(hidden).zip(coefficients.chunks_exact(count));
                for (other, coefficients) in each {
                    kernels.add_scaled(stream, other, dot(coefficients, &modalities));
                }
            }
            x.row(0).copy_from_slice(&streams[active * hidden..][..hidden]);
        });
        w.barrier()
    }

    /// stream i += c(i) * (x - the active one); x = the active one * scale
    pub(super) fn correct(
        &self,
        w: &mut Worker<'_>,
        lane: &mut Lane,
        at: At<'_>,
        mixer: &Correct<Loaded>,
    ) -> Result<(), Poisoned> {
        let (kernels, hidden) = (self.graph.kernels, self.graph.spec().hidden);
        let Router { count, active, .. } = mixer.router;
        let grids = (self.b.streams.grid(w, 1, usize::MAX), self.b.x.grid(w, 1, usize::MAX));
        w.each(self.rows, 1, grids, |_, (mut streams, mut x)| {
            let (streams, x) = (streams.row(0), x.row(0));
            let modalities = self.modalities(at, &mixer.router, x, &mut lane.row);
            let off = &mut lane.row[..hidden];
            off.copy_from_slice(x);
            kernels.add_scaled(off, &streams[active * hidden..][..hidden], -1.0);
            let coefficients = mixer.coefficients.chunks_exact(count);
            for (stream, coefficients) in streams.chunks_exact_mut(hidden).zip(coefficients) {
                kernels.add_scaled(stream, off, 1.0 + dot(coefficients, &modalities));
            }
            x.copy_from_slice(&streams[active * hidden..][..hidden]);
            if let Some(scale) = &mixer.scale {
                kernels.multiply(x, scale);
            }
        });
        w.barrier()
    }

    /// tanh(router(norm(x)) / hidden)
    fn modalities(
        &self,
        at: At<'_>,
        router: &Router<Loaded>,
        x: &[f32],
        room: &mut [f32],
    ) -> [f32; STREAMS] {
        let kernels = self.graph.kernels;
        let x = self.normalised(x, at.pre(), room);
        let mut modalities = [0.0; STREAMS];
        let out = &mut modalities[..router.count];
        kernels.dots(x, &router.weights, out);
        kernels.scale(out, 1.0 / x.len() as f32);
        kernels.softcap(1.0, out);
        modalities
    }
}

/// Of a few numbers.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
