//! The normalizers of a tokenizer.json, and those that a kind of GGUF tokenizer implies.

use unicode_categories::UnicodeCategories;
use unicode_normalization_alignments::UnicodeNormalization;
use unicode_normalization_alignments::char::is_combining_mark;

use super::bpe::byte_to_char;
use super::charsmap::Charsmap;
use super::limits::{Work, grown, of_part, outgrown};
use super::words::Pattern;
use crate::error::Result;

/// Steps that make the normal form of a text.
#[derive(Default)]
pub(super) struct Normalizer(pub(super) Vec<Step>);

/// One normalizer.
pub(super) enum Step {
    Bert(Bert),
    /// White space off the ends.
    Strip {
        left: bool,
        right: bool,
    },
    StripAccents,
    Nfc,
    Nfd,
    Nfkc,
    Nfkd,
    Lowercase,
    /// Control characters away, other white space to spaces.
    Nmt,
    Charsmap(Charsmap),
    Replace {
        pattern: Pattern,
        content: String,
    },
    Prepend(String),
    /// A character for each byte.
    Bytes,
}

/// BERT's normalizer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bert {
    pub(super) clean_text: bool,
    pub(super) handle_chinese_chars: bool,
    pub(super) strip_accents: bool,
    pub(super) lowercase: bool,
}

impl Normalizer {
    /// The normal form of `text`, and whether it has the start of the text: where characters were taken
    /// off, nothing is the first word of the text any more.
    pub(super) fn apply(&self, text: &str, work: &mut Work) -> Result<(String, bool)> {
        let limit = grown(text.len());
        let (mut text, mut kept) = (text.to_owned(), true);
        for step in &self.0 {
            let (next, start) = step.apply(text, limit, work)?;
            if next.len() > limit {
                return Err(outgrown("normalizer", limit));
            }
            (text, kept) = (next, kept && start);
        }
        Ok((text, kept))
    }
}

impl Step {
    fn apply(&self, text: String, limit: usize, work: &mut Work) -> Result<(String, bool)> {
        let whole = |text: String| Ok((text, true));
        match self {
            Self::Bert(bert) => Ok(bert.apply(text)),
            Self::Strip { left, right } => {
                let stripped = if *right { text.trim_end() } else { &text };
                let shown = if *left { stripped.trim_start() } else { stripped };
                Ok((shown.to_owned(), shown.len() == stripped.len()))
            }
            Self::StripAccents => Ok(filter(&text, |c| !is_combining_mark(c))),
            Self::Nfc => whole(compose(&text)),
            Self::Nfd => whole(text.nfd().map(|(c, _)| c).collect()),
            Self::Nfkc => whole(text.nfkc().map(|(c, _)| c).collect()),
            Self::Nfkd => whole(text.nfkd().map(|(c, _)| c).collect()),
            Self::Lowercase => whole(text.chars().flat_map(char::to_lowercase).collect()),
            Self::Nmt => {
                let (shown, kept) = filter(&text, |c| !nmt_control(c));
                Ok((shown.chars().map(|c| if nmt_space(c) { ' ' } else { c }).collect(), kept))
            }
            Self::Charsmap(map) => {
                let mapped = map.apply(&text, limit).map_err(of_part("normalizer"))?;
                mapped.map(|text| (text, true)).ok_or_else(|| outgrown("normalizer", limit))
            }
            Self::Replace { pattern, content } => pattern
                .replace(&text, content, limit, work)
                .map_err(of_part("normalizer"))?
                .ok_or_else(|| outgrown("normalizer: Replace", limit)),
            Self::Prepend(_) if text.is_empty() => whole(text),
            Self::Prepend(start) if start.len() > limit => {
                Err(outgrown("normalizer: Prepend", limit))
            }
            Self::Prepend(start) => whole(start.clone() + &text),
            Self::Bytes => whole(text.bytes().map(byte_to_char).collect()),
        }
    }
}

/// The text in Unicode normal form C.
pub(super) fn compose(text: &str) -> String {
    text.nfc().map(|(c, _)| c).collect()
}

/// The characters to keep, and whether the first is among them.
fn filter(text: &str, keep: impl Fn(char) -> bool) -> (String, bool) {
    let kept = text.chars().next().is_none_or(&keep);
    (text.chars().filter(|&c| keep(c)).collect(), kept)
}

fn nmt_control(c: char) -> bool {
    matches!(c, '\x01'..='\x08' | '\x0b' | '\x0e'..='\x1f' | '\x7f' | '\u{8f}' | '\u{9f}')
}

fn nmt_space(c: char) -> bool {
    matches!(
        c,
        '\t' | '\n' | '\x0c' | '\r' | '\u{1680}' | '\u{200b}'
            ..='\u{200f}' | '\u{2028}' | '\u{2029}' | '\u{2581}' | '\u{feff}' | '\u{fffd}'
    )
}

impl Bert {
    fn apply(&self, mut text: String) -> (String, bool) {
        let mut kept = true;
        if self.clean_text {
            let (shown, start) = filter(&text, |c| {
                !matches!(c, '\0' | '\u{fffd}')
                    && (matches!(c, '\t' | '\n' | '\r') || !c.is_other())
            });
            text = shown.chars().map(|c| if c.is_whitespace() { ' ' } else { c }).collect();
            kept &= start;
        }
        if self.handle_chinese_chars && text.chars().any(is_chinese) {
            let spaced = |c| {
                if is_chinese(c) { [Some(' '), Some(c), Some(' ')] } else { [Some(c), None, None] }
            };
            text = text.chars().flat_map(spaced).flatten().collect();
        }
        if self.strip_accents {
            let split: String = text.nfd().map(|(c, _)| c).collect();
            let (shown, start) = filter(&split, |c| !c.is_mark_nonspacing());
            text = shown;
            kept &= start;
        }
        if self.lowercase {
            text = text.chars().flat_map(char::to_lowercase).collect();
        }
        (text, kept)
    }
}

fn is_chinese(c: char) -> bool {
    matches!(c, '\u{4e00}'..='\u{9fff}' | '\u{3400}'..='\u{4dbf}' | '\u{20000}'..='\u{2a6df}'
        | '\u{2a700}'..='\u{2b73f}' | '\u{2b740}'..='\u{2b81f}' | '\u{2b920}'..='\u{2ceaf}'
        | '\u{f900}'..='\u{faff}' | '\u{2f800}'..='\u{2fa1f}')
}

/// What BERT and others take for punctuation.
pub(super) fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation() || UnicodeCategories::is_punctuation(c)
}
