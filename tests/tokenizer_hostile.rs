//! Tokenizers made to exhaust memory, stack or time, or to make the library panic.

#[path = "common/metadata.rs"]
mod metadata;

use std::sync::atomic::{AtomicUsize, Ordering};

use goldcrest::{EncodeOptions, Error, ErrorKind, Tokenizer};
use metadata::{Metadata, Value as Meta};
use serde_json::{Value, json};

const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };
/// Steps of a chain; one after the other on the stack, they would overflow it.
const MANY: usize = 200_000;
/// Characters of a word; with its square, a test would take hours.
const LONG: usize = 100_000;

fn built(file: &Value) -> Result<Tokenizer, Error> {
    Tokenizer::from_json(file.to_string().as_bytes(), None)
}

/// Loading fails with an error that names the part.
fn refused(file: &Value, named: &str) {
    let error = built(file).expect_err(named);
    assert_eq!(error.kind(), ErrorKind::Tokenizer);
    assert!(error.to_string().contains(named), "{error} does not name {named}");
    assert!(error.to_string().len() < 1000, "an error as long as the file");
}

fn with(mut file: Value, key: &str, value: Value) -> Value {
    file[key] = value;
    file
}

fn bpe() -> Value {
    json!({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "ba": 3}, "merges": ["a b"]}})
}

fn wordpiece(max: u64) -> Value {
    json!({"model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
        "max_input_chars_per_word": max, "vocab": {"[UNK]": 0, "a": 1, "##a": 2, "##aaaa": 3}}})
}

fn unigram(pieces: &[&str]) -> Value {
    let vocab: Vec<Value> = pieces.iter().map(|piece| json!([piece, -1.0])).collect();
    json!({"model": {"type": "Unigram", "unk_id": 0, "vocab": vocab}})
}

fn t5(pieces: &[&str]) -> Metadata {
    let mut metadata = Metadata::default();
    metadata.set("tokenizer.ggml.model", Meta::Text("t5".into()));
    let tokens = ["<pad>", "</s>", "<unk>", "\u{2581}"].iter().chain(pieces);
    let tokens: Vec<String> = tokens.map(|&token| token.to_owned()).collect();
    let count = tokens.len();
    metadata.set("tokenizer.ggml.tokens", Meta::Texts(tokens));
    metadata.set("tokenizer.ggml.scores", Meta::Numbers(vec![-1.0; count]));
    let kind = |id| if id < 3 { 3.0 } else { 1.0 };
    metadata.set("tokenizer.ggml.token_type", Meta::Numbers((0..count).map(kind).collect()));
    metadata
}

fn replace(from: &str, to: &str) -> Value {
    json!({"type": "Replace", "pattern": {"String": from}, "content": to})
}

fn repeated(key: &str, list: &str, step: Value, count: usize) -> Value {
    json!({key: {"type": "Sequence", list: vec![step; count]}})[key].clone()
}

#[test]
fn chains_that_double_a_text_are_stopped() {
    let doubling = replace("a", "aa");
    let decoder = repeated("decoder", "decoders", doubling.clone(), 40);
    let tokenizer = built(&with(bpe(), "decoder", decoder)).unwrap();
    let error = tokenizer.decode(&[0], false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tokenizer);
    assert!(error.to_string().contains("decoder"), "{error}");
    let normalizer = repeated("normalizer", "normalizers", doubling, 40);
    let tokenizer = built(&with(bpe(), "normalizer", normalizer)).unwrap();
    let error = tokenizer.encode("a").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tokenizer);
    assert!(error.to_string().contains("normalizer"), "{error}");
    assert!(
        built(&with(bpe(), "normalizer", replace("b", &"a".repeat(LONG))))
            .unwrap()
            .encode("b")
            .is_err()
    );
}

#[test]
fn pre_tokenizers_that_spell_bytes_again_and_again_are_stopped() {
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let steps = repeated("pre_tokenizer", "pretokenizers", bytes, 40);
    let error = built(&with(bpe(), "pre_tokenizer", steps)).unwrap().encode("\u{e9}").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tokenizer);
    assert!(error.to_string().contains("pre_tokenizer"), "{error}");
}

