//! What decides which token is chosen.

use crate::error::{Result, input_error};

/// How the next token is chosen. The defaults are llama.cpp's.
///
/// Filters apply in llama.cpp's order: repetition penalty, `top_k`, `top_p`, `min_p`, temperature.
/// What ends a generation is in [`GenerationParams`](crate::GenerationParams).
///
/// ```
/// use goldcrest::SamplingParams;
/// let params = SamplingParams::default().temperature(0.7).seed(1);
/// assert_eq!(params.top_k, 40);
/// assert!(params.top_p(0.0).validate().is_err());
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
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
    /// How many recent tokens, prompt included, the penalty sees; `None` all of the context, 0 none.
    /// Default 64.
    pub repeat_last_n: Option<usize>,
    /// Seed of the generator; `None` takes a random one. Default `None`.
    pub seed: Option<u64>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            repeat_last_n: Some(64),
            seed: None,
        }
    }
}

/// A setter for each field, to chain: a struct that may grow cannot be written out elsewhere.
macro_rules! setters {
    ($($field:ident: $value:ty,)*) => { $(
        #[doc = concat!("Sets [`", stringify!($field), "`](Self#structfield.", stringify!($field), ").")]
        #[must_use]
        pub fn $field(mut self, $field: $value) -> Self {
            self.$field = $field.into();
            self
        }
    )* };
}
pub(crate) use setters;

impl SamplingParams {
    /// Greedy decoding: the likeliest token each time.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    setters! {
        temperature: f32,
        top_k: usize,
        top_p: f32,
        min_p: f32,
        repeat_penalty: f32,
        repeat_last_n: impl Into<Option<usize>>,
        seed: impl Into<Option<u64>>,
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
        let positive = repeat_penalty.is_finite() && repeat_penalty > 0.0;
        check(positive, "repeat_penalty", repeat_penalty, "above 0")
    }
}
