//! goldcrest: a compact transformer inference engine.

mod config;
mod error;
pub mod load;
pub mod tokenizer;

pub use config::{ARCHS, Arch, ArchRow, Config, Rope, RopeScaling, RopeStyle};
pub use error::{Error, ErrorKind, Result};
pub use tokenizer::{Decoder, EncodeOptions, Tokenizer};
