//! Stop strings in a text that arrives in pieces.

/// Finds stop strings, and holds text back while it may be the start of one.
///
/// Control tokens have a name, but no place in the text. A stop string may have the whole name in
/// it, or go on from the text before such a token to the text after it as if it were not there; a
/// part of a name is no match, so that `>` does not stop at `<|im_start|>`.
///
/// Every beginning of a match is carried along byte by byte. How the text is cut into pieces thus
/// changes nothing, and a byte costs no search of what is held.
pub(super) struct StopFilter {
    stops: Vec<String>,
    held: String,
    begun: Vec<Begun>,
}

/// A stop string of which a part has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Begun {
    stop: usize,
    /// Bytes of it that have come.
    matched: usize,
    /// Where in the held text it begins.
    start: usize,
}

impl StopFilter {
    pub(super) fn new(stops: Vec<String>) -> Self {
        Self { stops, held: String::new(), begun: Vec::new() }
    }

    /// Takes more text; returns what is sure to come before any stop string, and whether one came.
    pub(super) fn push(&mut self, text: &str) -> (String, bool) {
        for (at, byte) in (self.held.len()..).zip(text.bytes()) {
            self.advance(byte, at);
            if let Some(start) = self.complete() {
                self.held.push_str(text);
                return (self.stop_at(start), true);
            }
        }
        self.held.push_str(text);
        let sure = self.begun.iter().map(|b| b.start).min().unwrap_or(self.held.len());
        self.begun.iter_mut().for_each(|b| b.start -= sure);
        let rest = self.held.split_off(sure);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// Takes a control token; returns the text before a stop string that it completes.
    pub(super) fn push_control(&mut self, name: &str) -> Option<String> {
        let start = self.held.len();
        let fresh = (0..self.stops.len()).map(|stop| Begun { stop, matched: 0, start });
        let named: Vec<Begun> = self.begun.iter().copied().chain(fresh).collect();
        let named = named.into_iter().filter(|b| self.stops[b.stop][b.matched..].starts_with(name));
        // What had begun may go on as if the token were not there.
        self.begun.extend(named.map(|b| Begun { matched: b.matched + name.len(), ..b }));
        // Of equal ones the first counts, so that their number stays that of the stop strings' bytes.
        self.begun.sort_unstable();
        self.begun.dedup_by_key(|b| (b.stop, b.matched));
        self.complete().map(|start| self.stop_at(start))
    }

    /// What is still held.
    pub(super) fn finish(&mut self) -> String {
        self.begun.clear();
        std::mem::take(&mut self.held)
    }

    fn advance(&mut self, byte: u8, at: usize) {
        let Self { stops, begun, .. } = self;
        begun.retain_mut(|b| {
            let goes_on = stops[b.stop].as_bytes()[b.matched] == byte;
            b.matched += 1;
            goes_on
        });
        let starts = (0..).zip(stops).filter(|(_, stop)| stop.as_bytes()[0] == byte);
        begun.extend(starts.map(|(stop, _)| Begun { stop, matched: 1, start: at }));
    }

    /// The start of the stop string that is there; of several the first.
    fn complete(&self) -> Option<usize> {
        let whole = self.begun.iter().filter(|b| b.matched == self.stops[b.stop].len());
        whole.map(|b| b.start).min()
    }

    fn stop_at(&mut self, start: usize) -> String {
        self.held.truncate(start);
        self.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(stops: &[&str]) -> StopFilter {
        StopFilter::new(stops.iter().map(|s| s.to_string()).collect())
    }

    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let mut filter = filter(stops);
        let mut out = Vec::new();
        for piece in pieces {
            let (text, stopped) = filter.push(piece);
            out.push(text);
            if stopped {
                return (out, true);
            }
        }
        out.push(filter.finish());
        (out, false)
    }

    #[test]
    fn text_waits_while_it_may_be_a_stop_string() {
        let (out, stopped) = run(&["END"], &["a", " E", "N", "x", "EN"]);
        assert_eq!(out, ["a", " ", "", "ENx", "", "EN"]);
        assert!(!stopped);
    }

    #[test]
    fn a_stop_string_across_pieces_is_left_out() {
        assert_eq!(run(&["END"], &["abE", "ND", "z"]), (vec!["ab".into(), String::new()], true));
        assert_eq!(run(&["END", "b"], &["abENDc"]), (vec!["a".into()], true));
        assert_eq!(run(&["aab"], &["aaab"]), (vec!["a".into()], true));
        assert_eq!(run(&["b", "aab"], &["xaab"]), (vec!["x".into()], true));
    }

    #[test]
    fn pieces_do_not_change_where_a_text_stops() {
        let stops = ["bc", "abcd", "cab"];
        let text = "xabxacabcd";
        let (whole, stopped) = run(&stops, &[text]);
        assert!(stopped);
        for cut in 1..text.len() {
            let (parts, stopped) = run(&stops, &[&text[..cut], &text[cut..]]);
            assert_eq!((parts.concat(), stopped), (whole.concat(), true), "{cut}");
        }
    }

    #[test]
    fn characters_stay_whole() {
        let (out, _) = run(&["é!"], &["caf", "é", "?"]);
        assert_eq!(out.concat(), "café?");
        assert_eq!(out[1], "");
    }

    #[test]
    fn a_control_token_is_matched_by_its_whole_name() {
        assert_eq!(filter(&["</s>"]).push_control("</s>"), Some(String::new()));
        assert_eq!(filter(&["/s", ">", "</s", "</s>."]).push_control("</s>"), None);
        // Text before it, text after it, another one after it.
        let mut before = filter(&[".\n</s>"]);
        assert_eq!(before.push("So.\n"), ("So".into(), false));
        assert_eq!(before.push_control("</s>"), Some(String::new()));
        let mut after = filter(&["<s>user\n"]);
        assert_eq!(after.push("Hi"), ("Hi".into(), false));
        assert_eq!(after.push_control("<s>"), None);
        assert_eq!(after.push("us"), (String::new(), false));
        assert_eq!(after.push("er\nme"), (String::new(), true));
        let mut two = filter(&["a</s><s>"]);
        assert_eq!(two.push("ba"), ("b".into(), false));
        assert_eq!(
            (two.push_control("</s>"), two.push_control("<s>")),
            (None, Some(String::new()))
        );
    }

    #[test]
    fn a_stop_string_may_ignore_control_tokens() {
        let mut filter = filter(&["END", "E<s>x"]);
        assert_eq!(filter.push("aE"), ("a".into(), false));
        assert_eq!(filter.push_control("<s>"), None);
        assert_eq!(filter.push("ND"), (String::new(), true));
        // A name that the stop string does not go on with gives nothing away.
        assert_eq!(filter.push("xE"), ("x".into(), false));
        assert_eq!(filter.push_control("<s>"), None);
        assert_eq!(filter.push("y"), ("Ey".into(), false));
    }

    #[test]
    fn many_control_tokens_do_not_multiply_the_work() {
        let stop = "<a>".repeat(40) + "!";
        let mut filter = filter(&[&stop]);
        for _ in 0..200 {
            assert_eq!(filter.push_control("<a>"), None);
            assert!(filter.begun.len() <= 40);
        }
        assert!(filter.push("!").1);
    }
}
