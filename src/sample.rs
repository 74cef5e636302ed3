//! Choosing the next token: penalties, filters, a seeded generator.

mod filter;
mod random;

use std::hash::{BuildHasher, Hasher};

use goldcrest_kernels::Kernels;

use crate::error::{Result, input_error};
use filter::Candidates;
pub(crate) use random::Random;

/// How the next token is chosen, and when generation stops. The defaults are llama.cpp's.
///
/// Filters apply in llama.cpp's order: repetition penalty, `top_k`, `top_p`, `min_p`, temperature.
///
/// ```
/// use goldcrest::SamplingParams;
/// let params = SamplingParams { temperature: 0.7, seed: Some(1), ..Default::default() };
/// assert_eq!(params.top_k, 40);
/// assert!(SamplingParams { top_p: 0.0, ..params }.validate().is_err());
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; 0 takes the likeliest token (the lowest id of equals). Default 0.8.
    pub temperature: f32,
    /// Keeps the k likeliest tokens; 0 keeps all. Default 40.
    pub top_k: usize,
    /// Keeps the likeliest tokens that together reach this probability; 1 keeps all. Default 0.95.
    pub top_p: f32,
    /// Drops tokens less likely than this share of the likeliest; 0 keeps all. Default 0.05.
    pub min_p: f32,
    /// Divides positive logits of recent tokens and multiplies negative ones; 1 is off. Default 1.
    pub repeat_penalty: f32,
    /// How many recent tokens, prompt included, the penalty sees. Default 64.
    pub repeat_last_n: usize,
    /// Seed of the generator; `None` takes a random one. Default `None`.
    pub seed: Option<u64>,
    /// Tokens to generate at most; `None` until the context is full. Default `None`.
    pub max_tokens: Option<usize>,
    /// Texts that end the generation, themselves left out. Default none.
    pub stop: Vec<String>,
    /// Goes on after the model's end-of-generation tokens. Default false.
    pub ignore_eos: bool,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            seed: None,
            max_tokens: None,
            stop: Vec::new(),
            ignore_eos: false,
        }
    }
}

impl SamplingParams {
    /// Greedy decoding: the likeliest token each time.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Checks every value.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input) naming the first value out of range.
    pub fn validate(&self) -> Result<()> {
        let check = |ok: bool, name: &str, value: f32, range: &str| {
            if ok {
                return Ok(());
            }
            Err(input_error(format!("{name} is {value}; it must be {range}")))
        };
        let Self { temperature, top_p, min_p, repeat_penalty, .. } = *self;
        let finite = |x: f32, low: f32| x.is_finite() && x >= low;
        check(finite(temperature, 0.0), "temperature", temperature, "0 or more")?;
        check(top_p > 0.0 && top_p <= 1.0, "top_p", top_p, "above 0 and at most 1")?;
        check((0.0..=1.0).contains(&min_p), "min_p", min_p, "from 0 to 1")?;
        check(
            repeat_penalty.is_finite() && repeat_penalty > 0.0,
            "repeat_penalty",
            repeat_penalty,
            "above 0",
        )?;
        if self.stop.iter().any(String::is_empty) {
            return Err(input_error("a stop string is empty"));
        }
        Ok(())
    }
}

/// A token id and the natural logarithm of its probability under the raw logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Choice {
    pub(crate) id: u32,
    pub(crate) logprob: f32,
}

/// The state of one generation's choices. Allocates when it is made and not after.
pub(crate) struct Sampler {
    params: SamplingParams,
    seed: u64,
    random: Random,
    /// The last `repeat_last_n` tokens, a ring.
    recent: Vec<u32>,
    oldest: usize,
    /// A copy of the logits, penalised; then probabilities.
    work: Vec<f32>,
    candidates: Candidates,
}

impl Sampler {
    /// `history` is what the penalty sees at first.
    pub(crate) fn new(params: SamplingParams, vocab: usize, history: &[u32]) -> Result<Self> {
        params.validate()?;
        let seed = params.seed.unwrap_or_else(random_seed);
        let penalised = if params.repeat_penalty == 1.0 { 0 } else { params.repeat_last_n };
        let mut recent = Vec::with_capacity(penalised.min(1 << 20));
        recent.extend(&history[history.len() - history.len().min(penalised)..]);
        Ok(Self {
            seed,
            random: Random::new(seed),
            recent,
            oldest: 0,
            work: Vec::with_capacity(vocab),
            candidates: Candidates::new(if params.temperature == 0.0 { 0 } else { vocab }),
            params,
        })
    }

    /// The seed in use, to repeat the generation.
    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// Chooses the next token and remembers it.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input) when the logits hold a NaN: the weights are broken.
    pub(crate) fn choose(&mut self, logits: &[f32], kernels: &Kernels) -> Result<Choice> {
        self.work.clear();
        self.work.extend_from_slice(logits);
        self.penalise();
        let best = argmax(&self.work)
            .ok_or_else(|| input_error("the model's logits are not numbers (broken weights?)"))?;
        let id = if self.params.temperature == 0.0 { best } else { self.draw(best) };
        self.remember(id);
        Ok(Choice { id, logprob: self.logprob(logits, id, kernels) })
    }

    fn draw(&mut self, best: u32) -> u32 {
        let max = self.work[best as usize];
        let mass = (self.params.top_k == 0).then(|| total_mass(&self.work, max));
        self.candidates.select(&self.work, max, mass, &self.params);
        self.candidates.draw(max, self.params.temperature, self.random.unit())
    }

    fn penalise(&mut self) {
        let penalty = self.params.repeat_penalty;
        for (i, &id) in self.recent.iter().enumerate() {
            // A token counts once, however often it came.
            if self.recent[..i].contains(&id) {
                continue;
            }
            if let Some(logit) = self.work.get_mut(id as usize) {
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
        }
    }

    fn remember(&mut self, id: u32) {
        let limit = if self.params.repeat_penalty == 1.0 { 0 } else { self.params.repeat_last_n };
        if self.recent.len() < limit {
            self.recent.push(id);
        } else if limit > 0 {
            self.recent[self.oldest] = id;
            self.oldest = (self.oldest + 1) % limit;
        }
    }

    fn logprob(&mut self, logits: &[f32], id: u32, kernels: &Kernels) -> f32 {
        self.work.clear();
        self.work.extend_from_slice(logits);
        let Some(best) = argmax(logits) else { return f32::NAN };
        kernels.softmax(&mut self.work);
        // The likeliest has probability 1 / sum(exp(x - max)), which no underflow reaches.
        let log_sum = -filter::ln(f64::from(self.work[best as usize]));
        (f64::from(logits[id as usize]) - f64::from(logits[best as usize]) - log_sum) as f32
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
