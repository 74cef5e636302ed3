//! The penalty on tokens that came lately.

use std::collections::HashMap;

use super::SamplingParams;

/// Which tokens are in the window of the penalty, kept up to date token by token: a step costs as
/// much as there are different tokens in the window, not as the window is long.
pub(super) struct Penalty {
    factor: f32,
    /// Length of the window; `None` for all tokens.
    window: Option<usize>,
    /// How often each token of the window is in it.
    counts: HashMap<u32, usize>,
}

impl Penalty {
    /// A penalty that has seen no token yet.
    pub(super) fn new(params: &SamplingParams) -> Self {
        let off = params.repeat_penalty == 1.0;
        let window = if off { Some(0) } else { params.repeat_last_n };
        Self { factor: params.repeat_penalty, window, counts: HashMap::new() }
    }

    /// Takes note of the last of `tokens`.
    pub(super) fn accept(&mut self, tokens: &[u32]) {
        let (Some(&id), false) = (tokens.last(), self.window == Some(0)) else { return };
        *self.counts.entry(id).or_default() += 1;
        let left =
            self.window.and_then(|window| tokens.len().checked_sub(window.saturating_add(1)));
        if let Some(id) = left.map(|at| tokens[at])
            && let Some(count) = self.counts.get_mut(&id)
        {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&id);
            }
        }
    }

    /// Makes the tokens of the window less likely, each once, however often it came.
    pub(super) fn apply(&self, logits: &mut [f32]) {
        for &id in self.counts.keys() {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit = if *logit > 0.0 { *logit / self.factor } else { *logit * self.factor };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn params(window: Option<usize>) -> SamplingParams {
        SamplingParams::default().repeat_penalty(2.0).repeat_last_n(window)
    }

    /// The ids that are penalised after each of `ids`.
    fn penalised(window: Option<usize>, ids: &[u32]) -> Vec<Vec<usize>> {
        let mut penalty = Penalty::new(&params(window));
        let after = |len: usize| {
            penalty.accept(&ids[..len]);
            let mut logits = [1.0, -1.0, 4.0, 0.0];
            penalty.apply(&mut logits);
            let changed = [0.5, -2.0, 2.0];
            (0..3).filter(|&id| logits[id] == changed[id]).collect()
        };
        (1..=ids.len()).map(after).collect()
    }

    #[test]
    fn the_window_slides_and_counts_a_token_once() {
        let ids = [0, 1, 1, 2, 2, 2];
        let last_two: [&[usize]; 6] = [&[0], &[0, 1], &[1], &[1, 2], &[2], &[2]];
        assert_eq!(penalised(Some(2), &ids), last_two);
        let all: [&[usize]; 6] = [&[0], &[0, 1], &[0, 1], &[0, 1, 2], &[0, 1, 2], &[0, 1, 2]];
        assert_eq!(penalised(None, &ids), all);
        assert_eq!(penalised(Some(0), &ids), [[0; 0]; 6]);
        assert_eq!(penalised(Some(usize::MAX), &ids), all);
    }

    /// Scanning a window of 32k for each of its tokens takes half a billion steps a choice.
    #[test]
    fn a_long_window_is_not_scanned() {
        let ids: Vec<u32> = (0..40_000).collect();
        let mut penalty = Penalty::new(&params(Some(32 << 10)));
        let mut logits = vec![1.0; ids.len()];
        let start = Instant::now();
        for len in 1..=ids.len() {
            penalty.accept(&ids[..len]);
            if len % 1000 == 0 {
                penalty.apply(&mut logits);
            }
        }
        assert_eq!(penalty.counts.len(), 32 << 10);
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }
}
