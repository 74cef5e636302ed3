//! Splitting text into words by a regular expression, in linear time where it can be had.

use super::backtracking::Backtracking;
use super::limits::{MAX_PATTERN, Work, of_part, shown};
use super::linear::{Found, Linear};
use crate::error::{Result, tokenizer_error};

/// The end that nearly every published pattern has: white space, less its last character where a
/// word follows, which takes that one as its own leading space.
const TAIL: &str = r"|\s+(?!\S)|\s+";

/// Looks ahead as far as digits go at each of them, which is done by hand.
pub(super) const THOUSANDS: &str = r"(?=(\d{3})+(?!\d))";

/// Groups of three numbers counted from the right, the first perhaps shorter.
pub(super) const GROUPS: &str = r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))";

/// The same of decimal digits, where no word goes on after them.
pub(super) const GROUPS_BEFORE_BORDER: &str = r"\d{1,3}(?=(?:\d{3})*\b)";

/// White space in runs of powers of two, of which a word that follows keeps a character.
const HALVING_TAIL: &str = r"|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}";

/// One step of splitting: the matches and the gaps between them become words.
pub(super) enum Splitter {
    /// No look-around but [`TAIL`], which is done by hand: backtracking over a long run of spaces
    /// would exceed any limit. Pattern 1 is the white space of the tail.
    Linear(Linear),
    /// As [`Linear`](Self::Linear), with [`HALVING_TAIL`].
    Halving(Linear),
    /// [`GROUPS`], in runs of numbers.
    Groups(Linear),
    /// [`GROUPS_BEFORE_BORDER`], in the runs of pattern 1; pattern 0 is a run and the character of a
    /// word that forbids them.
    GroupsBeforeBorder(Linear),
    /// Any other pattern.
    Backtracking(Box<Backtracking>),
    /// [`THOUSANDS`]: between groups of three decimal digits, counted from the right.
    Thousands(Linear),
}

/// Byte ranges with whether each is a match; together they are the whole text, and none is empty.
pub(super) struct Pieces {
    list: Vec<((usize, usize), bool)>,
    done: usize,
    length: usize,
}

impl Pieces {
    /// No piece yet of a text of `length` bytes.
    pub(super) fn new(length: usize) -> Self {
        Self { list: Vec::with_capacity(length / 4 + 1), done: 0, length }
    }

    /// Adds a match, and the gap before it.
    pub(super) fn add(&mut self, start: usize, end: usize) {
        if self.done < start {
            self.list.push(((self.done, start), false));
        }
        // An empty match separates nothing that the gap before it has not.
        if start < end {
            self.list.push(((start, end), true));
        }
        self.done = end;
    }

    /// Adds the gap after the last match.
    pub(super) fn finish(mut self) -> Self {
        self.add(self.length, self.length);
        self
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, ((usize, usize), bool)> {
        self.list.iter()
    }
}

impl Splitter {
    /// A splitter for a pattern in the syntax of tokenizer.json.
    pub(super) fn new(pattern: &str) -> Result<Self> {
        let by_hand = |patterns: &[&str], splitter: fn(Linear) -> Self| {
            let linear = Linear::new(patterns).ok().flatten().map(splitter);
            linear.ok_or_else(|| tokenizer_error("no pattern for digits"))
        };
        match pattern {
            THOUSANDS => return by_hand(&[r"\p{Nd}+"], Self::Thousands),
            GROUPS => return by_hand(&[r"\p{N}+"], Self::Groups),
            GROUPS_BEFORE_BORDER => {
                let patterns = [r"\p{Nd}+[\w--\p{Nd}]", r"\p{Nd}+"];
                return by_hand(&patterns, Self::GroupsBeforeBorder);
            }
            _ => {}
        }
        let wrong = |why: String| tokenizer_error(format!("pattern {}: {why}", shown(pattern)));
        if pattern.len() > MAX_PATTERN {
            return Err(wrong(format!("longer than {MAX_PATTERN} bytes")));
        }
        let plain = pattern.strip_suffix(TAIL);
        let main = plain.or_else(|| pattern.strip_suffix(HALVING_TAIL));
        let splitter = if main == plain { Self::Linear } else { Self::Halving };
        // The linear engine would read a possessive quantifier as two.
        if !has_possessive(pattern) {
            let patterns = [main.unwrap_or(pattern), r"\s+"];
            let count = if main.is_some() { 2 } else { 1 };
            if let Some(linear) = Linear::new(&patterns[..count]).map_err(wrong)? {
                return Ok(splitter(linear));
            }
        }
        Backtracking::new(pattern).map(|regex| Self::Backtracking(Box::new(regex))).map_err(wrong)
    }

