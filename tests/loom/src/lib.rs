//! The protocol of the worker team under [loom], which runs it in every order of its steps and with
//! every value that the memory model lets a load see.
//!
//! The files are those of the library, with loom's types in the place of `std::sync`'s:
//! `cargo test --manifest-path tests/loom/Cargo.toml`.
//!
//! [loom]: https://docs.rs/loom
#![cfg(test)]

#[path = "../../../src/threads/barrier.rs"]
mod barrier;
#[path = "../../../src/error.rs"]
#[allow(dead_code)]
mod error;
#[path = "../../../src/threads/gate.rs"]
mod gate;
#[path = "../../../src/threads/stamp.rs"]
mod stamp;
#[path = "../../../src/threads/team.rs"]
#[allow(dead_code)]
mod team;

/// `src/threads/sync.rs`.
mod sync {
    pub(super) use loom::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
    pub(super) use loom::sync::{Arc, Condvar, Mutex, MutexGuard};
    pub(super) use loom::thread::JoinHandle;
}

use loom::cell::UnsafeCell;
use loom::thread;

use barrier::{Barrier, Padded, Poisoned};
use gate::Gate;
use stamp::Stamp;
use sync::{Arc, AtomicUsize, Ordering};
use team::Team;

/// Runs `model` in all orders that take a thread's turn away, where it could go on, at most
/// `preemptions` times.
fn check(preemptions: Option<usize>, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(model);
}

/// Numbers that loom watches: a read beside a write of another thread fails the model.
struct Cells<const N: usize>([UnsafeCell<usize>; N]);

// SAFETY: every access is checked by loom, which is the purpose.
unsafe impl<const N: usize> Sync for Cells<N> {}

impl<const N: usize> Cells<N> {
    fn new() -> Self {
        Self(std::array::from_fn(|_| UnsafeCell::new(0)))
    }

    fn set(&self, at: usize, value: usize) {
        // SAFETY: loom ends the model if this is a race.
        self.0[at].with_mut(|cell| unsafe { *cell = value });
    }

    fn get(&self, at: usize) -> usize {
        // SAFETY: loom ends the model if this is a race.
        self.0[at].with(|cell| unsafe { *cell })
    }
}

/// A waiter wakes up, whenever it parks, and sees what was written before the advance.
#[test]
fn no_wake_up_is_lost() {
    check(None, || {
        let shared = Arc::new((Gate::new(false), Cells::<1>::new()));
        let waiter = Arc::clone(&shared);
        let waiter = thread::spawn(move || {
            let (gate, cells) = &*waiter;
            assert_eq!(gate.wait(0), 1);
            assert_eq!(cells.get(0), 7);
        });
        let (gate, cells) = &*shared;
        cells.set(0, 7);
        gate.advance();
        waiter.join().unwrap();
    });
}

/// Two advances, one of which may come before the waiter of the other has woken up.
#[test]
fn two_waiters_wake_up_twice() {
    check(Some(3), || {
        let gate = Arc::new(Gate::new(false));
        let start = |_| {
            let gate = Arc::clone(&gate);
            thread::spawn(move || {
                let first = gate.wait(0);
                assert!(first == 1 || first == 2);
                assert_eq!(gate.wait(1), 2);
            })
        };
        let waiters = [0, 1].map(start);
        gate.advance();
        gate.advance();
        for waiter in waiters {
            waiter.join().unwrap();
        }
    });
}

/// Each of `N` workers writes its own number and reads all after the barrier, twice.
fn two_rounds<const N: usize>(preemptions: Option<usize>) {
    check(preemptions, || {
        let shared = Arc::new((Barrier::new(N, false), Cells::<N>::new(), Padded::new()));
        let work = |index: usize| {
            let shared = Arc::clone(&shared);
            move || {
                let (barrier, cells, lasts) = &*shared;
                for round in 1..=2 {
                    cells.set(index, round);
                    let last =
                        || assert_eq!(lasts.0.fetch_add(1, Ordering::Relaxed) / 2, round - 1);
                    barrier.wait(last).unwrap();
                    assert!((0..N).all(|i| cells.get(i) == round));
                    assert_eq!(lasts.0.load(Ordering::Relaxed), 2 * round - 1);
                    barrier.wait(last).unwrap();
                }
            }
        };
        let others: Vec<_> = (1..N).map(|index| thread::spawn(work(index))).collect();
        work(0)();
        for other in others {
            other.join().unwrap();
        }
    });
}

