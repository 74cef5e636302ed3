//! The text of the tests, and a small training.

#![allow(dead_code, reason = "each test uses a part")]

use std::path::{Path, PathBuf};

use goldcrest_train::corpus::{Stream, books, stories};
use goldcrest_train::preset::{Dimensions, Preset};
use goldcrest_train::tokenizer::Tokenizer;
use goldcrest_train::trainer::Settings;

/// The folder of the text.
pub(crate) fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

/// Text to learn from, held-out text, and their tokenizer.
pub(crate) struct Text {
    pub(crate) tokenizer: Tokenizer,
    pub(crate) train: Stream,
    pub(crate) held_out: Stream,
}

pub(crate) fn dimensions() -> Dimensions {
    Preset::Tiny.dimensions()
}

impl Text {
    pub(crate) fn new() -> Self {
        let stories_to_learn = books(&corpus().join("books")).unwrap();
        let tokenizer = Tokenizer::train(&stories_to_learn, dimensions().vocab).unwrap();
        let held_out = stories(&corpus().join("heldout.txt")).unwrap();
        Self {
            train: Stream::new(&tokenizer, &stories_to_learn).unwrap(),
            held_out: Stream::new(&tokenizer, &held_out).unwrap(),
            tokenizer,
        }
    }
}

/// Settings of a training of a few seconds.
pub(crate) fn settings(steps: u64) -> Settings {
    Settings {
        steps,
        batch: 8,
        rate: 5e-3,
        warmup: 5,
        floor: 0.1,
        decay: 0.1,
        clip: 1.0,
        dropout: 0.1,
        seed: 3,
        every: 10,
        stride: 1,
        patience: 8,
        until: None,
    }
}
