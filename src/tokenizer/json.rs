//! Tokenizers of Hugging Face folders: tokenizer.json and tokenizer_config.json.

mod added;
mod affixes;
mod decoder;
mod model;
mod normalizer;
mod part;
mod pre_tokenizer;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::limits::MAX_AFFIX;
use super::stages::Stages;
use super::vocab::Vocab;
use super::{Inner, Pipeline, eog};
use crate::error::{Result, tokenizer_error};
use added::Added;
use part::Part;

/// A tokenizer.json. Truncation and padding are not read: they would cut prompts in silence.
#[derive(Deserialize)]
struct File {
    #[serde(deserialize_with = "named_model")]
    model: model::File,
    #[serde(default)]
    added_tokens: Vec<Added>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    decoder: Option<Value>,
}

/// Names the model in an error, which otherwise has only a line.
fn named_model<'de, D: Deserializer<'de>>(from: D) -> Result<model::File, D::Error> {
    model::File::deserialize(from).map_err(|e| serde::de::Error::custom(format_args!("model: {e}")))
}

pub(super) fn build(json: &[u8], config: Option<&Value>) -> Result<Inner> {
    let file: File = serde_json::from_slice(json)
        .map_err(|e| tokenizer_error(format!("tokenizer.json: {e}")).because(e))?;
    assemble(file, config.unwrap_or(&Value::Null))
}

fn assemble(mut file: File, config: &Value) -> Result<Inner> {
    file.added_tokens.sort_by_key(|token| token.id);
    let foreign = added::check(&file.added_tokens, &file.model)?;
    let vocab = added::vocabulary(&file.added_tokens, &file.model)?;
    let rules = decoder::rules(file.decoder.as_ref())?;
    let (mut prefix, mut suffix) = affixes::read(file.post_processor.as_ref())?;
    let named = |key: &str| special_id(config, key, &vocab);
    let (bos, eos) = (named("bos_token"), named("eos_token"));
    // tokenizer.json is authoritative; the older keys of the configuration count where it is silent.
    if prefix.is_empty() && suffix.is_empty() {
        let wanted = |key: &str| config.get(key).and_then(Value::as_bool).unwrap_or(false);
        prefix.extend(bos.filter(|_| wanted("add_bos_token")));
        suffix.extend(eos.filter(|_| wanted("add_eos_token")));
    }
    if let Some(id) = prefix.iter().chain(&suffix).find(|&&id| vocab.text(id).is_none()) {
        return Err(tokenizer_error(format!("post_processor: adds token {id}, which is none")));
    }
    if prefix.len() + suffix.len() > MAX_AFFIX {
        return Err(tokenizer_error(format!("post_processor: adds more than {MAX_AFFIX} tokens")));
    }
    let normalizer = normalizer::read(file.normalizer.as_ref())?;
    let [raw, normalized] = added::matchers(&file.added_tokens, &normalizer)?;
    let steps = pre_tokenizer::read(file.pre_tokenizer.as_ref())?;
    let model = file.model.build(&vocab, foreign)?;
    let eog = eog::find(&vocab, &[eos]);
    let pipeline = Pipeline::Staged(Stages { raw, normalizer, normalized, steps, model });
    Ok(Inner { vocab, pipeline, prefix, suffix, rules, raw_special: false, bos, eos, eog })
}

fn special_id(config: &Value, key: &str, vocab: &Vocab) -> Option<u32> {
    let value = config.get(key)?;
    // Older files write the whole added token.
    let text = value.as_str().or_else(|| value.get("content")?.as_str())?;
    vocab.id(text)
}
