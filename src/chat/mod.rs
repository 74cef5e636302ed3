//! Chat: messages, and the templates that make a prompt of them.
//!
//! A template is Jinja, as the authors of a model wrote it for Hugging Face's `transformers`: it is rendered
//! as that does, Python's spelling of values included.

mod message;
mod named;
mod python;
mod source;
mod template;

pub(crate) use source::tokens;

pub use message::{ChatInput, Message};
pub use template::ChatTemplate;
