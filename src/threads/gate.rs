//! A counter that threads wait on: spin briefly, then park.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use super::lock;

/// Longer than a step of a small model takes, far shorter than a scheduler's time slice.
const SPIN: Duration = Duration::from_micros(40);

#[repr(align(128))]
pub(super) struct Gate {
    value: AtomicUsize,
    sleepers: AtomicUsize,
    spins: bool,
    mutex: Mutex<()>,
    condvar: Condvar,
}

impl Gate {
    /// `spins`: whether a waiter may burn its processor for a moment before it parks.
    pub(super) fn new(spins: bool) -> Self {
        Self {
            value: AtomicUsize::new(0),
            sleepers: AtomicUsize::new(0),
            spins,
            mutex: Mutex::new(()),
            condvar: Condvar::new(),
        }
    }

    pub(super) fn value(&self) -> usize {
        self.value.load(Ordering::SeqCst)
    }

    /// Adds one and wakes all waiters.
    pub(super) fn advance(&self) {
        // Sequentially consistent with `park`: either the sleeper sees the new value, or this
        // sees the sleeper.
        self.value.fetch_add(1, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(lock(&self.mutex));
            self.condvar.notify_all();
        }
    }

    /// Waits until the value differs from `old`, and returns it.
    pub(super) fn wait(&self, old: usize) -> usize {
        if self.spins && self.spin(old) {
            return self.value();
        }
        self.park(old)
    }

    fn spin(&self, old: usize) -> bool {
        let start = Instant::now();
        loop {
            for _ in 0..64 {
                if self.value.load(Ordering::Acquire) != old {
                    return true;
                }
                spin_loop();
            }
            if start.elapsed() > SPIN {
                return false;
            }
        }
    }

    fn park(&self, old: usize) -> usize {
        let mut guard = lock(&self.mutex);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while self.value.load(Ordering::SeqCst) == old {
            guard = self.condvar.wait(guard).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        self.value()
    }
}
