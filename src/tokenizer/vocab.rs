//! The vocabulary: ids, texts and kinds of tokens.

use std::collections::HashMap;
use std::sync::Arc;

use super::limits::shown;
use crate::error::{Result, tokenizer_error};

/// What a token is for, in the numbering of `tokenizer.ggml.token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl Kind {
    pub(super) fn from_ggml(value: i64) -> Option<Self> {
        Some(match value {
            0 | 1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }
}

/// Texts by id and ids by text; one allocation a token, shared by both directions.
pub(super) struct Vocab {
    texts: Vec<Option<Arc<str>>>,
    kinds: Vec<Kind>,
    index: HashMap<Arc<str>, u32>,
    longest: usize,
}

/// No vocabulary comes near this; it keeps a hostile one from claiming ids that it does not fill.
const MAX_HOLES: usize = 1 << 16;

impl Vocab {
    /// The vocabulary of `(id, text, kind)`; ids may leave holes, but neither ids nor texts repeat.
    pub(super) fn new(tokens: impl IntoIterator<Item = (u32, Arc<str>, Kind)>) -> Result<Self> {
        let tokens = tokens.into_iter();
        let expected = tokens.size_hint().0;
        let mut vocab = Self {
            texts: Vec::with_capacity(expected),
            kinds: Vec::with_capacity(expected),
            index: HashMap::with_capacity(expected),
            longest: 0,
        };
        for (id, text, kind) in tokens {
            vocab.insert(id, text, kind)?;
        }
        if vocab.index.is_empty() {
            return Err(tokenizer_error("the vocabulary is empty"));
        }
        Ok(vocab)
    }

    fn insert(&mut self, id: u32, text: Arc<str>, kind: Kind) -> Result<()> {
        let at = id as usize;
        if at >= self.texts.len() {
            if at > 2 * self.index.len() + MAX_HOLES {
                return Err(tokenizer_error(format!(
                    "token {} has id {id} in a vocabulary of few tokens",
                    shown(&text)
                )));
            }
            self.texts.resize(at + 1, None);
            self.kinds.resize(at + 1, Kind::Unused);
        }
        if let Some(first) = self.index.get(&text) {
            return Err(tokenizer_error(format!(
                "token {} has two ids, {first} and {id}",
                shown(&text)
            )));
        }
        if let Some(other) = &self.texts[at] {
            return Err(tokenizer_error(format!(
                "id {id} has two tokens, {} and {}",
                shown(other),
                shown(&text)
            )));
        }
        self.longest = self.longest.max(text.len());
        self.texts[at] = Some(text.clone());
        self.kinds[at] = kind;
        self.index.insert(text, id);
        Ok(())
    }

    /// One more than the largest id.
    pub(super) fn len(&self) -> usize {
        self.texts.len()
    }

    /// Bytes of the longest token.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    pub(super) fn text(&self, id: u32) -> Option<&str> {
        self.texts.get(id as usize)?.as_deref()
    }

    pub(super) fn id(&self, text: &str) -> Option<u32> {
        self.index.get(text).copied()
    }

    pub(super) fn kind(&self, id: u32) -> Option<Kind> {
        self.text(id).map(|_| self.kinds[id as usize])
    }

    pub(super) fn set_kind(&mut self, id: u32, kind: Kind) {
        self.kinds[id as usize] = kind;
    }

    /// Every token in the order of ids.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &str, Kind)> {
        let kinds = self.kinds.iter().copied();
        self.texts
            .iter()
            .zip(kinds)
            .enumerate()
            .filter_map(|(id, (text, kind))| Some((id as u32, text.as_deref()?, kind)))
    }

    /// The ids of `<0x00>` to `<0xFF>`, as far as they exist.
    pub(super) fn byte_tokens(&self) -> [Option<u32>; 256] {
        std::array::from_fn(|byte| self.id(&format!("<0x{byte:02X}>")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocab(tokens: &[(u32, &str)]) -> Result<Vocab> {
        Vocab::new(tokens.iter().map(|&(id, text)| (id, text.into(), Kind::Normal)))
    }

    #[test]
    fn repeated_texts_and_ids_are_errors() {
        assert!(vocab(&[(0, "a"), (1, "a")]).is_err());
        assert!(vocab(&[(0, "a"), (0, "b")]).is_err());
        assert!(vocab(&[]).is_err());
    }

    #[test]
    fn ids_may_leave_holes_but_not_chasms() {
        let holes = vocab(&[(0, "a"), (5, "b")]).unwrap();
        assert_eq!((holes.len(), holes.text(3), holes.id("b")), (6, None, Some(5)));
        assert!(vocab(&[(u32::MAX, "a")]).is_err());
    }
}
