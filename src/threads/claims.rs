//! How a section's tasks are divided: claimed from one counter.

use std::ops::Range;

use super::shared::{Block, Grid};
use super::sync::Ordering;
use super::team::Worker;

/// More tasks than any step has; below it no sum or product of [`Worker::each`] wraps.
const MOST: usize = 1 << 24;

impl Worker<'_> {
    /// Claims tasks `0..total` in runs of at most `longest` until none are left, and hands `task`
    /// each run with the blocks of `parts` that belong to it. One call between two barriers.
    ///
    /// Runs grow shorter towards the end: at the start of each the memory's pipeline is empty, and
    /// what was fetched ahead of the last one belongs to another worker; but workers should finish
    /// together. (Sixteen equal runs instead cost 1.5% of decoding a model of 1.5 B, 8% of 135 M.)
    pub(crate) fn each<P: Parts>(
        &self,
        total: usize,
        longest: usize,
        mut parts: P,
        mut task: impl FnMut(Range<usize>, P::Blocks),
    ) {
        let _ = self.section();
        assert!(total <= MOST, "a step of {total} tasks");
        assert!(!self.claimed.replace(true), "two steps between two barriers");
        let workers = self.team.barrier.size();
        let longest = longest.clamp(1, MOST);
        let shortest = (total / (workers * 16)).clamp(1, longest);
        let end = |start: usize| {
            let fair_part = (total - start) * 2 / (workers * 3);
            total.min(start + fair_part.clamp(shortest, longest))
        };
        let next = &self.team.next.0;
        let claim = |start| (start < total).then(|| end(start));
        while let Ok(start) = next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, claim) {
            #[cfg(test)]
            super::fault::point();
            let run = start..end(start);
            // SAFETY: the counter gives a task out once (`end` goes forward, so it never turns
            // back), and starts over only at a barrier.
            let blocks = unsafe { parts.blocks(&run) };
            task(run, blocks);
        }
    }
}

/// What [`Worker::each`] divides: one grid or several.
///
/// The grids of several are of different buffers: a second one of the same buffer is refused when
/// it is made.
pub(crate) trait Parts {
    /// The blocks of one claim.
    type Blocks;
    /// The blocks of `claim` in every grid.
    ///
    /// # Safety
    /// No task is claimed twice between two barriers.
    unsafe fn blocks(&mut self, claim: &Range<usize>) -> Self::Blocks;
}

impl<'w, T> Parts for Grid<'w, T> {
    type Blocks = Block<'w, T>;

    unsafe fn blocks(&mut self, claim: &Range<usize>) -> Self::Blocks {
        // SAFETY: the caller's promise.
        unsafe { self.get(claim) }
    }
}

impl<P: Parts, const N: usize> Parts for [Option<P>; N] {
    type Blocks = [Option<P::Blocks>; N];

    unsafe fn blocks(&mut self, claim: &Range<usize>) -> Self::Blocks {
        // SAFETY: the caller's promise.
        self.each_mut().map(|part| part.as_mut().map(|part| unsafe { part.blocks(claim) }))
    }
}

impl<A: Parts, B: Parts> Parts for (A, B) {
    type Blocks = (A::Blocks, B::Blocks);

    unsafe fn blocks(&mut self, claim: &Range<usize>) -> Self::Blocks {
        // SAFETY: the caller's promise.
        unsafe { (self.0.blocks(claim), self.1.blocks(claim)) }
    }
}
