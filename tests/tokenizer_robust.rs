//! Tokenizers on hostile metadata, on long texts, and on whatever proptest thinks of.

mod common;
#[path = "common/metadata.rs"]
mod metadata;

use std::time::{Duration, Instant};

use goldcrest::{ErrorKind, Tokenizer};
use metadata::{Metadata, Value};
use proptest::prelude::*;

const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const MERGES: &str = "tokenizer.ggml.merges";

fn text(value: &str) -> Value {
    Value::Text(value.to_owned())
}

fn texts(values: &[&str]) -> Value {
    Value::Texts(values.iter().map(|&value| value.to_owned()).collect())
}

/// All 256 bytes and a few merges.
fn gpt2() -> Metadata {
    let byte = |byte: u8| match byte {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => u32::from(byte),
        0x00..=0x20 => 0x100 + u32::from(byte),
        0x7f..=0xa0 => 0x121 + u32::from(byte - 0x7f),
        0xad => 0x143,
    };
    let bytes = (0..=255).map(|b| char::from_u32(byte(b)).unwrap().to_string());
    let merged = ["aa", "aaaa", "ĠĠ", "ä¸", "<end>"].map(String::from);
    let mut metadata = Metadata::default();
    metadata.set("tokenizer.ggml.model", text("gpt2"));
    metadata.set("tokenizer.ggml.pre", text("llama-bpe"));
    metadata.set("tokenizer.ggml.add_bos_token", Value::Flag(false));
    metadata.set(TOKENS, Value::Texts(bytes.chain(merged).collect()));
    metadata
        .set(TYPES, Value::Numbers((0..261).map(|i| if i == 260 { 3.0 } else { 1.0 }).collect()));
    metadata.set(MERGES, texts(&["a a", "aa aa", "Ġ Ġ", "ä ¸"]));
    metadata
}

fn llama() -> Metadata {
    let special = ["<unk>", "<s>", "</s>"].map(String::from);
    let bytes = (0..256).map(|byte| format!("<0x{byte:02X}>"));
    let words = ["▁", "a", "aa", "aaaa", "▁▁", "中", "中文", "文"].map(String::from);
    let tokens: Vec<String> = special.into_iter().chain(bytes).chain(words).collect();
    let count = tokens.len();
    let kind = |id| match id {
        0 => 2.0,
        1 | 2 => 3.0,
        3..259 => 6.0,
        _ => 1.0,
    };
    let mut metadata = Metadata::default();
    metadata.set("tokenizer.ggml.model", text("llama"));
    metadata.set(TOKENS, Value::Texts(tokens));
    metadata.set(TYPES, Value::Numbers((0..count).map(kind).collect()));
    metadata.set(SCORES, Value::Numbers((0..count).map(|id| -(id as f64)).collect()));
    metadata
}

fn bert() -> Metadata {
    let mut metadata = Metadata::default();
    metadata.set("tokenizer.ggml.model", text("bert"));
    metadata.set(TOKENS, texts(&["[UNK]", "[CLS]", "[SEP]", "▁a", "a", "▁中"]));
    metadata.set(TYPES, Value::Numbers(vec![3.0, 3.0, 3.0, 1.0, 1.0, 1.0]));
    for (id, name) in ["unknown", "cls", "seperator"].iter().enumerate() {
        metadata.set(&format!("tokenizer.ggml.{name}_token_id"), Value::Number(id as f64));
    }
    metadata
}

