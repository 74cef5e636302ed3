//! The stages of a tokenizer.json: added tokens, normalizer, pre-tokenizers, model.

use std::ops::Range;

use super::limits::{Work, shown};
use super::merge::Merger;
use super::normalize::Normalizer;
use super::special::{Matcher, Part};
use super::spelled::Bpe;
use super::unigram::Unigram;
use super::vocab::Vocab;
use super::wordpiece::WordPiece;
use super::words::{Step, Words};
use crate::error::{Result, tokenizer_error};

/// How a text becomes ids in Hugging Face's tradition.
pub(super) struct Stages {
    /// Added tokens that are found in the text as it is.
    pub(super) raw: Matcher,
    pub(super) normalizer: Normalizer,
    /// Added tokens that are found in its normal form.
    pub(super) normalized: Matcher,
    pub(super) steps: Vec<Step>,
    pub(super) model: Model,
}

/// What a word becomes.
pub(super) enum Model {
    Bpe(Bpe),
    WordPiece(WordPiece),
    Unigram(Unigram),
    /// Each word a token.
    WordLevel {
        /// Ids of the vocabulary that are not the model's.
        foreign: Range<u32>,
        unknown: Option<u32>,
    },
}

impl Stages {
    /// Appends the ids of `text`.
    pub(super) fn encode(
        &self,
        vocab: &Vocab,
        text: &str,
        parse_special: bool,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        let mut merger = Merger::default();
        let mut work = Work::new(text.len());
        for (at, part) in self.raw.partition(text, parse_special).into_iter().enumerate() {
            let text = match part {
                Part::Token(id) => {
                    out.push(id);
                    continue;
                }
                Part::Text(text) => text,
            };
            let (text, kept) = self.normalizer.apply(text, &mut work)?;
            let parts = self.normalized.partition(&text, parse_special);
            for (inner, part) in parts.into_iter().enumerate() {
                match part {
                    Part::Token(id) => out.push(id),
                    Part::Text(text) => {
                        let at_start = at == 0 && inner == 0 && kept;
                        let mut words = Words::new(text.to_owned(), at_start);
                        let mut steps = self.steps.iter();
                        steps.try_for_each(|step| step.run(&mut words, &mut work))?;
                        self.encode_words(vocab, &words, &mut merger, out)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn encode_words(
        &self,
        vocab: &Vocab,
        words: &Words,
        merger: &mut Merger,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        words.iter().try_for_each(|word| match &self.model {
            Model::Bpe(model) => model.encode_word(vocab, word, merger, out),
            Model::WordPiece(model) => model.encode_word(word, out),
            Model::Unigram(model) => model.encode_word(word, out),
            Model::WordLevel { foreign, unknown } => {
                let id = vocab.id(word).filter(|id| !foreign.contains(id)).or(*unknown);
                out.push(id.ok_or_else(|| {
                    let word = shown(word);
                    tokenizer_error(format!("model: neither {word} nor unk_token is a token"))
                })?);
                Ok(())
            }
        })
    }
}
