//! The model in the crate: the file is the one that its card describes, it has learnt what it is
//! said to have learnt, and it tells the same story on every instruction set.
#![cfg(feature = "embedded-model")]

use goldcrest::{GenerationParams, Isa, Model};
use sha2::{Digest, Sha256};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/stories.gguf");
const CARD: &str = include_str!("../models/README.md");
/// The beginning of the held-out text: chapter 1 of Alice's Adventures in Wonderland.
const HELD_OUT: &str = include_str!("data/heldout-sample.txt");
/// Nats per token on it, in deterministic mode.
const LOSS: f64 = 3.7565;
/// What it makes of "Once upon a time" when it always takes the likeliest token.
const STORY: &str = " there lived a little girl who had been in the world, and the girls were all in \
    the world, and the girls were all in the world. The girls were all in the world, and the girls \
    were allowed to be seen, and the girls were all in the";

fn deterministic(isa: Isa, threads: usize) -> Model {
    Model::embedded().deterministic(true).isa(isa).threads(threads).load().unwrap()
}

#[test]
fn the_card_names_the_file() {
    let bytes = std::fs::read(FILE).unwrap();
    assert!(bytes.len() <= 4 << 20, "{} bytes", bytes.len());
    let sum: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(CARD.contains(&sum), "models/README.md does not have {sum}");
}

#[test]
fn loss_of_a_held_out_text() {
    let model = deterministic(Isa::best(), 2);
    let ids = model.tokenizer().unwrap().encode(HELD_OUT).unwrap();
    let vocab = model.config().vocab_size;
    let (mut sum, mut count) = (0.0, 0);
    for ids in ids.chunks(model.context()) {
        let mut session = model.session().unwrap();
        let logits = session.logits_all(ids).unwrap();
        for (logits, &next) in logits.chunks_exact(vocab).zip(&ids[1..]) {
            let greatest = logits.iter().fold(f32::MIN, |m, &x| m.max(x));
            let total: f64 = logits.iter().map(|&x| f64::from(x - greatest).exp()).sum();
            sum += total.ln() - f64::from(logits[next as usize] - greatest);
            count += 1;
        }
    }
    let loss = sum / f64::from(count);
    assert!((loss - LOSS).abs() < 0.01, "{loss} nats per token over {count} tokens");
}

#[test]
fn one_story_on_every_instruction_set() {
    let params = GenerationParams::greedy().max_tokens(60).ignore_eos(true);
    for isa in Isa::supported() {
        for threads in [1, 2] {
            let model = deterministic(isa, threads);
            let mut session = model.session().unwrap();
            session.push(&model.tokenizer().unwrap().encode("Once upon a time").unwrap()).unwrap();
            let tokens = session.generate(params.clone()).unwrap();
            let story: String = tokens.map(|token| token.unwrap().text).collect();
            assert_eq!(story, STORY, "{isa}, {threads} threads");
        }
    }
}
