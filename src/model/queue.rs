//! How sessions on many threads share passes, without a thread of the engine's own.
//!
//! A session that wants a step puts its run on a list. Whoever finds the engine free takes it, and
//! with it all runs that wait: single rows first, then prompts up to [`Graph::batch`] rows; runs one
//! pass, hands every run back to its session, and gives the engine to one that waits (flat
//! combining, Hendler and others 2010). A prompt longer than that comes back for each of its
//! pieces, so that a session that wants one token waits for no more than the pass at work and its
//! own, while no more than [`RUNS`] do; prompts take turns.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

#[cfg(test)]
use super::pass::BATCH;
use super::pass::{Engine, Graph, Run, Scratch};
use crate::error::{Error, ErrorKind, Result};
use crate::threads::lock;

/// Runs of a pass at most.
pub(super) const RUNS: usize = 64;
/// How long the sessions of the last pass are waited for, as a part of what that pass took. Without,
/// the first to come back would run alone, and the others together after it: two passes instead of
/// one.
const PATIENCE: u32 = 10;
const MOST_PATIENCE: Duration = Duration::from_millis(10);

/// The runs that wait, and the engine while nobody has it.
pub(super) struct Queue {
    inner: Mutex<Inner>,
    /// Runs have come that the one with the engine waits for.
    arrived: Condvar,
}

struct Inner {
    /// Idle, or on its way to a session that has been told to lead.
    engine: Option<Engine>,
    /// Somebody has the engine, or has been told to take it.
    busy: bool,
    waiting: Vec<Ticket>,
    /// Runs that will come back soon, or wait already.
    expected: usize,
    patience: Duration,
}

impl Inner {
    /// Whether waiting longer would bring the next pass no more runs.
    fn is_enough(&self) -> bool {
        self.waiting.len() >= self.expected.min(RUNS)
    }
}

struct Ticket {
    run: Run,
    seat: Arc<Seat>,
}

/// Where a session waits for its run.
#[derive(Default)]
pub(crate) struct Seat {
    news: Mutex<Option<News>>,
    changed: Condvar,
}

#[expect(clippy::large_enum_variant, reason = "a box would be an allocation for every token")]
enum News {
    /// The engine is yours.
    Lead,
    Done(Run, Result<()>),
}

impl Seat {
    fn tell(&self, news: News) {
        *lock(&self.news) = Some(news);
        self.changed.notify_one();
    }

    fn wait(&self) -> News {
        let mut news = lock(&self.news);
        loop {
            match news.take() {
                Some(news) => return news,
                None => news = self.changed.wait(news).unwrap_or_else(|e| e.into_inner()),
            }
        }
    }
}

impl Queue {
    pub(super) fn new(engine: Engine) -> Self {
        Self {
            inner: Mutex::new(Inner {
                engine: Some(engine),
                busy: false,
                waiting: Vec::with_capacity(RUNS),
                expected: 1,
                patience: Duration::ZERO,
            }),
            arrived: Condvar::new(),
        }
    }

    /// Runs `run` in a pass, with others that wait.
    ///
    /// # Errors
    /// As [`Graph::run`].
    pub(super) fn run(&self, graph: &Graph, run: &mut Run, seat: &Arc<Seat>) -> Result<()> {
        let ticket = Ticket { run: std::mem::take(run), seat: Arc::clone(seat) };
        let mut inner = lock(&self.inner);
        inner.waiting.push(ticket);
        let idle = !std::mem::replace(&mut inner.busy, true);
        if !idle && inner.is_enough() {
            self.arrived.notify_one();
        }
        drop(inner);
        if idle {
            self.lead(graph);
        }
        loop {
            match seat.wait() {
                News::Lead => self.lead(graph),
                News::Done(back, result) => {
                    *run = back;
                    return result;
                }
            }
        }
    }

    /// What a test does with the workers of an idle engine.
    #[cfg(test)]
    pub(super) fn with_team(&self, work: impl FnOnce(&mut crate::threads::Team)) {
        work(&mut lock(&self.inner).engine.as_mut().unwrap().team);
    }

