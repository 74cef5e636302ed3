//! Spans on a device: one worker hands the rows over, the others wait.

use std::sync::atomic::Ordering;

use super::Walk;
use crate::model::device::{Body, Rows};
use crate::session::CancelToken;
use crate::threads::{Poisoned, Worker, lock};

impl Walk<'_> {
    /// Runs the blocks of a span. What goes wrong ends the pass, as a cancelled one ends.
    pub(super) fn on_device(&self, w: &mut Worker<'_>, body: &Body) -> Result<(), Poisoned> {
        let graph = self.graph;
        let (hidden, width) = (graph.spec().hidden, graph.needs.angles);
        let angles = &self.b.angles.read(w)[..self.rows * width];
        let rows = self.b.x.grid(w, usize::MAX, usize::MAX);
        let logits = self.b.logits.columns(w, 0, graph.spec().vocab);
        w.each(1, 1, (rows, logits), |_, (mut x, mut logits)| {
            let texts = self.places.iter();
            let rows = Rows {
                x: &mut x.whole()[..self.rows * hidden],
                angles,
                angles_width: width,
                texts: texts.map(|p| (p.first, p.rows, p.start, p.on_device.as_ref())).collect(),
                wanted: if body.has_head() { self.b.wanted } else { &[] },
            };
            let done = body.run(rows, |row, made| logits.row(row).copy_from_slice(made));
            if let Err(error) = done {
                *lock(&self.fault) = Some(error);
                self.cancelled.store(true, Ordering::Relaxed);
            } else if self.cancels.iter().all(CancelToken::is_cancelled) {
                self.cancelled.store(true, Ordering::Relaxed);
            }
        });
        w.barrier()
    }
}
