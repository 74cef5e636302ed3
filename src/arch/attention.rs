//! Attention: the numbers of heads, and the slots of a layer.

use super::decoder::Decoder;
use super::keys::{self, Key, Keys};
use super::multipliers::factor;
use super::rows::{Cap, Multipliers, QkNorm, Recurrence, Row, Scale};
use crate::config::Config;
use crate::error::{Result, unsupported};
use crate::load::Object;
use crate::spec::{
    Attention, Fused, Heads, KeysValues, Linear, Named, Norm, RowMap, Slots, Temperature,
};

impl Decoder {
    /// `kept` is the place of its keys and values in a state.
    pub(super) fn attention(
        &self,
        slots: &mut Slots<'_>,
        layer: usize,
        kept: usize,
    ) -> Result<Attention<Named>> {
        let heads = self.heads(layer);
        let gated = self.row.gated_heads;
        let q_rows = heads.q() * if gated { 2 } else { 1 };
        let of = q_rows + 2 * heads.kv();
        let mut first = 0;
        let mut linear = |slots: &mut Slots<'_>, part, rows| {
            let map = if self.by_head {
                RowMap { first, run: heads.head_dim, step: 3 * heads.head_dim }
            } else {
                RowMap::from(first)
            };
            let fused = Fused { part: "attn_qkv", of, rows: map };
            first += if self.by_head { heads.head_dim } else { rows };
            self.projection(slots, part, rows, self.row.fused.then_some(&fused))
        };
        let q = linear(slots, "attn_q", q_rows)?;
        let q_norm = self.head_norm(slots, "attn_q_norm", heads.q(), heads)?;
        let kv = match self.shared_with(layer) {
            Some(_) => {
                ["attn_k.weight", "attn_v.weight", "attn_k_norm.weight"]
                    .into_iter()
                    .for_each(|part| slots.unused(part));
                None
            }
            None => {
                let k = linear(slots, "attn_k", heads.kv())?;
                let v = match self.keys_are_values(slots, heads) {
                    true => None,
                    false => Some(linear(slots, "attn_v", heads.kv())?),
                };
                let k_norm = self.head_norm(slots, "attn_k_norm", heads.kv(), heads)?;
                Some(KeysValues { k, v, k_norm, v_norm: self.value_norm() })
            }
        };
        let shape = [self.config.hidden, heads.q()];
        let sub_norms = self.row.sub_norms;
        let output_norm = sub_norms.then(|| self.norm(slots, "attn_sub_norm", heads.q()));
        let output = self.linear(slots, "attn_output", &shape, self.row.output_bias)?;
        let local = heads.window.is_some() && self.config.local_rope.is_some();
        Ok(Attention {
            heads,
            q,
            q_norm,
            kv,
            kept: self.shared_with(layer).unwrap_or(kept),
            norms_whole: self.row.qk_norm == QkNorm::Whole,
            norms_last: self.row.qk_norm == QkNorm::PerHeadRotated,
            temperature: self.temperature,
            gated,
            sinks: self
                .row
                .sinks
                .then(|| slots.tensor("attn_sinks.weight", &[heads.n_heads], 0.0))
                .transpose()?,
            output_norm: output_norm.transpose()?,
            output: output.times(self.factors.attention),
            rope: self.roped[layer].then_some(usize::from(local)),
        })
    }

    /// The numbers of a layer's heads.
    fn heads(&self, layer: usize) -> Heads {
        let Config { n_heads, n_kv_heads, head_dim, .. } = self.config;
        let window = self.config.windows[layer];
        let global = self.global.as_ref().filter(|_| window.is_none());
        let (head_dim, n_kv_heads) =
            global.map_or((head_dim, n_kv_heads), |global| (global.head_dim, global.n_kv_heads));
        let (value_dim, scale, cap) = (head_dim, self.scale, self.cap);
        Heads { n_heads, n_kv_heads, head_dim, value_dim, window, scale, cap }
    }

    /// Queries, keys or values, which a file may have in one tensor with the others.
    fn projection(
        &self,
        slots: &mut Slots<'_>,
        part: &str,
        rows: usize,
        fused: Option<&Fused>,
    ) -> Result<Linear<Named>> {
        let has = |name: &str| slots.has(&format!("{name}.bias"));
        let bias = self
            .qkv_bias
            .unwrap_or_else(|| has(part) || fused.is_some_and(|fused| has(fused.part)));
        let bias = bias.then(|| slots.part((part, "bias"), &[rows], fused)).transpose()?;
        let shape = [rows, self.config.hidden];
        Ok(Linear { bias, matrix: slots.part((part, "weight"), &shape, fused)? })
    }

    fn head_norm(
        &self,
        slots: &mut Slots<'_>,
        part: &str,
        all: usize,
        heads: Heads,
    ) -> Result<Option<Norm<Named>>> {
        match self.row.qk_norm {
            QkNorm::None => Ok(None),
            QkNorm::PerHeadIfThere if !self.qk_norm_there(slots, part) => Ok(None),
            QkNorm::PerHead | QkNorm::PerHeadRotated | QkNorm::PerHeadIfThere => {
                self.norm(slots, part, heads.head_dim).map(Some)
            }
            QkNorm::Whole => self.norm(slots, part, all).map(Some),
        }
    }

    /// Whether the file says that it has the norm or, where it does not say, has it.
    fn qk_norm_there(&self, slots: &Slots<'_>, part: &str) -> bool {
        self.qk_norm.unwrap_or_else(|| slots.has(&format!("{part}.weight")))
    }

    fn value_norm(&self) -> Option<Norm<Named>> {
        self.row.v_norm.then(|| Norm::rms(None, self.config.norm_eps))
    }

    fn keys_are_values(&self, slots: &Slots<'_>, heads: Heads) -> bool {
        match (&self.global, heads.window) {
            (Some(global), None) => {
                global.keys_are_values.unwrap_or_else(|| !slots.has("attn_v.weight"))
            }
            _ => false,
        }
    }

    /// The place in the state of the keys and values that a layer takes from an earlier one: the last
    /// of its kind, with a window or without, that has its own.
    fn shared_with(&self, layer: usize) -> Option<usize> {
        let windows = &self.config.windows;
        let own = windows.len() - self.shared_keys;
        if layer < own {
            return None;
        }
        windows[..own].iter().rposition(|window| *window == windows[layer])
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
    let key = if row.global_heads { keys::LOCAL_HEAD_DIM } else { keys::HEAD_DIM };
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
        Keys::Gguf { .. } if row.global_heads => Ok(dim),
        Keys::Gguf { .. } => match keys.size(keys::VALUE_DIM)? {
            Some(value) if value != dim => Err(unsupported(format!(
                "keys of {dim} and values of {value} dimensions are not supported"
            ))),
            _ => Ok(dim),
        },
        Keys::Json(_) => Ok(dim),
    }
}

