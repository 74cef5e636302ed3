//! Real models: perplexity beside llama.cpp's on the same text, by the rule of the oracle, and a
//! conversation.
//!
//! `.ci/run real_models` fetches the files and runs these tests; by hand:
//! `GOLDCREST_REAL_MODELS=DIR cargo test --release --test real_models -- --ignored --nocapture`
//! with the folder that `../shared/assets/real-models DIR` filled.
#![allow(clippy::print_stderr)]

mod common;

use std::path::PathBuf;

use common::reference::{json, losses};
use goldcrest::{EncodeOptions, Model};

/// Tokens of a piece of the text. The second half of each is judged: there every prediction has at
/// least 256 tokens to go by.
const CHUNK: usize = 512;
/// Bytes of the text that the oracle read.
const TEXT: usize = 200_000;
/// How far from llama.cpp's perplexity ours may be, as a share of it.
const BOUND: f64 = 0.005;

/// A model file. Who runs these tests has them: there is nothing to skip.
fn path(file: &str) -> PathBuf {
    let folder = std::env::var_os("GOLDCREST_REAL_MODELS").expect("GOLDCREST_REAL_MODELS=DIR");
    PathBuf::from(folder).join(file)
}

/// The assets' folder, for text and oracle.
fn asset(name: &str) -> PathBuf {
    common::assets().expect("the assets").join(name)
}

/// Ours after each of the first `pieces` pieces of the text, each from an empty context.
fn perplexities(model: &Model, pieces: usize) -> Vec<f64> {
    let text = std::fs::read(asset("text/wiki.test.raw")).unwrap();
    let text = String::from_utf8_lossy(&text[..TEXT]);
    let tokenizer = model.tokenizer().unwrap();
    let options = EncodeOptions { add_special: true, parse_special: false };
    let ids = tokenizer.encode_with(&text, options).unwrap();
    // What the model puts before a text stands before every piece, in the place of its first token.
    let begin = tokenizer.encode_with("", options).unwrap();
    assert!(begin.len() <= 1, "{begin:?}");
    let (mut sum, mut count) = (0.0, 0);
    let pieces = ids.chunks_exact(CHUNK).take(pieces).map(|piece| {
        let mut piece = piece.to_vec();
        piece[..begin.len()].copy_from_slice(&begin);
        let (seen, judged) = piece.split_at(CHUNK / 2);
        let mut session = model.session().unwrap();
        session.push(seen).unwrap();
        // The token after `seen` is not judged: 255 predictions.
        let losses = losses(&session.logits_all(judged).unwrap(), judged, 1);
        sum += losses.iter().sum::<f64>();
        count += losses.len();
        (sum / count as f64).exp()
    });
    pieces.collect()
}

fn has_llama_cpps_perplexity(file: &str) {
    let oracle = json(asset("real-models.json"));
    let want: Vec<f64> =
        oracle[file].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
    let model = Model::loader(path(file)).context(CHUNK).load().unwrap_or_else(|e| panic!("{e}"));
    let ours = perplexities(&model, want.len());
    assert_eq!(ours.len(), want.len(), "the text is too short");
    let off = |(ours, want): (&f64, &f64)| ours / want - 1.0;
    for (i, pair) in ours.iter().zip(&want).enumerate() {
        let percent = 100.0 * off(pair);
        eprintln!("{file}: {i:2}: {:.4}, llama.cpp {:.4} ({percent:+.3}%)", pair.0, pair.1);
    }
    let (last, wanted) = (ours.last().unwrap(), want.last().unwrap());
    eprintln!("{file}: perplexity {last:.4}, llama.cpp {wanted:.4} ({})", model.isa());
    assert!(off((last, wanted)).abs() <= BOUND, "{file}: {last}, not {wanted}");
}

#[test]
#[ignore = "needs model files: .ci/run real_models"]
fn qwen2_5_coder_0_5b() {
    has_llama_cpps_perplexity("qwen2.5-coder-0.5b-instruct-q4_k_m.gguf");
}

/// With the model's own template, and what was said before.
#[cfg(feature = "chat")]
#[test]
#[ignore = "needs model files: .ci/run real_models"]
fn qwen_holds_a_conversation_of_two_turns() {
    use goldcrest::GenerationParams;
    use goldcrest::chat::{Chat, ChatEvent, Message};

    let model = Model::open(path("qwen2.5-coder-0.5b-instruct-q4_k_m.gguf")).unwrap();
    let mut chat = Chat::new(model.session().unwrap(), model.chat_template().unwrap().clone());
    let mut ask = |question: &str| {
        chat.push(Message::user(question));
        let answer = chat.answer(GenerationParams::greedy().max_tokens(64)).unwrap();
        answer.fold(String::new(), |text, event| match event.unwrap() {
            ChatEvent::Text(piece) => text + &piece,
            _ => text,
        })
    };
    let hello = ask("My name is Ann. Say hello.");
    let name = ask("What is my name?");
    eprintln!("{hello}\n{name}");
    assert!(hello.to_lowercase().contains("hello"), "{hello}");
    assert!(name.contains("Ann"), "{name}");
}

#[test]
#[ignore = "needs model files: .ci/run real_models"]
fn gemma_3_270m() {
    has_llama_cpps_perplexity("gemma-3-270m-q4_k_m.gguf");
}
