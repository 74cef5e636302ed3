//! Patterns in time linear for a match: no backtracking, and what is read is counted.
//!
//! One match takes time in proportion to what is read for it, but all matches in a text may take its
//! square: each may read to the end before it falls back to a short one.

use std::panic::{RefUnwindSafe, UnwindSafe};

use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::nfa::thompson::{NFA, WhichCaptures};
use regex_automata::util::pool::Pool;
use regex_automata::{Anchored, Input, MatchKind};

use super::limits::Work;
use crate::error::{Error, Result, tokenizer_error};

/// Bytes of a compiled pattern.
const MAX_COMPILED: usize = 10 << 20;

type NewCaches = Box<dyn Fn() -> [Cache; 2] + Send + Sync + UnwindSafe + RefUnwindSafe>;

/// A few patterns, the first of which is preferred; automata whose states are made as texts need them.
pub(super) struct Linear {
    /// One finds the end of the leftmost match, the other the start from the end.
    dfas: Box<[DFA; 2]>,
    caches: Pool<[Cache; 2], NewCaches>,
}

/// A match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) pattern: usize,
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Linear {
    /// The patterns compiled, or `None` where they need another engine.
    ///
    /// # Errors
    /// A pattern is too large.
    pub(super) fn new(patterns: &[&str]) -> Result<Option<Self>, String> {
        let build = |reverse: bool| {
            let config = NFA::config()
                .nfa_size_limit(Some(MAX_COMPILED))
                .which_captures(WhichCaptures::None)
                .reverse(reverse);
            match NFA::compiler().configure(config).build_many(patterns) {
                // This engine knows the syntax, which another may read otherwise.
                Err(error) if error.size_limit().is_some() => Err(error.to_string()),
                Err(_) => Ok(None),
                Ok(nfa) => {
                    let kind = if reverse { MatchKind::All } else { MatchKind::LeftmostFirst };
                    let config = DFA::config().match_kind(kind).skip_cache_capacity_check(true);
                    Ok(DFA::builder().configure(config).build_from_nfa(nfa).ok())
                }
            }
        };
        let (Some(forward), Some(reverse)) = (build(false)?, build(true)?) else { return Ok(None) };
        let dfas = Box::new([forward, reverse]);
        let copies = dfas.clone();
        let new: NewCaches = Box::new(move || copies.each_ref().map(DFA::create_cache));
        Ok(Some(Self { dfas, caches: Pool::new(new) }))
    }

    /// Calls `found` with matches in `text`, the next after the place that it returns.
    pub(super) fn matches(
        &self,
        text: &str,
        work: &mut Work,
        mut found: impl FnMut(Found) -> usize,
    ) -> Result<()> {
        let mut caches = self.caches.get();
        let mut at = 0;
        while at <= text.len() {
            let Some(next) = self.search(&mut caches, text, at, work)? else { break };
            // Empty matches know nothing of characters.
            at = match text.is_char_boundary(next.end) {
                true => found(next),
                false => text.ceil_char_boundary(next.end),
            };
        }
        Ok(())
    }

    fn search(
        &self,
        [forward, reverse]: &mut [Cache; 2],
        text: &str,
        at: usize,
        work: &mut Work,
    ) -> Result<Option<Found>> {
        let input = Input::new(text).range(at..);
        let dfa = &self.dfas[0];
        let mut state = dfa.start_state_forward(forward, &input).map_err(gave_up)?;
        let (mut last, mut read) = (None, at);
        // A state matches what was read before its last byte.
        for &byte in &text.as_bytes()[at..] {
            state = dfa.next_state(forward, state, byte).map_err(gave_up)?;
            if state.is_match() {
                last = Some((dfa.match_pattern(forward, state, 0).as_usize(), read));
            } else if state.is_dead() {
                break;
            }
            read += 1;
        }
        work.take(read - at)?;
        if read == text.len() {
            state = dfa.next_eoi_state(forward, state).map_err(gave_up)?;
            if state.is_match() {
                last = Some((dfa.match_pattern(forward, state, 0).as_usize(), read));
            }
        }
        let Some((pattern, end)) = last else { return Ok(None) };
        let start = self.start(reverse, text, at..end)?;
        work.take(end - start)?;
        Ok(Some(Found { pattern, start, end }))
    }

    /// The start of the match that ends with `range`.
    fn start(&self, cache: &mut Cache, text: &str, range: std::ops::Range<usize>) -> Result<usize> {
        let input = Input::new(text).range(range).anchored(Anchored::Yes);
        let start = self.dfas[1].try_search_rev(cache, &input).map_err(gave_up)?;
        start.map(|start| start.offset()).ok_or_else(|| gave_up("a match has no start"))
    }
}

fn gave_up(why: impl std::fmt::Display) -> Error {
    tokenizer_error(format!("a pattern gave up on the text: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(patterns: &[&str], text: &str) -> Result<Vec<Found>> {
        let mut all = Vec::new();
        let linear = Linear::new(patterns).unwrap().unwrap();
        linear.matches(text, &mut Work::new(text.len()), |found| {
            all.push(found);
            found.end.max(found.start + 1)
        })?;
        Ok(all)
    }

    #[test]
    fn the_leftmost_match_of_the_first_pattern() {
        let found = |pattern, start, end| Found { pattern, start, end };
        let expected = [found(0, 1, 3), found(1, 4, 6), found(0, 6, 7)];
        assert_eq!(all(&["ab|a", r"\d+"], "xab-12a").unwrap(), expected);
        assert_eq!(all(&["a|ab"], "\u{e9}ab").unwrap(), [found(0, 2, 3)]);
        assert_eq!(all(&["a$|^"], "aa").unwrap(), [found(0, 0, 0), found(0, 1, 2)]);
    }

    #[test]
    fn what_is_read_again_and_again_is_counted() {
        assert_eq!(all(&["a*c|a"], &"a".repeat(1000)).unwrap().len(), 1000);
        assert!(all(&["a*c|a"], &"a".repeat(20_000)).is_err());
        assert_eq!(all(&["a*c|a"], &("a".repeat(20_000) + "c")).unwrap().len(), 1);
    }

    #[test]
    fn too_large_a_pattern_is_an_error_and_an_unknown_one_is_not() {
        assert!(Linear::new(&[r"(?:\pL{1000}){1000}"]).is_err());
        assert!(Linear::new(&["a(?=b)"]).unwrap().is_none());
        assert!(Linear::new(&[r"\bword"]).unwrap().is_none());
    }
}
