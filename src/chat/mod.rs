//! Chat: messages, and the templates that make a prompt of them.
//!
//! A template is Jinja, as the authors of a model wrote it for Hugging Face's `transformers`: it is rendered
//! as that does, Python's spelling of values included.

mod conversation;
mod message;
mod named;
mod python;
mod reasoning;
mod source;
mod template;

pub(crate) use source::tokens;

pub use conversation::{Answer, Chat, ChatEvent};
pub use message::{ChatInput, Message};
pub use template::ChatTemplate;
