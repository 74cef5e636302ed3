//! The model of a tokenizer.json.

use std::fmt;
use std::ops::Range;

use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::error::{Error, Result, tokenizer_error};
use crate::tokenizer::limits::shown;
use crate::tokenizer::spelled::{Bpe, Settings};
use crate::tokenizer::stages::Model;
use crate::tokenizer::unigram::Unigram;
use crate::tokenizer::vocab::Vocab;
use crate::tokenizer::wordpiece::WordPiece;

/// The keys of every kind of model.
#[derive(Deserialize)]
pub(super) struct File {
    #[serde(rename = "type")]
    kind: Option<String>,
    pub(super) vocab: Tokens,
    merges: Option<Merges>,
    unk_token: Option<String>,
    unk_id: Option<u32>,
    dropout: Option<Value>,
    fuse_unk: Option<bool>,
    byte_fallback: Option<bool>,
    ignore_merges: Option<bool>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    max_input_chars_per_word: Option<usize>,
}

/// A vocabulary: ids by text, or texts with their scores in the order of ids.
pub(super) enum Tokens {
    Ids(Vec<(String, u32)>),
    Scores(Vec<(String, f64)>),
}

impl Tokens {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Ids(tokens) => tokens.len(),
            Self::Scores(tokens) => tokens.len(),
        }
    }

    /// Texts and ids.
    pub(super) fn tokens(&self) -> impl Iterator<Item = (&str, u32)> {
        let (ids, scores): (&[_], &[_]) = match self {
            Self::Ids(tokens) => (tokens, &[]),
            Self::Scores(tokens) => (&[], tokens),
        };
        let ids = ids.iter().map(|(text, id)| (text.as_str(), *id));
        ids.chain((0..).zip(scores).map(|(id, (text, _))| (text.as_str(), id)))
    }
}

impl<'de> Deserialize<'de> for Tokens {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Tokens;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a vocabulary")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tokens, A::Error> {
                let mut tokens = Vec::new();
                while let Some(token) = map.next_entry()? {
                    tokens.push(token);
                }
                Ok(Tokens::Ids(tokens))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Tokens, A::Error> {
                let mut tokens = Vec::new();
                while let Some(token) = list.next_element()? {
                    tokens.push(token);
                }
                Ok(Tokens::Scores(tokens))
            }
        }
        from.deserialize_any(Either)
    }
}

/// Merges, written as pairs or with a space between the two.
#[derive(Deserialize)]
struct Merges(Vec<Merge>);

struct Merge(String, String);

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Merge;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("two tokens")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Merge, E> {
                let pair = text.split_once(' ').filter(|(_, right)| !right.contains(' '));
                let (left, right) = pair.ok_or_else(|| {
                    E::custom(format_args!("merge {} is not two tokens", shown(text)))
                })?;
                Ok(Merge(left.to_owned(), right.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Merge, A::Error> {
                let pair = (list.next_element()?, list.next_element()?);
                match (pair, list.next_element::<String>()?) {
                    ((Some(left), Some(right)), None) => Ok(Merge(left, right)),
                    _ => Err(A::Error::custom("a merge is not two tokens")),
                }
            }
        }
        from.deserialize_any(Either)
    }
}

fn wrong(what: impl fmt::Display) -> Error {
    tokenizer_error(format!("model: {what}"))
}

impl File {
    /// The kind, which old files do not name.
    fn kind(&self) -> &str {
        match (&self.kind, &self.vocab) {
            (Some(kind), _) => kind,
            (None, Tokens::Scores(_)) => "Unigram",
            (None, _) if self.merges.is_some() => "BPE",
            (None, _) if self.max_input_chars_per_word.is_some() => "WordPiece",
            (None, _) => "WordLevel",
        }
    }

    /// The model, whose tokens are those of `vocab` that are not `foreign`.
    pub(super) fn build(self, vocab: &Vocab, foreign: Range<u32>) -> Result<Model> {
        self.check_dropout()?;
        let named = |text: &Option<String>| {
            text.as_ref().and_then(|text| vocab.id(text)).filter(|id| !foreign.contains(id))
        };
        let unknown = named(&self.unk_token);
        match (self.kind(), &self.vocab) {
            ("BPE", Tokens::Ids(_)) => self.bpe(vocab, foreign).map(Model::Bpe),
            ("WordPiece", Tokens::Ids(_)) => {
                let key = "continuing_subword_prefix";
                let prefix = self.continuing_subword_prefix.as_ref();
                let prefix = prefix.ok_or_else(|| wrong(format_args!("{key} is missing")))?;
                let key = "max_input_chars_per_word";
                let max = self.max_input_chars_per_word;
                let max = max.ok_or_else(|| wrong(format_args!("{key} is missing")))?;
                let own = vocab.iter().filter(|(id, ..)| !foreign.contains(id));
                let own = own.map(|(id, text, _)| (text, id)).collect();
                WordPiece::new(own, prefix, unknown, max).map(Model::WordPiece)
            }
            ("WordLevel", Tokens::Ids(_)) => Ok(Model::WordLevel { foreign, unknown }),
            ("Unigram", Tokens::Scores(tokens)) => {
                let scores = tokens.iter().map(|token| token.1).collect();
                let fallback = self.byte_fallback.unwrap_or(false);
                Unigram::new(vocab, scores, self.unk_id, fallback).map(Model::Unigram)
            }
            (kind @ ("BPE" | "WordPiece" | "WordLevel" | "Unigram"), _) => {
                Err(wrong(format_args!("{kind} has the vocabulary of another kind")))
            }
            (kind, _) => Err(wrong(format_args!("{} is not supported", shown(kind)))),
        }
    }

    /// Dropout is a regularisation: training leaves merges out at random, and what is trained so runs
    /// with all of them. (Hugging Face drops merges wherever the file says so; ids that change from
    /// call to call would be of no use here.)
    fn check_dropout(&self) -> Result<()> {
        let Some(dropout) = &self.dropout else { return Ok(()) };
        // With 1 there would be no merge to leave out.
        match dropout.as_f64() {
            Some(dropout) if (0.0..1.0).contains(&dropout) => Ok(()),
            _ => Err(wrong("dropout is no probability below 1")),
        }
    }

    fn bpe(self, vocab: &Vocab, foreign: Range<u32>) -> Result<Bpe> {
        let merges = self.merges.ok_or_else(|| wrong("merges are missing"))?;
        // The first line of the merges.txt that old files were made of may have come along.
        let merges = merges.0.into_iter().filter(|merge| !merge.0.starts_with("#version"));
        let settings = Settings {
            merges: merges.map(|merge| (merge.0, merge.1)).collect(),
            unknown: self.unk_token,
            fuse_unknown: self.fuse_unk.unwrap_or(false),
            byte_fallback: self.byte_fallback.unwrap_or(false),
            ignore_merges: self.ignore_merges.unwrap_or(false),
            prefix: self.continuing_subword_prefix.unwrap_or_default(),
            suffix: self.end_of_word_suffix.unwrap_or_default(),
        };
        Bpe::new(vocab, settings, foreign)
    }
}
