//! A counter that threads wait on: spin briefly, then park.

use std::hint::spin_loop;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::sync::{AtomicUsize, Condvar, Mutex, MutexGuard, Ordering};

/// Longer than a step of a small model takes, far shorter than a scheduler's time slice.
const SPIN: Duration = Duration::from_micros(40);

/// In [`Gate::state`]: a thread may be asleep.
const ASLEEP: usize = 1;
/// In [`Gate::state`]: one step of the counter.
const ONE: usize = 2;

#[repr(align(128))]
pub(super) struct Gate {
    /// The count, and whether a thread may be asleep. In one word, so that of a sleeper and a thread
    /// that counts one sees the other, with no fence between two.
    state: AtomicUsize,
    spins: bool,
    mutex: Mutex<()>,
    condvar: Condvar,
}

impl Gate {
    /// `spins`: whether a waiter may burn its processor for a moment before it parks.
    pub(super) fn new(spins: bool) -> Self {
        let (mutex, condvar) = (Mutex::new(()), Condvar::new());
        Self { state: AtomicUsize::new(0), spins, mutex, condvar }
    }

    /// What was written before the count became this is seen.
    pub(super) fn value(&self) -> usize {
        self.state.load(Ordering::Acquire) / ONE
    }

    /// Adds one and wakes all waiters.
    pub(super) fn advance(&self) {
        if self.state.fetch_add(ONE, Ordering::AcqRel) & ASLEEP != 0 {
            // Nobody is between looking at the count and falling asleep while this holds the lock.
            let guard = lock(&self.mutex);
            self.state.fetch_and(!ASLEEP, Ordering::Relaxed);
            drop(guard);
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
                if self.value() != old {
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
        // Looked at first: who was woken would else set the bit again, and the next count would wake
        // nobody at the price of a system call.
        while self.value() == old && self.state.fetch_or(ASLEEP, Ordering::AcqRel) / ONE == old {
            guard = self.condvar.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        drop(guard);
        self.value()
    }
}

/// Locks; a panic of another holder leaves nothing half-done behind these locks.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
