//! Factors that a file gives: on the embedding, on what blocks add, on the logits.

use super::keys::{self, Key, Keys};
use super::rows::{Multipliers, Row};
use crate::config::Config;
use crate::error::Result;

/// The factors, 1 where a model has none.
#[derive(Debug)]
pub(super) struct Factors {
    pub(super) embedding: f32,
    pub(super) residual: f32,
    pub(super) logits: f32,
}

impl Factors {
    pub(super) fn read(keys: Keys, row: &Row, config: &Config) -> Result<Self> {
        let embedding = match row.scaled_embedding {
            true => (config.hidden as f32).sqrt(),
            false => 1.0,
        };
        Ok(match row.multipliers {
            Multipliers::None => Self { embedding, residual: 1.0, logits: 1.0 },
            Multipliers::Granite => Self {
                embedding: factor(keys, keys::EMBEDDING_SCALE)?.unwrap_or(1.0),
                residual: factor(keys, keys::RESIDUAL_SCALE)?.unwrap_or(1.0),
                logits: 1.0 / factor(keys, keys::LOGIT_DIVISOR)?.unwrap_or(1.0),
            },
            Multipliers::MiniCpm => {
                let number = |name: &str, default: f32| match keys {
                    Keys::Json(json) => match json.f32(name)? {
                        Some(x) if !(x.is_finite() && x > 0.0) => {
                            Err(json.error(name, format_args!("is {x}")))
                        }
                        number => Ok(number.unwrap_or(default)),
                    },
                    Keys::Gguf { .. } => Ok(default),
                };
                Self {
                    embedding: number("scale_emb", 12.0)?,
                    residual: number("scale_depth", 1.4)? / (config.n_layers as f32).sqrt(),
                    logits: number("dim_model_base", 256.0)? / config.hidden as f32,
                }
            }
            Multipliers::Logits(default) => Self {
                embedding,
                residual: 1.0,
                logits: factor(keys, keys::LOGIT_SCALE)?.unwrap_or(default),
            },
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
