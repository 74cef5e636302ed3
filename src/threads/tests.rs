use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::claims::Parts;
use super::*;
use crate::error::ErrorKind;

/// Adds its index to each number of a row and one to all, in `steps` steps of either kind in turn.
fn count(team: &mut Team, steps: usize) {
    let mut data = vec![0u32; 10 * 32];
    let shared = Shared::new(&mut data, 32);
    team.run(&|w| {
        for step in 0..steps {
            if step % 2 == 0 {
                w.each(10, 3, shared.grid(w, 1, usize::MAX), |claim, mut block| {
                    for i in 0..claim.len() {
                        block.row(i).iter_mut().for_each(|x| *x += (claim.start + i) as u32);
                    }
                });
            } else {
                w.each(2, 1, shared.grid(w, 10, 16), |_, mut block| {
                    for row in 0..block.rows() {
                        block.row(row).iter_mut().for_each(|x| *x += 1);
                    }
                });
            }
            w.barrier()?;
            let sum: u32 = shared.row(w, 9).iter().sum();
            assert_eq!(sum, 32 * (9 * (step as u32 / 2 + 1) + (step as u32).div_ceil(2)));
            w.barrier()?;
        }
        Ok(())
    })
    .unwrap();
    for (row, values) in data.chunks(32).enumerate() {
        let want = row * steps.div_ceil(2) + steps / 2;
        assert!(values.iter().all(|&x| x == want as u32));
    }
}

#[test]
fn every_task_is_done_once_and_seen_by_all() {
    // Miri takes a second for what is done here in some microseconds.
    let (sizes, rounds, steps) =
        if cfg!(miri) { (&[1, 3][..], 2, 4) } else { (&[1, 2, 3, 8][..], 20, 20) };
    for &size in sizes {
        let mut team = Team::new(size).unwrap();
        assert_eq!(team.size(), size);
        for _ in 0..rounds {
            count(&mut team, steps);
        }
    }
}

#[test]
fn a_panic_becomes_an_error_and_the_team_survives() {
    for size in [1, 2, 4] {
        let mut team = Team::new(size).unwrap();
        for culprit in 0..size {
            let passed = AtomicUsize::new(0);
            let error = team
                .run(&|w| {
                    w.barrier()?;
                    assert!(w.index() != culprit, "worker {culprit} gives up");
                    w.barrier()?;
                    passed.fetch_add(1, Ordering::Relaxed);
                    Ok(())
                })
                .unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Worker);
            assert!(error.to_string().contains("gives up"), "{error}");
            assert_eq!(passed.load(Ordering::Relaxed), 0);
            count(&mut team, 4);
        }
    }
}

