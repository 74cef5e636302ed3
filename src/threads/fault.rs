//! Panics on purpose, for tests: at the nth step of one worker.

use std::cell::Cell;

thread_local! {
    static STEPS_LEFT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Lets the calling thread make `steps` more steps; `None` ends that.
pub(crate) fn arm(steps: Option<usize>) {
    STEPS_LEFT.set(steps);
}

/// A step: every use of a buffer, and every claim of tasks.
pub(super) fn point() {
    match STEPS_LEFT.get() {
        None => {}
        Some(0) => {
            STEPS_LEFT.set(None);
            // Past the hook that would print it.
            std::panic::resume_unwind(Box::new("on purpose"));
        }
        Some(steps) => STEPS_LEFT.set(Some(steps - 1)),
    }
}
