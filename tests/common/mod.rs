//! Shared by the integration tests: where the assets are, and writers of small model files.
#![allow(dead_code, unreachable_pub)] // each test binary uses its part

use std::path::{Path, PathBuf};

use goldcrest::Tokenizer;
use goldcrest::load::{Checkpoint, ReadOptions};

pub mod gguf;
pub mod reference;
pub mod safetensors;

/// The tokenizer of a model file, through the loader as users get it.
pub fn tokenizer(path: impl AsRef<Path>) -> Tokenizer {
    let checkpoint = Checkpoint::open(path, &ReadOptions::default()).unwrap();
    Tokenizer::need_from_checkpoint(&checkpoint).unwrap()
}

/// The folder of test assets: `$GOLDCREST_ASSETS`, or `../shared/assets` beside the checkout.
///
/// `None` when it is missing, after saying so: a test that then returns was skipped, not passed.
#[allow(clippy::print_stderr)]
pub fn assets() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/assets");
    let path = std::env::var_os("GOLDCREST_ASSETS").map_or(beside, PathBuf::from);
    if path.is_dir() {
        return Some(path);
    }
    let test = std::thread::current().name().unwrap_or("test").to_string();
    eprintln!("SKIPPED {test}: no assets at {} (set GOLDCREST_ASSETS)", path.display());
    None
}
