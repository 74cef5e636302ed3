//! The added tokens of a tokenizer.json.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use serde::Deserialize;

use super::model;
use crate::error::{Result, tokenizer_error};
use crate::tokenizer::limits::{Work, shown};
use crate::tokenizer::normalize::Normalizer;
use crate::tokenizer::special::{Bounds, Matcher};
use crate::tokenizer::vocab::{Kind, Vocab};

#[derive(Deserialize)]
pub(super) struct Added {
    pub(super) id: u32,
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

impl Added {
    fn kind(&self) -> Kind {
        if self.special { Kind::Control } else { Kind::UserDefined }
    }

    fn is_normalized(&self) -> bool {
        self.normalized.unwrap_or(!self.special)
    }

    fn bounds(&self) -> Bounds {
        Bounds {
            left: self.lstrip,
            right: self.rstrip,
            word: self.single_word,
            special: self.special,
        }
    }
}

/// Checks that `tokens`, in the order of ids, are tokens of the model or continue its vocabulary: the
/// ids that they have in any case with Hugging Face. Returns those that are not the model's.
pub(super) fn check(tokens: &[Added], model: &model::File) -> Result<Range<u32>> {
    let own: HashMap<&str, u32> = model.vocab.tokens().collect();
    let first = model.vocab.len() as u32;
    let mut next = first;
    let mut added = HashMap::new();
    for token in tokens.iter().filter(|token| !token.content.is_empty()) {
        let text = token.content.as_str();
        let id = own.get(text).or(added.get(text)).copied();
        let expected = id.unwrap_or(next);
        if token.id != expected {
            return Err(tokenizer_error(format!(
                "added_tokens: {} cannot have id {} instead of {expected}: ids must continue the \
                 vocabulary",
                shown(text),
                token.id
            )));
        }
        if id.is_none() {
            added.insert(text, next);
            next += 1;
        }
    }
    Ok(first..next)
}

/// Model and added tokens together, in the order of ids.
pub(super) fn vocabulary(tokens: &[Added], model: &model::File) -> Result<Vocab> {
    let mut all: HashMap<&str, (u32, Kind)> =
        model.vocab.tokens().map(|(text, id)| (text, (id, Kind::Normal))).collect();
    all.extend(tokens.iter().map(|token| (token.content.as_str(), (token.id, token.kind()))));
    let mut all: Vec<(u32, Arc<str>, Kind)> =
        all.into_iter().map(|(text, (id, kind))| (id, text.into(), kind)).collect();
    all.sort_unstable_by_key(|token| token.0);
    Vocab::new(all)
}

/// What finds the tokens in a text, and what finds those in its normal form that say so.
pub(super) fn matchers(tokens: &[Added], normalizer: &Normalizer) -> Result<[Matcher; 2]> {
    let mut lists = [Vec::new(), Vec::new()];
    // A token that is listed twice is what is said last.
    let latest: HashMap<&str, &Added> = tokens.iter().map(|t| (t.content.as_str(), t)).collect();
    let latest = |token: &&Added| std::ptr::eq(latest[token.content.as_str()], *token);
    for token in tokens.iter().filter(|token| !token.content.is_empty()).filter(latest) {
        let normalized = token.is_normalized();
        let text = match normalized {
            true => normalizer.apply(&token.content, &mut Work::new(token.content.len()))?.0,
            false => token.content.clone(),
        };
        if text.is_empty() {
            let content = shown(&token.content);
            return Err(tokenizer_error(format!("added_tokens: nothing is left of {content}")));
        }
        lists[usize::from(normalized)].push((token.id, text, token.bounds()));
    }
    let [raw, normalized] = lists.map(|list| Matcher::new(list.into_iter()));
    Ok([raw?, normalized?])
}
