//! What a template is given.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One message of a conversation: an object with a `role`, mostly with a `content`, and whatever else a
/// template reads (`tool_calls`, `name`, `reasoning_content`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Message(Map<String, Value>);

impl Message {
    /// A message of `role` with a text.
    pub fn new(role: &str, content: impl Into<String>) -> Self {
        let fields = [("role", role.to_owned()), ("content", content.into())];
        Self(fields.map(|(key, text)| (key.to_owned(), Value::String(text))).into_iter().collect())
    }

    /// Instructions for the whole conversation.
    pub fn system(content: impl Into<String>) -> Self {
        Self::new("system", content)
    }

    /// What the user says.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }

    /// What the model said.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new("assistant", content)
    }

    /// The same with another field.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.insert(key.to_owned(), value.into());
        self
    }

    /// Who speaks; "" where the message does not say.
    pub fn role(&self) -> &str {
        self.get("role").and_then(Value::as_str).unwrap_or_default()
    }

    /// A field.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }
}

/// A conversation and what else a template may read.
///
/// ```
/// use goldcrest::chat::{ChatInput, Message};
///
/// let input = ChatInput::new([Message::system("Be brief."), Message::user("Hello")]);
/// assert!(input.add_generation_prompt); // the answer comes next
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ChatInput {
    /// The conversation, oldest first.
    pub messages: Vec<Message>,
    /// Definitions of tools, as OpenAI's interface has them; a template without tools ignores them.
    pub tools: Vec<Value>,
    /// Documents to answer from.
    pub documents: Vec<Value>,
    /// Variables of the template beside these, such as `enable_thinking`; they go before the model's own
    /// `bos_token` and `eos_token`.
    pub context: Map<String, Value>,
    /// Whether the prompt ends where the model's answer begins: true, unless it is the whole conversation
    /// that counts.
    pub add_generation_prompt: bool,
    /// What `strftime_now` takes for now, in local time; `None` is the time of rendering.
    pub now: Option<SystemTime>,
}

impl ChatInput {
    /// A conversation whose next message is the model's.
    pub fn new(messages: impl IntoIterator<Item = Message>) -> Self {
        Self {
            messages: messages.into_iter().collect(),
            tools: Vec::new(),
            documents: Vec::new(),
            context: Map::new(),
            add_generation_prompt: true,
            now: None,
        }
    }

    /// The same conversation with the texts of system messages at the head of the next user message, and
    /// a line break between them: for templates that have no place for them.
    #[must_use]
    pub fn system_folded(mut self) -> Self {
        let mut instructions = String::new();
        let mut folded = Vec::with_capacity(self.messages.len());
        for message in self.messages {
            let content = message.get("content").and_then(Value::as_str).unwrap_or_default();
            match message.role() {
                "system" => {
                    instructions.push_str(content);
                    instructions.push('\n');
                }
                "user" if !instructions.is_empty() => {
                    let content = std::mem::take(&mut instructions) + content;
                    folded.push(message.with("content", content));
                }
                _ => folded.push(message),
            }
        }
        if !instructions.is_empty() {
            folded.push(Message::user(instructions.trim_end_matches('\n')));
        }
        self.messages = folded;
        self
    }
}
