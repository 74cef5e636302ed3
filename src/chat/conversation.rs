//! A conversation over a session.

use std::collections::VecDeque;

use serde_json::Value;

use super::reasoning::{Part, Reasoning};
use super::{ChatInput, ChatTemplate, Message};
use crate::error::{ErrorKind, Result};
use crate::session::{GenerationParams, Generator, Session, StopReason};

/// A conversation with a model: messages in, [events](ChatEvent) out.
///
/// Of each prompt only what is new is run: what it has in common with the context stays there.
///
/// ```no_run
/// use goldcrest::chat::{Chat, ChatEvent, Message};
/// use goldcrest::{Model, SamplingParams};
///
/// let model = Model::open("model.gguf")?;
/// let mut chat = Chat::new(model.session()?, model.chat_template()?.clone());
/// chat.push(Message::user("Why is the sky blue?"));
/// for event in chat.answer(SamplingParams::default())? {
///     if let ChatEvent::Text(text) = event? {
///         print!("{text}");
///     }
/// }
/// # Ok::<(), goldcrest::Error>(())
/// ```
pub struct Chat {
    session: Session,
    template: ChatTemplate,
    input: ChatInput,
}

/// What comes of an answer.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ChatEvent {
    /// What the model thinks before it answers; no part of the answer.
    Reasoning(String),
    /// A piece of the answer.
    Text(String),
    /// The answer is over. Nothing follows.
    End(StopReason),
}

impl Chat {
    /// A conversation of no messages yet.
    pub fn new(session: Session, template: ChatTemplate) -> Self {
        Self { session, template, input: ChatInput::new([]) }
    }

    /// The messages so far, answers included.
    pub fn messages(&self) -> &[Message] {
        &self.input.messages
    }

    /// What the template gets: messages, tools, variables. May be changed at will between answers.
    pub fn input_mut(&mut self) -> &mut ChatInput {
        &mut self.input
    }

    /// Adds a message.
    pub fn push(&mut self, message: Message) {
        self.input.messages.push(message);
    }

    /// The session, for its statistics.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Answers the messages so far. The answer is added to them when it is over, or dropped.
    ///
    /// # Errors
    /// As [`ChatTemplate::encode`], [`Session::push_cancellable`] and [`Session::generate`]. The messages
    /// stay as they are then.
    pub fn answer(&mut self, params: impl Into<GenerationParams>) -> Result<Answer<'_>> {
        let params = params.into();
        let model = self.session.model().clone();
        let (prompt, ids) = self.template.prompt(model.tokenizer()?, &self.input)?;
        let same = |(a, b): &(&u32, &u32)| a == b;
        let common = ids.iter().zip(self.session.tokens()).take_while(same).count();
        // The last token has to run, for its logits.
        let common = common.min(ids.len().saturating_sub(1));
        self.session.truncate(common);
        self.session.push_cancellable(&ids[common..], &params.cancel)?;
        // The answer may be left out of the next prompt, or stand there in other tokens.
        let points: Vec<usize> = self.session.save_points().collect();
        points.into_iter().for_each(|point| {
            self.session.forget(point);
        });
        self.session.save()?;
        Ok(Answer {
            generator: self.session.generate(params)?,
            messages: &mut self.input.messages,
            reasoning: Reasoning::after(&prompt),
            coming: VecDeque::new(),
            thought: String::new(),
            text: String::new(),
            over: false,
        })
    }
}

/// An answer that is being given: an iterator of its events.
pub struct Answer<'a> {
    generator: Generator<&'a mut Session>,
    messages: &'a mut Vec<Message>,
    reasoning: Reasoning,
    coming: VecDeque<ChatEvent>,
    thought: String,
    text: String,
    over: bool,
}

impl Answer<'_> {
    fn take_in(&mut self, text: &str, last: bool) {
        let (coming, thought, answer) = (&mut self.coming, &mut self.thought, &mut self.text);
        let mut part = |part| {
            coming.push_back(match part {
                Part::Reasoning(text) => {
                    thought.push_str(&text);
                    ChatEvent::Reasoning(text)
                }
                Part::Text(text) => {
                    answer.push_str(&text);
                    ChatEvent::Text(text)
                }
            });
        };
        self.reasoning.push(text, &mut part);
        if last {
            self.reasoning.finish(&mut part);
        }
    }

    /// The message of what was said, once.
    fn conclude(&mut self) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        let mut message = Message::assistant(std::mem::take(&mut self.text));
        let thought = std::mem::take(&mut self.thought);
        if !thought.trim().is_empty() {
            message = message.with("reasoning_content", Value::from(thought.trim()));
        }
        self.messages.push(message);
    }
}

impl Iterator for Answer<'_> {
    type Item = Result<ChatEvent>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(event) = self.coming.pop_front() {
                return Some(Ok(event));
            }
            if self.over {
                return None;
            }
            match self.generator.next() {
                Some(Ok(token)) => self.take_in(&token.text, false),
                // Whoever asked for it knows, and a full context is an end like any other.
                Some(Err(error))
                    if !matches!(error.kind(), ErrorKind::Cancelled | ErrorKind::ContextFull) =>
                {
                    self.conclude();
                    return Some(Err(error));
                }
                _ => {
                    let held = self.generator.take_held();
                    self.take_in(&held, true);
                    let reason = self.generator.stop_reason();
                    self.conclude();
                    self.coming.extend(reason.map(ChatEvent::End));
                }
            }
        }
    }
}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        self.conclude();
    }
}
