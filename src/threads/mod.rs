//! The worker team of a forward pass.
//!
//! All workers walk the same graph. A step's tasks are claimed from one counter, so that a slow
//! core does not hold the rest, and a barrier ends the step. Between barriers a buffer is either
//! read by all or written in disjoint blocks ([`Shared`]), which is checked when a step begins.
#![allow(unsafe_code)]

mod cores;
mod gate;
mod shared;

use std::any::Any;
use std::cell::Cell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::error::{Error, ErrorKind, Result};
pub(crate) use cores::default_threads;
use gate::Gate;
use shared::Parts;
pub(crate) use shared::Shared;

/// Another worker panicked: leave the graph.
#[derive(Debug)]
pub(crate) struct Poisoned;

/// What every worker runs.
type Job = dyn Fn(&mut Worker<'_>) -> Result<(), Poisoned> + Sync;

/// Parked threads that run one job together with the thread that calls [`run`](Self::run).
pub(crate) struct Team {
    inner: Arc<Inner>,
    handles: Vec<JoinHandle<()>>,
}

struct Inner {
    size: usize,
    /// Counts jobs; workers wait here for the next.
    epoch: Gate,
    /// Counts barriers passed; workers wait here for the slowest.
    generation: Gate,
    /// Counts finished jobs; the caller waits here.
    finished: Gate,
    /// Workers at the barrier.
    arrived: Padded,
    /// The next unclaimed task of the step.
    next: Padded,
    /// Workers still in the job, the caller not counted.
    running: Padded,
    poisoned: AtomicBool,
    shutdown: AtomicBool,
    job: Mutex<Option<&'static Job>>,
    panic: Mutex<Option<String>>,
}

/// A counter alone on its cache lines (two: the adjacent-line prefetcher pairs them).
#[derive(Default)]
#[repr(align(128))]
struct Padded(AtomicUsize);

impl Team {
    /// A team of `size` workers, the caller of [`run`](Self::run) among them.
    pub(crate) fn new(size: usize) -> Result<Self> {
        let size = size.max(1);
        // Spinning helps only while every worker has a processor of its own.
        let spins = size <= std::thread::available_parallelism().map_or(1, usize::from);
        let inner = Arc::new(Inner {
            size,
            epoch: Gate::new(spins),
            generation: Gate::new(spins),
            finished: Gate::new(spins),
            arrived: Padded::default(),
            next: Padded::default(),
            running: Padded::default(),
            poisoned: AtomicBool::new(false),
            shutdown: AtomicBool::new(false),
            job: Mutex::new(None),
            panic: Mutex::new(None),
        });
        let mut team = Self { inner, handles: Vec::with_capacity(size - 1) };
        for index in 1..size {
            let inner = Arc::clone(&team.inner);
            let handle = std::thread::Builder::new()
                .name(format!("goldcrest-{index}"))
                .spawn(move || inner.serve(index))
                .map_err(|error| {
                    Error::new(ErrorKind::Worker, "cannot start a worker thread").because(error)
                })?;
            team.handles.push(handle);
        }
        Ok(team)
    }

    /// Workers, the caller among them.
    pub(crate) fn size(&self) -> usize {
        self.inner.size
    }

    /// Runs `job` once on every worker and returns when all have left it. Allocates nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Worker`] when a worker panicked; the team is usable again.
    pub(crate) fn run(
        &mut self,
        job: &(dyn Fn(&mut Worker<'_>) -> Result<(), Poisoned> + Sync),
    ) -> Result<()> {
        let inner = &*self.inner;
        // SAFETY: the borrow is kept alive by this call, which returns (a panic of the job is
        // caught) only when every worker has left the job and `job` is None again, so nothing
        // uses the reference past its true lifetime.
        let job: &'static Job = unsafe { std::mem::transmute(job) };
        *lock(&inner.job) = Some(job);
        inner.arrived.0.store(0, Ordering::Relaxed);
        inner.next.0.store(0, Ordering::Relaxed);
        inner.running.0.store(inner.size - 1, Ordering::Relaxed);
        let finished = inner.finished.value();
        inner.epoch.advance();
        inner.work(0, job);
        if inner.size > 1 {
            inner.finished.wait(finished);
        }
        *lock(&inner.job) = None;
        inner.poisoned.store(false, Ordering::Relaxed);
        match lock(&inner.panic).take() {
            None => Ok(()),
            Some(message) => {
                Err(Error::new(ErrorKind::Worker, format!("a worker thread panicked: {message}")))
            }
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.inner.shutdown.store(true, Ordering::Relaxed);
        self.inner.epoch.advance();
        for handle in self.handles.drain(..) {
            // A worker catches the panics of its jobs, so there is nothing to report.
            let _ = handle.join();
        }
    }
}

impl Inner {
    /// The life of worker `index`.
    fn serve(&self, index: usize) {
        let mut epoch = 0;
        loop {
            epoch = self.epoch.wait(epoch);
            if self.shutdown.load(Ordering::Relaxed) {
                return;
            }
            let job = *lock(&self.job);
            if let Some(job) = job {
                self.work(index, job);
            }
            if self.running.0.fetch_sub(1, Ordering::AcqRel) == 1 {
                self.finished.advance();
            }
        }
    }

    fn work(&self, index: usize, job: &Job) {
        let mut worker = Worker {
            index,
            team: self,
            section: 0,
            grids: Cell::new(0),
            claimed: Cell::new(false),
        };
        // The job's buffers are scratch that the next pass overwrites: nothing broken is seen.
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| {
            let _ = job(&mut worker);
        })) {
            lock(&self.panic).get_or_insert_with(|| message(payload.as_ref()));
            self.poisoned.store(true, Ordering::Release);
            self.generation.advance();
        }
    }
}

/// One worker's place in the graph.
pub(crate) struct Worker<'t> {
    index: usize,
    team: &'t Inner,
    /// Barriers passed in this job.
    section: u32,
    /// Grids made since the last barrier.
    grids: Cell<u32>,
    /// Whether this section's tasks have been claimed.
    claimed: Cell<bool>,
}

impl Worker<'_> {
    /// Which worker, from 0.
    pub(crate) fn index(&self) -> usize {
        self.index
    }

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
        assert!(!self.claimed.replace(true), "two steps between two barriers");
        let workers = self.team.size;
        let longest = longest.max(1);
        let shortest = (total / (workers * 16)).clamp(1, longest);
        let end = |start: usize| {
            let fair_part = (total - start) * 2 / (workers * 3);
            total.min(start + fair_part.clamp(shortest, longest))
        };
        let next = &self.team.next.0;
        let claim = |start| (start < total).then(|| end(start));
        while let Ok(start) = next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, claim) {
            let run = start..end(start);
            // SAFETY: the counter gives a task out once, and starts over only at a barrier.
            let blocks = unsafe { parts.blocks(&run) };
            task(run, blocks);
        }
    }

    /// Waits for all workers. What they wrote before is seen by all after.
    pub(crate) fn barrier(&mut self) -> Result<(), Poisoned> {
        let team = self.team;
        let generation = team.generation.value();
        if team.poisoned.load(Ordering::Acquire) {
            return Err(Poisoned);
        }
        if team.arrived.0.fetch_add(1, Ordering::AcqRel) + 1 == team.size {
            team.arrived.0.store(0, Ordering::Relaxed);
            team.next.0.store(0, Ordering::Relaxed);
            team.generation.advance();
        } else {
            team.generation.wait(generation);
        }
        if team.poisoned.load(Ordering::Acquire) {
            return Err(Poisoned);
        }
        self.section += 1;
        self.grids.set(0);
        self.claimed.set(false);
        Ok(())
    }
}

/// Locks; a panic of another holder leaves nothing half-done behind these locks.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests;
