//! The pre-tokenizers of a tokenizer.json: a text becomes words, step by step.

use super::bpe::byte_to_char;
use super::limits::{Work, grown, of_part, outgrown};
use super::normalize::is_punctuation;
use super::split::{Pieces, Splitter};
use crate::error::Result;

/// A text cut into words.
pub(super) struct Words {
    text: String,
    ranges: Vec<(usize, usize)>,
    /// Whether the text is the start of what is tokenized.
    at_start: bool,
    /// Bytes that it may become.
    limit: usize,
}

impl Words {
    /// A text that is one word.
    pub(super) fn new(text: String, at_start: bool) -> Self {
        Self { ranges: vec![(0, text.len())], at_start, limit: grown(text.len()), text }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        self.ranges.iter().map(|&(start, end)| &self.text[start..end])
    }

    /// Cuts every word with `cut`, which appends parts of the word as ranges.
    fn split(
        &mut self,
        mut cut: impl FnMut(&str, &mut Vec<(usize, usize)>) -> Result<()>,
    ) -> Result<()> {
        let mut finer = Vec::with_capacity(self.ranges.len());
        for &(start, end) in &self.ranges {
            let from = finer.len();
            cut(&self.text[start..end], &mut finer)?;
            for range in &mut finer[from..] {
                *range = (start + range.0, start + range.1);
            }
        }
        finer.retain(|&(start, end)| start < end);
        self.ranges = finer;
        Ok(())
    }

    /// Rewrites every word with `write`, which is told whether the text starts with it.
    fn rewrite(&mut self, write: impl Fn(&str, bool, &mut String)) -> Result<()> {
        self.at_start &= self.ranges.first().is_some_and(|&(start, _)| start == 0);
        let mut text = String::with_capacity(self.text.len() + self.ranges.len());
        for (at, range) in self.ranges.iter_mut().enumerate() {
            let start = text.len();
            write(&self.text[range.0..range.1], at == 0 && self.at_start, &mut text);
            *range = (start, text.len());
        }
        self.text = text;
        // A step makes four bytes of one at most, so the check may come after it.
        if self.text.len() > self.limit {
            return Err(outgrown("pre_tokenizer", self.limit));
        }
        Ok(())
    }
}

/// What a pre-tokenizer looks for.
pub(super) enum Pattern {
    Regex(Splitter),
    Literal(String),
    Char(char),
    Class(fn(char) -> bool),
}

impl Pattern {
    fn pieces(&self, text: &str, work: &mut Work) -> Result<Pieces> {
        let mut pieces = Pieces::new(text.len());
        match self {
            Self::Regex(splitter) => return splitter.pieces(text, work),
            Self::Literal(literal) => {
                let found = text.match_indices(literal.as_str());
                found.for_each(|(at, literal)| pieces.add(at, at + literal.len()));
            }
            Self::Char(wanted) => class(text, |c| c == *wanted, &mut pieces),
            Self::Class(wanted) => class(text, wanted, &mut pieces),
        }
        Ok(pieces.finish())
    }

    /// `text` with `content` in the place of every match, or `None` where it becomes longer than
    /// `limit`; whether its first character is still that of `text`, or what replaces it alone.
    pub(super) fn replace(
        &self,
        text: &str,
        content: &str,
        limit: usize,
        work: &mut Work,
    ) -> Result<Option<(String, bool)>> {
        let mut out = String::with_capacity(text.len());
        let (mut done, mut kept) = (0, true);
        let mut fits = true;
        let mut found = |start: usize, end: usize| {
            fits &= out.len() + (start - done) + content.len() <= limit;
            if fits {
                let single = text[start..end].chars().nth(1).is_none();
                kept &= start > 0 || start == end || single && !content.is_empty();
                out.push_str(&text[done..start]);
                out.push_str(content);
                done = end;
            }
        };
        match self {
            Self::Regex(splitter) => splitter.matches(text, work, &mut found)?,
            Self::Literal(literal) => text
                .match_indices(literal.as_str())
                .for_each(|(at, literal)| found(at, at + literal.len())),
            Self::Char(_) | Self::Class(_) => {
                let pieces = self.pieces(text, work)?;
                pieces.iter().filter(|piece| piece.1).for_each(|piece| found(piece.0.0, piece.0.1));
            }
        }
        out.push_str(&text[done..]);
        Ok((fits && out.len() <= limit).then_some((out, kept)))
    }
}

fn class(text: &str, wanted: impl Fn(char) -> bool, pieces: &mut Pieces) {
    let found = text.char_indices().filter(|&(_, c)| wanted(c));
    found.for_each(|(at, c)| pieces.add(at, at + c.len_utf8()));
}

/// What becomes of a match when a word is split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behavior {
    Removed,
    Isolated,
    MergedWithPrevious,
    MergedWithNext,
    Contiguous,
}

