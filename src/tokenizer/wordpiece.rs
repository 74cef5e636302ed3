//! WordPiece over a GGUF vocabulary, where `▁` marks the start of a word instead of `##` the rest.

use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{NormalizedString, Normalizer, OffsetReferential, OffsetType};
use tokenizers::{PreTokenizedString, PreTokenizer};

use super::spm::SPACE;
use super::vocab::Vocab;
use crate::error::{Result, tokenizer_error};

/// Longer words are unknown, as in every published BERT tokenizer; it also bounds the search.
const MAX_WORD_CHARS: usize = 100;

/// Text to ids by the longest token that fits at each position of a word.
pub(super) struct WordPiece {
    normalizer: BertNormalizer,
    unknown: u32,
}

impl WordPiece {
    pub(super) fn new(unknown: u32, lowercase: bool, strip_accents: Option<bool>) -> Self {
        let normalizer = BertNormalizer::new(true, true, strip_accents, lowercase);
        Self { normalizer, unknown }
    }

    /// Appends the ids of `text`, which holds no special token.
    pub(super) fn encode(&self, vocab: &Vocab, text: &str, out: &mut Vec<u32>) -> Result<()> {
        let failed = |error| tokenizer_error(format!("cannot split the text into words: {error}"));
        let mut normalized = NormalizedString::from(text);
        self.normalizer.normalize(&mut normalized).map_err(failed)?;
        let mut words = PreTokenizedString::from(normalized);
        BertPreTokenizer.pre_tokenize(&mut words).map_err(failed)?;
        for (word, _, _) in words.get_splits(OffsetReferential::Normalized, OffsetType::None) {
            self.encode_word(vocab, word, out);
        }
        Ok(())
    }

    fn encode_word(&self, vocab: &Vocab, word: &str, out: &mut Vec<u32>) {
        let before = out.len();
        if word.chars().count() > MAX_WORD_CHARS {
            out.push(self.unknown);
            return;
        }
        let marked = format!("{SPACE}{word}");
        let mut rest = marked.as_str();
        while !rest.is_empty() {
            match longest_prefix(vocab, rest) {
                Some((id, length)) => {
                    out.push(id);
                    rest = &rest[length..];
                }
                None => {
                    out.truncate(before);
                    out.push(self.unknown);
                    return;
                }
            }
        }
    }
}

fn longest_prefix(vocab: &Vocab, text: &str) -> Option<(u32, usize)> {
    let mut end = text.floor_char_boundary(vocab.longest());
    while end > 0 {
        if let Some(id) = vocab.id(&text[..end]) {
            return Some((id, end));
        }
        end = text.floor_char_boundary(end - 1);
    }
    None
}