#[test]
fn chains_without_end_are_refused() {
    let lower = json!({"type": "Lowercase"});
    let digits = json!({"type": "Digits", "individual_digits": true});
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true});
    for (key, list, step, count) in [
        ("decoder", "decoders", replace("b", "a"), MANY),
        ("normalizer", "normalizers", lower, 1000),
        ("pre_tokenizer", "pretokenizers", digits, 1000),
        ("post_processor", "processors", bytes, 1000),
    ] {
        refused(&with(bpe(), key, repeated(key, list, step, count)), key);
    }
}

#[test]
fn sequences_nest_as_deep_as_the_json_parser_lets_them() {
    let nested = |depth| {
        let mut inner = json!({"type": "Lowercase"});
        for _ in 0..depth {
            inner = json!({"type": "Sequence", "normalizers": [inner]});
        }
        with(bpe(), "normalizer", inner)
    };
    assert_eq!(built(&nested(40)).unwrap().encode("AB").unwrap(), [2]);
    refused(&nested(100), "tokenizer.json");
}

#[test]
fn megabytes_of_special_tokens_are_refused() {
    let special = |length: usize, count: usize| -> Vec<String> {
        (0..count)
            .map(|id| {
                format!("{}{id}", char::from(b'A' + id as u8 % 26).to_string().repeat(length))
            })
            .collect()
    };
    for tokens in [special(LONG, 90), special(500, 20_000)] {
        let added = tokens.iter().enumerate().map(
            |(at, text)| json!({"id": at + 4, "content": text, "special": true, "normalized": false}),
        );
        refused(&with(bpe(), "added_tokens", added.collect()), "special token");
        let mut metadata = t5(&tokens.iter().map(String::as_str).collect::<Vec<_>>());
        metadata.set("tokenizer.ggml.model", Meta::Text("llama".into()));
        let kinds = Meta::Numbers(vec![3.0; tokens.len() + 4]);
        metadata.set("tokenizer.ggml.token_type", kinds);
        let error = Tokenizer::from_gguf(&metadata).unwrap_err();
        assert!(error.to_string().contains("special token"), "{error}");
    }
}

#[test]
fn a_long_word_takes_a_wordpiece_model_no_square_of_its_length() {
    let word = "a".repeat(LONG);
    let unlimited = built(&wordpiece(u64::MAX >> 1)).unwrap();
    let ids = unlimited.encode(&word).unwrap();
    assert_eq!(ids.len(), 1 + (LONG - 1) / 4 + (LONG - 1) % 4);
    assert_eq!(unlimited.encode(&(word.clone() + "b")).unwrap(), [0]);
    let usual = built(&wordpiece(100)).unwrap();
    assert_eq!(usual.encode(&word).unwrap(), [0]);
    assert_eq!(usual.encode(&word[..100]).unwrap().len(), 1 + 24 + 3);
    assert_eq!(usual.encode(&word[..101]).unwrap(), [0]);
}

#[test]
fn a_long_word_takes_a_unigram_model_no_square_of_its_length() {
    let word = "a".repeat(LONG);
    let pieces = ["<unk>", "a", "aa", "aaaaaaaa", &word[..200]];
    let ids = built(&unigram(&pieces)).unwrap().encode(&word).unwrap();
    assert_eq!(ids, [4; LONG / 200]);
    let tokenizer = Tokenizer::from_gguf(&t5(&pieces[1..])).unwrap();
    assert_eq!(tokenizer.encode_with(&word, PLAIN).unwrap()[1..], [7; LONG / 200]);
    // Unknown characters are joined to one token, however many.
    let unknown = "\u{e9}".repeat(LONG);
    assert_eq!(built(&unigram(&pieces)).unwrap().encode(&unknown).unwrap(), [0]);
}

