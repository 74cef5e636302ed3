//! Shared by the integration tests: where the assets are, what a test runs, and writers of small
//! model files.
#![allow(dead_code, unreachable_pub)] // each test binary uses its part

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use goldcrest::load::{Checkpoint, ReadOptions};
use goldcrest::{GenerationParams, Model, SamplingParams, Tokenizer};

pub mod gguf;
pub mod models;
pub mod reference;
pub mod safetensors;

/// The tokenizer of a model file, through the loader as users get it.
pub fn tokenizer(path: impl AsRef<Path>) -> Tokenizer {
    let checkpoint = Checkpoint::open(path, &ReadOptions::default()).unwrap();
    Tokenizer::need_from_checkpoint(&checkpoint).unwrap()
}

/// The folder of test assets: `$GOLDCREST_ASSETS`, or `../shared/assets` beside the checkout.
///
/// `None` when it is missing, after [`skip`]: a test that then returns was skipped, not passed.
#[track_caller]
pub fn assets() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/assets");
    let path = std::env::var_os("GOLDCREST_ASSETS").map_or(beside, PathBuf::from);
    if path.is_dir() {
        return Some(path);
    }
    skip(&format!("no assets at {} (set GOLDCREST_ASSETS)", path.display()));
    None
}

/// The command of the emulator of old x86-64 processors; `None` where it is missing, after [`skip`].
#[track_caller]
pub fn emulator() -> Option<&'static str> {
    const EMULATOR: &str = "qemu-x86_64";
    if Command::new(EMULATOR).arg("--version").output().is_ok() {
        return Some(EMULATOR);
    }
    skip("no qemu-x86_64 (package qemu-user)");
    None
}

/// Says that a test does not run here. Every way out of a test but its end goes through this:
/// `let Some(x) = f() else { return };` with an `f` that calls it. `.ci/run format` looks for others.
///
/// # Panics
/// With `GOLDCREST_REQUIRE_ASSETS=1`, which makes a skip a failure.
#[track_caller]
pub fn skip(why: &str) {
    let required = std::env::var_os("GOLDCREST_REQUIRE_ASSETS").is_some_and(|value| value == "1");
    assert!(!required, "skipped, with GOLDCREST_REQUIRE_ASSETS=1: {why}");
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("a test");
    // Not by `eprintln!`, which the test harness hides when a test passes. In one piece, on a line of its
    // own, whatever other tests write.
    let line = format!("\nSKIPPED: {name}: {why}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// The likeliest token each time, `max_tokens` times at most.
pub fn greedy(max_tokens: usize) -> GenerationParams {
    GenerationParams::greedy().max_tokens(max_tokens)
}

/// As [`greedy`], beyond the tokens that end a text.
pub fn greedy_past_ends(max_tokens: usize) -> GenerationParams {
    greedy(max_tokens).ignore_eos(true)
}

/// As [`greedy`], up to one of these texts.
pub fn greedy_until(max_tokens: usize, stop: &[&str]) -> GenerationParams {
    greedy(max_tokens).stop(stop.iter().copied())
}

/// Tokens drawn with this seed, beyond those that end a text.
pub fn random(seed: u64, max_tokens: usize) -> GenerationParams {
    let sampling = SamplingParams::default().seed(seed);
    GenerationParams::from(sampling).max_tokens(max_tokens).ignore_eos(true)
}

/// Rows of the model's logits.
pub fn vocabulary(model: &Model) -> usize {
    model.config().vocab_size()
}

/// The logits after each of `ids`, from an empty context.
pub fn logits(model: &Model, ids: &[u32]) -> Vec<f32> {
    model.session().unwrap().logits_all(ids).unwrap()
}

/// The ids with which `model` continues `prompt`.
pub fn continued(model: &Model, prompt: &[u32], params: GenerationParams) -> Vec<u32> {
    let mut session = model.session().unwrap();
    session.push(prompt).unwrap();
    session.generate(params).unwrap().map(|token| token.unwrap().id).collect()
}

/// The text with which `model` continues `prompt`.
pub fn told(model: &Model, prompt: &str, params: GenerationParams) -> String {
    let mut session = model.session().unwrap();
    session.push(&model.tokenizer().unwrap().encode(prompt).unwrap()).unwrap();
    session.generate(params).unwrap().map(|token| token.unwrap().text).collect()
}

/// Bits, so that no two numbers are equal that are not the same.
pub fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|x| x.to_bits()).collect()
}
