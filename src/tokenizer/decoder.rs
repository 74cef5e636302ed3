//! Ids back to text, token by token.

use std::borrow::Cow;
use std::sync::Arc;

use super::Inner;
use super::bpe::char_to_byte;
use super::limits::{grown, outgrown, shown};
use super::spm::{SPACE, byte_value};
use super::vocab::Kind;
use crate::error::{Result, input_error};

/// How the text of a token becomes bytes of output.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Rules {
    /// Characters stand for bytes; a token with any other character is taken as it is.
    ByteLevel,
    /// Substitutions, byte tokens, and characters taken off the start of the whole text.
    Pieces { replace: Vec<(String, String)>, byte_fallback: bool, strip: Option<(char, usize)> },
    /// `mark` is a space, and nothing in the first token of the text if `drop_first`.
    Metaspace { mark: char, drop_first: bool },
    /// A token without `prefix` starts a word.
    WordPiece { prefix: String, cleanup: bool },
    /// A token with `▁` starts a word; the others continue one, but for special tokens.
    Phantom,
    /// Tokens are separated by spaces.
    Spaced,
}

impl Rules {
    /// SentencePiece's rules; `strip` takes off the space that encoding put first.
    pub(super) fn sentencepiece(strip: bool) -> Self {
        Self::Pieces {
            replace: vec![(SPACE.to_string(), " ".to_owned())],
            byte_fallback: true,
            strip: strip.then_some((' ', 1)),
        }
    }

    fn append(
        &self,
        text: &str,
        kind: Kind,
        first: bool,
        raw: bool,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        match self {
            Self::ByteLevel => {
                let start = out.len();
                for c in text.chars() {
                    match char_to_byte(c) {
                        Some(byte) if !raw => out.push(byte),
                        _ => {
                            out.truncate(start);
                            out.extend_from_slice(text.as_bytes());
                            break;
                        }
                    }
                }
            }
            Self::Pieces { replace, byte_fallback, .. } => {
                match byte_value(text, kind).filter(|_| *byte_fallback) {
                    Some(byte) => out.push(byte),
                    None if raw => out.extend_from_slice(text.as_bytes()),
                    None => append_replaced(text, replace, out)?,
                }
            }
            Self::Metaspace { mark, drop_first } => {
                let shown = text.chars().filter(|c| !(first && *drop_first && c == mark));
                let spaced = shown.map(|c| if c == *mark { ' ' } else { c });
                out.extend_from_slice(spaced.collect::<String>().as_bytes());
            }
            Self::WordPiece { prefix, cleanup: clean } => {
                let rest = text.strip_prefix(prefix.as_str()).filter(|_| !first);
                append_word(rest.unwrap_or(text), !first && rest.is_none(), *clean, out);
            }
            Self::Phantom => {
                let word = text.strip_prefix(SPACE);
                let starts = word.is_some() || matches!(kind, Kind::Control | Kind::Unknown);
                append_word(word.unwrap_or(text), starts && !first, true, out);
            }
            Self::Spaced => append_word(text, !first, false, out),
        }
        Ok(())
    }

    fn strip(&self) -> Option<(char, usize)> {
        match self {
            Self::Pieces { strip, .. } => *strip,
            _ => None,
        }
    }
}

fn append_replaced(text: &str, replace: &[(String, String)], out: &mut Vec<u8>) -> Result<()> {
    let limit = grown(text.len());
    let mut shown_text = Cow::Borrowed(text);
    for (from, to) in replace {
        let found = shown_text.matches(from.as_str()).count();
        if found > 0 {
            let grows = found.saturating_mul(to.len().saturating_sub(from.len()));
            if shown_text.len().saturating_add(grows) > limit {
                return Err(outgrown(&format!("decoder: Replace in token {}", shown(text)), limit));
            }
            shown_text = shown_text.replace(from.as_str(), to).into();
        }
    }
    out.extend_from_slice(shown_text.as_bytes());
    Ok(())
}

fn append_word(word: &str, space: bool, clean: bool, out: &mut Vec<u8>) {
    let spaced = if space { format!(" {word}") } else { word.to_owned() };
    // What cleaning up looks for has one of these in it; most words have not.
    let suspect = spaced.contains(['.', '?', '!', ',', '\'']) || spaced.contains("do not");
    let shown = if clean && suspect { cleanup(&spaced) } else { spaced };
    out.extend_from_slice(shown.as_bytes());
}