    /// Calls `found` with the start and end of each match in `text`.
    pub(super) fn matches(
        &self,
        text: &str,
        work: &mut Work,
        found: &mut impl FnMut(usize, usize),
    ) -> Result<()> {
        match self {
            Self::Linear(linear) => linear_matches(linear, text, work, found),
            Self::Halving(linear) => linear.matches(text, work, |run| match run.pattern {
                0 => {
                    found(run.start, run.end);
                    run.end
                }
                _ => halving(text, run, found),
            }),
            Self::Groups(runs) => runs.matches(text, work, |run| groups(text, run, found)),
            Self::GroupsBeforeBorder(runs) => runs.matches(text, work, |run| match run.pattern {
                0 => last_char(text, run),
                _ => groups(text, run, found),
            }),
            Self::Thousands(digits) => digits.matches(text, work, |run| {
                thousands(text, run, found);
                run.end
            }),
            Self::Backtracking(regex) => regex.matches(text, work, found),
        }
    }

    pub(super) fn pieces(&self, text: &str, work: &mut Work) -> Result<Pieces> {
        let mut pieces = Pieces::new(text.len());
        self.matches(text, work, &mut |start, end| pieces.add(start, end))?;
        Ok(pieces.finish())
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

fn linear_matches(
    linear: &Linear,
    text: &str,
    work: &mut Work,
    found: &mut impl FnMut(usize, usize),
) -> Result<()> {
    let mut last = None;
    linear.matches(text, work, |Found { pattern, start, mut end }| {
        if pattern == 1 && end < text.len() {
            let space = last_char(text, Found { pattern, start, end });
            if space > start {
                end = space;
            }
        }
        // An empty match right after another is none.
        if start < end || last != Some(end) {
            found(start, end);
        }
        last = Some(end);
        if start < end { end } else { next_char(text, end) }
    })
}

/// The place after the character at `at`, past the end of `text` at its end.
pub(super) fn next_char(text: &str, at: usize) -> usize {
    if at < text.len() { text.ceil_char_boundary(at + 1) } else { at + 1 }
}

/// Calls `found` with the parts of a run of white space, and returns their end: a single character
/// before a word is left to be found again, since it may be the word's.
fn halving(text: &str, run: Found, found: &mut impl FnMut(usize, usize)) -> usize {
    let ends = ends(text, run);
    let word_follows = run.end < text.len();
    let (mut done, mut start) = (0, run.start);
    while done < ends.len() {
        // What may be taken without its last character, or at the end of the text.
        let free = ends.len() - done - usize::from(word_follows);
        let part = [512, 256, 128, 64, 32, 16, 8, 4, 2].into_iter().find(|&n| n <= free);
        if part.is_none() && word_follows && done > 0 {
            break;
        }
        done += part.unwrap_or(1);
        found(start, ends[done - 1]);
        start = ends[done - 1];
    }
    start
}

/// Calls `found` with each group of three of a run of numbers, counted from the right, and returns its
/// end.
fn groups(text: &str, run: Found, found: &mut impl FnMut(usize, usize)) -> usize {
    let ends = ends(text, run);
    let mut from = run.start;
    for (i, &to) in ends.iter().enumerate() {
        if (ends.len() - 1 - i).is_multiple_of(3) {
            found(from, to);
            from = to;
        }
    }
    run.end
}

/// Where each character of a match ends.
fn ends(text: &str, of: Found) -> Vec<usize> {
    let chars = text[of.start..of.end].char_indices();
    chars.map(|(at, c)| of.start + at + c.len_utf8()).collect()
}

/// Where the last character of a match begins.
fn last_char(text: &str, of: Found) -> usize {
    text[..of.end].char_indices().next_back().map_or(of.end, |(at, _)| at)
}

/// Calls `found` at each digit that begins a group of three.
fn thousands(text: &str, run: Found, found: &mut impl FnMut(usize, usize)) {
    let digits = text[run.start..run.end].char_indices();
    let starts: Vec<usize> = digits.map(|(at, _)| run.start + at).collect();
    for &group in starts.iter().skip(starts.len() % 3).step_by(3) {
        found(group, group);
    }
}

/// Splitters in sequence, each on the words of the one before.
pub(super) struct Splitters(pub(super) Vec<Splitter>);

impl Splitters {
    /// The words of `text` as byte ranges.
    pub(super) fn split(&self, text: &str) -> Result<Vec<(usize, usize)>> {
        let mut work = Work::new(text.len());
        let mut words = vec![(0, text.len())];
        for splitter in &self.0 {
            let mut finer = Vec::with_capacity(words.len());
            for (start, end) in words {
                let pieces = splitter
                    .pieces(&text[start..end], &mut work)
                    .map_err(of_part("pre-tokenizer"))?;
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
        let slow = || Splitter::Backtracking(Box::new(Backtracking::new(GPT2).unwrap()));
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
        let split = |text| words(Splitter::new(THOUSANDS).unwrap(), text);
        assert_eq!(split("1234567"), ["1", "234", "567"]);
        assert_eq!(split("a123456 12"), ["a", "123", "456 12"]);
        assert_eq!(split(""), Vec::<String>::new());
    }

    /// Words by a pattern as it is written.
    fn plain_words(pattern: &str, text: &str) -> Vec<String> {
        let mut pieces = Pieces::new(text.len());
        for found in fancy_regex::Regex::new(pattern).unwrap().find_iter(text) {
            let found = found.unwrap();
            pieces.add(found.start(), found.end());
        }
        let pieces = pieces.finish();
        pieces.iter().map(|&((from, to), _)| text[from..to].to_owned()).collect()
    }

    #[test]
    fn what_is_done_by_hand_agrees_with_the_patterns() {
        let halving =
            format!(r"[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|\s*[\r\n]+{HALVING_TAIL}");
        let spaces = |n: usize| format!("a{}b{0}", " ".repeat(n));
        let digits = |n: usize| format!("{0} {0}x{0}\u{2163} _{0}.{0}\u{b2}", "7".repeat(n));
        let texts = (0..11).chain([127, 128, 129, 600]).flat_map(|n| [spaces(n), digits(n)]);
        let more = ["", "\u{661}\u{662}\u{663}\u{664}e", "\u{3000} \n  1", "12\u{301} 1234,5678_9"];
        for text in texts.chain(more.map(String::from)) {
            for pattern in [GROUPS, GROUPS_BEFORE_BORDER, &halving] {
                let fast = Splitter::new(pattern).unwrap();
                assert!(!matches!(fast, Splitter::Backtracking(_)), "{pattern}");
                assert_eq!(words(fast, &text), plain_words(pattern, &text), "{pattern} {text:?}");
            }
        }
    }

    #[test]
    fn empty_matches_are_found_once() {
        let found = |pattern| {
            let mut all = Vec::new();
            Splitter::new(pattern)
                .unwrap()
                .matches("ab\u{e9}", &mut Work::new(4), &mut |s, e| all.push((s, e)))
                .unwrap();
            all
        };
        assert_eq!(found("^|$"), [(0, 0), (4, 4)]);
        assert_eq!(found("b*"), [(0, 0), (1, 2), (4, 4)]);
        assert_eq!(found("(?=b)|(?!.)"), [(1, 1), (4, 4)]);
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