    /// One pass with the engine, which is free for this thread; then it goes to another that waits.
    fn lead(&self, graph: &Graph) {
        let mut inner = self.gather();
        let mut engine = inner.engine.take().expect("the engine is there for the one that leads");
        choose(&mut inner.waiting, &mut engine.runs, &mut engine.seats, graph.batch());
        drop(inner);

        let start = Instant::now();
        let result = run(graph, &mut engine);
        let took = start.elapsed();

        // Before any of them can be back: they would count twice.
        let mut inner = lock(&self.inner);
        inner.expected = engine.runs.len() + inner.waiting.len();
        inner.patience = (took / PATIENCE).min(MOST_PATIENCE);
        drop(inner);
        let Engine { runs, seats, .. } = &mut engine;
        for (run, seat) in runs.drain(..).zip(seats.drain(..)) {
            seat.tell(News::Done(run, result.as_ref().map(|_| ()).map_err(again)));
        }
        let mut inner = lock(&self.inner);
        inner.engine = Some(engine);
        match inner.waiting.first() {
            Some(next) => next.seat.tell(News::Lead),
            None => inner.busy = false,
        }
    }

    /// Waits a moment for the sessions of the last pass.
    fn gather(&self) -> MutexGuard<'_, Inner> {
        let inner = lock(&self.inner);
        let patience = inner.patience;
        let missing = |inner: &mut Inner| !inner.is_enough();
        let waited = self.arrived.wait_timeout_while(inner, patience, missing);
        waited.unwrap_or_else(|e| e.into_inner()).0
    }
}

/// Moves the runs of the next pass: single rows first, then prompts, each in the order in which they
/// came.
fn choose(
    waiting: &mut Vec<Ticket>,
    runs: &mut Vec<Run>,
    seats: &mut Vec<Arc<Seat>>,
    batch: usize,
) {
    let mut rows = 0;
    let prompts = waiting.iter().any(|ticket| ticket.run.ids.len() > 1);
    for single in [true, false] {
        // However many single rows come, a prompt goes on.
        let most = RUNS - usize::from(single && prompts);
        let mut at = 0;
        while at < waiting.len() && runs.len() < most {
            let len = waiting[at].run.ids.len();
            let fits = single || rows == 0 || rows + len <= batch;
            if (len == 1) != single || !fits {
                at += 1;
                continue;
            }
            if !single {
                rows += len;
            }
            let Ticket { run, seat } = waiting.remove(at);
            runs.push(run);
            seats.push(seat);
        }
    }
}

/// The pass. Whatever happens in it, the runs come back.
fn run(graph: &Graph, engine: &mut Engine) -> Result<()> {
    let mut runs = std::mem::take(&mut engine.runs);
    let result = catch_unwind(AssertUnwindSafe(|| graph.run(engine, &mut runs)));
    engine.runs = runs;
    let result = result.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::Worker, "the thread that led a pass panicked"))
    });
    if result.as_ref().is_err_and(|error| error.kind() == ErrorKind::Worker) {
        // A worker may have had a buffer out of its lane when it panicked: that one is lost.
        engine.scratch = Scratch::default();
    }
    result
}

/// The same error for another session.
fn again(error: &Error) -> Error {
    Error::new(error.kind(), error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(rows: usize) -> Ticket {
        let run = Run { ids: vec![rows as u32; rows], ..Run::default() };
        Ticket { run, seat: Arc::default() }
    }

    fn chosen(waiting: &mut Vec<Ticket>) -> Vec<usize> {
        let (mut runs, mut seats) = (Vec::new(), Vec::new());
        choose(waiting, &mut runs, &mut seats, BATCH);
        assert_eq!(runs.len(), seats.len());
        runs.iter().map(|run| run.ids.len()).collect()
    }

    #[test]
    fn single_rows_go_first_and_prompts_share_what_a_pass_has() {
        let mut waiting: Vec<_> = [200, 1, 100, 56, 1].map(ticket).into();
        assert_eq!(chosen(&mut waiting), [1, 1, 200, 56]);
        assert_eq!(chosen(&mut waiting), [100]);
        assert!(chosen(&mut waiting).is_empty());
    }

    #[test]
    fn a_prompt_is_never_kept_waiting_by_single_rows() {
        let mut waiting: Vec<_> = (0..RUNS).map(|_| ticket(1)).collect();
        waiting.push(ticket(BATCH));
        assert_eq!(chosen(&mut waiting).last(), Some(&BATCH));
    }
}
