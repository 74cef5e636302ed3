//! What a tokenizer.json makes of a text, against the crate `tokenizers`, component by component.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use goldcrest::{EncodeOptions, Tokenizer};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

/// Pieces of texts: what some component treats in a way of its own.
const PIECES: &[&str] = &[
    "a",
    "b",
    "aa",
    "ab",
    "A",
    "\u{c9}",
    "e\u{301}",
    "\u{e9}",
    " ",
    "  ",
    "\n",
    "\t",
    "\r\n",
    "1",
    "23",
    "456",
    "\u{4e2d}",
    "\u{6587}",
    "\u{2581}",
    "_",
    "-",
    "--",
    ".",
    ",",
    "'s",
    "n't",
    "<s>",
    "<x>",
    "<n>",
    "\u{200b}",
    "\u{fb01}",
    "\u{130}",
    "\u{feff}",
    "\u{1f600}",
    "\u{ac00}",
    "\u{fdfa}",
    "\u{3a3}",
    "\u{0}",
    "\u{7f}",
    "\u{300}",
    "\u{bd}",
    "\u{2160}",
    "foo",
    "\u{30ab}",
    "\u{fffd}",
    "\u{df}",
];

fn normalizers() -> Vec<Value> {
    let replace = |pattern: Value, content| json!({"type": "Replace", "pattern": pattern, "content": content});
    let single = [
        Value::Null,
        json!({"type": "NFC"}),
        json!({"type": "NFD"}),
        json!({"type": "NFKC"}),
        json!({"type": "NFKD"}),
        json!({"type": "Lowercase"}),
        json!({"type": "StripAccents"}),
        json!({"type": "Nmt"}),
        json!({"type": "Strip", "strip_left": false, "strip_right": true}),
        json!({"type": "Strip", "strip_left": true, "strip_right": false}),
        json!({"type": "Prepend", "prepend": "\u{2581}"}),
        json!({"type": "ByteLevel"}),
        replace(json!({"String": " "}), "\u{2581}"),
        replace(json!({"Regex": " {2,}"}), "\u{2581}"),
        replace(json!({"Regex": "a+(?!b)"}), "xy"),
        replace(json!({"String": "ab"}), ""),
        json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true}),
        json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": false,
            "strip_accents": true, "lowercase": false}),
    ];
    let sequence = |list: Vec<Value>| json!({"type": "Sequence", "normalizers": list});
    let pairs = [(5, 6), (2, 6), (10, 12), (3, 5), (15, 10), (7, 13), (12, 10)];
    let pairs =
        pairs.map(|(a, b)| sequence(vec![single[a].clone(), sequence(vec![single[b].clone()])]));
    single.iter().cloned().chain(pairs).collect()
}