pub(super) fn kv_heads(
    keys: Keys,
    row: &Row,
    n_heads: usize,
    windows: &[Option<usize>],
) -> Result<usize> {
    let key = keys::KV_HEADS;
    if row.global_heads
        && let Some(all) = keys.per_layer(key, windows.len())?
    {
        let local = all.iter().zip(windows).find(|(_, window)| window.is_some());
        return Ok(local.map_or(all[0], |(n, _)| *n));
    }
    let given = match row.recurrence {
        Recurrence::None => keys.size(key)?,
        _ => super::recurrent::kv_heads(keys, windows.len())?,
    };
    if let Some(n) = given {
        return Ok(n);
    }
    // In a config.json, null always means as many; absent, transformers' default is that for llama
    // alone.
    let same = row.kv_heads_default || matches!(keys, Keys::Gguf { .. }) || keys.has(key.key());
    if same { Ok(n_heads) } else { Err(keys.error(key.key(), "is missing")) }
}

/// Heads of layers without a window, where they differ from those with one.
#[derive(Debug)]
pub(super) struct Global {
    head_dim: usize,
    n_kv_heads: usize,
    /// `None`: where there are no values in the file.
    keys_are_values: Option<bool>,
}

impl Global {
    /// `config` has the heads of layers with a window.
    pub(super) fn read(keys: Keys, config: &Config) -> Result<Option<Self>> {
        let Some(head_dim) = config.global_head_dim else { return Ok(None) };
        let (n_kv_heads, keys_are_values) = match keys {
            Keys::Json(json) => {
                let same = json.bool("attention_k_eq_v")?.unwrap_or(false);
                let own = match overrides(json)? {
                    Some(own) => Keys::Json(own).size(keys::KV_HEADS)?,
                    None => json.usize("num_global_key_value_heads")?.filter(|_| same),
                };
                (own.unwrap_or(config.n_kv_heads), Some(same))
            }
            Keys::Gguf { .. } => {
                let all = keys.per_layer(keys::KV_HEADS, config.n_layers)?.unwrap_or_default();
                let of = |(_, window): &(&usize, &Option<usize>)| window.is_none();
                let global = all.iter().zip(&config.windows).find(of).map(|(n, _)| *n);
                (global.unwrap_or(config.n_kv_heads), None)
            }
        };
        let local_rope = None;
        Config { head_dim, n_kv_heads, local_rope, ..config.clone() }.check()?;
        Ok(Some(Self { head_dim, n_kv_heads, keys_are_values }))
    }
}

