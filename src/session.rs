//! Sessions: a context and what continues it.

mod cancel;
mod generation;
mod generator;
mod params;
mod points;
mod stats;
mod stop;
mod text;

use std::sync::Arc;
use std::time::Instant;

use crate::error::{Error, ErrorKind, Result, input_error};
use crate::model::{Model, Run, Seat};
use crate::sample::setters;
pub use cancel::CancelToken;
use generation::Generation;
pub use generator::{Generator, IntoGeneratorError, StopReason, Token};
pub use params::GenerationParams;
use points::Point;
pub use stats::Stats;

/// The size of a session.
///
/// ```
/// let options = goldcrest::SessionOptions::default().context(512);
/// assert_eq!(options.context, Some(512));
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionOptions {
    /// Positions of the context; `None` takes the model's setting.
    pub context: Option<usize>,
}

impl SessionOptions {
    setters! {
        context: impl Into<Option<usize>>,
    }
}

/// One context of a model: its tokens, their keys and values, and the logits after the last.
///
/// A session is used by one thread at a time; sessions of one model share its passes.
///
/// ```no_run
/// # let model = goldcrest::Model::open("model.gguf")?;
/// let mut session = model.session()?;
/// session.push(&model.tokenizer()?.encode("The goldcrest is")?)?;
/// let logits = session.logits().expect("a prompt was pushed");
/// assert_eq!(logits.len(), model.config().vocab_size());
/// # Ok::<(), goldcrest::Error>(())
/// ```
pub struct Session {
    model: Model,
    /// What passes work on. Its state covers a prefix of the text: a generated token is run when the
    /// next is wanted.
    run: Run,
    seat: Arc<Seat>,
    /// The text.
    ids: Vec<u32>,
    /// After how many tokens the logits of the run are, `[vocab]`; 0 where they are of none.
    logits_after: usize,
    /// Shortest first; all of them cover a prefix of the text.
    points: Vec<Point>,
    stats: Stats,
}

impl Session {
    pub(crate) fn new(model: Model, options: SessionOptions) -> Result<Self> {
        let context = options.context.unwrap_or(model.context());
        if context == 0 || context > model.context() {
            return Err(input_error(format!(
                "a session of {context} tokens: the model was loaded for 1 to {}",
                model.context()
            )));
        }
        let run = Run {
            ids: Vec::with_capacity(model.batch().min(context)),
            state: model.state(context)?,
            logits: vec![0.0; model.config().vocab_size()],
            ..Run::default()
        };
        Ok(Self {
            run,
            seat: Arc::default(),
            ids: Vec::with_capacity(context),
            logits_after: 0,
            points: Vec::new(),
            stats: Stats::default(),
            model,
        })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// All tokens of the context, prompts and generated ones.
    pub fn tokens(&self) -> &[u32] {
        &self.ids
    }

    /// Tokens that the context holds at most.
    pub fn context(&self) -> usize {
        self.run.state.capacity()
    }

    /// Tokens and seconds so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Appends tokens to the context.
    ///
    /// # Errors
    /// [`ErrorKind::Input`] for no tokens or an id outside the vocabulary,
    /// [`ErrorKind::ContextFull`] when they do not fit: nothing is appended then.
    /// [`ErrorKind::Worker`]: what was run before stays in the context.
    pub fn push(&mut self, ids: &[u32]) -> Result<()> {
        self.push_cancellable(ids, CancelToken::never())
    }

    /// Appends tokens to the context, unless `cancel` is cancelled before they have run.
    ///
    /// # Errors
    /// As [`push`](Self::push), and [`ErrorKind::Cancelled`]: what was run before stays in the
    /// context.
    pub fn push_cancellable(&mut self, ids: &[u32], cancel: &CancelToken) -> Result<()> {
        let before = self.ids.len();
        self.append(ids)?;
        let start = Instant::now();
        let from = self.covered();
        let result = self.catch_up(cancel);
        self.stats.prompt(self.covered() - from, start.elapsed());
        self.keep_what_ran(before, result)
    }

    /// Appends tokens and returns the logits after each of them, `[n, vocab]`.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn logits_all(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        // What is still to be run from before is not asked for.
        let cancel = CancelToken::never();
        if self.covered() < self.ids.len() {
            self.catch_up(cancel)?;
        }
        let before = self.ids.len();
        self.append(ids)?;
        let vocab = self.vocab();
        let mut all = Vec::new();
        let start = Instant::now();
        let from = self.covered();
        let mut result = Ok(());
        for piece in ids.chunks(self.model.batch()) {
            result = result.and_then(|()| self.pass(piece.len(), piece.len(), cancel));
            let logits = std::mem::take(&mut self.run.logits);
            if all.is_empty() { all = logits } else { all.extend(logits) }
        }
        self.run.logits = all[all.len() - vocab..].to_vec();
        self.stats.prompt(self.covered() - from, start.elapsed());
        self.keep_what_ran(before, result)?;
        Ok(all)
    }

