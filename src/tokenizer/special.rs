//! Finding special tokens in a text.

use aho_corasick::{AhoCorasick, MatchKind};

use super::vocab::{Kind, Vocab};
use crate::error::{Result, tokenizer_error};

/// A part of a text: a special token, or the text between two of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part<'t> {
    Text(&'t str),
    Token(u32),
}

/// Which spaces around a special token it swallows.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Strip {
    pub(super) left: bool,
    pub(super) right: bool,
}

/// The special tokens of a vocabulary, compiled for one pass over a text whatever their number.
pub(super) struct Specials {
    /// Control, unknown and user-defined tokens.
    all: Matcher,
    /// User-defined ones, which are matched even where special tokens are plain text.
    user: Matcher,
}

struct Matcher {
    tokens: Vec<(u32, Strip)>,
    // None where there is no token: an empty automaton still costs a pass.
    automaton: Option<AhoCorasick>,
}

impl Specials {
    pub(super) fn new(vocab: &Vocab, strip: impl Fn(&str) -> Strip) -> Result<Self> {
        let matcher = |wanted: &[Kind]| {
            Matcher::new(
                vocab
                    .iter()
                    .filter(|(_, text, kind)| wanted.contains(kind) && !text.is_empty())
                    .map(|(id, text, _)| (id, text, strip(text))),
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
        matcher.partition(text)
    }
}

impl Matcher {
    fn new<'v>(tokens: impl Iterator<Item = (u32, &'v str, Strip)>) -> Result<Self> {
        let (tokens, texts): (Vec<_>, Vec<_>) =
            tokens.map(|(id, text, strip)| ((id, strip), text)).unzip();
        let automaton = if texts.is_empty() {
            None
        } else {
            let built = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(texts);
            Some(built.map_err(|e| tokenizer_error(format!("too many special tokens: {e}")))?)
        };
        Ok(Self { tokens, automaton })
    }

    fn partition<'t>(&self, text: &'t str) -> Vec<Part<'t>> {
        let mut parts = Vec::new();
        let mut rest = 0;
        for found in self.automaton.iter().flat_map(|automaton| automaton.find_iter(text)) {
            // The spaces that the last token swallowed may reach up to this one.
            let (id, strip) = self.tokens[found.pattern().as_usize()];
            let mut before = &text[rest.min(found.start())..found.start()];
            if strip.left {
                before = before.trim_end();
            }
            if !before.is_empty() {
                parts.push(Part::Text(before));
            }
            parts.push(Part::Token(id));
            rest = found.end();
            if strip.right {
                rest = text.len() - text[rest..].trim_start().len();
            }
        }
        if rest < text.len() {
            parts.push(Part::Text(&text[rest..]));
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specials(strip: Strip) -> Specials {
        let tokens = [("<a>", Kind::Control), ("<a><b>", Kind::Control), ("  ", Kind::UserDefined)];
        let tokens = tokens.iter().enumerate();
        let vocab = Vocab::new(tokens.map(|(id, &(text, kind))| (id as u32, text.into(), kind)));
        Specials::new(&vocab.unwrap(), |_| strip).unwrap()
    }

    #[test]
    fn the_longest_token_wins_and_control_tokens_are_text_when_not_parsed() {
        let specials = specials(Strip::default());
        let parts = specials.partition("x<a><b><a>", true);
        assert_eq!(parts, [Part::Text("x"), Part::Token(1), Part::Token(0)]);
        let parts = specials.partition("<a>  y", false);
        assert_eq!(parts, [Part::Text("<a>"), Part::Token(2), Part::Text("y")]);
    }

    #[test]
    fn tokens_may_swallow_the_spaces_around_them() {
        let specials = specials(Strip { left: true, right: true });
        let parts = specials.partition("x <a> \n y", true);
        assert_eq!(parts, [Part::Text("x"), Part::Token(0), Part::Text("y")]);
    }
}
