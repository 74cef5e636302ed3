//! The seeds of the fuzz targets: small files of every kind, which the readers take whole.
//!
//! `cargo test --test fuzz_seeds -- --ignored` writes them anew.

mod common;

use std::path::{Path, PathBuf};

use common::gguf::tiny;
use common::safetensors::{build, tiny_config, tiny_tensors};
use goldcrest::Tokenizer;
use goldcrest::load::{GgmlType, fuzzing};
use serde_json::{Value, json};

/// Bytes of all seeds together: they are in the repository.
const MAX_BYTES: usize = 200_000;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds")
}

/// A target, a name and the bytes.
type Seed = (&'static str, &'static str, Vec<u8>);

/// A model of one layer with quantised matrices.
fn quantised(arch: &str, ty: GgmlType, biases: bool) -> Vec<u8> {
    let mut file = tiny(arch);
    file.u32(&format!("{arch}.feed_forward_length"), 64);
    for (name, rows, columns) in [
        ("token_embd", 24, 32),
        ("blk.0.attn_q", 32, 32),
        ("blk.0.attn_k", 16, 32),
        ("blk.0.attn_v", 16, 32),
        ("blk.0.attn_output", 32, 32),
        ("blk.0.ffn_gate", 64, 32),
        ("blk.0.ffn_up", 64, 32),
        ("blk.0.ffn_down", 32, 64),
    ] {
        let tensor = file.tensor_mut(&format!("{name}.weight"));
        tensor.shape = vec![rows, columns];
        tensor.ty = ty as u32;
        tensor.data = vec![0; rows as usize * columns as usize / 32 * ty.block_bytes()];
        if biases && ["attn_q", "attn_k", "attn_v"].iter().any(|part| name.contains(part)) {
            file.f32_tensor(&format!("{name}.bias"), &[rows]);
        }
    }
    file.build()
}

fn models() -> Vec<Seed> {
    let config = tiny_config().to_string();
    let mut folder = (config.len() as u16).to_le_bytes().to_vec();
    folder.extend(config.as_bytes());
    folder.extend(build(&tiny_tensors()));
    vec![
        ("safetensors_folder", "llama", folder),
        ("gguf", "llama-q4_0", quantised("llama", GgmlType::Q4_0, false)),
        ("gguf", "qwen2-q8_0", quantised("qwen2", GgmlType::Q8_0, true)),
    ]
}

/// A precompiled character map of `a` to `b`.
fn charsmap() -> Vec<u8> {
    let mut units = [0u32; 256];
    // The root leads from 0 to each byte; `a` has a value, which lies at 97 ^ 96.
    units[usize::from(b'a')] = u32::from(b'a') | 1 << 8 | 96 << 10;
    units[1] = 1 << 31;
    let units = units.iter().flat_map(|unit| unit.to_le_bytes());
    1024u32.to_le_bytes().into_iter().chain(units).chain(*b"b\0").collect()
}

fn metadata() -> Vec<Seed> {
    let map: Vec<String> = charsmap().iter().map(u8::to_string).collect();
    let seed = |name, lines: &str| ("tokenizer_metadata", name, lines.as_bytes().to_vec());
    vec![
        seed(
            "gpt2",
            "model=gpt2\npre=llama-bpe\ntokens=a,b,ab,\u{120},\u{120}a,<end>\nmerges=a b,\u{120} a\n\
             token_type=1,1,1,1,1,3\nadd_bos_token=false\neos_token_id=5\ntext=ab a<end>1234",
        ),
        seed(
            "llama",
            "model=llama\ntokens=<unk>,<s>,</s>,\u{2581},a,\u{2581}a,aa,<0x62>\nscores=0,0,0,-3,-4,-1,-2,0\n\
             token_type=2,3,3,1,1,1,1,6\nadd_space_prefix=true\ntext=a aa b",
        ),
        seed(
            "bert",
            "model=bert\ntokens=[UNK],[CLS],[SEP],\u{2581}a,b\ntoken_type=3,3,3,1,1\nunknown_token_id=0\n\
             cls_token_id=1\nseperator_token_id=2\ntext=Ab, ba",
        ),
        seed(
            "t5",
            &format!(
                "model=t5\ntokens=<pad>,</s>,<unk>,\u{2581},a,aa\nscores=0,0,0,-2,-3,-4\ntoken_type=3,3,2,1,1,1\n\
             remove_extra_whitespaces=true\nprecompiled_charsmap={}\ntext=a  aa",
                map.join(",")
            ),
        ),
    ]
}

fn tokenizer_json(mut file: Value, text: &str) -> Vec<u8> {
    file["version"] = "1.0".into();
    format!("{file}\n{text}").into_bytes()
}

fn tokenizers() -> Vec<Seed> {
    let seed = |name, file, text| ("tokenizer_json", name, tokenizer_json(file, text));
    vec![
        seed("byte-level", byte_level(), "ab a<end>1234"),
        seed("pieces", pieces(), "<s>ab a\u{e9}"),
        seed("unigram", unigram(), "a  ab\u{fb01}"),
        seed("wordpiece", wordpiece(), "Ab, ba[MASK] a"),
        seed("words", words(), "a-b 12 cccd"),
    ]
}

