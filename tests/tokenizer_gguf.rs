//! Tokenizers from small metadata against the ids that llama.cpp gives with the same metadata.

#[path = "common/metadata.rs"]
mod metadata;

use goldcrest::{EncodeOptions, Tokenizer};
use metadata::{Metadata, Value};

const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };
const PARSED: EncodeOptions = EncodeOptions { add_special: false, parse_special: true };

fn texts(values: &[&str]) -> Value {
    Value::Texts(values.iter().map(|&value| value.into()).collect())
}

/// Gemma 4's manner: spaces have a mark, and `</s>` is a token that ends nothing.
fn gemma4(model: &str, pre: Option<&str>) -> Metadata {
    let tokens = [
        ("<unk>", 2),
        ("<bos>", 3),
        ("<eos>", 3),
        ("a", 1),
        ("b", 1),
        ("\u{2581}", 1),
        ("\n", 1),
        ("\u{2581}a", 1),
        ("ab", 1),
        ("\n\n", 1),
        ("</s>", 3),
        ("<|tool_response>", 3),
        ("<0x21>", 6),
        ("<0x3C>", 6),
        ("<0x2F>", 6),
        ("<0x73>", 6),
        ("<0x3E>", 6),
    ];
    let mut metadata = Metadata::default();
    metadata.set("tokenizer.ggml.model", Value::Text(model.into()));
    if let Some(pre) = pre {
        metadata.set("tokenizer.ggml.pre", Value::Text(pre.into()));
    }
    metadata.set("tokenizer.ggml.tokens", texts(&tokens.map(|token| token.0)));
    let kinds = tokens.map(|token| f64::from(token.1));
    metadata.set("tokenizer.ggml.token_type", Value::Numbers(kinds.into()));
    metadata.set("tokenizer.ggml.merges", texts(&["\u{2581} a", "a b", "\n \n"]));
    metadata.set("tokenizer.ggml.bos_token_id", Value::Number(1.0));
    metadata.set("tokenizer.ggml.eos_token_id", Value::Number(2.0));
    metadata
}

#[test]
fn gemma4_adds_its_first_token_even_where_the_file_says_no() {
    let mut metadata = gemma4("gemma4", None);
    metadata.set("tokenizer.ggml.add_bos_token", Value::Flag(false));
    let tokenizer = Tokenizer::from_gguf(&metadata).unwrap();
    assert_eq!(tokenizer.encode("ab a\n\nb!").unwrap(), [1, 8, 7, 9, 4, 12]);
    metadata.0.remove("tokenizer.ggml.bos_token_id");
    let error = Tokenizer::from_gguf(&metadata).err().unwrap();
    assert!(error.to_string().contains("bos_token_id"), "{error}");
}

#[test]
fn tokenizers_in_gemma4s_manner_have_several_names() {
    for (model, pre, begun) in [
        ("gemma4", None, true),
        ("gpt2", Some("gemma4"), true),
        ("gpt2", Some("granite-embed-multi-311m"), true),
        ("gpt2", Some("sarvam-moe"), false),
    ] {
        let tokenizer = Tokenizer::from_gguf(&gemma4(model, pre)).unwrap();
        let ids = [1, 8, 7, 9, 4, 12];
        assert_eq!(tokenizer.encode("ab a\n\nb!").unwrap(), ids[usize::from(!begun)..], "{pre:?}");
        assert_eq!(tokenizer.encode_with("a</s>b", PARSED).unwrap(), [3, 13, 14, 15, 16, 4]);
    }
}

/// Byte-level BPE where every pair of characters merges, and these tokens besides.
fn pairs(pre: &str, characters: &str, more: &[&str]) -> Tokenizer {
    let characters: Vec<String> = characters.chars().map(String::from).collect();
    let both = |with: &str| -> Vec<String> {
        characters
            .iter()
            .flat_map(|a| characters.iter().map(move |b| format!("{a}{with}{b}")))
            .collect()
    };
    let mut tokens = [characters.clone(), both("")].concat();
    let mut kinds = vec![1.0; tokens.len()];
    tokens.extend(more.iter().map(ToString::to_string));
    kinds.resize(tokens.len(), 3.0);
    let mut metadata = Metadata::default();
    metadata.set("tokenizer.ggml.model", Value::Text("gpt2".into()));
    metadata.set("tokenizer.ggml.pre", Value::Text(pre.into()));
    metadata.set("tokenizer.ggml.tokens", Value::Texts(tokens));
    metadata.set("tokenizer.ggml.token_type", Value::Numbers(kinds));
    metadata.set("tokenizer.ggml.merges", Value::Texts(both(" ")));
    metadata.set("tokenizer.ggml.bos_token_id", Value::Number(0.0));
    Tokenizer::from_gguf(&metadata).unwrap()
}

#[test]
fn youtus_punctuation_takes_slashes_along() {
    let tokenizer = pairs("youtu", "ab!/\u{10a}", &[]);
    let ids = |text| tokenizer.encode_with(text, PLAIN).unwrap();
    assert_eq!(ids("a!/\n/b!/"), [0, 18, 28, 1, 18]);
    assert_eq!(ids("!\n\n/a/b"), [19, 28, 0, 21]);
}

#[test]
fn the_end_of_a_message_inside_a_turn_is_found_in_plain_text() {
    let tokenizer = pairs("gpt-2", "<>|endrtucal", &["<|end|>", "<|return|>", "<|call|>"]);
    let ids = tokenizer.encode_with("a<|end|><|return|>", PLAIN).unwrap();
    assert_eq!(ids, [10, 156, 14, 6, 55, 8, 88, 37]);
}

#[test]
fn numbers_group_from_the_right() {
    let count = |pre, text| pairs(pre, "0a1", &[]).encode_with(text, PLAIN).unwrap().len();
    // Of four digits the first is by itself, the next three are a pair and one more.
    assert_eq!(count("afmoe", "0101"), 3);
    assert_eq!(count("tiny_aya", "0101"), 3);
    assert_eq!(count("cohere2moe", "0101"), 3);
    assert_eq!(count("jais-2", "0101"), 3);
    assert_eq!(count("chameleon", "0101"), 4);
    // A word goes on: groups of three from the left.
    assert_eq!(count("tiny_aya", "0101a"), 4);
    assert_eq!(count("gpt-2", "0101"), 2);
}
