//! Threads that walk one graph together.

use std::any::Any;
use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::barrier::{Barrier, Padded, Poisoned};
use super::gate::{Gate, lock};
use super::sync::{Arc, AtomicBool, JoinHandle, Mutex, Ordering};
use crate::error::{Error, ErrorKind, Result};

/// What every worker runs.
type Job = dyn Fn(&mut Worker<'_>) -> Result<(), Poisoned> + Sync;
/// The life of a thread.
pub(super) type Life = Box<dyn FnOnce() + Send>;

/// Parked threads that run one job together with the thread that calls [`run`](Self::run).
pub(crate) struct Team {
    inner: Arc<Inner>,
    handles: Vec<JoinHandle<()>>,
}

pub(super) struct Inner {
    /// Counts jobs; workers wait here for the next.
    epoch: Gate,
    /// Counts finished jobs; the caller waits here.
    finished: Gate,
    pub(super) barrier: Barrier,
    /// The next unclaimed task of the section.
    pub(super) next: Padded,
    /// Workers still in the job, the caller not counted.
    running: Padded,
    shutdown: AtomicBool,
    job: Mutex<Option<&'static Job>>,
    panic: Mutex<Option<String>>,
}

impl Team {
    /// A team of `size` workers, the caller of [`run`](Self::run) among them; `spawn` starts the
    /// others. `spins`: whether they may burn their processors while they wait.
    ///
    /// # Errors
    /// [`ErrorKind::Worker`] when a thread cannot be started; those before it have ended.
    pub(super) fn start(
        size: usize,
        spins: bool,
        mut spawn: impl FnMut(usize, Life) -> io::Result<JoinHandle<()>>,
    ) -> Result<Self> {
        let inner = Arc::new(Inner {
            epoch: Gate::new(spins),
            finished: Gate::new(spins),
            barrier: Barrier::new(size, spins),
            next: Padded::new(),
            running: Padded::new(),
            shutdown: AtomicBool::new(false),
            job: Mutex::new(None),
            panic: Mutex::new(None),
        });
        let mut team = Self { inner, handles: Vec::with_capacity(size - 1) };
        for index in 1..size {
            let inner = Arc::clone(&team.inner);
            let handle = spawn(index, Box::new(move || inner.serve(index))).map_err(|error| {
                let message = format!("cannot start worker thread {index} of {size}: {error}");
                Error::new(ErrorKind::Worker, message).because(error)
            })?;
            team.handles.push(handle);
        }
        Ok(team)
    }

    /// Workers, the caller among them.
    pub(crate) fn size(&self) -> usize {
        self.inner.barrier.size()
    }

    /// Runs `job` once on every worker and returns when all have left it. Allocates nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Worker`] when a worker panicked, the calling thread's share included; the team
    /// is usable again. What the job wrote to is half-done. In a program built with
    /// `panic = "abort"` a panic ends the process before anything here sees it.
    pub(crate) fn run(
        &mut self,
        job: &(dyn Fn(&mut Worker<'_>) -> Result<(), Poisoned> + Sync),
    ) -> Result<()> {
        let inner = &*self.inner;
        // SAFETY: the borrow is kept alive by this call, which returns, and never unwinds (`work`
        // catches the job's panics, and nothing else here has any), only when every worker has
        // left the job and `job` is None again: nothing uses the reference past its true lifetime.
        let job: &'static Job = unsafe { std::mem::transmute(job) };
        *lock(&inner.job) = Some(job);
        inner.next.0.store(0, Ordering::Relaxed);
        inner.running.0.store(self.handles.len(), Ordering::Relaxed);
        let finished = inner.finished.value();
        inner.epoch.advance();
        inner.work(0, job);
        if !self.handles.is_empty() {
            inner.finished.wait(finished);
        }
        *lock(&inner.job) = None;
        inner.barrier.reset();
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

    /// Runs `job`; a panic lets the others go. Never unwinds.
    fn work(&self, index: usize, job: &Job) {
        let mut worker = Worker {
            index,
            team: self,
            section: FIRST,
            grids: Cell::new(0),
            claimed: Cell::new(false),
        };
        // What the job borrows is not used again before its owner has heard of the panic.
        let result = catch_unwind(AssertUnwindSafe(|| {
            let _ = job(&mut worker);
        }));
        if let Err(payload) = result {
            let message = message(payload);
            lock(&self.panic).get_or_insert(message);
            self.barrier.poison();
        }
    }
}

/// The number of a job's first section.
const FIRST: u32 = 1;
/// That of a worker that was told to leave.
const LEFT: u32 = u32::MAX;

/// One worker's place in the graph.
pub(crate) struct Worker<'t> {
    index: usize,
    pub(super) team: &'t Inner,
    section: u32,
    /// Grids made since the last barrier.
    pub(super) grids: Cell<u32>,
    /// Whether this section's tasks have been claimed.
    pub(super) claimed: Cell<bool>,
}

impl Worker<'_> {
    /// Which worker, from 0.
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// Workers of the team.
    pub(crate) fn team_size(&self) -> usize {
        self.team.barrier.size()
    }

    /// Barriers passed in this job, and one.
    ///
    /// # Panics
    /// After [`barrier`](Self::barrier) said [`Poisoned`]: others may have passed it, so that this
    /// worker's section says nothing about theirs.
    pub(super) fn section(&self) -> u32 {
        assert!(self.section != LEFT, "a worker goes on after it was told to leave");
        self.section
    }

    /// Waits for all workers. What they wrote before is seen by all after.
    pub(crate) fn barrier(&mut self) -> Result<(), Poisoned> {
        let team = self.team;
        if let Err(poisoned) = team.barrier.wait(|| team.next.0.store(0, Ordering::Relaxed)) {
            self.section = LEFT;
            return Err(poisoned);
        }
        self.section += 1;
        self.grids.set(0);
        self.claimed.set(false);
        Ok(())
    }
}

/// The text of a panic.
fn message(payload: Box<dyn Any + Send>) -> String {
    let other = match payload.downcast::<String>() {
        Ok(text) => return *text,
        Err(other) => other,
    };
    match other.downcast::<&'static str>() {
        Ok(text) => (*text).to_owned(),
        Err(other) => {
            // Its destructor could panic in turn, where nothing catches that.
            std::mem::forget(other);
            "no message".to_owned()
        }
    }
}