fn byte_level() -> Value {
    json!({
        "added_tokens": [{"id": 5, "content": "<end>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true}],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": r"\p{N}{1,3}| ?\p{L}+|\s+(?!\S)|\s+"},
                "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]},
        "post_processor": {"type": "Sequence", "processors": [
            {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false},
            {"type": "TemplateProcessing", "pair": [],
                "single": [{"SpecialToken": {"id": "<end>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "special_tokens": {"<end>": {"id": "<end>", "ids": [5], "tokens": ["<end>"]}}}]},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "dropout": null, "ignore_merges": true, "merges": ["a b", "\u{120} a"],
            "vocab": {"a": 0, "b": 1, "ab": 2, "\u{120}": 3, "\u{120}a": 4}},
    })
}

fn pieces() -> Value {
    json!({
        "added_tokens": [{"id": 1, "content": "<s>", "special": true, "lstrip": true, "rstrip": true}],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u{2581}"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}]},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
            "continuing_subword_prefix": "", "end_of_word_suffix": "",
            "vocab": {"<unk>": 0, "<s>": 1, "a": 2, "b": 3, "ab": 4, "\u{2581}": 5, "\u{2581}a": 6,
                "<0xC3>": 7, "<0xA9>": 8},
            "merges": [["\u{2581}", "a"], ["a", "b"]]},
    })
}

fn unigram() -> Value {
    json!({
        "added_tokens": [{"id": 0, "content": "<unk>", "special": true, "normalized": false},
            {"id": 5, "content": "x", "single_word": true, "normalized": true}],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Precompiled", "precompiled_charsmap": base64::encode(charsmap())},
            {"type": "NFKC"}, {"type": "Strip", "strip_left": false, "strip_right": true},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "\u{2581}"}]},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "first", "split": true},
        "decoder": {"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "first", "split": true},
        "post_processor": {"type": "RobertaProcessing", "sep": ["a", 2], "cls": ["<unk>", 0],
            "trim_offsets": true, "add_prefix_space": true},
        "model": {"type": "Unigram", "unk_id": 0, "byte_fallback": false,
            "vocab": [["<unk>", 0.0], ["\u{2581}", -2.0], ["a", -2.5], ["ab", -3.5], ["b", -3.0]]},
    })
}

fn wordpiece() -> Value {
    json!({
        "added_tokens": [{"id": 4, "content": "[MASK]", "special": true, "lstrip": true}],
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[UNK]", 0], "cls": ["[UNK]", 0]},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": {"[UNK]": 0, "a": 1, "##b": 2, ",": 3}},
    })
}

fn words() -> Value {
    json!({
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Nmt"}, {"type": "NFD"},
            {"type": "StripAccents"}, {"type": "Lowercase"}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "WhitespaceSplit"},
            {"type": "Punctuation", "behavior": "MergedWithNext"},
            {"type": "Digits", "individual_digits": true},
            {"type": "CharDelimiterSplit", "delimiter": "-"},
            {"type": "Split", "pattern": {"Regex": r"(?=(\d{3})+(?!\d))"}, "behavior": "Isolated"},
            {"type": "Split", "pattern": {"Regex": "c++(?=d)"}, "behavior": "Removed", "invert": false},
            {"type": "FixedLength", "length": 5}]},
        "model": {"type": "WordLevel", "unk_token": "?", "vocab": {"?": 0, "a": 1, "b": 2}},
    })
}

fn seeds() -> Vec<Seed> {
    [models(), metadata(), tokenizers()].concat()
}

#[test]
#[ignore = "writes into the sources"]
fn write_the_seeds() {
    for (target, name, bytes) in seeds() {
        std::fs::create_dir_all(root().join(target)).unwrap();
        std::fs::write(root().join(target).join(name), bytes).unwrap();
    }
}

/// What is in the repository, by target and name.
fn kept(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(root().join(target)).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

#[test]
fn the_readers_take_the_seeds() {
    for (path, bytes) in kept("gguf") {
        let checkpoint =
            fuzzing::gguf(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        checkpoint.check().unwrap();
    }
    for (_, bytes) in kept("safetensors_folder") {
        let (length, rest) = bytes.split_first_chunk::<2>().unwrap();
        let (config, weights) = rest.split_at(u16::from_le_bytes(*length).into());
        let checkpoint = fuzzing::folder(config, weights).unwrap();
        checkpoint.check().unwrap();
    }
    for (path, bytes) in kept("tokenizer_json") {
        let text = std::str::from_utf8(&bytes).unwrap();
        let (json, text) = text.rsplit_once('\n').unwrap();
        let tokenizer = Tokenizer::from_json(json.as_bytes(), None);
        let tokenizer = tokenizer.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert!(tokenizer.encode(text).unwrap().len() > 2, "{}", path.display());
    }
}

#[test]
fn the_seeds_are_small_and_none_is_missing() {
    let targets = std::fs::read_dir(root()).unwrap();
    let targets = targets.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let all: usize = targets.flat_map(|target| kept(&target)).map(|(_, bytes)| bytes.len()).sum();
    assert!(all < MAX_BYTES, "{all} bytes");
    for (target, name, _) in seeds() {
        assert!(root().join(target).join(name).is_file(), "{target}/{name}");
    }
}
