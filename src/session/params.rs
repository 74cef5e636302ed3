//! What a generation is asked for.

use super::CancelToken;
use crate::error::{Result, input_error};
use crate::sample::{SamplingParams, setters};

/// How a generation chooses its tokens, and what ends it.
///
/// [`Session::generate`](super::Session::generate) takes [`SamplingParams`] alone as well.
///
/// ```
/// use goldcrest::{GenerationParams, SamplingParams};
/// let params = GenerationParams::from(SamplingParams::default().temperature(0.7).seed(1))
///     .max_tokens(100)
///     .stop(["\n\n", "<|im_end|>"]);
/// assert!(params.validate().is_ok());
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct GenerationParams {
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// Tokens to generate at most; `None` until the context is full. Default `None`.
    pub max_tokens: Option<usize>,
    /// Texts that end the generation, themselves left out. A control token, which no text shows, is
    /// matched by its name as the vocabulary writes it (`</s>`), alone or within more text. Default
    /// none.
    pub stop: Vec<String>,
    /// Goes on after the model's end-of-generation tokens. Default false.
    pub ignore_eos: bool,
    /// Ends the generation from another thread. Clones of the parameters share it. Default one that
    /// nobody else has.
    pub cancel: CancelToken,
}

impl GenerationParams {
    /// Greedy decoding: the likeliest token each time.
    pub fn greedy() -> Self {
        SamplingParams::greedy().into()
    }

    setters! {
        sampling: SamplingParams,
        max_tokens: impl Into<Option<usize>>,
        ignore_eos: bool,
    }

    /// Sets [`stop`](Self#structfield.stop).
    #[must_use]
    pub fn stop(mut self, stop: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.stop = stop.into_iter().map(Into::into).collect();
        self
    }

    /// Sets [`cancel`](Self#structfield.cancel) to a token that the caller keeps.
    #[must_use]
    pub fn cancel(mut self, token: &CancelToken) -> Self {
        self.cancel = token.clone();
        self
    }

    /// Checks every value.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input) naming the first value out of range.
    pub fn validate(&self) -> Result<()> {
        if self.stop.iter().any(String::is_empty) {
            return Err(input_error("a stop string is empty"));
        }
        self.sampling.validate()
    }
}

impl From<SamplingParams> for GenerationParams {
    fn from(sampling: SamplingParams) -> Self {
        Self { sampling, ..Self::default() }
    }
}
