//! Splitting text into words by a regular expression, in linear time where it can be had.

use regex_automata::Input;
use regex_automata::meta::Regex;
use tokenizers::pattern::Pattern;

use crate::error::{Result, tokenizer_error};

/// The end that nearly every published pattern has: white space, less its last character where a
/// word follows, which takes that one as its own leading space.
const TAIL: &str = r"|\s+(?!\S)|\s+";

/// One step of splitting: the matches and the gaps between them become words.
pub(super) enum Splitter {
    /// No look-around but [`TAIL`], which is done by hand: backtracking over a long run of spaces
    /// would exceed any limit. Pattern 1 is the white space of the tail.
    Linear(Regex),
    /// Any other pattern.
    Backtracking(Box<fancy_regex::Regex>),
    /// Runs of decimal digits in threes, counted from the right.
    Thousands(Regex),
}

/// Byte ranges with whether each is a match; together they are the whole text.
type Pieces = Vec<((usize, usize), bool)>;

impl Splitter {
    /// A splitter for a pattern in the syntax of tokenizer.json.
    pub(super) fn new(pattern: &str) -> Result<Self> {
        let main = pattern.strip_suffix(TAIL);
        // The linear engine would read a possessive quantifier as two.
        if !has_possessive(pattern) {
            let patterns = [main.unwrap_or(pattern), r"\s+"];
            let count = if main.is_some() { 2 } else { 1 };
            if let Ok(regex) = Regex::new_many(&patterns[..count]) {
                return Ok(Self::Linear(regex));
            }
        }
        fancy_regex::Regex::new(pattern)
            .map(|regex| Self::Backtracking(Box::new(regex)))
            .map_err(|e| tokenizer_error(format!("pre-tokenizer pattern {pattern:?}: {e}")))
    }

    /// The splitter of `(?=(\d{3})+(?!\d))`.
    pub(super) fn thousands() -> Result<Self> {
        let digits = Regex::new(r"\p{Nd}+").map_err(|e| tokenizer_error(e.to_string()))?;
        Ok(Self::Thousands(digits))
    }

    fn pieces(&self, text: &str) -> Result<Pieces> {
        let mut pieces = Vec::with_capacity(text.len() / 4);
        let mut done = 0;
        let mut add = |start, end| {
            if done < start {
                pieces.push(((done, start), false));
            }
            // An empty match separates nothing that the gap before it has not.
            if start < end {
                pieces.push(((start, end), true));
            }
            done = end;
        };
        match self {
            Self::Linear(regex) => linear(regex, text, &mut add),
            Self::Thousands(digits) => digits.find_iter(text).for_each(|run| {
                thousands(text, run.start(), run.end(), &mut add);
            }),
            Self::Backtracking(regex) => {
                for found in regex.find_iter(text) {
                    let found = found.map_err(|e| {
                        tokenizer_error(format!("the pre-tokenizer gave up on the text: {e}"))
                    })?;
                    add(found.start(), found.end());
                }
            }
        }
        add(text.len(), text.len());
        Ok(pieces)
    }
}

/// Whether a quantifier is followed by `+` somewhere in a pattern.
fn has_possessive(pattern: &str) -> bool {
    let (mut quantified, mut classes) = (false, 0);
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        let was_quantified = std::mem::take(&mut quantified);
        match c {
            '\\' => {
                let name = chars.next().is_some_and(|c| matches!(c, 'p' | 'P' | 'x' | 'u'));
                if name && chars.peek() == Some(&'{') {
                    chars.by_ref().find(|&c| c == '}');
                }
            }
            '[' => classes += 1,
            ']' if classes > 0 => classes -= 1,
            '+' if classes == 0 && was_quantified => return true,
            '+' | '*' | '?' | '}' if classes == 0 => quantified = true,
            _ => {}
        }
    }
    false
}

