//! Factors that a file gives: on the embedding, on products of a layer, on what blocks add, on the logits.

use super::keys::{self, Key, Keys};
use super::rows::{Multipliers, Row};
use crate::config::Config;
use crate::error::Result;
use crate::load::Object;

/// The factors, 1 where a model has none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Factors {
    pub(super) embedding: f32,
    pub(super) residual: f32,
    pub(super) logits: f32,
    /// On the scores of attention.
    pub(super) scores: f32,
    /// On what attention adds, and on what a recurrence adds.
    pub(super) attention: f32,
    pub(super) recurrence: f32,
    /// On the parts that a state space begins with.
    pub(super) state_space: Option<[f32; 5]>,
    /// On the products of a feed-forward layer.
    pub(super) gate: f32,
    pub(super) down: f32,
}

const ONES: Factors = Factors {
    embedding: 1.0,
    residual: 1.0,
    logits: 1.0,
    scores: 1.0,
    attention: 1.0,
    recurrence: 1.0,
    state_space: None,
    gate: 1.0,
    down: 1.0,
};

impl Factors {
    pub(super) fn read(keys: Keys, row: &Row, config: &Config) -> Result<Self> {
        let embedding = match row.scaled_embedding {
            true => (config.hidden as f32).sqrt(),
            false => 1.0,
        };
        Ok(match (row.multipliers, keys) {
            (Multipliers::None, _) => Self { embedding, ..ONES },
            (Multipliers::Granite, _) => Self {
                embedding: factor(keys, keys::EMBEDDING_SCALE)?.unwrap_or(1.0),
                residual: factor(keys, keys::RESIDUAL_SCALE)?.unwrap_or(1.0),
                logits: 1.0 / factor(keys, keys::LOGIT_DIVISOR)?.unwrap_or(1.0),
                ..ONES
            },
            (Multipliers::MiniCpm, _) => {
                let number = |name, default| match keys {
                    Keys::Json(json) => number(json, name, default),
                    Keys::Gguf { .. } => Ok(default),
                };
                Self {
                    embedding: number("scale_emb", 12.0)?,
                    residual: number("scale_depth", 1.4)? / (config.n_layers as f32).sqrt(),
                    logits: number("dim_model_base", 256.0)? / config.hidden as f32,
                    ..ONES
                }
            }
            (Multipliers::Logits(default), _) => Self {
                embedding,
                logits: factor(keys, keys::LOGIT_SCALE)?.unwrap_or(default),
                ..ONES
            },
            (Multipliers::FalconH1, Keys::Json(json)) => Self::falcon(json)?,
            (Multipliers::FalconH1, Keys::Gguf { .. }) => ONES,
        })
    }

    /// Those on queries and keys are one on scores, and those on values one on what attention adds.
    fn falcon(json: Object) -> Result<Self> {
        let one = |key| number(json, key, 1.0);
        let attended = one("attention_in_multiplier")?;
        let recurrent = one("ssm_in_multiplier")?;
        let [gate, down] = numbers(json, "mlp_multipliers")?;
        Ok(Self {
            embedding: one("embedding_multiplier")?,
            logits: one("lm_head_multiplier")?,
            scores: attended * attended * one("key_multiplier")?,
            attention: attended * one("attention_out_multiplier")?,
            recurrence: one("ssm_out_multiplier")?,
            state_space: Some(numbers(json, "ssm_multipliers")?.map(|part| part * recurrent)),
            gate,
            down,
            ..ONES
        })
    }
}

/// A factor; in GGUF, 0 stands for none.
pub(super) fn factor(keys: Keys, key: Key) -> Result<Option<f32>> {
    match keys.f32(key)? {
        Some(0.0) if matches!(keys, Keys::Gguf { .. }) => Ok(None),
        Some(factor) if !(factor.is_finite() && factor > 0.0) => {
            Err(keys.error(key, format_args!("is {factor}")))
        }
        factor => Ok(factor),
    }
}

fn number(json: Object, key: &str, default: f32) -> Result<f32> {
    match json.f32(key)? {
        Some(x) if !(x.is_finite() && x > 0.0) => Err(json.error(key, format_args!("is {x}"))),
        number => Ok(number.unwrap_or(default)),
    }
}

/// As many factors as there are, 1 without the key.
fn numbers<const N: usize>(json: Object, key: &str) -> Result<[f32; N]> {
    let Some(value) = json.get(key) else { return Ok([1.0; N]) };
    let list = value.as_array().and_then(|list| {
        let number = |x: &serde_json::Value| x.as_f64().map(|x| x as f32);
        list.iter().map(number).collect::<Option<Vec<f32>>>()
    });
    let list = list.filter(|list| list.iter().all(|x| x.is_finite() && *x > 0.0));
    let list = list.and_then(|list| <[f32; N]>::try_from(list).ok());
    list.ok_or_else(|| json.error(key, format_args!("is {value}, not {N} factors")))
}
