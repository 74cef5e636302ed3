//! Generation as an iterator of tokens.

use std::borrow::BorrowMut;
use std::fmt;

use super::Session;
use super::generation::Generation;
use crate::error::{Error, Result};
use crate::sample::LogitsProcessor;

/// A token of a generation.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// The text that it completes: whole characters, often a word, sometimes nothing. Always
    /// empty where the model has no tokenizer.
    pub text: String,
    /// The natural logarithm of its probability under the model, temperature and filters aside.
    pub logprob: f32,
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopReason {
    /// The model chose an end-of-generation token.
    EndOfText,
    /// A stop string came.
    StopString,
    /// [`GenerationParams::max_tokens`](crate::GenerationParams::max_tokens) were generated.
    MaxTokens,
    /// The context is full.
    ContextFull,
    /// Another thread asked for it.
    Cancelled,
    /// A pass failed.
    Failed,
}

/// Continues a session's context: an iterator of tokens.
///
/// [`Session::generate`] makes one that borrows the session, [`Session::into_generator`] one that
/// owns it: that one is `Send + 'static`, so that a thread can run it and send its tokens through a
/// channel to wherever they are awaited. `S` is how the session is held.
///
/// Every token chosen is yielded, the one that ends the generation too; the texts joined are the
/// text. All tokens but an end-of-generation one stay in the session's context, if they fit.
///
/// An error ends the iteration: [`ErrorKind::ContextFull`](crate::ErrorKind::ContextFull) when the
/// context has no room for another token, [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled),
/// [`ErrorKind::Worker`](crate::ErrorKind::Worker). Text may have been held back then:
/// [`take_held`](Self::take_held) has it.
///
/// ```no_run
/// use goldcrest::{Model, SamplingParams};
///
/// let model = Model::open("model.gguf")?;
/// let mut session = model.session()?;
/// session.push(&model.tokenizer()?.encode("Once upon a time")?)?;
/// let mut generator = session.into_generator(SamplingParams::default())?;
/// let (sender, texts) = std::sync::mpsc::sync_channel(16);
/// let thread = std::thread::spawn(move || {
///     // A receiver that is gone ends the generation.
///     while let Some(Ok(token)) = generator.next()
///         && sender.send(token.text).is_ok()
///     {}
///     generator.into_session()
/// });
/// for text in texts {
///     print!("{text}");
/// }
/// let session = thread.join().unwrap();
/// # Ok::<(), goldcrest::Error>(())
/// ```
#[must_use = "a generator does nothing unless it is iterated"]
pub struct Generator<S> {
    session: S,
    generation: Generation,
}

impl<S: BorrowMut<Session>> Generator<S> {
    pub(super) fn new(session: S, generation: Generation) -> Self {
        Self { session, generation }
    }

    /// Adds a hook on the logits, which sees them before penalties and filters, and after the hooks
    /// that were added before it.
    pub fn with_processor(mut self, processor: impl LogitsProcessor + 'static) -> Self {
        self.generation.sampler.add_processor(Box::new(processor));
        self
    }

    /// Why the generation ended; `None` while it goes on.
    pub fn stop_reason(&self) -> Option<StopReason> {
        self.generation.stopped
    }

    /// The seed in use: with the same parameters it repeats the generation.
    pub fn seed(&self) -> u64 {
        self.generation.sampler.seed()
    }

    /// Takes the text of tokens yielded that was held back, since it may be the start of a stop string
    /// or of a character.
    ///
    /// An ordinary end leaves none: the last token brings it. After an error, or where the caller
    /// breaks off, it is what is missing from the text. The start of a character counts, as U+FFFD,
    /// once the generation has ended. Where it goes on, what was taken no longer begins a stop
    /// string.
    pub fn take_held(&mut self) -> String {
        self.generation.take_held()
    }

    /// The session, as it is now.
    pub fn session(&self) -> &Session {
        self.session.borrow()
    }

    /// Ends the generation and gives the session back.
    pub fn into_session(self) -> S {
        self.session
    }
}

impl<S: BorrowMut<Session>> Iterator for Generator<S> {
    type Item = Result<Token>;

    fn next(&mut self) -> Option<Self::Item> {
        self.generation.next(self.session.borrow_mut())
    }
}

impl<S: BorrowMut<Session>> std::iter::FusedIterator for Generator<S> {}

impl<S: BorrowMut<Session>> fmt::Debug for Generator<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generator")
            .field("session", self.session())
            .field("sampler", &self.generation.sampler)
            .field("stop_reason", &self.stop_reason())
            .finish_non_exhaustive()
    }
}

/// Why [`Session::into_generator`] failed, with the session that it was called on. Turns into the
/// [`Error`] where `?` asks for one.
#[derive(Debug)]
pub struct IntoGeneratorError {
    pub(super) session: Session,
    pub(super) error: Error,
}

impl IntoGeneratorError {
    /// What was wrong.
    pub fn error(&self) -> &Error {
        &self.error
    }

    /// The session, as it was.
    pub fn into_session(self) -> Session {
        self.session
    }
}

impl From<IntoGeneratorError> for Error {
    fn from(error: IntoGeneratorError) -> Self {
        error.error
    }
}

impl fmt::Display for IntoGeneratorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for IntoGeneratorError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}
