//! goldcrest: a compact transformer inference engine.

mod config;
mod error;
pub mod load;

pub use config::{ARCHS, Arch, ArchRow, Config, Rope, RopeScaling, RopeStyle};
pub use error::{Error, ErrorKind, Result};
