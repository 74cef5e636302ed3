//! Latent attention: its numbers, and the slots of a layer.

use super::decoder::Decoder;
use super::keys::{self, Keys};
use super::rope::parameters;
use super::rows::{Multipliers, Row};
use crate::config::{Rope, RopeScaling, RopeStyle, limits};
use crate::error::{Result, config_error};
use crate::spec::{Latent, LatentHeads, Named, Part, RowMap, Slots};

/// The numbers of a model's latent attention.
#[derive(Debug, Clone, Copy)]
pub(super) struct Numbers {
    n_heads: usize,
    /// Of what queries are made of.
    q_rank: Option<usize>,
    rank: usize,
    nope: usize,
    pub(super) rope: usize,
    value: usize,
}

impl Numbers {
    /// `None` for a model without it.
    pub(super) fn read(keys: Keys, row: &Row, n_heads: usize) -> Result<Option<Self>> {
        if !row.latent {
            return Ok(None);
        }
        let rope = keys.need(keys::LATENT_ROPE)?;
        let nope = match keys {
            Keys::Json(json) => {
                let nope = keys.need(keys::LATENT_NOPE)?;
                // Transformers 5 writes what follows, too.
                for (key, want) in [("head_dim", rope), ("qk_head_dim", nope + rope)] {
                    if let Some(other) = json.usize(key)?.filter(|&other| other != want) {
                        return Err(json.error(key, format_args!("is {other}, not {want}")));
                    }
                }
                nope
            }
            // Files of before there were two widths have that of the expanded heads.
            Keys::Gguf { .. } => {
                let whole = keys.size(keys::LATENT_KEY)?;
                let whole = whole.map_or_else(|| keys.need(keys::HEAD_DIM), Ok)?;
                whole.checked_sub(rope).filter(|&nope| nope > 0).ok_or_else(|| {
                    keys.error(
                        keys::LATENT_KEY.key(),
                        format_args!("is {whole}, of which {rope} turn"),
                    )
                })?
            }
        };
        let value = match keys.size(keys::LATENT_VALUE)? {
            Some(value) => value,
            None => match keys.size(keys::VALUE_DIM)? {
                None if row.multipliers == Multipliers::MiniCpm => {
                    keys.need(keys::HIDDEN)? / n_heads
                }
                None => return Err(keys.error(keys::LATENT_VALUE.key(), "is missing")),
                Some(value) => value,
            },
        };
        let numbers = Self {
            n_heads,
            q_rank: keys.size(keys::Q_RANK)?,
            rank: keys.need(keys::KV_RANK)?,
            nope,
            rope,
            value,
        };
        let widest = (nope + value).max(numbers.rank + rope);
        if !rope.is_multiple_of(2) || !numbers.rank.is_multiple_of(2) {
            let rank = numbers.rank;
            return Err(config_error(format!("latents of {rank} and keys of {rope} are not even")));
        }
        if n_heads.saturating_mul(widest) > limits::WIDTH {
            return Err(config_error(format!("{n_heads} latent heads of {widest} are too wide")));
        }
        Ok(Some(numbers))
    }

    /// Width of a head's keys.
    pub(super) fn head_dim(&self) -> usize {
        self.nope + self.rope
    }

    /// The factor on the products of queries and keys: yarn stretches it, too.
    pub(super) fn scale(&self, keys: Keys, rope: &Rope) -> Result<f32> {
        let plain = 1.0 / (self.head_dim() as f32).sqrt();
        let RopeScaling::Yarn { factor, .. } = rope.scaling else { return Ok(plain) };
        let all = match keys {
            Keys::Json(json) => match parameters(json)? {
                None => None,
                Some((name, map)) => json.inner(map, name).f32("mscale_all_dim")?,
            },
            // The converter writes a tenth of it.
            Keys::Gguf { .. } => keys.f32(keys::YARN_LOG)?.map(|tenth| tenth / 0.1),
        };
        let all = all.unwrap_or(0.0);
        let stretch = if factor <= 1.0 { 1.0 } else { 0.1 * all * libm::logf(factor) + 1.0 };
        Ok(plain * stretch * stretch)
    }
}

/// A folder may say that neighbours do not turn together; in GGUF yarn's factor
/// on cosines and sines is 1, since that on the scores is another.
pub(super) fn adjust_rope(keys: Keys, rope: &mut Rope) -> Result<()> {
    match keys {
        Keys::Json(json) => {
            if json.bool("rope_interleave")? == Some(false) {
                rope.style = RopeStyle::Halves;
            }
        }
        Keys::Gguf { .. } => {
            if let RopeScaling::Yarn { attention_factor, .. } = &mut rope.scaling
                && keys.f32(keys::YARN_LOG)?.is_some()
            {
                *attention_factor = 1.0;
            }
        }
    }
    Ok(())
}

impl Decoder {
    /// `kept` is the place of its latents in a state.
    pub(super) fn latent(
        &self,
        slots: &mut Slots<'_>,
        numbers: Numbers,
        kept: usize,
    ) -> Result<Latent<Named>> {
        let Numbers { n_heads, q_rank, rank, nope, rope, value } = numbers;
        let hidden = self.config.hidden;
        let heads = LatentHeads { n_heads, rank, nope, rope, value, scale: self.scale };
        let queries = n_heads * heads.query();
        let (q, low_rank) = match q_rank {
            None => (self.linear(slots, "attn_q", &[queries, hidden], false)?, None),
            Some(q_rank) => {
                let norm = self.norm(slots, "attn_q_a_norm", q_rank)?;
                let expand = self.linear(slots, "attn_q_b", &[queries, q_rank], false)?;
                let q = self.linear(slots, "attn_q_a", &[q_rank, hidden], false)?;
                (q, Some((norm, expand)))
            }
        };
        let latents = self.linear(slots, "attn_kv_a_mqa", &[heads.key(), hidden], false)?;
        // Some files have both as each head's rows of one matrix, the first then transposed.
        let both = |slots: &Slots<'_>, rows, transposed| Part {
            tensor: slots.name("attn_kv_b.weight"),
            shape: vec![n_heads * (nope + value), rank],
            rows,
            transposed,
        };
        let keys = both(slots, RowMap::from(0), Some(nope + value));
        let keys = slots.or_part("attn_k_b.weight", &[n_heads, rank, nope], keys)?;
        let each = RowMap { first: nope, run: value, step: nope + value };
        let values = both(slots, each, None);
        let values = slots.or_part("attn_v_b.weight", &[n_heads, value, rank], values)?;
        Ok(Latent {
            heads,
            inputs: [q, latents],
            low_rank,
            norm: self.norm(slots, "attn_kv_a_norm", rank)?,
            keys,
            values,
            output: self.linear(slots, "attn_output", &[hidden, heads.values()], false)?,
            kept,
            rope: 0,
        })
    }
}
