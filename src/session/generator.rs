//! Generation as an iterator of tokens.

use std::time::Instant;

use super::Session;
use super::text::Text;
use crate::error::{Error, ErrorKind, Result, input_error};
use crate::sample::{Choice, Sampler, SamplingParams};

/// A token of a generation.
#[derive(Debug, Clone, PartialEq)]
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
    /// [`SamplingParams::max_tokens`] were generated.
    MaxTokens,
    /// The context is full.
    ContextFull,
    /// Another thread asked for it.
    Cancelled,
    /// A pass failed.
    Failed,
}

/// Continues a session's context: an iterator of tokens, made by [`Session::generate`].
///
/// Every token chosen is yielded, the one that ends the generation too; the texts joined are the
/// text. All tokens but an end-of-generation one stay in the session's context, if they fit.
///
/// An error ends the iteration: [`ErrorKind::ContextFull`] when the context has no room for
/// another token, [`ErrorKind::Cancelled`], [`ErrorKind::Worker`].
pub struct Generator<'s> {
    session: &'s mut Session,
    sampler: Sampler,
    text: Option<Text>,
    /// End-of-generation ids; empty when they are ignored.
    ends: Vec<u32>,
    left: usize,
    stopped: Option<StopReason>,
    /// The token chosen last did not fit into the context.
    full: bool,
}

impl<'s> Generator<'s> {
    pub(super) fn new(session: &'s mut Session, params: SamplingParams) -> Result<Self> {
        let (left, ignore_eos) = (params.max_tokens.unwrap_or(usize::MAX), params.ignore_eos);
        let stop = params.stop.clone();
        let sampler = Sampler::new(params, session.logits.len(), &session.ids)?;
        let text = match session.model.tokenizer() {
            Ok(tokenizer) => Some(Text::new(tokenizer, &session.ids, stop)?),
            Err(_) if stop.is_empty() => None,
            Err(error) => {
                return Err(input_error("stop strings need a tokenizer").because(error));
            }
        };
        let ends = if ignore_eos { Vec::new() } else { session.model.end_ids().to_vec() };
        let stopped = (left == 0).then_some(StopReason::MaxTokens);
        Ok(Self { session, sampler, text, ends, left, stopped, full: false })
    }

    /// Why the generation ended; `None` while it goes on.
    pub fn stop_reason(&self) -> Option<StopReason> {
        self.stopped
    }

    /// The seed in use: with the same parameters it repeats the generation.
    pub fn seed(&self) -> u64 {
        self.sampler.seed()
    }

    /// The session, as it is now.
    pub fn session(&self) -> &Session {
        self.session
    }

    fn step(&mut self) -> Result<Token> {
        let start = Instant::now();
        if self.full {
            let context = self.session.context();
            let message = format!("the context of {context} tokens is full");
            return Err(Error::new(ErrorKind::ContextFull, message));
        }
        if self.session.cancel.take() {
            return Err(Error::new(ErrorKind::Cancelled, "cancelled"));
        }
        let ran = self.session.cache.len() < self.session.ids.len();
        self.session.catch_up()?;
        let kernels = self.session.model.kernels();
        let choice = self.sampler.choose(&self.session.logits, kernels)?;
        self.left -= 1;
        self.full = self.session.ids.len() == self.session.context();
        if self.ends.contains(&choice.id) {
            self.stopped = Some(StopReason::EndOfText);
        } else {
            if !self.full {
                self.session.ids.push(choice.id);
            }
            self.stopped = (self.left == 0).then_some(StopReason::MaxTokens);
        }
        let token = self.token(choice);
        if ran {
            self.session.stats.decode(start.elapsed());
        }
        token
    }

    fn token(&mut self, Choice { id, logprob }: Choice) -> Result<Token> {
        let Some(text) = &mut self.text else {
            return Ok(Token { id, text: String::new(), logprob });
        };
        let (mut piece, stopped) = text.push(id)?;
        if stopped {
            self.stopped = Some(StopReason::StopString);
        } else if self.stopped.is_some() || self.full {
            piece.push_str(&text.finish());
        }
        Ok(Token { id, text: piece, logprob })
    }
}

impl Iterator for Generator<'_> {
    type Item = Result<Token>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.stopped.is_some() {
            return None;
        }
        let token = self.step();
        if let Err(error) = &token {
            self.stopped = Some(match error.kind() {
                ErrorKind::ContextFull => StopReason::ContextFull,
                ErrorKind::Cancelled => StopReason::Cancelled,
                _ => StopReason::Failed,
            });
        }
        Some(token)
    }
}

impl std::iter::FusedIterator for Generator<'_> {}
