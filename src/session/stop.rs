//! Stop strings in a text that arrives in pieces.

/// Holds text back while it may be the start of a stop string.
pub(super) struct StopFilter {
    stops: Vec<String>,
    held: String,
}

impl StopFilter {
    pub(super) fn new(stops: Vec<String>) -> Self {
        Self { stops, held: String::new() }
    }

    /// Takes more text; returns what is sure to come before any stop string, and whether one came.
    pub(super) fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        let found = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min();
        if let Some(at) = found {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let sure = self.held.len() - self.started();
        let rest = self.held.split_off(sure);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What is still held.
    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Bytes at the end of the held text that begin a stop string.
    fn started(&self) -> usize {
        let start_of = |stop: &String| {
            let ends = stop.char_indices().map(|(at, _)| at).rev();
            ends.into_iter().find(|&len| self.held.ends_with(&stop[..len])).unwrap_or(0)
        };
        self.stops.iter().map(start_of).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let mut filter = StopFilter::new(stops.iter().map(|s| s.to_string()).collect());
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
    }

    #[test]
    fn characters_stay_whole() {
        let (out, _) = run(&["é!"], &["caf", "é", "?"]);
        assert_eq!(out.concat(), "café?");
        assert_eq!(out[1], "");
    }
}
