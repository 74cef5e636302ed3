use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::error::ErrorKind;

/// Adds its index to each number of a row, in `steps` steps of alternate shapes.
fn count(team: &mut Team, steps: usize) -> Vec<u32> {
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
    data
}

#[test]
fn every_task_is_done_once_and_seen_by_all() {
    for size in [1, 2, 3, 8] {
        let mut team = Team::new(size).unwrap();
        assert_eq!(team.size(), size);
        for _ in 0..20 {
            let data = count(&mut team, 20);
            for (row, values) in data.chunks(32).enumerate() {
                assert!(values.iter().all(|&x| x == 10 * row as u32 + 10));
            }
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

#[test]
fn parked_workers_wake_up() {
    let mut team = Team::new(3).unwrap();
    for pause in [0, 1, 20] {
        std::thread::sleep(std::time::Duration::from_millis(pause));
        count(&mut team, 2);
    }
}
