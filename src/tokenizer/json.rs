//! Tokenizers of Hugging Face folders: tokenizer.json and tokenizer_config.json.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::{
    AddedToken, Encoding, Model as _, ModelWrapper, NormalizerWrapper, PostProcessor,
    PostProcessorWrapper, SplitDelimiterBehavior, Token,
};

use super::decoder::Rules;
use super::external::{External, Step, guarded};
use super::split::Splitter;
use super::vocab::{Kind, Vocab};
use super::{Inner, Pipeline, eog};
use crate::error::{Result, tokenizer_error};

/// GPT-2's pattern, which the byte-level pre-tokenizer has built in.
const BYTE_LEVEL: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// A tokenizer.json. Truncation and padding are not read: they would cut prompts in silence.
#[derive(Deserialize)]
struct File {
    model: ModelWrapper,
    #[serde(default)]
    added_tokens: Vec<Added>,
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<PostProcessorWrapper>,
    decoder: Option<Value>,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    normalized: Option<bool>,
    #[serde(default)]
    special: bool,
}

pub(super) fn build(json: &[u8], config: Option<&Value>) -> Result<Inner> {
    guarded(|| {
        let file: File = serde_json::from_slice(json)
            .map_err(|e| tokenizer_error(format!("tokenizer.json: {e}")))?;
        assemble(file, config.unwrap_or(&Value::Null))
    })
}

fn assemble(mut file: File, config: &Value) -> Result<Inner> {
    file.added_tokens.sort_by_key(|token| token.id);
    let vocab = vocabulary(&file)?;
    let rules = file.decoder.as_ref().map_or(Ok(Rules::Spaced), rules)?;
    let steps = file.pre_tokenizer.map_or(Ok(Vec::new()), steps)?;
    let (mut prefix, mut suffix) = affixes(file.post_processor.as_ref())?;
    let named = |key: &str| special_id(config, key, &vocab);
    let (bos, eos) = (named("bos_token"), named("eos_token"));
    // tokenizer.json is authoritative; the older keys of the configuration count where it is silent.
    if prefix.is_empty() && suffix.is_empty() {
        let wanted = |key: &str| config.get(key).and_then(Value::as_bool).unwrap_or(false);
        prefix.extend(bos.filter(|_| wanted("add_bos_token")));
        suffix.extend(eos.filter(|_| wanted("add_eos_token")));
    }
    if let Some(id) = prefix.iter().chain(&suffix).find(|&&id| vocab.text(id).is_none()) {
        return Err(tokenizer_error(format!("the post-processor adds token {id}, which is none")));
    }
    let added = file.added_tokens.iter().map(Added::token).collect();
    let external = External::new(file.normalizer, added, steps, file.model)?;
    for token in file.added_tokens.iter().filter(|token| !token.content.is_empty()) {
        if external.added_id(&token.content) != Some(token.id) {
            return Err(tokenizer_error(format!(
                "added token {:?} cannot have id {}: ids must continue the vocabulary",
                token.content, token.id
            )));
        }
    }
    let eog = eog::find(&vocab, &[eos]);
    let pipeline = Pipeline::External(external);
    Ok(Inner { vocab, pipeline, prefix, suffix, rules, raw_special: false, bos, eos, eog })
}

impl Added {
    fn token(&self) -> AddedToken {
        AddedToken::from(self.content.clone(), self.special)
            .single_word(self.single_word)
            .lstrip(self.lstrip)
            .rstrip(self.rstrip)
            .normalized(self.normalized.unwrap_or(!self.special))
    }

    fn kind(&self) -> Kind {
        if self.special { Kind::Control } else { Kind::UserDefined }
    }
}

/// Model and added tokens together, in the order of ids.
fn vocabulary(file: &File) -> Result<Vocab> {
    let mut tokens: HashMap<String, (u32, Kind)> =
        file.model.get_vocab().into_iter().map(|(text, id)| (text, (id, Kind::Normal))).collect();
    for token in &file.added_tokens {
        tokens.insert(token.content.clone(), (token.id, token.kind()));
    }
    let mut tokens: Vec<(u32, Arc<str>, Kind)> =
        tokens.into_iter().map(|(text, (id, kind))| (id, text.into(), kind)).collect();
    tokens.sort_unstable_by_key(|token| token.0);
    Vocab::new(tokens)
}

fn special_id(config: &Value, key: &str, vocab: &Vocab) -> Option<u32> {
    let value = config.get(key)?;
    // Older files write the whole added token.
    let text = value.as_str().or_else(|| value.get("content")?.as_str())?;
    vocab.id(text)
}