#[test]
fn two_uses_of_a_buffer_in_one_step_panic() {
    let mut data = vec![0f32; 64];
    let shared = Shared::new(&mut data, 16);
    let mut team = Team::new(1).unwrap();
    let mut refused = |job: &(dyn Fn(&Worker<'_>) + Sync)| {
        let result = team.run(&|w| {
            job(w);
            Ok(())
        });
        result.is_err_and(|error| error.to_string().contains("two uses"))
    };
    assert!(refused(&|w| {
        let _read = shared.read(w);
        let _write = shared.grid(w, 1, 16);
    }));
    let shared = Shared::new(&mut data, 16);
    assert!(refused(&|w| {
        let _one = shared.grid(w, 1, 16);
        let _two = shared.grid(w, 1, 16);
    }));
}

type Use = dyn Fn(&Shared<'_, f32>, &Worker<'_>) + Sync;

/// What became of each worker's use of one buffer in one section, the workers one after another.
fn in_turn(uses: [&Use; 3]) -> [bool; 3] {
    let mut data = vec![0f32; 64];
    let shared = Shared::new(&mut data, 16);
    let turn = AtomicUsize::new(0);
    let allowed = [const { AtomicBool::new(false) }; 3];
    let mut team = Team::new(3).unwrap();
    team.run(&|w| {
        while turn.load(Ordering::Acquire) != w.index() {
            std::thread::yield_now();
        }
        let result = catch_unwind(AssertUnwindSafe(|| uses[w.index()](&shared, w)));
        allowed[w.index()].store(result.is_ok(), Ordering::Relaxed);
        turn.fetch_add(1, Ordering::Release);
        Ok(())
    })
    .unwrap();
    allowed.map(AtomicBool::into_inner)
}

#[test]
fn a_refused_use_opens_the_buffer_to_no_third_worker() {
    let read = |shared: &Shared<'_, f32>, w: &Worker<'_>| assert_eq!(shared.read(w).len(), 64);
    let rows = |shared: &Shared<'_, f32>, w: &Worker<'_>| {
        let _ = shared.grid(w, 1, 16);
    };
    let columns = |shared: &Shared<'_, f32>, w: &Worker<'_>| {
        let _ = shared.grid(w, 4, 8);
    };
    assert_eq!(in_turn([&read, &rows, &rows]), [true, false, false]);
    assert_eq!(in_turn([&rows, &read, &read]), [true, false, false]);
    assert_eq!(in_turn([&rows, &columns, &columns]), [true, false, false]);
    assert_eq!(in_turn([&read, &rows, &read]), [true, false, true]);
    assert_eq!(in_turn([&rows, &rows, &rows]), [true, true, true]);
}

#[test]
fn a_worker_that_must_leave_gets_no_buffer() {
    let mut data = vec![0f32; 64];
    let shared = Shared::new(&mut data, 16);
    let refused = AtomicUsize::new(0);
    let mut team = Team::new(2).unwrap();
    let result = team.run(&|w| {
        assert!(w.index() == 1, "gives up");
        assert!(w.barrier().is_err());
        // Another worker may be a section ahead, so that stamps would not tell.
        let read = || assert_eq!(shared.read(w).len(), 64);
        let write = || {
            let _ = shared.grid(w, 1, 16);
        };
        let claim = || w.each(1, 1, NoParts, |_, ()| ());
        let uses: [&dyn Fn(); 3] = [&read, &write, &claim];
        for attempt in uses {
            let result = catch_unwind(AssertUnwindSafe(attempt));
            refused.fetch_add(usize::from(result.is_err()), Ordering::Relaxed);
        }
        Err(Poisoned)
    });
    assert!(result.unwrap_err().to_string().contains("gives up"));
    assert_eq!(refused.into_inner(), 3);
}

struct NoParts;

impl Parts for NoParts {
    type Blocks = ();
    unsafe fn blocks(&mut self, _: &Range<usize>) {}
}

#[test]
fn a_buffer_belongs_to_one_team() {
    let mut data = vec![0f32; 64];
    let shared = Shared::new(&mut data, 16);
    let (mut one, mut two) = (Team::new(1).unwrap(), Team::new(1).unwrap());
    let write = |team: &mut Team| {
        team.run(&|w| {
            w.each(4, 1, shared.grid(w, 1, 16), |_, mut block| block.whole().fill(1.0));
            Ok(())
        })
    };
    write(&mut one).unwrap();
    assert!(write(&mut two).unwrap_err().to_string().contains("another team"));
    write(&mut one).unwrap();
}

#[test]
fn claims_beyond_a_grid_panic() {
    let mut data = vec![0f32; 64];
    let mut team = Team::new(1).unwrap();
    for (total, longest) in
        [(3, 1), (3, 3), (usize::MAX, 1), (usize::MAX, usize::MAX), (1 << 63, 1 << 62)]
    {
        let shared = Shared::new(&mut data, 16);
        let rows = AtomicUsize::new(0);
        let result = team.run(&|w| {
            w.each(total, longest, shared.grid(w, 2, 16), |_, block| {
                rows.fetch_add(block.rows(), Ordering::Relaxed);
            });
            Ok(())
        });
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Worker);
        assert!(rows.into_inner() <= 4, "{total} in runs of {longest}");
    }
}

/// What a panic may carry, and does badly.
struct Grenade;

impl Drop for Grenade {
    fn drop(&mut self) {
        std::panic::resume_unwind(Box::new("again"));
    }
}

#[test]
fn a_panic_whose_payload_panics_is_an_error_all_the_same() {
    let mut team = Team::new(2).unwrap();
    for culprit in [0, 1] {
        let result = team.run(&|w| {
            if w.index() == culprit {
                std::panic::resume_unwind(Box::new(Grenade));
            }
            w.barrier()
        });
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Worker);
        count(&mut team, 4);
    }
}

/// Counts itself, from its making to its end.
struct Alive<'a>(&'a AtomicUsize);

