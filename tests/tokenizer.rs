//! Tokenizers against the ids of other implementations on real and made vocabularies.

mod common;
#[path = "common/metadata.rs"]
mod metadata;

use std::path::Path;

use goldcrest::{EncodeOptions, Tokenizer};
use metadata::{Metadata, Value as Text};
use serde_json::Value;

const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };
const PARSED: EncodeOptions = EncodeOptions { add_special: false, parse_special: true };

const VOCABS: &[&str] =
    &["bert-bge", "deepseek-llm", "gpt-2", "llama-bpe", "llama-spm", "phi-3", "qwen2"];
const MADE: &[&str] = &["gpt2_bpe", "llama3_bpe", "qwen2_bpe", "spm_bpe", "unigram", "wordpiece"];

fn vocab(assets: &Path, name: &str) -> Tokenizer {
    common::tokenizer(assets.join(format!("vocab/ggml-vocab-{name}.gguf")))
}

fn made(assets: &Path, name: &str) -> [(&'static str, Tokenizer); 2] {
    let folder = assets.join("golden/tokenizers").join(name);
    let json = std::fs::read(folder.join("tokenizer.json")).unwrap();
    let config = std::fs::read(folder.join("tokenizer_config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    [
        ("json", Tokenizer::from_json(&json, Some(&config)).unwrap()),
        ("gguf", common::tokenizer(folder.join("vocab.gguf"))),
    ]
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn real_vocabularies_give_the_ids_of_llama_cpp() {
    let Some(assets) = common::assets() else { return };
    let mut failures = Vec::new();
    for name in VOCABS {
        let tokenizer = vocab(&assets, name);
        let read = |kind| {
            let path = assets.join(format!("vocab/ggml-vocab-{name}.gguf.{kind}"));
            std::fs::read_to_string(path).unwrap()
        };
        let (texts, expected) = (read("inp"), read("out"));
        let mut texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
        assert_eq!(texts.pop(), Some(""), "every text ends with the separator");
        let expected: Vec<&str> = expected.lines().collect();
        assert_eq!(texts.len(), expected.len());
        assert!(texts.len() > 30);
        for (text, line) in texts.iter().zip(expected) {
            let expected: Vec<u32> =
                line.split_whitespace().map(|id| id.parse().unwrap()).collect();
            let got = tokenizer.encode_with(text, PLAIN).unwrap();
            if got != expected {
                failures.push(format!("{name} {text:?}\n got {got:?}\nwant {expected:?}"));
            }
        }
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

/// The same vocabulary and merges under gemma 4's name, whose tokenizer puts no space in front.
#[test]
fn gemma4_metadata_give_the_ids_of_hugging_face() {
    let Some(assets) = common::assets() else { return };
    let folder = assets.join("golden/tokenizers/spm_bpe");
    let read = |name: &str| -> Value {
        serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap()
    };
    let model = &read("tokenizer.json")["model"];
    let mut tokens: Vec<(u64, String)> = model["vocab"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(text, id)| (id.as_u64().unwrap(), text.clone()))
        .collect();
    tokens.sort();
    let kinds = tokens.iter().map(|(id, text)| match id {
        0 => 2.0,
        1 | 2 => 3.0,
        _ if text.starts_with("<0x") => 6.0,
        _ => 1.0,
    });
    let kinds = Text::Numbers(kinds.collect());
    let merges = model["merges"].as_array().unwrap().iter().map(|merge| {
        let side = |i: usize| merge[i].as_str().unwrap();
        format!("{} {}", side(0), side(1))
    });
    let mut metadata = Metadata::default();
    metadata.set("tokenizer.ggml.model", Text::Text("gemma4".into()));
    metadata.set("tokenizer.ggml.merges", Text::Texts(merges.collect()));
    let texts = tokens.into_iter().map(|(_, text)| text).collect();
    metadata.set("tokenizer.ggml.tokens", Text::Texts(texts));
    metadata.set("tokenizer.ggml.token_type", kinds);
    metadata.set("tokenizer.ggml.bos_token_id", Text::Number(1.0));
    metadata.set("tokenizer.ggml.unknown_token_id", Text::Number(0.0));
    let tokenizer = Tokenizer::from_gguf(&metadata).unwrap();
    let mut compared = 0;
    for case in read("cases.json")["cases"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        // Within a text that has one, special tokens end and begin words.
        if text.is_empty()
            || text.contains("<s>")
            || text.contains("</s>")
            || text.contains("<unk>")
        {
            continue;
        }
        let spaced = format!(" {text}");
        assert_eq!(tokenizer.encode_with(&spaced, PARSED).unwrap(), ids(&case["ids"]), "{text:?}");
        let special = tokenizer.encode(&spaced).unwrap();
        assert_eq!(special, ids(&case["ids_special"]), "{text:?}");
        assert_eq!(tokenizer.decode(&special, true).unwrap(), spaced);
        compared += 1;
    }
    assert!(compared > 20, "{compared}");
}

#[test]
fn made_vocabularies_give_the_ids_and_texts_of_hugging_face() {
    let Some(assets) = common::assets() else { return };
    let mut failures = Vec::new();
    for name in MADE {
        let cases = assets.join("golden/tokenizers").join(name).join("cases.json");
        let cases: Value = serde_json::from_slice(&std::fs::read(cases).unwrap()).unwrap();
        for (source, tokenizer) in made(&assets, name) {
            assert_eq!(tokenizer.vocab_size() as u64, cases["vocab_size"].as_u64().unwrap());
            for case in cases["cases"].as_array().unwrap() {
                let text = case["text"].as_str().unwrap();
                let (plain, special) = (ids(&case["ids"]), ids(&case["ids_special"]));
                let got = [
                    (tokenizer.encode_with(text, PARSED).unwrap(), &plain, "ids"),
                    (tokenizer.encode(text).unwrap(), &special, "ids_special"),
                ];
                for (got, expected, what) in got {
                    if got != *expected {
                        failures.push(format!(
                            "{name} {source} {what} {text:?}\n got {got:?}\nwant {expected:?}"
                        ));
                    }
                }
                let decoded = [
                    (&plain, false, "decoded"),
                    (&plain, true, "decoded_skip_special"),
                    (&special, true, "decoded_skip_special"),
                ];
                for (ids, skip, key) in decoded {
                    let got = tokenizer.decode(ids, skip).unwrap();
                    if got != case[key].as_str().unwrap() {
                        let want = &case[key];
                        failures.push(format!(
                            "{name} {source} {key} {text:?}\n got {got:?}\nwant {want}"
                        ));
                    }
                }
            }
            for chat in cases["chats"].as_array().into_iter().flatten() {
                let got = tokenizer.encode_with(chat["text"].as_str().unwrap(), PARSED).unwrap();
                assert_eq!(got, ids(&chat["ids"]), "{name} {source}");
            }
        }
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn special_tokens_are_known() {
    let Some(assets) = common::assets() else { return };
    let phi = vocab(&assets, "phi-3");
    assert_eq!((phi.bos(), phi.eos()), (Some(1), Some(32000)));
    assert!(phi.eog_ids().contains(&32000) && phi.eog_ids().contains(&32007));
    assert!(phi.is_special(32007) && !phi.is_special(15043));
    // Its own tokenizer lets these tokens swallow the space that follows.
    assert_eq!(phi.encode("<|user|> Hello").unwrap(), phi.encode("<|user|>Hello").unwrap());
    let qwen = vocab(&assets, "qwen2");
    let end = qwen.token_to_id("<|im_end|>").unwrap();
    assert!(qwen.eog_ids().contains(&end));
    assert_eq!(qwen.id_to_token(end).as_deref(), Some("<|im_end|>"));
    assert_eq!(qwen.encode_with("<|im_end|>", PARSED).unwrap(), [end]);
    assert!(qwen.encode_with("<|im_end|>", PLAIN).unwrap().len() > 1);
    let llama = vocab(&assets, "llama-bpe");
    assert_eq!(llama.encode("").unwrap(), [128000]);
    let bert = vocab(&assets, "bert-bge");
    assert_eq!(bert.encode("hello").unwrap(), [101, 7592, 102]);
    assert_eq!(bert.decode(&[101, 7592, 1010, 7592, 102], true).unwrap(), "hello, hello");
}

#[test]
fn a_generation_keeps_the_space_after_its_prompt() {
    let Some(assets) = common::assets() else { return };
    let llama = vocab(&assets, "llama-spm");
    let ids = llama.encode("Hello world").unwrap();
    let (prompt, rest) = ids.split_at(2);
    let mut decoder = llama.decoder_after(prompt).unwrap();
    let text: String = rest.iter().map(|&id| decoder.push(id).unwrap()).collect();
    assert_eq!(text, " world");
}
