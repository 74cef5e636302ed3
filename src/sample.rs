//! Choosing the next token: hooks, penalties, filters, a seeded generator.

mod filter;
mod params;
mod penalty;
mod processor;
mod random;

use std::fmt;
use std::hash::{BuildHasher, Hasher};

use goldcrest_kernels::{Isa, Kernels};

use crate::error::{Result, input_error};
use filter::Candidates;
pub use params::SamplingParams;
pub(crate) use params::setters;
use penalty::Penalty;
pub use processor::LogitsProcessor;
pub(crate) use random::Random;

/// A token that was chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Choice {
    /// Its id.
    pub id: u32,
    /// The natural logarithm of its probability under the raw logits.
    pub logprob: f32,
}

/// Chooses tokens from logits, as a [`Generator`](crate::Generator) does: for those who run passes
/// themselves.
///
/// ```no_run
/// use goldcrest::{Model, Sampler, SamplingParams};
///
/// let model = Model::open("model.gguf")?;
/// let mut session = model.session()?;
/// let mut sampler = Sampler::new(SamplingParams::default(), model.config().vocab_size())?;
/// let mut next = model.tokenizer()?.encode("Once upon a time")?;
/// while session.tokens().len() < 100 {
///     session.push(&next)?;
///     next.iter().for_each(|&id| sampler.accept(id));
///     let logits = session.logits().expect("tokens were pushed");
///     next = vec![sampler.choose(logits)?.id];
/// }
/// # Ok::<(), goldcrest::Error>(())
/// ```
pub struct Sampler {
    params: SamplingParams,
    kernels: &'static Kernels,
    vocab: usize,
    seed: u64,
    random: Random,
    processors: Vec<Box<dyn LogitsProcessor>>,
    /// All that was accepted.
    tokens: Vec<u32>,
    penalty: Penalty,
    /// `[vocab]`: the logits, processed and penalised; then probabilities.
    work: Vec<f32>,
    candidates: Candidates,
}

impl Sampler {
    /// A sampler for logits of `vocab` tokens, at the start of a text.
    ///
    /// # Errors
    /// Those of [`SamplingParams::validate`].
    pub fn new(params: SamplingParams, vocab: usize) -> Result<Self> {
        // On its own it gives one log-probability on every machine.
        let kernels = Kernels::deterministic(Isa::best()).unwrap_or(Kernels::best());
        Self::with_kernels(params, vocab, kernels)
    }

    pub(crate) fn with_kernels(
        params: SamplingParams,
        vocab: usize,
        kernels: &'static Kernels,
    ) -> Result<Self> {
        params.validate()?;
        let seed = params.seed.unwrap_or_else(random_seed);
        Ok(Self {
            kernels,
            vocab,
            seed,
            random: Random::new(seed),
            processors: Vec::new(),
            tokens: Vec::new(),
            penalty: Penalty::new(&params),
            work: Vec::with_capacity(vocab),
            candidates: Candidates::new(if params.temperature == 0.0 { 0 } else { vocab }),
            params,
        })
    }

    /// Adds a hook, which sees the logits before penalties and filters, and after the hooks that were
    /// added before it.
    #[must_use]
    pub fn with_processor(mut self, processor: impl LogitsProcessor + 'static) -> Self {
        self.add_processor(Box::new(processor));
        self
    }

    pub(crate) fn add_processor(&mut self, processor: Box<dyn LogitsProcessor>) {
        self.processors.push(processor);
    }

    /// The seed in use, to repeat the choices.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// All tokens that were accepted.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Takes note that the text goes on with a token, of the prompt or a chosen one.
    pub fn accept(&mut self, id: u32) {
        self.tokens.push(id);
        self.penalty.accept(&self.tokens);
    }

    /// Chooses the token after those accepted, of which `logits` (`[vocab]`) are the model's. It is
    /// not [accepted](Self::accept) yet.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input) when there are not `vocab` logits, when a NaN
    /// is among them (the weights are broken), or when hooks leave no token.
    pub fn choose(&mut self, logits: &[f32]) -> Result<Choice> {
        if logits.len() != self.vocab {
            let (have, vocab) = (logits.len(), self.vocab);
            return Err(input_error(format!("{have} logits for a vocabulary of {vocab}")));
        }
        self.work.clear();
        self.work.extend_from_slice(logits);
        for processor in &mut self.processors {
            processor.process(&self.tokens, &mut self.work);
        }
        self.penalty.apply(&mut self.work);
        let best = argmax(&self.work)
            .ok_or_else(|| input_error("the model's logits are not numbers (broken weights?)"))?;
        if self.work[best as usize] == f32::NEG_INFINITY {
            return Err(input_error("every token is excluded"));
        }
        let id = if self.params.temperature == 0.0 { best } else { self.draw(best) };
        Ok(Choice { id, logprob: self.logprob(logits, id) })
    }

    fn draw(&mut self, best: u32) -> u32 {
        let max = self.work[best as usize];
        let mass = (self.params.top_k == 0).then(|| total_mass(&self.work, max));
        self.candidates.select(&self.work, max, mass, &self.params);
        self.candidates.draw(max, self.params.temperature, self.random.unit())
    }

    fn logprob(&mut self, logits: &[f32], id: u32) -> f32 {
        self.work.clear();
        self.work.extend_from_slice(logits);
        let Some(best) = argmax(logits) else { return f32::NAN };
        self.kernels.softmax(&mut self.work);
        // The likeliest has probability 1 / sum(exp(x - max)), which no underflow reaches.
        let log_sum = -filter::ln(f64::from(self.work[best as usize]));
        (f64::from(logits[id as usize]) - f64::from(logits[best as usize]) - log_sum) as f32
    }
}

impl fmt::Debug for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sampler")
            .field("params", &self.params)
            .field("seed", &self.seed)
            .field("tokens", &self.tokens.len())
            .finish_non_exhaustive()
    }
}

/// The index of the largest number, the first of equals; `None` when a NaN is among them.
fn argmax(values: &[f32]) -> Option<u32> {
    let mut best = 0;
    let mut nan = false;
    for (i, &value) in values.iter().enumerate() {
        nan |= value.is_nan();
        if value > values[best] {
            best = i;
        }
    }
    (!nan && !values.is_empty()).then_some(best as u32)
}

/// `sum(exp(x - max))` over all tokens.
fn total_mass(logits: &[f32], max: f32) -> f64 {
    logits.iter().map(|&x| filter::exp(f64::from(x) - f64::from(max))).sum()
}

fn random_seed() -> u64 {
    // The standard library's hasher keys come from the system's random numbers.
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests;
