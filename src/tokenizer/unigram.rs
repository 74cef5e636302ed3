//! Unigram: the tokens whose scores have the largest sum.

use super::trie::Trie;
use super::vocab::Vocab;
use crate::error::{Result, tokenizer_error};

/// A character without a token scores this much less than the worst token.
const UNKNOWN_PENALTY: f64 = 10.0;

/// Text to ids by the best path through all tokens in it.
pub(super) struct Unigram {
    trie: Trie,
    /// By id.
    scores: Vec<f64>,
    unknown: Option<u32>,
    unknown_score: f64,
    /// What spells unknown text, where the model has a token for each byte.
    bytes: Option<Box<[Option<u32>; 256]>>,
}

/// The best path that ends at a place of the word.
#[derive(Clone, Copy)]
struct Best {
    score: f64,
    /// Where its last token starts; `NONE` where no token ends here.
    start: u32,
    id: u32,
}

const NONE: u32 = u32::MAX;

impl Unigram {
    /// A model of the tokens for which `scores`, in the order of ids, are given.
    pub(super) fn new(
        vocab: &Vocab,
        scores: Vec<f64>,
        unknown: Option<u32>,
        byte_fallback: bool,
    ) -> Result<Self> {
        if let Some(id) = scores.iter().position(|score| score.is_nan()) {
            return Err(tokenizer_error(format!("unigram model: the score of token {id} is NaN")));
        }
        if unknown.is_some_and(|id| id as usize >= scores.len()) {
            return Err(tokenizer_error("unigram model: the unknown token is no token"));
        }
        let own = |&(id, ..): &(u32, &str, _)| (id as usize) < scores.len();
        let tokens = vocab.iter().filter(own).map(|(id, text, _)| (text, id)).collect();
        let worst = scores.iter().copied().fold(f64::INFINITY, f64::min);
        Ok(Self {
            trie: Trie::new(tokens)?,
            unknown,
            unknown_score: worst - UNKNOWN_PENALTY,
            bytes: byte_fallback.then(|| Box::new(vocab.byte_tokens())),
            scores,
        })
    }

    /// Appends the ids of `word`.
    pub(super) fn encode_word(&self, word: &str, out: &mut Vec<u32>) -> Result<()> {
        let best = self.best(word)?;
        let (before, mut end) = (out.len(), word.len());
        while end > 0 {
            let Best { mut start, id, .. } = best[end];
            if Some(id) != self.unknown {
                out.push(id);
            } else {
                // Unknown characters that follow one another are one token.
                while start > 0 && Some(best[start as usize].id) == self.unknown {
                    start = best[start as usize].start;
                }
                self.spell(&word[start as usize..end], id, out);
            }
            end = start as usize;
        }
        out[before..].reverse();
        Ok(())
    }

    /// The best path to each byte of `word`.
    fn best(&self, word: &str) -> Result<Vec<Best>> {
        let mut best = vec![Best { score: 0.0, start: NONE, id: NONE }; word.len() + 1];
        let offer = |best: &mut [Best], start: usize, end: usize, score: f64, id| {
            let score = score + best[start].score;
            if best[end].start == NONE || score > best[end].score {
                best[end] = Best { score, start: start as u32, id };
            }
        };
        for (start, c) in word.char_indices() {
            let mut single = false;
            for (length, id) in self.trie.prefixes(Trie::ROOT, &word[start..]) {
                single |= length == c.len_utf8();
                offer(&mut best, start, start + length, self.scores[id as usize], id);
            }
            if !single {
                let unknown = self.unknown.ok_or_else(|| {
                    tokenizer_error(format!("unigram model: neither {c:?} nor an unknown token"))
                })?;
                offer(&mut best, start, start + c.len_utf8(), self.unknown_score, unknown);
            }
        }
        Ok(best)
    }

    /// Appends what stands for unknown text, from the last to the first.
    fn spell(&self, text: &str, unknown: u32, out: &mut Vec<u32>) {
        let whole = self.trie.walk(Trie::ROOT, text).and_then(|node| self.trie.id(node));
        if let Some(id) = whole {
            out.push(id);
            return;
        }
        let before = out.len();
        let bytes = self.bytes.iter().flat_map(|bytes| text.bytes().map(|b| bytes[b as usize]));
        out.extend(bytes.rev().map_while(|id| id));
        if out.len() - before < text.len() {
            out.truncate(before);
            out.push(unknown);
        }
    }
}
