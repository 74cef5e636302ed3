//! Patterns that only a backtracking engine has: its work is counted and limited.

use fancy_regex::{Error as RegexError, Regex, RegexBuilder, RuntimeError};

use super::limits::Work;
use crate::error::{Error, Result, tokenizer_error};

/// Backtracking steps of one search. The first is enough for words; each of the others is tried where
/// the one before it was not, and counts as work.
const STEPS: [usize; 4] = [1 << 8, 1 << 12, 1 << 16, 1 << 20];

/// A pattern compiled with each limit in [`STEPS`].
pub(super) struct Backtracking(Vec<Regex>);

impl Backtracking {
    /// The pattern, or what is wrong with it.
    pub(super) fn new(pattern: &str) -> Result<Self, String> {
        if looks_around_without_bound(pattern) {
            return Err("a look-around without bound is not supported".to_owned());
        }
        let compile = |&steps| RegexBuilder::new(pattern).backtrack_limit(steps).build();
        let compiled: Result<Vec<_>, _> = STEPS.iter().map(compile).collect();
        compiled.map(Self).map_err(|error| error.to_string())
    }

    /// Calls `found` with the start and end of each match in `text`.
    ///
    /// # Errors
    /// The searches take too many steps.
    pub(super) fn matches(
        &self,
        text: &str,
        work: &mut Work,
        found: &mut impl FnMut(usize, usize),
    ) -> Result<()> {
        let (mut at, mut last) = (0, None);
        while at <= text.len() {
            let Some((start, end)) = self.search(text, at, work)? else { break };
            // An empty match right after another is none.
            if start < end || last != Some(end) {
                found(start, end);
            }
            last = Some(end);
            at = if start < end { end } else { super::split::next_char(text, end) };
        }
        Ok(())
    }

    fn search(&self, text: &str, at: usize, work: &mut Work) -> Result<Option<(usize, usize)>> {
        for (level, regex) in self.0.iter().enumerate() {
            if level > 0 {
                work.take(STEPS[level])?;
            }
            match regex.find_from_pos(text, at) {
                Ok(found) => return Ok(found.map(|found| (found.start(), found.end()))),
                Err(RegexError::RuntimeError(RuntimeError::BacktrackLimitExceeded)) => {}
                Err(error) => return Err(gave_up(&error.to_string())),
            }
        }
        Err(gave_up("too many steps for a match"))
    }
}

fn gave_up(why: &str) -> Error {
    tokenizer_error(format!("a pattern gave up on the text: {why}"))
}

/// Whether a look-around has a quantifier without an upper bound in it: it could look through the rest
/// of the text at each place, which the engine does not count.
fn looks_around_without_bound(pattern: &str) -> bool {
    let bytes = pattern.as_bytes();
    // Parentheses that are open, and how many of them are look-arounds or inside one.
    let (mut open, mut looking) = (Vec::new(), 0);
    let (mut at, mut class) = (0, 0);
    while let Some(&byte) = bytes.get(at) {
        let rest = &pattern.as_bytes()[at..];
        match byte {
            b'\\' => at += 1,
            b'[' => class += 1,
            b']' if class > 0 => class -= 1,
            _ if class > 0 => {}
            b'(' => {
                let looks =
                    ["(?=", "(?!", "(?<=", "(?<!"].iter().any(|l| rest.starts_with(l.as_bytes()));
                open.push(looks);
                looking += usize::from(looks);
            }
            b')' => looking -= usize::from(open.pop().unwrap_or(false)),
            b'*' | b'+' if looking > 0 => return true,
            b'{' if looking > 0 => {
                let inside = rest.split(|&b| b == b'}').next().unwrap_or_default();
                if inside.ends_with(b",") {
                    return true;
                }
            }
            _ => {}
        }
        at += 1;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(pattern: &str, text: &str) -> Result<usize> {
        let mut count = 0;
        let backtracking = Backtracking::new(pattern).unwrap();
        backtracking.matches(text, &mut Work::new(text.len()), &mut |_, _| count += 1)?;
        Ok(count)
    }

    #[test]
    fn a_pattern_that_takes_too_many_steps_is_an_error() {
        let spaces = " ".repeat(100_000);
        assert!(count(r"(?:(?:\s|\s\s)+(?!\s))x|y", &spaces).is_err());
        // Every match takes some thousand steps.
        let hard = format!("{}x", "a".repeat(12)).repeat(5_000);
        assert!(count(r"(?:a|aa|aaa)+(?!a)y|a+x(?!z)", &hard).is_err());
    }

    #[test]
    fn long_gaps_and_runs_are_no_hard_work() {
        let spaces = " ".repeat(400_000);
        assert_eq!(count(r"x(?!y)", &spaces).unwrap(), 0);
        assert_eq!(count(r"\s+(?!\S)|\S", &format!("{spaces}x")).unwrap(), 2);
        assert_eq!(count(r"\w++(?! )| ", &"word ".repeat(50_000)).unwrap(), 50_000);
    }

    #[test]
    fn look_arounds_without_bound_are_seen() {
        for pattern in ["a(?=b+)", "(?!(?:b|c*))", "(?<=a{2,})b", r"(?=[\]]*)"] {
            assert!(looks_around_without_bound(pattern), "{pattern}");
        }
        for pattern in ["a+(?!b)", r"(?=\+)", "(?=[+*])a*", "(?<!a{2,3})", "(?=a)(b+)", ")+"] {
            assert!(!looks_around_without_bound(pattern), "{pattern}");
        }
    }
}
