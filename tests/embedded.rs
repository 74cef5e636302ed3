//! The model in the crate: the file is the one that its card describes, it has learnt what it is
//! said to have learnt, and it tells the same story on every instruction set.
#![cfg(feature = "embedded-model")]

mod common;

use common::models::{PROMPT, stories_in_floats};
use common::reference::{losses, max_difference};
use common::{bits, greedy_past_ends, logits, told};
use goldcrest::{Format, Isa, KvType, Loader, Model};
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

/// Nats per token of the held-out text, in pieces that know nothing of each other.
fn held_out_loss(model: &Model) -> f64 {
    let ids = model.tokenizer().unwrap().encode(HELD_OUT).unwrap();
    let pieces = ids.chunks(model.context()).filter(|ids| ids.len() > 1);
    let all: Vec<f64> = pieces.flat_map(|ids| losses(&logits(model, ids), ids, 1)).collect();
    assert!(all.len() > 500, "{}", all.len());
    all.iter().sum::<f64>() / all.len() as f64
}

#[test]
fn loss_of_a_held_out_text() {
    let loss = held_out_loss(&deterministic(Isa::best(), 2));
    assert!((loss - LOSS).abs() < 0.01, "{loss} nats per token");
}

/// What quantising costs this model: nothing to speak of in 8 bits, little in 4.
#[test]
fn losses_of_other_numbers_are_near() {
    let floats = || Model::from_bytes("floats", stories_in_floats()).kv(KvType::F32);
    for (name, loader, most) in [
        ("floats", floats(), 0.01),
        ("Q8_0 keys and values", Model::embedded().kv(KvType::Q8_0), 0.02),
        ("Q4_0 weights", floats().quantize(Format::Q4_0), 0.2),
    ] {
        let loss = held_out_loss(&loader.threads(2).load().unwrap());
        assert!((loss - LOSS).abs() < most, "{name}: {loss} nats per token");
    }
}

/// Quantising on load gives the very file that the floats were taken from.
#[test]
fn floats_quantised_while_loading_are_the_file() {
    let ids = [0, 5, 900, 77, 2047, 301];
    let of = |loader: Loader| logits(&loader.kv(KvType::F32).load().unwrap(), &ids);
    let floats = || Model::from_bytes("floats", stories_in_floats());
    let want = of(Model::embedded());
    assert!(bits(&of(floats().quantize(Format::Q8_0))) == bits(&want));
    // In floats activations are not quantised: near, and not the same.
    let difference = max_difference(&of(floats()), &want);
    assert!(difference > 0.0 && difference < 0.5, "{difference}");
}

#[test]
fn one_story_on_every_instruction_set() {
    for isa in Isa::supported() {
        for threads in [1, 2] {
            let story = told(&deterministic(isa, threads), PROMPT, greedy_past_ends(60));
            assert_eq!(story, STORY, "{isa}, {threads} threads");
        }
    }
}
