//! What the team's protocol is made of. `tests/loom` puts its own module in this place, so that the
//! same files are checked in every order of their steps.

pub(super) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
pub(super) use std::sync::{Arc, Condvar, Mutex, MutexGuard};
pub(super) use std::thread::JoinHandle;
