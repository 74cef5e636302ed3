//! Sessions: a context and what continues it.

mod cancel;
mod generation;
mod generator;
mod params;
mod stats;
mod stop;
mod text;

use std::time::Instant;

use crate::cache::Cache;
use crate::error::{Error, ErrorKind, Result, input_error};
use crate::model::{BATCH, Model, Pass};
use crate::sample::setters;
pub use cancel::CancelToken;
use generation::Generation;
pub use generator::{Generator, IntoGeneratorError, StopReason, Token};
pub use params::GenerationParams;
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
/// A session is used by one thread at a time; sessions of one model take turns on its workers.
///
/// ```no_run
/// # let model = goldcrest::Model::open("model.gguf")?;
/// let mut session = model.session()?;
/// session.push(&model.tokenizer()?.encode("The goldcrest is")?)?;
/// let logits = session.logits().expect("a prompt was pushed");
/// assert_eq!(logits.len(), model.config().vocab_size);
/// # Ok::<(), goldcrest::Error>(())
/// ```
pub struct Session {
    model: Model,
    cache: Cache,
    /// The text. The cache covers a prefix of it: a generated token is run when the next is wanted.
    ids: Vec<u32>,
    /// `[vocab]`: after the last token, when the cache covers all of them.
    logits: Vec<f32>,
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
        Ok(Self {
            cache: Cache::new(model.config(), model.kv(), context)?,
            ids: Vec::with_capacity(context),
            logits: vec![0.0; model.config().vocab_size],
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
        self.cache.capacity()
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
        self.append(ids)?;
        let start = Instant::now();
        let from = self.cache.len();
        let result = self.catch_up(cancel);
        self.stats.prompt(self.cache.len() - from, start.elapsed());
        self.keep_what_ran(result)
    }

    /// Appends tokens and returns the logits after each of them, `[n, vocab]`.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn logits_all(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        // What is still to be run from before is not asked for.
        let cancel = CancelToken::never();
        if self.cache.len() < self.ids.len() {
            self.catch_up(cancel)?;
        }
        self.append(ids)?;
        let vocab = self.logits.len();
        let mut all = vec![0.0; ids.len() * vocab];
        let start = Instant::now();
        let mut result = Ok(());
        for (ids, logits) in ids.chunks(BATCH).zip(all.chunks_mut(BATCH * vocab)) {
            let Self { model, cache, .. } = self;
            result = result.and_then(|()| model.run(Pass { ids, cache, logits, cancel }));
        }
        self.stats.prompt(ids.len(), start.elapsed());
        self.keep_what_ran(result)?;
        self.logits.copy_from_slice(&all[all.len() - vocab..]);
        Ok(all)
    }

    /// The logits after the last token; `None` before the first, and while the last was generated
    /// but not yet run.
    pub fn logits(&self) -> Option<&[f32]> {
        (!self.ids.is_empty() && self.cache.len() == self.ids.len()).then_some(&self.logits)
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
    pub fn truncate(&mut self, len: usize) {
        if len < self.ids.len() {
            self.ids.truncate(len);
            // The last token is run again for its logits.
            self.cache.truncate(len.saturating_sub(1));
        }
    }

    fn append(&mut self, ids: &[u32]) -> Result<()> {
        if ids.is_empty() {
            return Err(input_error("the prompt is empty"));
        }
        let vocab = self.logits.len();
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

    /// Runs the tokens that the cache does not cover.
    fn catch_up(&mut self, cancel: &CancelToken) -> Result<()> {
        while self.cache.len() < self.ids.len() {
            let Self { model, cache, ids, logits, .. } = self;
            let rest = &ids[cache.len()..];
            let ids = &rest[..rest.len().min(BATCH)];
            let logits = if ids.len() == rest.len() { &mut logits[..] } else { &mut [] };
            model.run(Pass { ids, cache, logits, cancel })?;
        }
        Ok(())
    }

    fn keep_what_ran(&mut self, result: Result<()>) -> Result<()> {
        if result.is_err() {
            let ran = self.cache.len();
            self.truncate(ran);
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