/// Each change makes one error, which says what is wrong.
#[test]
fn hostile_metadata_give_one_clear_error() {
    let numbers = |value: f64, count: usize| Value::Numbers(vec![value; count]);
    type Base = fn() -> Metadata;
    let cases: Vec<(Base, &str, Value, &str)> = vec![
        (gpt2, "tokenizer.ggml.model", text("gpt9"), "gpt9"),
        (gpt2, "tokenizer.ggml.model", Value::Flag(true), "tokenizer.ggml.model"),
        (gpt2, "tokenizer.ggml.pre", text("no-such-pre"), "no-such-pre"),
        (gpt2, TOKENS, texts(&[]), "empty"),
        (gpt2, TOKENS, text("a"), TOKENS),
        (llama, TOKENS, texts(&["a", "a"]), TYPES),
        (gpt2, TYPES, numbers(1.0, 7), TYPES),
        (gpt2, TYPES, numbers(99.0, 261), "99"),
        (gpt2, TYPES, numbers(-1.0, 261), "-1"),
        (gpt2, MERGES, texts(&["ab"]), "no space"),
        (gpt2, MERGES, texts(&["", "a a"]), "no space"),
        (gpt2, MERGES, texts(&["a zz"]), "zz"),
        (gpt2, MERGES, texts(&["é"]), "no space"),
        (gpt2, MERGES, Value::Number(1.0), MERGES),
        (gpt2, "tokenizer.ggml.add_bos_token", Value::Flag(true), "bos"),
        (gpt2, "tokenizer.ggml.eos_token_id", Value::Number(261.0), "261"),
        (gpt2, "tokenizer.ggml.eos_token_id", Value::Number(-1.0), "-1"),
        (gpt2, "tokenizer.ggml.eot_token_id", Value::Number(5e9), "5000000000"),
        (llama, SCORES, numbers(f64::NAN, 267), "NaN"),
        (llama, SCORES, numbers(0.0, 3), SCORES),
        (llama, "tokenizer.ggml.unknown_token_id", Value::Number(1e6), "1000000"),
        (bert, "tokenizer.ggml.seperator_token_id", Value::Number(6.0), "seperator"),
    ];
    for (base, key, value, named) in cases {
        let mut metadata = base();
        metadata.set(key, value.clone());
        let error = Tokenizer::from_gguf(&metadata).expect_err(&format!("{key} = {value:?}"));
        assert_eq!(error.kind(), ErrorKind::Tokenizer);
        assert!(error.to_string().contains(named), "{error} does not name {named}");
    }
    let mut twice = gpt2();
    twice.set(TOKENS, texts(&["a", "a"]));
    twice.0.remove(TYPES);
    assert!(Tokenizer::from_gguf(&twice).unwrap_err().to_string().contains("two ids"));
    assert!(Tokenizer::from_gguf(&Metadata::default()).is_err());
}

