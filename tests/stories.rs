//! A trained model from end to end: text and losses against its authors' program.
#![allow(clippy::print_stderr)]

mod common;

use std::path::{Path, PathBuf};

use common::reference::{json, max_difference, mean_loss};
use common::{assets, greedy, logits, told};
use goldcrest::{KvType, Model};

fn stories() -> Option<PathBuf> {
    assets().map(|assets| assets.join("models/stories260K"))
}

fn load(path: impl AsRef<Path>) -> Model {
    load_with(path, KvType::F32)
}

fn load_with(path: impl AsRef<Path>, kv: KvType) -> Model {
    Model::loader(path).threads(2).kv(kv).load().unwrap_or_else(|e| panic!("{e}"))
}

/// `prompt` and its greedy continuation to `len` tokens, the beginning-of-text token counted.
fn tell(model: &Model, prompt: &str, len: usize) -> String {
    let ids = model.tokenizer().unwrap().encode(prompt).unwrap();
    prompt.to_owned() + &told(model, prompt, greedy(len - ids.len()))
}

#[test]
fn the_official_text_comes_out_of_every_file() {
    let Some(stories) = stories() else { return };
    let official = std::fs::read_to_string(stories.join("official_expected_t0_n200.txt")).unwrap();
    for file in ["stories260K-F32.gguf", "hf-llama", "hf-qwen2-transplant"] {
        let model = load(stories.join("derived").join(file));
        assert_eq!(tell(&model, "", 201).trim_end(), official.trim_end(), "{file}");
    }
}

#[test]
fn the_official_text_comes_out_of_half_float_keys_and_values() {
    let Some(stories) = stories() else { return };
    let official = std::fs::read_to_string(stories.join("official_expected_t0_n200.txt")).unwrap();
    let model = load_with(stories.join("derived/stories260K-F32.gguf"), KvType::F16);
    assert_eq!(tell(&model, "", 201).trim_end(), official.trim_end());
}

/// The text of this small model turns off the official one after 305 bytes: what counts is
/// that the loss hardly grows.
#[test]
fn eight_bit_keys_and_values_cost_little() {
    let Some(stories) = stories() else { return };
    let oracle = json(stories.join("derived/oracle_stories260K.json"));
    let text = &oracle["texts"]["stories_official"];
    let ids = oracle_ids(text);
    let model = load_with(stories.join("derived/stories260K-F32.gguf"), KvType::Q8_0);
    let ours = mean_loss(&logits(&model, &ids), &ids);
    let want = text["mean_nll"].as_f64().unwrap();
    eprintln!("q8_0 KV: loss {ours:.5}, oracle {want:.5}");
    assert!((ours - want).abs() < 0.01, "{ours}, not {want}");
}

#[test]
fn a_prompt_is_continued_as_the_reference_does() {
    let Some(stories) = stories() else { return };
    let oracle = std::fs::read_to_string(stories.join("oracle_t0_n200_prompt_dragon.txt")).unwrap();
    let model = load(stories.join("derived/stories260K-F32.gguf"));
    assert_eq!(tell(&model, "The dragon and the princess", 201).trim_end(), oracle.trim_end());
}

fn oracle_ids(text: &serde_json::Value) -> Vec<u32> {
    text["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn float_losses_and_logits_are_the_oracles() {
    let Some(stories) = stories() else { return };
    let oracle = json(stories.join("derived/oracle_stories260K.json"));
    let model = load(stories.join("derived/stories260K-F32.gguf"));
    for (name, text) in oracle["texts"].as_object().unwrap() {
        let mut ids = oracle_ids(text);
        let whole = ids.len() <= model.context();
        ids.truncate(model.context());
        let all = logits(&model, &ids);
        if !whole {
            eprintln!(
                "{name}: {} tokens, more than the context: not compared",
                oracle_ids(text).len()
            );
            continue;
        }
        let (ours, want) = (mean_loss(&all, &ids), text["mean_nll"].as_f64().unwrap());
        assert!((ours - want).abs() < 1e-5, "{name}: {ours}, not {want}");
        let last: Vec<f32> = text["last_logits"]
            .as_array()
            .unwrap()
            .iter()
            .map(|x| x.as_f64().unwrap() as f32)
            .collect();
        let difference = max_difference(&all[all.len() - last.len()..], &last);
        assert!(difference < 1e-4, "{name}: {difference}");
    }
}

/// The oracle quantises weights alone; here activations are in 8 bits too, which moves the loss a
/// little either way.
#[test]
fn quantised_losses_are_near_the_oracles() {
    let Some(stories) = stories() else { return };
    let oracle = json(stories.join("derived/oracle_stories260K.json"));
    let ids = oracle_ids(&oracle["texts"]["stories_official"]);
    for (format, tolerance) in [
        ("F16", 1e-4),
        ("Q8_0", 0.01),
        ("Q4_0", 0.02),
        ("Q4_1", 0.02),
        ("Q5_0", 0.01),
        ("Q5_1", 0.01),
    ] {
        let model = load(stories.join(format!("derived/stories260K-{format}.gguf")));
        let ours = mean_loss(&logits(&model, &ids), &ids);
        let want =
            oracle["weight_only_quant"][format]["stories_official_mean_nll"].as_f64().unwrap();
        eprintln!("{format}: loss {ours:.5}, oracle {want:.5}");
        assert!((ours - want).abs() < tolerance, "{format}: {ours}, not {want}");
    }
}

#[test]
fn the_qwen2_transplant_has_the_llamas_logits() {
    let Some(stories) = stories() else { return };
    let oracle = json(stories.join("derived/oracle_stories260K.json"));
    let ids = oracle_ids(&oracle["texts"]["stories_official"]);
    let logits_of = |file: &str| logits(&load(stories.join("derived").join(file)), &ids);
    let llama = logits_of("hf-llama");
    assert!(max_difference(&logits_of("hf-qwen2-transplant"), &llama) < 1e-5);
    // GGUF permutes rows for rope: sums of dot products come out in another order.
    assert!(max_difference(&logits_of("stories260K-F32.gguf"), &llama) < 1e-4);
}
