//! Finding special tokens in a text.

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use regex_automata::meta::Regex;

use super::limits::{MAX_PIECE, MAX_SPECIAL, shown};
use super::vocab::{Kind, Vocab};
use crate::error::{Result, tokenizer_error};

/// Bytes of tokens above which the automaton is no table of every state and byte, which takes up to
/// 1 KB for each.
const MAX_TABLE: usize = 1 << 13;

/// A part of a text: a special token, or the text between two of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part<'t> {
    Text(&'t str),
    Token(u32),
}

/// Where a special token is one, and what it swallows.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bounds {
    /// The spaces before it.
    pub(super) left: bool,
    /// The spaces after it.
    pub(super) right: bool,
    /// No letter or digit touches it.
    pub(super) word: bool,
    /// It is text where special tokens are not parsed.
    pub(super) special: bool,
}

/// The special tokens of a vocabulary, compiled for one pass over a text whatever their number.
pub(super) struct Specials {
    /// Control, unknown and user-defined tokens.
    all: Matcher,
    /// User-defined ones, which are matched even where special tokens are plain text.
    user: Matcher,
}

impl Specials {
    pub(super) fn new(vocab: &Vocab, bounds: impl Fn(&str) -> Bounds) -> Result<Self> {
        let matcher = |wanted: &[Kind]| {
            Matcher::new(
                vocab
                    .iter()
                    .filter(|(_, text, kind)| wanted.contains(kind) && !text.is_empty())
                    .map(|(id, text, _)| (id, text, bounds(text))),
            )
        };
        Ok(Self {
            all: matcher(&[Kind::Control, Kind::Unknown, Kind::UserDefined])?,
            user: matcher(&[Kind::UserDefined])?,
        })
    }

    /// The parts of `text`, none of them empty.
    pub(super) fn partition<'t>(&self, text: &'t str, parse_special: bool) -> Vec<Part<'t>> {
        let matcher = if parse_special { &self.all } else { &self.user };
        matcher.partition(text, true)
    }
}

/// Tokens that are found in a text before it becomes words, the longest first.
pub(super) struct Matcher {
    tokens: Vec<(u32, Bounds)>,
    // None where there is no token: an empty automaton still costs a pass.
    automaton: Option<AhoCorasick>,
    /// What a letter or digit is, where a token has to know.
    letter: Option<Regex>,
}

impl Matcher {
    /// A matcher of `(id, text, bounds)`; no text is empty.
    pub(super) fn new<T: AsRef<str>>(
        tokens: impl Iterator<Item = (u32, T, Bounds)>,
    ) -> Result<Self> {
        let (tokens, texts): (Vec<_>, Vec<_>) =
            tokens.map(|(id, text, bounds)| ((id, bounds), text)).unzip();
        let mut bytes = 0;
        for ((id, _), text) in tokens.iter().zip(&texts) {
            let text = text.as_ref();
            bytes += text.len();
            if text.len() > MAX_PIECE || bytes > MAX_SPECIAL {
                return Err(tokenizer_error(format!(
                    "special token {id} ({}): longer than {MAX_PIECE} bytes, or all are longer than \
                     {MAX_SPECIAL}",
                    shown(text)
                )));
            }
        }
        let failed = |e: &dyn std::fmt::Display| tokenizer_error(format!("special tokens: {e}"));
        let automaton = if texts.is_empty() {
            None
        } else {
            let mut builder = AhoCorasick::builder();
            builder.match_kind(MatchKind::LeftmostLongest);
            if bytes > MAX_TABLE {
                builder.kind(Some(AhoCorasickKind::ContiguousNFA));
            }
            Some(builder.build(texts.iter().map(AsRef::as_ref)).map_err(|e| failed(&e))?)
        };
        let word = tokens.iter().any(|(_, bounds)| bounds.word);
        let letter = if word { Some(Regex::new(r"\w").map_err(|e| failed(&e))?) } else { None };
        Ok(Self { tokens, automaton, letter })
    }

    /// The parts of `text`, none of them empty; special tokens are text unless `parse_special`.
    pub(super) fn partition<'t>(&self, text: &'t str, parse_special: bool) -> Vec<Part<'t>> {
        let mut parts = Vec::new();
        let mut rest = 0;
        for found in self.automaton.iter().flat_map(|automaton| automaton.find_iter(text)) {
            // The spaces that the last token swallowed may reach up to this one.
            let (id, bounds) = self.tokens[found.pattern().as_usize()];
            let (start, end) = (found.start(), found.end());
            if bounds.special && !parse_special || bounds.word && self.touched(text, start, end) {
                continue;
            }
            let mut before = &text[rest.min(start)..start];
            if bounds.left {
                before = before.trim_end();
            }
            if !before.is_empty() {
                parts.push(Part::Text(before));
            }
            parts.push(Part::Token(id));
            rest = end;
            if bounds.right {
                rest = text.len() - text[rest..].trim_start().len();
            }
        }
        if rest < text.len() {
            parts.push(Part::Text(&text[rest..]));
        }
        parts
    }

    /// Whether a letter or digit is right before `start` or right after `end`.
    fn touched(&self, text: &str, start: usize, end: usize) -> bool {
        let sides = [text[..start].chars().next_back(), text[end..].chars().next()];
        let mut utf8 = [0; 4];
        let letter = |c: char| {
            let c = &*c.encode_utf8(&mut utf8);
            self.letter.as_ref().is_some_and(|letter| letter.is_match(c))
        };
        sides.into_iter().flatten().any(letter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specials(bounds: Bounds) -> Specials {
        let tokens = [("<a>", Kind::Control), ("<a><b>", Kind::Control), ("  ", Kind::UserDefined)];
        let tokens = tokens.iter().enumerate();
        let vocab = Vocab::new(tokens.map(|(id, &(text, kind))| (id as u32, text.into(), kind)));
        Specials::new(&vocab.unwrap(), |_| bounds).unwrap()
    }

    #[test]
    fn the_longest_token_wins_and_control_tokens_are_text_when_not_parsed() {
        let specials = specials(Bounds::default());
        let parts = specials.partition("x<a><b><a>", true);
        assert_eq!(parts, [Part::Text("x"), Part::Token(1), Part::Token(0)]);
        let parts = specials.partition("<a>  y", false);
        assert_eq!(parts, [Part::Text("<a>"), Part::Token(2), Part::Text("y")]);
    }

    #[test]
    fn tokens_may_swallow_the_spaces_around_them() {
        let specials = specials(Bounds { left: true, right: true, ..Bounds::default() });
        let parts = specials.partition("x <a> \n y", true);
        assert_eq!(parts, [Part::Text("x"), Part::Token(0), Part::Text("y")]);
    }
}