#[test]
fn hostile_tokenizer_json_gives_errors() {
    let bert = r###"{"model": {"type": "WordPiece", "unk_token": "u", "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 9, "vocab": {"u": 0}}"###;
    for json in [
        String::new(),
        "null".into(),
        "{}".into(),
        r#"{"model": {"type": "NoSuchModel"}}"#.into(),
        format!(r#"{bert}, "decoder": {{"type": "NoSuchDecoder"}}}}"#),
        format!(r#"{bert}, "decoder": 7, "pre_tokenizer": 7}}"#),
        format!(r#"{bert}, "pre_tokenizer": {{"type": "NoSuch"}}}}"#),
        format!(r#"{bert}, "pre_tokenizer": {{"type": "Split", "pattern": {{"Regex": "("}}}}}}"#),
        format!(r#"{bert}, "added_tokens": [{{"id": 4000000000, "content": "x"}}]}}"#),
        format!(r#"{bert}, "added_tokens": [{{"id": 0, "content": "x"}}]}}"#),
        format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)),
    ] {
        let shown: String = json.chars().take(200).collect();
        let error = Tokenizer::from_json(json.as_bytes(), None).expect_err(&shown);
        assert_eq!(error.kind(), ErrorKind::Tokenizer, "{shown}");
    }
}

/// A fraction of a second each; anything quadratic would take minutes.
const PATIENCE: Duration = Duration::from_secs(30);
const LENGTH: usize = if cfg!(debug_assertions) { 40_000 } else { 1_000_000 };

fn long_texts() -> Vec<String> {
    vec![
        "a".repeat(LENGTH),
        "A".repeat(LENGTH),
        " ".repeat(LENGTH),
        format!("{}x", " ".repeat(LENGTH)),
        "\n ".repeat(LENGTH / 2),
        "中文".repeat(LENGTH / 6),
        "1".repeat(LENGTH),
        "<".repeat(LENGTH),
        "e\u{301}".repeat(LENGTH / 3),
    ]
}

fn encode_in_time(name: &str, tokenizer: &Tokenizer, text: &str) {
    let start = Instant::now();
    tokenizer.encode(text).unwrap();
    let shown: String = text.chars().take(4).collect();
    assert!(start.elapsed() < PATIENCE, "{name} took {:?} for {shown:?}...", start.elapsed());
}

#[test]
fn long_texts_take_time_in_proportion() {
    let pres = ["llama-bpe", "default", "gpt-2", "qwen2", "deepseek-llm", "tekken", "superbpe"];
    for text in long_texts() {
        for pre in pres {
            let mut metadata = gpt2();
            metadata.set("tokenizer.ggml.pre", self::text(pre));
            encode_in_time(pre, &Tokenizer::from_gguf(&metadata).unwrap(), &text);
        }
        for (name, metadata) in [("llama", llama()), ("bert", bert())] {
            encode_in_time(name, &Tokenizer::from_gguf(&metadata).unwrap(), &text);
        }
    }
}

#[test]
fn long_texts_take_time_in_proportion_with_tokenizer_json() {
    let Some(assets) = common::assets() else { return };
    for name in ["gpt2_bpe", "llama3_bpe", "qwen2_bpe", "spm_bpe", "unigram", "wordpiece"] {
        let path = assets.join("golden/tokenizers").join(name).join("tokenizer.json");
        let tokenizer = Tokenizer::from_json(&std::fs::read(path).unwrap(), None).unwrap();
        for text in long_texts() {
            encode_in_time(name, &tokenizer, &text);
        }
    }
}

#[test]
fn a_word_stays_whole_in_each_model() {
    let tokenizer = Tokenizer::from_gguf(&llama()).unwrap();
    let ids = tokenizer.encode("aaaa中文é").unwrap();
    let tokens: Vec<_> = ids.iter().map(|&id| tokenizer.id_to_token(id).unwrap()).collect();
    assert_eq!(tokens, ["<s>", "▁", "aaaa", "中文", "<0xC3>", "<0xA9>"]);
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "aaaa中文é");
    let tokenizer = Tokenizer::from_gguf(&bert()).unwrap();
    assert_eq!(tokenizer.encode("Aa b").unwrap(), [1, 3, 4, 0, 2]);
}

#[test]
fn incremental_decoding_is_decoding() {
    let made = [gpt2(), llama(), bert()].map(|metadata| Tokenizer::from_gguf(&metadata).unwrap());
    decodes_token_by_token(&made);
}

#[test]
fn incremental_decoding_is_decoding_with_other_vocabularies() {
    let Some(assets) = common::assets() else { return };
    let mut all = Vec::new();
    for entry in std::fs::read_dir(assets.join("golden/tokenizers")).unwrap() {
        let folder = entry.unwrap().path();
        let json = std::fs::read(folder.join("tokenizer.json")).unwrap();
        all.push(Tokenizer::from_json(&json, None).unwrap());
        all.push(common::tokenizer(folder.join("vocab.gguf")));
    }
    for entry in std::fs::read_dir(assets.join("vocab")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "gguf") {
            all.push(common::tokenizer(path));
        }
    }
    assert!(all.len() > 15, "{}", all.len());
    decodes_token_by_token(&all);
}

fn decodes_token_by_token(tokenizers: &[Tokenizer]) {
    let config = ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() };
    let ids = prop::collection::vec((any::<bool>(), any::<u32>()), 0..40);
    for tokenizer in tokenizers {
        proptest!(config.clone(), |(ids in &ids, skip in any::<bool>())| {
            // Half of the ids are low: that is where the bytes and special tokens are.
            let ids: Vec<u32> = ids.iter().map(|&(low, id)| {
                id % if low { 300.min(tokenizer.vocab_size()) } else { tokenizer.vocab_size() } as u32
            }).collect();
            let mut decoder = tokenizer.decoder();
            if !skip {
                decoder = decoder.keep_special();
            }
            let mut text: String = ids.iter().map(|&id| decoder.push(id).unwrap()).collect();
            text += &decoder.finish();
            prop_assert_eq!(text, tokenizer.decode(&ids, skip).unwrap());
        });
    }
}

#[test]
fn byte_level_text_comes_back_whole() {
    let tokenizer = Tokenizer::from_gguf(&gpt2()).unwrap();
    let config = ProptestConfig { cases: 500, failure_persistence: None, ..Default::default() };
    proptest!(config, |(text in any::<String>())| {
        let ids = tokenizer.encode(&text).unwrap();
        prop_assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    });
}

#[test]
fn unknown_ids_are_errors() {
    let tokenizer = Tokenizer::from_gguf(&gpt2()).unwrap();
    let error = tokenizer.decode(&[0, 261], false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input);
    assert!(tokenizer.decoder().push(u32::MAX).is_err());
}