/// What the post-processor puts around a text, found by giving it a text of one marked token.
fn affixes(processor: Option<&PostProcessorWrapper>) -> Result<(Vec<u32>, Vec<u32>)> {
    const MARK: u32 = u32::MAX;
    let Some(processor) = processor else { return Ok((Vec::new(), Vec::new())) };
    let text = Encoding::from_tokens(vec![Token::new(MARK, "text".to_owned(), (0, 4))], 0);
    let around = processor
        .process(text, None, true)
        .map_err(|e| tokenizer_error(format!("post-processor: {e}")))?;
    let mut sides = around.get_ids().split(|&id| id == MARK);
    match (sides.next(), sides.next(), sides.next()) {
        (Some(prefix), Some(suffix), None) => Ok((prefix.to_vec(), suffix.to_vec())),
        _ => Err(tokenizer_error("post-processor: the text does not appear exactly once")),
    }
}

fn parse<T: serde::de::DeserializeOwned>(what: &str, value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(|e| tokenizer_error(format!("{what}: {e}")))
}

fn kind(value: &Value) -> &str {
    value.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// The pre-tokenizers, sequences flattened and patterns compiled by us.
fn steps(value: Value) -> Result<Vec<Step>> {
    match kind(&value) {
        "Sequence" => {
            let Some(Value::Array(list)) = value.get("pretokenizers") else {
                return Err(tokenizer_error("pre_tokenizer: a sequence without a list"));
            };
            let mut all = Vec::with_capacity(list.len());
            for value in list {
                // The depth of nesting is bounded by the JSON parser.
                all.extend(steps(value.clone())?);
            }
            Ok(all)
        }
        "Split" if value.pointer("/pattern/Regex").is_some() => split_step(value).map(|s| vec![s]),
        "ByteLevel" => byte_level_steps(value),
        _ => Ok(vec![Step::Other(parse("pre_tokenizer", value)?)]),
    }
}

fn split_step(mut value: Value) -> Result<Step> {
    let pattern = value.pointer("/pattern/Regex").and_then(Value::as_str).unwrap_or_default();
    let splitter = Splitter::new(pattern)?;
    let behavior: SplitDelimiterBehavior = parse("pre_tokenizer", value["behavior"].take())?;
    let invert = value["invert"].as_bool().unwrap_or(false);
    Ok(Step::Split { splitter, behavior, invert })
}

fn byte_level_steps(mut value: Value) -> Result<Vec<Step>> {
    let flag = |value: &Value, key: &str| value.get(key).and_then(Value::as_bool).unwrap_or(true);
    let split = flag(&value, "use_regex");
    // A leading space has to come before the split, which only the crate's own pattern does.
    if !split || flag(&value, "add_prefix_space") {
        return Ok(vec![Step::Other(parse("pre_tokenizer", value)?)]);
    }
    value["use_regex"] = false.into();
    let splitter = Splitter::new(BYTE_LEVEL)?;
    let behavior = SplitDelimiterBehavior::Isolated;
    let bytes = parse::<PreTokenizerWrapper>("pre_tokenizer", value)?;
    Ok(vec![Step::Split { splitter, behavior, invert: false }, Step::Other(bytes)])
}

/// The decoder as rules that work token by token.
fn rules(value: &Value) -> Result<Rules> {
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    match kind(value) {
        "ByteLevel" => Ok(Rules::ByteLevel),
        "WordPiece" => Ok(Rules::WordPiece {
            prefix: text("prefix").unwrap_or("##").to_owned(),
            cleanup: value.get("cleanup").and_then(Value::as_bool).unwrap_or(true),
        }),
        "Metaspace" => Ok(Rules::Metaspace {
            mark: text("replacement").and_then(|mark| mark.chars().next()).unwrap_or('▁'),
            drop_first: text("prepend_scheme") != Some("never")
                && value.get("add_prefix_space").and_then(Value::as_bool).unwrap_or(true),
        }),
        "Sequence" => match value.get("decoders").and_then(Value::as_array).map(Vec::as_slice) {
            Some([one]) => rules(one),
            Some(list) => sequence(list),
            None => Err(tokenizer_error("decoder: a sequence without a list")),
        },
        "" => Ok(Rules::Spaced),
        _ => sequence(std::slice::from_ref(value)),
    }
}

fn sequence(list: &[Value]) -> Result<Rules> {
    let (mut replace, mut byte_fallback, mut strip, mut fused) = (Vec::new(), false, None, false);
    for step in list {
        let text = |pointer: &str| step.pointer(pointer).and_then(Value::as_str);
        let number = |key: &str| step.get(key).and_then(Value::as_u64).unwrap_or(0);
        match (kind(step), text("/pattern/String"), text("/content")) {
            ("Replace", Some(from), Some(to)) if !fused && !byte_fallback && !from.is_empty() => {
                replace.push((from.to_owned(), to.to_owned()));
            }
            ("ByteFallback", ..) if !fused => byte_fallback = true,
            ("Fuse", ..) => fused = true,
            ("Strip", _, Some(content)) if fused && strip.is_none() && number("stop") == 0 => {
                strip = content.chars().next().map(|c| (c, number("start") as usize));
            }
            (kind, ..) => {
                return Err(tokenizer_error(format!("decoder: {kind:?} is not supported here")));
            }
        }
    }
    Ok(Rules::Pieces { replace, byte_fallback, strip })
}