#[test]
fn pieces_of_absurd_length_are_refused() {
    let piece = "a".repeat(1_000_000);
    refused(&unigram(&["<unk>", &piece]), "token 1");
    let mut words = wordpiece(100);
    words["model"]["vocab"][&piece] = 4.into();
    refused(&words, "token 4");
    let error = Tokenizer::from_gguf(&t5(&[&piece])).unwrap_err();
    assert!(error.to_string().contains("token 4"), "{error}");
}

#[test]
fn dropout_is_for_training_and_makes_nothing_random_here() {
    let mut file = bpe();
    file["model"]["dropout"] = 0.9.into();
    let tokenizer = built(&file).unwrap();
    assert!((0..100).all(|_| tokenizer.encode("ab").unwrap() == [2]));
    for dropout in [json!(1.0), json!(-0.1), json!(7), json!("x")] {
        file["model"]["dropout"] = dropout;
        refused(&file, "dropout");
    }
}

#[test]
fn patterns_that_look_without_end_are_errors() {
    for pattern in ["(?:a|aa)+(?!a)c|x", r"(a*)*\1c", "a*c|a"] {
        let split = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        let tokenizer = built(&with(bpe(), "pre_tokenizer", split)).unwrap();
        let error = tokenizer.encode(&"a".repeat(20_000)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Tokenizer);
        assert!(error.to_string().contains("pre_tokenizer"), "{error}");
    }
    for pattern in
        ["(", "a{1000}{1000}{1000}", "(?=(a+)+c)a", &"(".repeat(LONG), &"a?".repeat(LONG)]
    {
        let split = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        refused(&with(bpe(), "pre_tokenizer", split), "pattern");
    }
}

/// Each of these has made the crate `tokenizers` panic.
fn contradictions() -> Vec<Value> {
    let model = |change: Value| {
        let mut file = bpe();
        for (key, value) in change.as_object().unwrap() {
            file["model"][key] = value.clone();
        }
        file
    };
    let processor = json!({"type": "TemplateProcessing", "special_tokens": {}, "pair": [],
        "single": [{"SpecialToken": {"id": "none", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]});
    let map = |map: &str| json!({"type": "Precompiled", "precompiled_charsmap": map});
    vec![
        model(json!({"merges": ["ab a"]})),
        model(json!({"merges": [["a", "b"], ["ab", "ab"]]})),
        model(json!({"continuing_subword_prefix": "####"})),
        with(bpe(), "pre_tokenizer", json!({"type": "FixedLength", "length": 0})),
        with(bpe(), "normalizer", map("")),
        with(bpe(), "normalizer", map("!")),
        with(bpe(), "normalizer", json!({"type": "Precompiled"})),
        with(bpe(), "post_processor", processor),
    ]
}

#[test]
fn contradictions_are_errors_and_no_panic_prints_anything() {
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    std::panic::set_hook(Box::new(|_| {
        PANICS.fetch_add(1, Ordering::Relaxed);
    }));
    for file in contradictions() {
        assert_eq!(built(&file).expect_err(&file.to_string()).kind(), ErrorKind::Tokenizer);
    }
    // Four bytes of trie that point nowhere, then no text at all.
    let map = json!({"type": "Precompiled", "precompiled_charsmap": "BAAAAP////8="});
    assert!(built(&with(bpe(), "normalizer", map)).unwrap().encode("ab").is_err());
    let mut metadata = t5(&["a"]);
    let map = [4, 0, 0, 0, 255, 255, 255, 255].map(f64::from);
    metadata.set("tokenizer.ggml.precompiled_charsmap", Meta::Numbers(map.to_vec()));
    assert!(Tokenizer::from_gguf(&metadata).unwrap().encode("ab").is_err());
    let _ = std::panic::take_hook();
    assert_eq!(PANICS.load(Ordering::Relaxed), 0);
}

#[test]
fn a_start_that_is_stripped_takes_no_square_of_its_length() {
    let strip = json!({"type": "Sequence", "decoders": [
        {"type": "Fuse"}, {"type": "Strip", "content": "a", "start": 10_000_000, "stop": 0}]});
    let tokenizer = built(&with(bpe(), "decoder", strip)).unwrap();
    let mut ids = vec![0; 1_000_000];
    ids.push(1);
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), "b");
}