fn linear(regex: &Regex, text: &str, add: &mut impl FnMut(usize, usize)) {
    let mut at = 0;
    while at < text.len() {
        let Some(found) = regex.search(&Input::new(text).range(at..)) else { break };
        let mut end = found.end();
        if found.pattern().as_usize() == 1 && end < text.len() {
            let last = text[..end].char_indices().next_back().map_or(end, |(last, _)| last);
            if last > found.start() {
                end = last;
            }
        }
        add(found.start(), end);
        // A pattern that matches nothing still has to move on.
        at = if end > at { end } else { text.ceil_char_boundary(at + 1) };
    }
}

fn thousands(text: &str, start: usize, end: usize, add: &mut impl FnMut(usize, usize)) {
    let starts: Vec<usize> = text[start..end].char_indices().map(|(at, _)| start + at).collect();
    let mut group = start;
    for next in (starts.len() % 3..starts.len()).step_by(3).map(|digit| starts[digit]) {
        add(group, next);
        group = next;
    }
    add(group, end);
}

impl Pattern for &Splitter {
    fn find_matches(&self, inside: &str) -> tokenizers::Result<Vec<(tokenizers::Offsets, bool)>> {
        Ok(self.pieces(inside)?)
    }
}

/// Splitters in sequence, each on the words of the one before.
pub(super) struct Splitters(pub(super) Vec<Splitter>);

impl Splitters {
    /// The words of `text` as byte ranges.
    pub(super) fn split(&self, text: &str) -> Result<Vec<(usize, usize)>> {
        let mut words = vec![(0, text.len())];
        for splitter in &self.0 {
            let mut finer = Vec::with_capacity(words.len());
            for (start, end) in words {
                let pieces = splitter.pieces(&text[start..end])?;
                finer.extend(pieces.iter().map(|&((from, to), _)| (start + from, start + to)));
            }
            words = finer;
        }
        Ok(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GPT2: &str =
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

    fn words(splitter: Splitter, text: &str) -> Vec<String> {
        let ranges = Splitters(vec![splitter]).split(text).unwrap();
        ranges.into_iter().map(|(start, end)| text[start..end].to_owned()).collect()
    }

    #[test]
    fn the_linear_engine_agrees_with_the_backtracking_one() {
        let slow = || Splitter::Backtracking(Box::new(fancy_regex::Regex::new(GPT2).unwrap()));
        for text in [
            "",
            " ",
            "a",
            "it's  a\n\n test \t",
            "  x",
            "\u{3000}\u{3000}x 1a\u{85}",
            "\r\n\r\n  y",
        ] {
            let fast = Splitter::new(GPT2).unwrap();
            assert!(matches!(fast, Splitter::Linear(_)));
            assert_eq!(words(fast, text), words(slow(), text), "{text:?}");
        }
    }

    #[test]
    fn digits_group_from_the_right() {
        let split = |text| words(Splitter::thousands().unwrap(), text);
        assert_eq!(split("1234567"), ["1", "234", "567"]);
        assert_eq!(split("a123456 12"), ["a", "123", "456", " ", "12"]);
        assert_eq!(split(""), Vec::<String>::new());
    }

    #[test]
    fn a_pattern_that_gives_up_is_an_error() {
        let splitter = Splitter::new(r"(?:(?:\s|\s\s)+(?!\s))x|y").unwrap();
        assert!(Splitters(vec![splitter]).split(&" ".repeat(100_000)).is_err());
    }

    #[test]
    fn possessive_quantifiers_keep_their_meaning() {
        for pattern in ["a++", r"\p{L}?+", "[ab]{2,3}+", "(?:a)*+"] {
            assert!(has_possessive(pattern), "{pattern}");
        }
        for pattern in [r"\p{L}+", r"\++", "[*+]+", "(?:a+)+", "a+?"] {
            assert!(!has_possessive(pattern), "{pattern}");
        }
        let splitter = Splitter::new(r"[^\r\n\p{L}]?+\p{L}+|\s+").unwrap();
        assert_eq!(words(splitter, "..ab"), [".", ".ab"]);
    }
}
