//! SentencePiece BPE: neighbours merge into the token with the best score.

use super::merge::Merger;
use super::vocab::{Kind, Vocab};
use crate::error::{Result, tokenizer_error};

/// U+2581, which stands for a space.
pub(super) const SPACE: char = '\u{2581}';

/// Text to ids by scores, characters without a token as byte tokens.
pub(super) struct Spm {
    /// Rank of a token by its score: the higher the score, the lower the rank.
    ranks: Vec<u32>,
    bytes: [Option<u32>; 256],
    unknown: Option<u32>,
    /// A space is put before the text and after every special token.
    space_prefix: bool,
}

impl Spm {
    /// A model over `vocab`; without scores all tokens are equal and the leftmost pair merges first.
    pub(super) fn new(
        vocab: &Vocab,
        scores: Option<Vec<f32>>,
        unknown: Option<u32>,
        space_prefix: bool,
    ) -> Result<Self> {
        let scores = scores.unwrap_or_else(|| vec![0.0; vocab.len()]);
        if scores.len() < vocab.len() {
            return Err(tokenizer_error(format!(
                "tokenizer.ggml.scores has {} entries for {} tokens",
                scores.len(),
                vocab.len()
            )));
        }
        if let Some(id) = scores.iter().position(|score| score.is_nan()) {
            return Err(tokenizer_error(format!("tokenizer.ggml.scores is NaN at token {id}")));
        }
        let ranks = scores.into_iter().map(rank).collect();
        Ok(Self { ranks, bytes: vocab.byte_tokens(), unknown, space_prefix })
    }

    /// Appends the ids of `text`, which holds no special token; `after_special` says that it starts
    /// the text or follows a special token.
    pub(super) fn encode(
        &self,
        vocab: &Vocab,
        text: &str,
        after_special: bool,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        let mut escaped = String::with_capacity(text.len() + 8);
        if self.space_prefix && after_special {
            escaped.push(SPACE);
        }
        escaped.extend(text.chars().map(|c| if c == ' ' { SPACE } else { c }));
        let mut merger = Merger::default();
        for (at, c) in escaped.char_indices() {
            merger.push(at, at + c.len_utf8(), 0);
        }
        merger.run(|left, right| {
            let (start, end) = (left.start as usize, right.end as usize);
            if end - start > vocab.longest() {
                return None;
            }
            let id = vocab.id(&escaped[start..end])?;
            Some((self.ranks[id as usize], id))
        });
        for symbol in merger.symbols() {
            let piece = &escaped[symbol.start as usize..symbol.end as usize];
            match vocab.id(piece) {
                Some(id) => out.push(id),
                None => self.spell(piece, out)?,
            }
        }
        Ok(())
    }

    fn spell(&self, piece: &str, out: &mut Vec<u32>) -> Result<()> {
        for byte in piece.bytes() {
            match self.bytes[byte as usize].or(self.unknown) {
                Some(id) => out.push(id),
                None => {
                    return Err(tokenizer_error(format!(
                        "the vocabulary has neither {piece:?}, nor its bytes, nor an unknown token"
                    )));
                }
            }
        }
        Ok(())
    }
}

/// Orders scores as integers, the highest first; both zeros are equal.
fn rank(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits();
    let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    !ascending
}

/// Whether a token is one that byte fallback spells with.
pub(super) fn byte_value(text: &str, kind: Kind) -> Option<u8> {
    let hex = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let spelled = matches!(kind, Kind::Byte | Kind::Normal | Kind::Unused) && hex.len() == 2;
    // `from_str_radix` would take a sign.
    if !spelled || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(hex, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_fall_as_scores_rise() {
        let scores = [f32::NEG_INFINITY, -1000.0, -1.5, -0.0, 0.5, f32::INFINITY];
        assert!(scores.windows(2).all(|pair| rank(pair[0]) > rank(pair[1])));
        assert_eq!(rank(0.0), rank(-0.0));
    }

    #[test]
    fn byte_tokens_are_recognised_strictly() {
        assert_eq!(byte_value("<0x0A>", Kind::Byte), Some(10));
        assert_eq!(byte_value("<0x+A>", Kind::Byte), None);
        assert_eq!(byte_value("<0xé>", Kind::Byte), None);
        assert_eq!(byte_value("<0x0A>", Kind::Control), None);
    }
}
