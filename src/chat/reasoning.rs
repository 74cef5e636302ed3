//! Reasoning apart from the answer: what a model thinks stands between tags at the head of its text.

/// The tags, as models of every house have them.
const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// Tells reasoning from the answer in a text that comes piece by piece.
#[derive(Debug)]
pub(super) struct Reasoning {
    state: State,
    /// What may be the beginning of a tag, or white space before one.
    held: String,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    /// Nothing but white space so far.
    Begun,
    Thinking,
    /// After the tag that closes it: white space there is no part of the answer.
    Thought,
    Answering,
}

/// A piece of text: reasoning or not.
#[derive(Debug, PartialEq)]
pub(super) enum Part {
    Reasoning(String),
    Text(String),
}

impl Reasoning {
    /// For what follows `prompt`, which may have opened the tag.
    pub(super) fn after(prompt: &str) -> Self {
        let state = if prompt.trim_end().ends_with(OPEN) { State::Thinking } else { State::Begun };
        Self { state, held: String::new() }
    }

    /// Takes in what comes next and calls `part` with what it is.
    pub(super) fn push(&mut self, text: &str, part: &mut impl FnMut(Part)) {
        self.held.push_str(text);
        loop {
            match self.state {
                State::Begun => {
                    let begun = self.held.trim_start();
                    if let Some(rest) = begun.strip_prefix(OPEN) {
                        self.held = rest.to_owned();
                        self.state = State::Thinking;
                    } else if OPEN.starts_with(begun) {
                        return;
                    } else {
                        self.state = State::Answering;
                    }
                }
                State::Thinking => match self.held.split_once(CLOSE) {
                    Some((thought, rest)) => {
                        give(thought, Part::Reasoning, part);
                        self.held = rest.to_owned();
                        self.state = State::Thought;
                    }
                    None => {
                        let safe = self.held.len() - beginning(&self.held, CLOSE);
                        give(&self.held[..safe], Part::Reasoning, part);
                        self.held.drain(..safe);
                        return;
                    }
                },
                State::Thought => {
                    let text = self.held.trim_start();
                    if text.is_empty() {
                        return;
                    }
                    self.held = text.to_owned();
                    self.state = State::Answering;
                }
                State::Answering => {
                    give(&self.held, Part::Text, part);
                    self.held.clear();
                    return;
                }
            }
        }
    }

    /// Gives what was held back for a tag that never came.
    pub(super) fn finish(&mut self, part: &mut impl FnMut(Part)) {
        let held = std::mem::take(&mut self.held);
        match self.state {
            State::Thinking => give(&held, Part::Reasoning, part),
            State::Thought => {}
            State::Begun | State::Answering => give(&held, Part::Text, part),
        }
    }
}

fn give(text: &str, kind: fn(String) -> Part, part: &mut impl FnMut(Part)) {
    if !text.is_empty() {
        part(kind(text.to_owned()));
    }
}

/// Length of the longest end of `text` that `tag` begins with.
fn beginning(text: &str, tag: &str) -> usize {
    (1..tag.len().min(text.len() + 1)).rev().find(|&n| text.ends_with(&tag[..n])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reasoning and answer of a text, given in pieces of `n` characters.
    fn split(prompt: &str, text: &str, n: usize) -> (String, String) {
        let mut reasoning = Reasoning::after(prompt);
        let mut all = (String::new(), String::new());
        let mut part = |part| match part {
            Part::Reasoning(text) => all.0 += &text,
            Part::Text(text) => all.1 += &text,
        };
        let chars: Vec<char> = text.chars().collect();
        for piece in chars.chunks(n) {
            reasoning.push(&piece.iter().collect::<String>(), &mut part);
        }
        reasoning.finish(&mut part);
        all
    }

    #[test]
    fn however_the_text_is_cut() {
        for n in 1..30 {
            for (prompt, text, thought, answer) in [
                ("", "Hello <think>.", "", "Hello <think>."),
                ("", "\n<think>\nhm </thin k></think>\n\nYes", "\nhm </thin k>", "Yes"),
                ("assistant\n<think>\n", "so</think> 4", "so", "4"),
                ("", "<think>never ends </th", "never ends </th", ""),
                ("", " <thi", "", " <thi"),
                ("", " plain", "", " plain"),
                ("", "<think></think>\n\n", "", ""),
            ] {
                let expected = (thought.to_owned(), answer.to_owned());
                assert_eq!(split(prompt, text, n), expected, "{text:?} by {n}");
            }
        }
    }
}
