//! How much was run, and how fast.

use std::fmt;
use std::time::Duration;

/// Tokens and seconds of a session. Displays as tokens per second.
///
/// ```
/// let mut stats = goldcrest::Stats::default();
/// (stats.prompt_tokens, stats.prompt_seconds) = (100, 0.5);
/// (stats.decode_tokens, stats.decode_seconds) = (30, 2.0);
/// assert_eq!(
///     stats.to_string(),
///     "prompt: 100 tokens, 200.0 tokens/s; decode: 30 tokens, 15.0 tokens/s"
/// );
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[non_exhaustive]
pub struct Stats {
    /// Tokens pushed.
    pub prompt_tokens: usize,
    /// Seconds that they took.
    pub prompt_seconds: f64,
    /// Generated tokens that were run; the first of a generation needs no pass of its own.
    pub decode_tokens: usize,
    /// Seconds that they took, the choice of the token included.
    pub decode_seconds: f64,
}

impl Stats {
    /// Prompt tokens per second; 0 before the first.
    pub fn prompt_rate(&self) -> f64 {
        rate(self.prompt_tokens, self.prompt_seconds)
    }

    /// Generated tokens per second; 0 before the first.
    pub fn decode_rate(&self) -> f64 {
        rate(self.decode_tokens, self.decode_seconds)
    }

    pub(super) fn prompt(&mut self, tokens: usize, time: Duration) {
        self.prompt_tokens += tokens;
        self.prompt_seconds += time.as_secs_f64();
    }

    pub(super) fn decode(&mut self, time: Duration) {
        self.decode_tokens += 1;
        self.decode_seconds += time.as_secs_f64();
    }
}

fn rate(tokens: usize, seconds: f64) -> f64 {
    if seconds > 0.0 { tokens as f64 / seconds } else { 0.0 }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "prompt: {} tokens, {:.1} tokens/s; decode: {} tokens, {:.1} tokens/s",
            self.prompt_tokens,
            self.prompt_rate(),
            self.decode_tokens,
            self.decode_rate()
        )
    }
}