/// The head dimension of layers without a window, where it is another one.
pub(super) fn global_head_dim(keys: Keys, row: &Row) -> Result<Option<usize>> {
    if !row.global_heads {
        return Ok(None);
    }
    let default = match keys {
        Keys::Json(json) => match overrides(json)? {
            Some(own) => Keys::Json(own).size(keys::HEAD_DIM)?,
            None => Some(512),
        },
        Keys::Gguf { .. } => None,
    };
    let dim = keys.size(keys::GLOBAL_HEAD_DIM)?.or(default);
    dim.map(Some).ok_or_else(|| keys.error(keys::GLOBAL_HEAD_DIM.key(), "is missing"))
}

/// What transformers 5 says of layers without a window, which is the same for all of them.
fn overrides(json: Object<'_>) -> Result<Option<Object<'_>>> {
    const KEY: &str = "per_layer_config";
    let Some(layers) = json.object(KEY)? else { return Ok(None) };
    let mut all = layers.values().map(serde_json::Value::as_object);
    let first = all.next().flatten();
    let known = |key: &String| matches!(&**key, "head_dim" | "num_key_value_heads");
    match first.filter(|first| first.keys().all(known) && all.all(|other| other == Some(first))) {
        Some(map) => Ok(Some(json.inner(map, "per_layer_config."))),
        None => Err(unsupported(format!("key \"{KEY}\": layers that differ are not supported"))),
    }
}

/// How many layers at the end use keys and values of earlier ones.
pub(super) fn shared_keys(keys: Keys, row: &Row, config: &Config) -> Result<usize> {
    let shared = if row.shared_keys { keys.count(keys::SHARED_KEYS)?.unwrap_or(0) } else { 0 };
    let windows = &config.windows;
    let own = windows.len().checked_sub(shared).map(|own| &windows[..own]);
    if own.is_none_or(|own| !windows.iter().all(|window| own.contains(window))) {
        let problem = format!("is {shared}: layers have nobody to share keys with");
        return Err(keys.error(keys::SHARED_KEYS, problem));
    }
    Ok(shared)
}

/// The factor on the products of queries and keys.
pub(super) fn scale(keys: Keys, row: &Row, config: &Config) -> Result<f32> {
    let Config { hidden, n_heads, n_layers, head_dim, .. } = *config;
    if row.multipliers == Multipliers::Granite {
        let given = factor(keys, keys::ATTENTION_SCALE)?;
        let default = match keys {
            Keys::Json(_) => 1.0,
            Keys::Gguf { .. } => 1.0 / (head_dim as f32).sqrt(),
        };
        return Ok(given.unwrap_or(default));
    }
    let width = match (row.scale, keys) {
        (Scale::HeadDim, _) => head_dim as f32,
        (Scale::One, Keys::Gguf { .. }) => 1.0,
        (Scale::One, Keys::Json(json)) => {
            // Some files have a key for it that these classes do not read.
            let _ = json.get("query_pre_attn_scalar");
            1.0
        }
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

/// A cap on scores or logits, where the model has them.
pub(super) fn softcap(keys: Keys, cap: Cap, key: Key) -> Result<Option<f32>> {
    match (keys.f32(key)?, cap) {
        (_, Cap::Never) | (None, Cap::Key) => Ok(None),
        (None, Cap::Default(_)) if keys.has(key) => Ok(None),
        (None, Cap::Default(cap)) => Ok(Some(cap)),
        (Some(0.0), _) if matches!(keys, Keys::Gguf { .. }) => Ok(None),
        (Some(cap), _) if cap.is_finite() && cap > 0.0 => Ok(Some(cap)),
        (Some(cap), _) => Err(keys.error(key, format_args!("is {cap}"))),
    }
}

/// How queries grow with their position, in a model where they do.
pub(super) fn temperature(keys: Keys, row: &Row) -> Result<Option<Temperature>> {
    if !row.temperature {
        return Ok(None);
    }
    let (keys, beta) = match keys {
        Keys::Json(json) => {
            let Some(json) =
                json.object("rope_parameters")?.map(|map| json.inner(map, "rope_parameters."))
            else {
                return Err(json.error("rope_parameters", "is missing"));
            };
            (Keys::Json(json), json.f32("llama_4_scaling_beta")?)
        }
        Keys::Gguf { .. } => (keys, keys.f32(keys::TEMPERATURE)?),
    };
    let Some(beta) = beta.filter(|&beta| beta != 0.0) else { return Ok(None) };
    if !(beta.is_finite() && beta > 0.0) {
        return Err(keys.error(keys::TEMPERATURE, format_args!("is {beta}")));
    }
    Ok(Some(Temperature { beta, step: keys.need(keys::ROPE_ORIGINAL)? }))
}