impl Behavior {
    /// Appends the ranges of the words that `pieces` make, matches being those marked `wanted`.
    fn cut(self, pieces: &Pieces, wanted: bool, out: &mut Vec<(usize, usize)>) {
        let pieces = pieces.iter().map(|&(range, found)| (range, found == wanted));
        let from = out.len();
        let mut previous = false;
        match self {
            Self::Removed => out.extend(pieces.filter(|piece| !piece.1).map(|piece| piece.0)),
            Self::Isolated => out.extend(pieces.map(|piece| piece.0)),
            Self::Contiguous | Self::MergedWithPrevious => pieces.for_each(|(range, found)| {
                let joins = match self {
                    Self::Contiguous => found == previous,
                    _ => found && !previous,
                };
                match out[from..].last_mut().filter(|_| joins) {
                    Some(last) => last.1 = range.1,
                    None => out.push(range),
                }
                previous = found;
            }),
            Self::MergedWithNext => {
                pieces.rev().for_each(|(range, found)| {
                    match out[from..].last_mut().filter(|_| found && !previous) {
                        Some(next) => next.0 = range.0,
                        None => out.push(range),
                    }
                    previous = found;
                });
                out[from..].reverse();
            }
        }
    }
}

/// Where a space is put before a word that has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    /// Before the start of the text.
    First,
    Never,
    Always,
}

/// One pre-tokenizer.
pub(super) enum Step {
    Split {
        pattern: Pattern,
        behavior: Behavior,
        /// The gaps are the matches.
        invert: bool,
    },
    /// Words of this many characters.
    FixedLength(usize),
    /// A space before each word that does not start with one.
    Space,
    /// A character for each byte.
    Bytes,
    /// `mark` for each space.
    Metaspace { mark: char, scheme: Scheme },
}

impl Step {
    pub(super) fn run(&self, words: &mut Words, work: &mut Work) -> Result<()> {
        match self {
            Self::Split { pattern, behavior, invert } => words.split(|word, out| {
                let pieces = pattern.pieces(word, work).map_err(of_part("pre_tokenizer"))?;
                behavior.cut(&pieces, !invert, out);
                Ok(())
            }),
            Self::FixedLength(length) => words.split(|word, out| {
                let starts = word.char_indices().step_by(*length).map(|(start, _)| start);
                let ends = starts.clone().skip(1).chain([word.len()]);
                out.extend(starts.zip(ends));
                Ok(())
            }),
            Self::Space => words.rewrite(|word, _, out| {
                out.extend((!word.starts_with(' ')).then_some(' '));
                out.push_str(word);
            }),
            Self::Bytes => words.rewrite(|word, _, out| out.extend(word.bytes().map(byte_to_char))),
            &Self::Metaspace { mark, scheme } => words.rewrite(|word, first, out| {
                let wanted = scheme == Scheme::Always || scheme == Scheme::First && first;
                out.extend((wanted && !word.starts_with([' ', mark])).then_some(mark));
                out.extend(word.chars().map(|c| if c == ' ' { mark } else { c }));
            }),
        }
    }
}

/// BERT's words: white space is lost, punctuation stands alone.
pub(super) fn bert_steps() -> [Step; 2] {
    let split = |class: fn(char) -> bool, behavior| Step::Split {
        pattern: Pattern::Class(class),
        behavior,
        invert: false,
    };
    [split(char::is_whitespace, Behavior::Removed), split(is_punctuation, Behavior::Isolated)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(step: &Step, text: &str) -> Vec<String> {
        let mut words = Words::new(text.to_owned(), true);
        step.run(&mut words, &mut Work::new(100)).unwrap();
        words.iter().map(str::to_owned).collect()
    }

    #[test]
    fn what_becomes_of_a_match() {
        use Behavior::*;
        let split = |behavior, text| {
            words(&Step::Split { pattern: Pattern::Char('-'), behavior, invert: false }, text)
        };
        assert_eq!(split(Removed, "the-final--end"), ["the", "final", "end"]);
        assert_eq!(split(Isolated, "the-final--end"), ["the", "-", "final", "-", "-", "end"]);
        assert_eq!(split(MergedWithPrevious, "the-final--end"), ["the-", "final-", "-", "end"]);
        assert_eq!(split(MergedWithNext, "the-final--end"), ["the", "-final", "-", "-end"]);
        assert_eq!(split(Contiguous, "--the-"), ["--", "the", "-"]);
        assert_eq!(split(MergedWithNext, "a--"), ["a", "-", "-"]);
    }

    #[test]
    fn words_of_a_length() {
        assert_eq!(words(&Step::FixedLength(2), "a\u{e9}bcd"), ["a\u{e9}", "bc", "d"]);
    }

    #[test]
    fn the_space_that_is_first_is_first_in_the_text() {
        let step = Step::Metaspace { mark: '_', scheme: Scheme::First };
        assert_eq!(words(&step, "a b"), ["_a_b"]);
        assert_eq!(words(&step, " a"), ["_a"]);
        let mut later = Words::new("a".to_owned(), false);
        step.run(&mut later, &mut Work::new(100)).unwrap();
        assert_eq!(later.iter().collect::<Vec<_>>(), ["a"]);
    }
}
