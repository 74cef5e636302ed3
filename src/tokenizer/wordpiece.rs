//! WordPiece: the longest token that fits at each place of a word.

use super::limits::shown;
use super::trie::{Node, Trie};
use super::vocab::Vocab;
use crate::error::{Result, tokenizer_error};

/// Text to ids, word by word.
pub(super) struct WordPiece {
    trie: Trie,
    /// Where tokens start that do not start a word; none where there is no such token.
    rest: Option<Node>,
    /// `None` is an error where it is needed.
    unknown: Option<u32>,
    /// Longer words are unknown.
    max_chars: usize,
}

impl WordPiece {
    /// A model of `tokens`, of which those that do not start a word start with `prefix`.
    pub(super) fn new(
        tokens: Vec<(&str, u32)>,
        prefix: &str,
        unknown: Option<u32>,
        max_chars: usize,
    ) -> Result<Self> {
        let trie = Trie::new(tokens)?;
        Ok(Self { rest: trie.walk(Trie::ROOT, prefix), trie, unknown, max_chars })
    }

    /// As GGUF writes the vocabulary: `▁` marks the start of a word, and nothing the rest. Words of
    /// more than 100 characters are unknown, as in every published BERT tokenizer.
    pub(super) fn marked(vocab: &Vocab, unknown: u32) -> Result<Self> {
        let tokens = vocab.iter().map(|(id, text, _)| (text, id)).collect();
        // The mark is a character of the word here.
        Self::new(tokens, "", Some(unknown), 101)
    }

    /// Appends the ids of `word`, all of them or the unknown token.
    pub(super) fn encode_word(&self, word: &str, out: &mut Vec<u32>) -> Result<()> {
        let before = out.len();
        if word.chars().nth(self.max_chars).is_some() || !self.fits(word, out) {
            out.truncate(before);
            out.push(self.unknown.ok_or_else(|| {
                tokenizer_error(format!("the model has neither {} nor unk_token", shown(word)))
            })?);
        }
        Ok(())
    }

    fn fits(&self, word: &str, out: &mut Vec<u32>) -> bool {
        let (mut node, mut rest) = (Some(Trie::ROOT), word);
        while !rest.is_empty() {
            let longest = node.and_then(|node| self.trie.prefixes(node, rest).last());
            let Some((length, id)) = longest else { return false };
            out.push(id);
            (node, rest) = (self.rest, &rest[length..]);
        }
        true
    }
}