    /// The logits after the last token; `None` before the first, and while they have not been computed:
    /// the last was generated but not yet run, or the context was cut.
    pub fn logits(&self) -> Option<&[f32]> {
        let there = !self.ids.is_empty() && self.logits_after == self.ids.len();
        there.then_some(&self.run.logits[..])
    }

    /// Continues the context. Takes [`GenerationParams`], or
    /// [`SamplingParams`](crate::SamplingParams) alone.
    ///
    /// # Errors
    /// [`ErrorKind::Input`] for parameters out of range, or when the context is empty.
    pub fn generate(
        &mut self,
        params: impl Into<GenerationParams>,
    ) -> Result<Generator<&mut Self>> {
        let generation = Generation::new(self, params.into())?;
        Ok(Generator::new(self, generation))
    }

    /// Continues the context with a generator that owns the session, to be sent to a thread;
    /// [`Generator::into_session`] gives it back.
    ///
    /// # Errors
    /// As [`generate`](Self::generate); the error has the session.
    #[expect(
        clippy::result_large_err,
        reason = "it moves no more than the session that it returns"
    )]
    pub fn into_generator(
        self,
        params: impl Into<GenerationParams>,
    ) -> Result<Generator<Self>, IntoGeneratorError> {
        match Generation::new(&self, params.into()) {
            Ok(generation) => Ok(Generator::new(self, generation)),
            Err(error) => Err(IntoGeneratorError { session: self, error }),
        }
    }

    /// Empties the context.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Keeps the first `len` tokens of the context.
    ///
    /// Layers with a recurrent state cannot go back, and of layers that see a window of the text no
    /// more than that is kept: where the state after `len` tokens is gone, the next pass runs tokens
    /// again, from the last [save point](Self::save) or the first token on.
    /// [`rewind`](Self::rewind) refuses instead.
    pub fn truncate(&mut self, len: usize) {
        if len < self.ids.len() {
            self.ids.truncate(len);
            self.points.retain(|point| point.len() <= len);
            self.go_back(len);
        }
    }

    fn append(&mut self, ids: &[u32]) -> Result<()> {
        if ids.is_empty() {
            return Err(input_error("the prompt is empty"));
        }
        let vocab = self.vocab();
        if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab) {
            return Err(input_error(format!("token id {id} is outside the vocabulary of {vocab}")));
        }
        let (have, context) = (self.ids.len(), self.context());
        if have + ids.len() > context {
            let message = match have {
                0 => format!("the prompt has {} tokens, the context {context}", ids.len()),
                _ => format!(
                    "{} tokens do not fit: the context has {context}, {have} of them in use",
                    ids.len()
                ),
            };
            return Err(Error::new(ErrorKind::ContextFull, message));
        }
        self.ids.extend_from_slice(ids);
        Ok(())
    }

    /// Tokens that have run.
    fn covered(&self) -> usize {
        self.run.state.len()
    }

    fn vocab(&self) -> usize {
        self.model.config().vocab_size()
    }

    /// Runs the tokens that have not, so that there are logits after the last.
    fn catch_up(&mut self, cancel: &CancelToken) -> Result<()> {
        if self.logits_after != self.ids.len() {
            // The last token is run again for its logits.
            self.go_back(self.ids.len() - 1);
        }
        while self.covered() < self.ids.len() {
            let (rest, batch) = (self.ids.len() - self.covered(), self.model.batch());
            self.pass(rest.min(batch), usize::from(rest <= batch), cancel)?;
        }
        Ok(())
    }

    /// Runs the next `rows` tokens, for the logits of the last `wants` of them.
    fn pass(&mut self, rows: usize, wants: usize, cancel: &CancelToken) -> Result<()> {
        if cancel.is_cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, "cancelled"));
        }
        let from = self.covered();
        let vocab = self.vocab();
        let run = &mut self.run;
        run.ids.clear();
        run.ids.extend_from_slice(&self.ids[from..from + rows]);
        run.wants = wants;
        run.logits.resize(wants.max(1) * vocab, 0.0);
        run.cancel.clone_from(cancel);
        // They are overwritten, be it in part.
        self.logits_after = 0;
        self.model.run(run, &self.seat)?;
        if wants > 0 {
            self.logits_after = from + rows;
        }
        Ok(())
    }

    /// After a failure: the context of `before`, and what of the new tokens has run.
    fn keep_what_ran(&mut self, before: usize, result: Result<()>) -> Result<()> {
        if result.is_err() {
            self.truncate(before.max(self.covered()));
        }
        result
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("tokens", &self.ids.len())
            .field("context", &self.context())
            .finish_non_exhaustive()
    }
}
