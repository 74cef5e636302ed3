//! A barrier that a panic opens.

use super::gate::Gate;
use super::sync::{AtomicBool, AtomicUsize, Ordering};

/// Another worker panicked: leave the graph.
#[derive(Debug)]
pub(crate) struct Poisoned;

/// A counter alone on its cache lines (two: the adjacent-line prefetcher pairs them).
#[repr(align(128))]
pub(super) struct Padded(pub(super) AtomicUsize);

impl Padded {
    pub(super) fn new() -> Self {
        Self(AtomicUsize::new(0))
    }
}

/// Where `size` workers wait for each other, again and again.
pub(super) struct Barrier {
    /// Counts the times that all have come.
    generation: Gate,
    arrived: Padded,
    size: usize,
    poisoned: AtomicBool,
}

impl Barrier {
    pub(super) fn new(size: usize, spins: bool) -> Self {
        Self {
            generation: Gate::new(spins),
            arrived: Padded::new(),
            size,
            poisoned: AtomicBool::new(false),
        }
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Waits until all have come; the last runs `last` and lets the others go. What a worker wrote
    /// before is seen by all after.
    ///
    /// # Errors
    /// [`Poisoned`], to some or all, when a worker does not come any more.
    pub(super) fn wait(&self, last: impl FnOnce()) -> Result<(), Poisoned> {
        // Before the rest: of a later advance, that of `poison` too, `Gate::wait` sees a difference.
        let generation = self.generation.value();
        self.check()?;
        if self.arrived.0.fetch_add(1, Ordering::AcqRel) + 1 == self.size {
            self.arrived.0.store(0, Ordering::Relaxed);
            last();
            self.generation.advance();
        } else {
            self.generation.wait(generation);
        }
        self.check()
    }

    /// Lets all go, those that wait and those that come later.
    pub(super) fn poison(&self) {
        self.poisoned.store(true, Ordering::Release);
        self.generation.advance();
    }

    /// Makes the barrier as new. Nobody may be at it.
    pub(super) fn reset(&self) {
        self.arrived.0.store(0, Ordering::Relaxed);
        self.poisoned.store(false, Ordering::Relaxed);
    }

    fn check(&self) -> Result<(), Poisoned> {
        if self.poisoned.load(Ordering::Acquire) { Err(Poisoned) } else { Ok(()) }
    }
}
