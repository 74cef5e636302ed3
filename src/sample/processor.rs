//! A caller's hook on the logits.

/// Changes the logits before a token is chosen from them: forbids tokens, biases them, keeps a text
/// to a grammar.
///
/// Closures are processors:
///
/// ```
/// use goldcrest::{Sampler, SamplingParams};
///
/// let no_repeat = |tokens: &[u32], logits: &mut [f32]| {
///     if let Some(&last) = tokens.last() {
///         logits[last as usize] = f32::NEG_INFINITY;
///     }
/// };
/// let mut sampler = Sampler::new(SamplingParams::greedy(), 3)?.with_processor(no_repeat);
/// sampler.accept(2);
/// assert_eq!(sampler.choose(&[0.5, 1.0, 2.0])?.id, 1);
/// # Ok::<(), goldcrest::Error>(())
/// ```
pub trait LogitsProcessor: Send {
    /// `tokens` is the context, prompt included; `logits` (`[vocab]`) are those after its last
    /// token. A logit of negative infinity is never chosen.
    fn process(&mut self, tokens: &[u32], logits: &mut [f32]);
}

impl<F: FnMut(&[u32], &mut [f32]) + Send> LogitsProcessor for F {
    fn process(&mut self, tokens: &[u32], logits: &mut [f32]) {
        self(tokens, logits);
    }
}