impl<'a> Alive<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Alive<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[test]
fn an_error_comes_when_all_have_left() {
    let mut team = Team::new(3).unwrap();
    for culprit in 0..3 {
        let mut data = vec![0u32; 64];
        let shared = Shared::new(&mut data, 16);
        let (alive, gone) = (AtomicUsize::new(0), AtomicBool::new(false));
        let result = team.run(&|w| {
            let _alive = Alive::new(&alive);
            w.each(3, 1, shared.grid(w, 1, 16), |_, mut block| {
                if w.index() == culprit {
                    gone.store(true, Ordering::Release);
                    std::panic::resume_unwind(Box::new("in the middle of a block"));
                }
                // Still in its block when the culprit has gone, or has no block left to take.
                for _ in 0..100 {
                    std::thread::yield_now();
                }
                block.whole().fill(7);
            });
            w.barrier()
        });
        assert_eq!(alive.into_inner(), 0);
        if gone.into_inner() {
            assert!(result.unwrap_err().to_string().contains("in the middle"));
        }
        // Every block was written whole or not at all, and nothing is written from now on.
        let before = data.clone();
        assert!(data.chunks(16).all(|row| row.iter().all(|&x| x == row[0])));
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert_eq!(data, before);
    }
}

#[test]
fn a_team_is_of_a_sane_size() {
    let error = Team::new(usize::MAX).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Input);
}

#[test]
fn a_thread_that_cannot_start_leaves_none_behind() {
    for failing in 1..4 {
        let alive = Arc::new(AtomicUsize::new(0));
        let result = Team::start(4, false, |index, life| {
            if index == failing {
                return Err(std::io::ErrorKind::WouldBlock.into());
            }
            let alive = Arc::clone(&alive);
            std::thread::Builder::new().spawn(move || {
                let _alive = Alive::new(&alive);
                life();
            })
        });
        let error = result.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Worker);
        assert!(error.to_string().contains(&format!("thread {failing} of 4")), "{error}");
        assert_eq!(Arc::into_inner(alive).map(AtomicUsize::into_inner), Some(0));
    }
}

#[test]
fn parked_workers_wake_up() {
    let mut team = Team::new(3).unwrap();
    for pause in [0, 1, 20] {
        std::thread::sleep(std::time::Duration::from_millis(pause));
        count(&mut team, 2);
    }
}

/// Two rows of twelve that lie anywhere, for one job.
fn lent<'a>(
    list: &'a mut RowList<u32>,
    [a, b]: [&'a mut Vec<u32>; 2],
) -> scattered::Scattered<'a, u32> {
    let mut lending = list.lend(1);
    lending.extend([&mut a[..], &mut b[..]].into_iter());
    lending.done()
}

#[test]
fn rows_that_lie_anywhere_are_cut_once_between_two_barriers() {
    let (mut a, mut b) = (vec![0u32; 12], vec![0u32; 12]);
    let mut list = RowList::default();
    let mut team = Team::new(2).unwrap();
    type Job = fn(&mut Worker<'_>, &scattered::Scattered<'_, u32>) -> Result<(), Poisoned>;
    let twice: [Job; 3] = [
        |w, rows| {
            w.each(2, 1, (rows.cells(w, 0, 1), rows.cells(w, 0, 1)), |_, _| ());
            w.barrier()
        },
        |w, rows| {
            w.each(2, 1, (rows.columns(w, 0, 6), rows.columns(w, 0, 6)), |_, _| ());
            w.barrier()
        },
        |w, rows| {
            let _ = rows.read(w, 0, 1);
            w.each(4, 1, rows.cells(w, 0, 2), |_, _| ());
            w.barrier()
        },
    ];
    for job in twice {
        let rows = lent(&mut list, [&mut a, &mut b]);
        let error = team.run(&|w| job(w, &rows)).unwrap_err();
        assert!(error.to_string().contains("two uses"), "{error}");
    }
    // A part of a row, then columns of all of them.
    let rows = lent(&mut list, [&mut a, &mut b]);
    team.run(&|w| {
        w.each(6, 1, rows.cells(w, 0, 3), |claim, cell| cell.fill(claim.start as u32));
        w.barrier()?;
        w.each(3, 2, rows.columns(w, 0, 5), |claim, mut block| {
            assert_eq!(block.cols(), (12 - claim.start * 5).min(claim.len() * 5));
            (0..2).for_each(|row| block.row(row).iter_mut().for_each(|x| *x += 10));
        });
        w.barrier()
    })
    .unwrap();
    assert_eq!(a, [10, 10, 10, 10, 11, 11, 11, 11, 12, 12, 12, 12]);
    assert_eq!(b, [13, 13, 13, 13, 14, 14, 14, 14, 15, 15, 15, 15]);
}