fn pre_tokenizers() -> Vec<Value> {
    let split = |pattern: Value, behavior: &str, invert: bool| json!({"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert});
    let metaspace = |scheme: &str, split: bool| json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": split});
    let bytes = |space: bool, regex: bool| json!({"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": true, "use_regex": regex});
    let mut all = vec![
        Value::Null,
        json!({"type": "BertPreTokenizer"}),
        json!({"type": "Whitespace"}),
        json!({"type": "WhitespaceSplit"}),
        json!({"type": "Punctuation"}),
        json!({"type": "Punctuation", "behavior": "Contiguous"}),
        json!({"type": "Digits", "individual_digits": true}),
        json!({"type": "Digits", "individual_digits": false}),
        json!({"type": "CharDelimiterSplit", "delimiter": "-"}),
        json!({"type": "FixedLength", "length": 3}),
        split(json!({"Regex": r"(?=(\d{3})+(?!\d))"}), "Isolated", false),
        split(json!({"Regex": r"\w++|-(?!-)"}), "Removed", true),
        split(json!({"Regex": r"\s+(?!\S)|\s+"}), "MergedWithNext", false),
    ];
    for behavior in ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"] {
        all.push(split(json!({"String": "a"}), behavior, false));
        all.push(split(json!({"Regex": "[a-z]+"}), behavior, true));
    }
    for scheme in ["always", "never", "first"] {
        all.extend([metaspace(scheme, true), metaspace(scheme, false)]);
    }
    all.extend([bytes(true, true), bytes(false, true), bytes(true, false), bytes(false, false)]);
    let sequence = |list: [Value; 2]| json!({"type": "Sequence", "pretokenizers": list});
    let pairs = [(3, 23), (10, 28), (6, 26), (8, 27), (4, 6), (23, 2), (15, 28), (13, 27)];
    let pairs = pairs.map(|(a, b)| sequence([all[a].clone(), all[b].clone()]));
    all.extend(pairs);
    all
}

/// Some characters alone, some tokens of more; enough of both to tell one split from another.
fn vocabulary() -> Vec<String> {
    let singles = "ab1234569.,'\u{2581}\u{120}_-fo\u{e9}e\u{301}\u{4e2d}xyA\u{c3} \n<>s";
    let tokens = [
        "ab",
        "aba",
        "\u{2581}a",
        "\u{120}a",
        "12",
        "123",
        "fo",
        "foo",
        "--",
        "\u{2581}\u{2581}",
        "##a",
        "##b",
        "##ab",
        "##1",
        "  ",
    ];
    let bytes = (0..128).map(|byte| format!("<0x{byte:02X}>"));
    let singles = singles.chars().map(|c| c.to_string());
    ["<unk>".to_owned()]
        .into_iter()
        .chain(singles)
        .chain(tokens.map(str::to_owned))
        .chain(bytes)
        .collect()
}

fn models() -> Vec<Value> {
    let vocab = vocabulary();
    let ids: Value = vocab
        .iter()
        .enumerate()
        .map(|(id, text)| (text.clone(), json!(id)))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let merges = json!([
        ["a", "b"],
        ["ab", "a"],
        ["\u{2581}", "a"],
        ["\u{120}", "a"],
        ["1", "2"],
        ["12", "3"],
        ["f", "o"],
        ["fo", "o"],
        ["-", "-"],
        ["\u{2581}", "\u{2581}"],
        [" ", " "]
    ]);
    let bpe = |unknown: Value, fuse: bool, bytes: bool, whole: bool| {
        json!({"type": "BPE", "vocab": ids, "merges": merges, "unk_token": unknown, "fuse_unk": fuse,
            "byte_fallback": bytes, "ignore_merges": whole})
    };
    let mut continued = bpe(json!("<unk>"), false, false, false);
    continued["continuing_subword_prefix"] = "##".into();
    continued["merges"] = json!([["a", "##b"], ["##a", "##b"]]);
    let mut ended = bpe(json!("<unk>"), true, false, false);
    ended["end_of_word_suffix"] = "a".into();
    let scores: Vec<Value> = vocab
        .iter()
        .enumerate()
        .map(|(id, text)| json!([text, -1.0 - (id * 7 % 13) as f64]))
        .collect();
    let unigram = |bytes: bool| json!({"type": "Unigram", "unk_id": 0, "vocab": scores, "byte_fallback": bytes});
    vec![
        bpe(json!("<unk>"), false, false, false),
        bpe(json!("<unk>"), true, true, false),
        bpe(Value::Null, false, false, true),
        continued,
        ended,
        unigram(false),
        unigram(true),
        json!({"type": "WordLevel", "vocab": ids, "unk_token": "<unk>"}),
        json!({"type": "WordPiece", "vocab": ids, "unk_token": "<unk>", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 6}),
    ]
}

/// Added tokens of every kind; `flags` says how they match.
fn added(flags: u8) -> Value {
    let first = vocabulary().len();
    let flag = |bit: u8| flags >> bit & 1 == 1;
    let token = |id: usize, content: &str, special: bool, normalized: bool| {
        json!({"id": id, "content": content, "special": special, "normalized": normalized,
            "single_word": flag(0), "lstrip": flag(1), "rstrip": flag(2)})
    };
    json!([
        token(first, "<s>", true, false),
        token(first + 1, "<x>", false, false),
        token(first + 2, "<n>", false, true),
        token(first + 3, "\u{e9}1", false, true)
    ])
}

fn ids(file: &Value, text: &str, options: EncodeOptions) -> Vec<u32> {
    let tokenizer = Tokenizer::from_json(file.to_string().as_bytes(), None).unwrap();
    tokenizer.encode_with(text, options).unwrap()
}

/// None where the crate panics: its offsets do not survive every normalizer.
fn expected(file: &Value, text: &str, options: EncodeOptions) -> Option<Vec<u32>> {
    catch_unwind(AssertUnwindSafe(|| {
        let mut tokenizer: tokenizers::Tokenizer = file.to_string().parse().unwrap();
        tokenizer.set_encode_special_tokens(!options.parse_special);
        tokenizer.encode_fast(text, options.add_special).unwrap().get_ids().to_vec()
    }))
    .ok()
}

#[test]
fn every_component_gives_the_ids_of_hugging_face() {
    let cases = if cfg!(debug_assertions) { 1_000 } else { 30_000 };
    let config = ProptestConfig { cases, failure_persistence: None, ..Default::default() };
    let text = prop::collection::vec(select(PIECES), 0..12).prop_map(|pieces| pieces.concat());
    let (normalizers, pre_tokenizers, models) = (normalizers(), pre_tokenizers(), models());
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let strategy =
        (text, select(normalizers), select(pre_tokenizers), select(models), 0..8u8, any::<bool>());
    let (asked, answered) = (Cell::new(0), Cell::new(0));
    let result = runner.run(&strategy, |(text, normalizer, pre_tokenizer, model, flags, parse)| {
        let file = json!({"version": "1.0", "added_tokens": added(flags), "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": null, "model": model});
        let options = EncodeOptions { add_special: true, parse_special: parse };
        // The crate takes every word for the first that it can trace to the first character, and so
        // more than one where a normalizer put something before that.
        let first = &file["pre_tokenizer"]["pretokenizers"][1]["prepend_scheme"];
        if first == "first" && !file["normalizer"].is_null() {
            return Ok(());
        }
        asked.set(asked.get() + 1);
        if let Some(expected) = expected(&file, &text, options) {
            answered.set(answered.get() + 1);
            let (n, p) = (&file["normalizer"], &file["pre_tokenizer"]);
            let kind = &file["model"]["type"];
            prop_assert_eq!(ids(&file, &text, options), expected, "{:?} {} {} {}", text, n, p, kind);
        }
        Ok(())
    });
    std::panic::set_hook(hook);
    if let Err(error) = result {
        panic!("{error}");
    }
    let (asked, answered) = (asked.get(), answered.get());
    assert!(answered * 10 > asked * 9, "the crate answered {answered} of {asked}");
}
