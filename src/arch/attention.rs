//! Attention: the numbers of heads, and the slots of a layer.

use super::decoder::Decoder;
use super::keys::{self, Key, Keys};
use super::rows::{QkNorm, Row, Scale};
use crate::config::Config;
use crate::error::{Result, unsupported};
use crate::spec::{Attention, Fused, Heads, KeysValues, Linear, Named, RowMap, Slots};

impl Decoder {
    /// `kept` is the place of its keys and values in a state.
    pub(super) fn attention(
        &self,
        slots: &mut Slots<'_>,
        layer: usize,
        kept: usize,
    ) -> Result<Attention<Named>> {
        let Config { hidden, n_heads, n_kv_heads, head_dim, .. } = self.config;
        let window = self.config.windows[layer];
        let (scale, cap) = (self.scale, self.cap);
        let heads = Heads { n_heads, n_kv_heads, head_dim, window, scale, cap };
        let gated = self.row.gated_heads;
        let q = heads.q() * if gated { 2 } else { 1 };
        let rows = [q, heads.kv(), heads.kv()];
        let [q, k, v] = self.qkv(slots, rows)?;
        let mut norm = |part, len| match self.row.qk_norm {
            QkNorm::None => Ok(None),
            QkNorm::PerHead => self.norm(slots, part, head_dim).map(Some),
            QkNorm::Whole => self.norm(slots, part, len).map(Some),
        };
        let q_norm = norm("attn_q_norm", heads.q())?;
        let k_norm = norm("attn_k_norm", heads.kv())?;
        let output =
            self.linear(slots, "attn_output", &[hidden, heads.q()], self.row.output_bias)?;
        let local = window.is_some() && self.config.local_rope.is_some();
        Ok(Attention {
            heads,
            q,
            q_norm,
            kv: Some(KeysValues { k, v: Some(v), k_norm, v_norm: None }),
            kept,
            norms_whole: self.row.qk_norm == QkNorm::Whole,
            gated,
            sinks: self
                .row
                .sinks
                .then(|| slots.tensor("attn_sinks.weight", &[n_heads], 0.0))
                .transpose()?,
            output,
            rope: Some(usize::from(local)),
        })
    }

    /// Queries, keys and values of `rows` rows, which a file may have as one tensor.
    fn qkv(&self, slots: &mut Slots<'_>, rows: [usize; 3]) -> Result<[Linear<Named>; 3]> {
        let of = rows.iter().sum();
        let mut first = 0;
        let mut linear = |part, rows| -> Result<Linear<Named>> {
            let fused = Fused { part: "attn_qkv", of, rows: RowMap::from(first) };
            first += rows;
            let fused = self.row.fused.then_some(&fused);
            let bias = self.row.qkv_bias;
            let bias = bias.then(|| slots.part((part, "bias"), &[rows], fused)).transpose()?;
            let shape = [rows, self.config.hidden];
            Ok(Linear { bias, matrix: slots.part((part, "weight"), &shape, fused)? })
        };
        let [q, k, v] = rows;
        Ok([linear("attn_q", q)?, linear("attn_k", k)?, linear("attn_v", v)?])
    }

    /// A matrix, and its bias where it has one.
    pub(super) fn linear(
        &self,
        slots: &mut Slots<'_>,
        part: &str,
        shape: &[usize; 2],
        bias: bool,
    ) -> Result<Linear<Named>> {
        let matrix = slots.matrix(part, shape)?;
        let bias = bias.then(|| slots.tensor(&format!("{part}.bias"), &shape[..1], 0.0));
        Ok(Linear { matrix, bias: bias.transpose()? })
    }
}

pub(super) fn head_dim(keys: Keys, row: &Row, hidden: usize, n_heads: usize) -> Result<usize> {
    let key = keys::HEAD_DIM;
    let default = row.head_dim.filter(|_| matches!(keys, Keys::Json(_)) && !keys.has(key.key()));
    let dim = match keys.size(key)?.or(default) {
        Some(dim) => dim,
        None if hidden.is_multiple_of(n_heads) => hidden / n_heads,
        None => {
            let problem = format!("is missing, and {hidden} is no multiple of {n_heads} heads");
            return Err(keys.error(key.key(), problem));
        }
    };
    match keys {
        Keys::Gguf { .. } => match keys.size(keys::VALUE_DIM)? {
            Some(value) if value != dim => Err(unsupported(format!(
                "keys of {dim} and values of {value} dimensions are not supported"
            ))),
            _ => Ok(dim),
        },
        Keys::Json(_) => Ok(dim),
    }
}

pub(super) fn kv_heads(keys: Keys, row: &Row, n_heads: usize) -> Result<usize> {
    let key = keys::KV_HEADS;
    if let Some(n) = keys.size(key)? {
        return Ok(n);
    }
    // In a config.json, null always means as many; absent, transformers' default is that for llama
    // alone.
    let same = row.kv_heads_default || matches!(keys, Keys::Gguf { .. }) || keys.has(key.key());
    if same { Ok(n_heads) } else { Err(keys.error(key.key(), "is missing")) }
}

/// The factor on the products of queries and keys.
pub(super) fn scale(keys: Keys, row: &Row, config: &Config) -> Result<f32> {
    let Config { hidden, n_heads, n_layers, head_dim, .. } = *config;
    let width = match (row.scale, keys) {
        (Scale::HeadDim, _) => head_dim as f32,
        // GGUF has no key for it; llama.cpp, too, tells the one model that differs by its depth.
        (Scale::QueryPreAttention { odd }, Keys::Gguf { .. }) if n_layers == odd => {
            hidden as f32 / n_heads as f32
        }
        (Scale::QueryPreAttention { .. }, Keys::Gguf { .. }) => head_dim as f32,
        (Scale::QueryPreAttention { .. }, Keys::Json(json)) => {
            match json.f32("query_pre_attn_scalar")? {
                None => 256.0,
                Some(width) if width.is_finite() && width > 0.0 => width,
                Some(width) => {
                    return Err(json.error("query_pre_attn_scalar", format_args!("is {width}")));
                }
            }
        }
    };
    Ok(1.0 / width.sqrt())
}

/// A cap on scores or logits, where the model has them; `default` where its file does not say.
pub(super) fn softcap(keys: Keys, row: &Row, key: Key, default: f32) -> Result<Option<f32>> {
    if !row.softcaps {
        return Ok(None);
    }
    match keys.f32(key)? {
        None if keys.has(key) => Ok(None),
        None => Ok(Some(default)),
        Some(cap) if cap.is_finite() && cap > 0.0 => Ok(Some(cap)),
        Some(cap) => Err(keys.error(key, format_args!("is {cap}"))),
    }
}