#[test]
fn two_workers_pass_the_barrier_together() {
    two_rounds::<2>(Some(4));
}

#[test]
fn three_workers_pass_the_barrier_together() {
    two_rounds::<3>(Some(2));
}

/// One of three workers never comes to the second barrier: the others leave, and what is after it
/// is reached by none.
#[test]
fn poison_releases_the_waiters() {
    check(Some(2), || {
        let barrier = Arc::new(Barrier::new(3, false));
        let wait = |_| {
            let barrier = Arc::clone(&barrier);
            thread::spawn(move || {
                // The first may be passed, or left already.
                let first = barrier.wait(|| ());
                assert!(first.is_err() || barrier.wait(|| ()).is_err());
                assert!(barrier.wait(|| ()).is_err());
            })
        };
        let others = [0, 1].map(wait);
        barrier.wait(|| ()).unwrap();
        barrier.poison();
        for other in others {
            other.join().unwrap();
        }
    });
}

/// Of the workers that are let in, all have the same use.
#[test]
fn one_use_of_a_buffer_a_section() {
    const READ: u64 = 1;
    const WRITE: u64 = 2;
    for uses in [[READ, WRITE, WRITE], [READ, READ, WRITE], [READ, WRITE, 3]] {
        check(None, move || {
            let stamp = Arc::new(Stamp::new());
            // What the section before left.
            stamp.enter(1, 1, WRITE).unwrap();
            let enter = |use_| {
                let stamp = Arc::clone(&stamp);
                thread::spawn(move || stamp.enter(1, 2, use_).is_ok())
            };
            let [a, b] = [enter(uses[0]), enter(uses[1])];
            let third = stamp.enter(1, 2, uses[2]).is_ok();
            let allowed = [a.join().unwrap(), b.join().unwrap(), third];
            let mut those = uses.iter().zip(allowed).filter(|(_, ok)| *ok).map(|(use_, _)| use_);
            let first = those.next().expect("the first to come is let in");
            assert!(those.all(|use_| use_ == first));
        });
    }
}

/// Two jobs of a team and its end: each job runs on both workers, and the caller goes on when they
/// have left it.
#[test]
fn a_team_runs_its_jobs() {
    check(Some(3), || {
        let mut team = Team::start(2, false, |_, life| Ok(thread::spawn(life))).unwrap();
        assert_eq!(team.size(), 2);
        let cells = Cells::<2>::new();
        let sum = AtomicUsize::new(0);
        for job in 1..=2 {
            team.run(&|w| -> Result<(), Poisoned> {
                cells.set(w.index(), job);
                w.barrier()?;
                sum.fetch_add(cells.get(0) + cells.get(1), Ordering::Relaxed);
                Ok(())
            })
            .unwrap();
            assert_eq!((cells.get(0), cells.get(1)), (job, job));
        }
        assert_eq!(sum.load(Ordering::Relaxed), 2 * (1 + 1) + 2 * (2 + 2));
    });
}

/// The caller sees what all workers wrote, whichever is the last to leave.
#[test]
fn a_job_ends_when_all_have_left_it() {
    check(Some(2), || {
        let mut team = Team::start(3, false, |_, life| Ok(thread::spawn(life))).unwrap();
        let cells = Cells::<3>::new();
        team.run(&|w| {
            cells.set(w.index(), 1);
            Ok(())
        })
        .unwrap();
        assert!((0..3).all(|i| cells.get(i) == 1));
    });
}

/// A worker panics, and the other one may be anywhere; the next job is a job like any other.
#[test]
fn a_team_survives_a_panic() {
    check(Some(2), || {
        let mut team = Team::start(2, false, |_, life| Ok(thread::spawn(life))).unwrap();
        for culprit in [Some(1), None] {
            let passed = AtomicUsize::new(0);
            let result = team.run(&|w| {
                if culprit == Some(w.index()) {
                    std::panic::resume_unwind(Box::new("on purpose"));
                }
                w.barrier()?;
                passed.fetch_add(1, Ordering::Relaxed);
                Ok(())
            });
            assert_eq!(result.is_err(), culprit.is_some());
            assert_eq!(passed.load(Ordering::Relaxed), if culprit.is_some() { 0 } else { 2 });
        }
    });
}
