//! The state of a generation, apart from its session.

use std::time::Instant;

use super::text::Text;
use super::{CancelToken, GenerationParams, Session, StopReason, Token};
use crate::error::{Error, ErrorKind, Result, input_error};
use crate::sample::{Choice, Sampler};

pub(super) struct Generation {
    pub(super) sampler: Sampler,
    pub(super) stopped: Option<StopReason>,
    /// `None` where the model has no tokenizer, and once a stop string has come.
    text: Option<Text>,
    /// End-of-generation ids; empty when they are ignored.
    ends: Vec<u32>,
    cancel: CancelToken,
    left: usize,
    /// The token chosen last did not fit into the context.
    full: bool,
}

impl Generation {
    pub(super) fn new(session: &Session, params: GenerationParams) -> Result<Self> {
        if session.ids.is_empty() {
            return Err(input_error("there is nothing to continue: push a prompt first"));
        }
        params.validate()?;
        let GenerationParams { sampling, max_tokens, stop, ignore_eos, cancel } = params;
        let model = &session.model;
        let mut sampler = Sampler::with_kernels(sampling, session.vocab(), model.kernels())?;
        session.ids.iter().for_each(|&id| sampler.accept(id));
        let text = match model.tokenizer() {
            Ok(tokenizer) => Some(Text::new(tokenizer, &session.ids, stop)?),
            Err(_) if stop.is_empty() => None,
            Err(error) => {
                return Err(input_error("stop strings need a tokenizer").because(error));
            }
        };
        let ends = if ignore_eos { Vec::new() } else { model.end_ids().to_vec() };
        let left = max_tokens.unwrap_or(usize::MAX);
        let stopped = (left == 0).then_some(StopReason::MaxTokens);
        Ok(Self { sampler, stopped, text, ends, cancel, left, full: false })
    }

    /// The next token; `None` after the last or after an error.
    pub(super) fn next(&mut self, session: &mut Session) -> Option<Result<Token>> {
        if self.stopped.is_some() {
            return None;
        }
        let token = self.step(session);
        if let Err(error) = &token {
            self.stopped = Some(match error.kind() {
                ErrorKind::ContextFull => StopReason::ContextFull,
                ErrorKind::Cancelled => StopReason::Cancelled,
                _ => StopReason::Failed,
            });
        }
        Some(token)
    }

    /// The text that no token has brought yet.
    pub(super) fn take_held(&mut self) -> String {
        match &mut self.text {
            Some(text) if self.stopped.is_some() => text.finish(),
            // The next token may complete the character that is left.
            Some(text) => text.take_held(),
            None => String::new(),
        }
    }

    fn step(&mut self, session: &mut Session) -> Result<Token> {
        let start = Instant::now();
        if self.full {
            let context = session.context();
            let message = format!("the context of {context} tokens is full");
            return Err(Error::new(ErrorKind::ContextFull, message));
        }
        if self.cancel.is_cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, "cancelled"));
        }
        let ran = session.covered() < session.ids.len();
        session.catch_up(&self.cancel)?;
        let choice = self.sampler.choose(&session.run.logits)?;
        self.sampler.accept(choice.id);
        self.left -= 1;
        self.full = session.ids.len() == session.context();
        if self.ends.contains(&choice.id) {
            self.stopped = Some(StopReason::EndOfText);
        } else {
            if !self.full {
                session.ids.push(choice.id);
            }
            self.stopped = (self.left == 0).then_some(StopReason::MaxTokens);
        }
        let token = self.token(choice);
        if ran {
            session.stats.decode(start.elapsed());
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
            self.text = None;
        } else if self.stopped.is_some() || self.full {
            piece.push_str(&text.finish());
        }
        Ok(Token { id, text: piece, logprob })
    }
}