/// The spaces that words bring to where none belongs, as Hugging Face takes them out.
fn cleanup(text: &str) -> String {
    let spaced = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" do not", " don't"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    spaced.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// Turns ids into text as they come, each character as soon as it is complete.
///
/// A token may end inside a UTF-8 character; its bytes wait for the next token. Bytes that can never
/// become a character give U+FFFD. The pieces joined are exactly
/// [`Tokenizer::decode`](super::Tokenizer::decode) of the ids.
///
/// Made by [`Tokenizer::decoder`](super::Tokenizer::decoder).
#[derive(Clone)]
pub struct Decoder {
    tokenizer: Arc<Inner>,
    skip_special: bool,
    first: bool,
    /// Characters that may still be taken off the start of the text.
    strip: Option<(char, usize)>,
    pending: Vec<u8>,
}

impl Decoder {
    pub(super) fn new(tokenizer: Arc<Inner>, skip_special: bool) -> Self {
        let strip = tokenizer.rules.strip();
        Self { tokenizer, skip_special, first: true, strip, pending: Vec::new() }
    }

    /// Shows special tokens too, which are left out otherwise.
    #[must_use]
    pub fn keep_special(mut self) -> Self {
        self.skip_special = false;
        self
    }

    /// Takes the next token and returns the text that it completes, which may be empty.
    ///
    /// # Errors
    /// The id is not in the vocabulary, or the decoder makes too much of its text.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.append(id)?;
        Ok(self.take(false))
    }

    /// Ends the text: what was left of an unfinished character comes out as U+FFFD.
    pub fn finish(&mut self) -> String {
        self.take(true)
    }

    pub(super) fn append(&mut self, id: u32) -> Result<()> {
        let inner = &*self.tokenizer;
        let (Some(text), Some(kind)) = (inner.vocab.text(id), inner.vocab.kind(id)) else {
            return Err(input_error(format!(
                "token id {id} is not in the vocabulary of {}",
                inner.vocab.len()
            )));
        };
        if self.skip_special && inner.is_special(id) {
            return Ok(());
        }
        let raw = inner.raw_special && matches!(kind, Kind::Control | Kind::UserDefined);
        inner.rules.append(text, kind, self.first, raw, &mut self.pending)?;
        self.first = false;
        Ok(())
    }

    /// The characters that are complete; at the `end` all of them.
    pub(super) fn take(&mut self, end: bool) -> String {
        let mut text = String::with_capacity(self.pending.len());
        let mut kept = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            let invalid = chunk.invalid();
            kept = invalid.len();
            if !invalid.is_empty() && (end || !unfinished(invalid, &self.pending)) {
                text.push(char::REPLACEMENT_CHARACTER);
                kept = 0;
            }
        }
        self.pending.drain(..self.pending.len() - kept);
        if let Some((c, left)) = self.strip {
            self.strip_start(&mut text, c, left);
        }
        text
    }

    fn strip_start(&mut self, text: &mut String, c: char, left: usize) {
        let stripped = text.chars().take(left).take_while(|&first| first == c).count();
        text.drain(..stripped * c.len_utf8());
        let left = left - stripped;
        self.strip = (left > 0 && text.is_empty()).then_some((c, left));
    }
}

/// Whether `invalid`, a chunk that is no UTF-8, is the start of a character at the end of `all`.
fn unfinished(invalid: &[u8], all: &[u8]) -> bool {
    let last = invalid.as_ptr_range().end == all.as_ptr_range().end;
    last && std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn appended(rules: &Rules, text: &str, kind: Kind, first: bool) -> String {
        let mut out = Vec::new();
        rules.append(text, kind, first, false, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn words_are_joined_with_spaces_where_they_start() {
        let rules = Rules::WordPiece { prefix: "##".into(), cleanup: true };
        let word = |text, first| appended(&rules, text, Kind::Normal, first);
        assert_eq!(["he", "##llo", ",", "you"].map(|t| word(t, t == "he")).concat(), "hello, you");
        assert_eq!(appended(&Rules::Phantom, "▁you", Kind::Normal, false), " you");
        assert_eq!(appended(&Rules::Phantom, "[SEP]", Kind::Control, false), " [SEP]");
    }

    #[test]
    fn marks_of_the_first_token_vanish() {
        let rules = Rules::Metaspace { mark: SPACE, drop_first: true };
        assert_eq!(appended(&rules, "▁a", Kind::Normal, true), "a");
        assert_eq!(appended(&rules, "▁a", Kind::Normal, false), " a");
    }
}
