//! The keys of a configuration: one table for GGUF's names and config.json's spellings.

use crate::config::limits;
use crate::error::{Error, Result, config_error, unsupported};
use crate::load::{Metadata, Object, Value};

/// A number's names: in GGUF after the architecture and a dot, and in config.json, where the first
/// spelling that is there counts.
#[derive(Clone, Copy)]
pub(super) struct Key {
    gguf: &'static str,
    json: &'static [&'static str],
}

/// A key whose values go from 1 to `max`.
#[derive(Clone, Copy)]
pub(super) struct Size {
    key: Key,
    max: usize,
}

const fn key(gguf: &'static str, json: &'static [&'static str]) -> Key {
    Key { gguf, json }
}

const fn size(gguf: &'static str, json: &'static [&'static str], max: usize) -> Size {
    Size { key: key(gguf, json), max }
}

pub(super) const HIDDEN: Size = size("embedding_length", &["hidden_size", "n_embd"], limits::WIDTH);
pub(super) const FFN: Size =
    size("feed_forward_length", &["intermediate_size", "n_inner"], limits::WIDTH);
pub(super) const LAYERS: Size =
    size("block_count", &["num_hidden_layers", "n_layer"], limits::LAYERS);
pub(super) const CONTEXT: Size =
    size("context_length", &["max_position_embeddings", "n_positions"], limits::CONTEXT);
pub(super) const HEADS: Size =
    size("attention.head_count", &["num_attention_heads", "n_head"], limits::HEADS);
pub(super) const KV_HEADS: Size =
    size("attention.head_count_kv", &["num_key_value_heads"], limits::HEADS);
pub(super) const HEAD_DIM: Size = size("attention.key_length", &["head_dim"], limits::HEAD_DIM);
pub(super) const VALUE_DIM: Size = size("attention.value_length", &[], limits::HEAD_DIM);
pub(super) const VOCAB: Size = size("vocab_size", &["vocab_size"], limits::VOCAB);
pub(super) const EPS: Key = key("attention.layer_norm_rms_epsilon", &["rms_norm_eps", "norm_eps"]);
/// Of norms that subtract the mean.
pub(super) const LAYER_EPS: Key =
    key("attention.layer_norm_epsilon", &["layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"]);
pub(super) const EMBEDDING_SCALE: Key = key("embedding_scale", &["embedding_multiplier"]);
pub(super) const RESIDUAL_SCALE: Key = key("residual_scale", &["residual_multiplier"]);
pub(super) const ATTENTION_SCALE: Key = key("attention.scale", &["attention_multiplier"]);
pub(super) const LOGIT_DIVISOR: Key = key("logit_scale", &["logits_scaling"]);
pub(super) const LOGIT_SCALE: Key = key("logit_scale", &["logit_scale"]);
/// The feed-forward layer beside granite's experts, where there are none.
pub(super) const SHARED_MLP: Size = size("", &["shared_intermediate_size"], limits::WIDTH);
pub(super) const TEMPERATURE: Key = key("attention.temperature_scale", &["llama_4_scaling_beta"]);
pub(super) const PARALLEL: Key = key("use_parallel_residual", &["use_parallel_residual"]);
/// Whether granite's layers rotate.
pub(super) const ROTATES: Key = key("rope.scaling.finetuned", &[]);
pub(super) const CAUSAL: Key = key("attention.causal", &[]);
/// GGUF writes 0 for none.
pub(super) const WINDOW: Size =
    size("attention.sliding_window", &["sliding_window"], limits::CONTEXT);
pub(super) const THETA: Key = key("rope.freq_base", &["rope_theta", "rotary_emb_base"]);
pub(super) const LOCAL_THETA: Key = key("rope.freq_base_swa", &["rope_local_base_freq"]);
pub(super) const ROPE_DIM: Size = size("rope.dimension_count", &[], limits::HEAD_DIM);
pub(super) const ROPE_ORIGINAL: Size = size(
    "rope.scaling.original_context_length",
    &["original_max_position_embeddings"],
    limits::CONTEXT,
);
/// GGUF writes 0 for none.
pub(super) const EXPERTS: Size = size(
    "expert_count",
    &["num_experts", "num_local_experts", "n_routed_experts"],
    limits::EXPERTS,
);
pub(super) const EXPERTS_USED: Size = size("expert_used_count", EXPERTS_USED_JSON, limits::EXPERTS);
const EXPERTS_USED_JSON: &[&str] = &["num_experts_per_tok", "experts_per_token", "top_k_experts"];
pub(super) const EXPERT_FFN: Size =
    size("expert_feed_forward_length", &["moe_intermediate_size"], limits::WIDTH);
pub(super) const QK_NORM: Key = key("", &["use_qk_norm"]);
/// Layers at the end that draft tokens; GGUF counts them among the others.
pub(super) const DRAFTS: Key = key("nextn_predict_layers", &["num_nextn_predict_layers"]);
pub(super) const Q_RANK: Size = size("attention.q_lora_rank", &["q_lora_rank"], limits::WIDTH);
pub(super) const KV_RANK: Size =
    size("attention.kv_lora_rank", &["kv_lora_rank"], limits::HEAD_DIM);
pub(super) const LATENT_NOPE: Size = size("", &["qk_nope_head_dim"], limits::HEAD_DIM);
pub(super) const LATENT_ROPE: Size =
    size("rope.dimension_count", &["qk_rope_head_dim"], limits::HEAD_DIM);
pub(super) const LATENT_KEY: Size =
    size("attention.key_length_mla", &["qk_head_dim"], limits::HEAD_DIM);
pub(super) const LATENT_VALUE: Size =
    size("attention.value_length_mla", &["v_head_dim"], limits::HEAD_DIM);
pub(super) const YARN_LOG: Key = key("rope.scaling.yarn_log_multiplier", &[]);
pub(super) const EXPERTS_NORM: Key = key("expert_weights_norm", &["norm_topk_prob"]);
pub(super) const EXPERTS_SCALE: Key = key("expert_weights_scale", &["routed_scaling_factor"]);
pub(super) const EXPERTS_SCORES: Key = key("expert_gating_func", &[]);
pub(super) const EXPERT_GROUPS: Size = size("expert_group_count", &["n_group"], limits::EXPERTS);
pub(super) const EXPERT_GROUPS_USED: Size =
    size("expert_group_used_count", &["topk_group"], limits::EXPERTS);
pub(super) const SHARED_EXPERTS: Key = key("expert_shared_count", &["n_shared_experts"]);
pub(super) const SHARED_FFN: Size = size(
    "expert_shared_feed_forward_length",
    &["shared_expert_intermediate_size", "shared_intermediate_size"],
    limits::WIDTH,
);
pub(super) const DENSE_FIRST: Key =
    key("leading_dense_block_count", &["first_k_dense_replace", "num_dense_layers"]);
pub(super) const SWIGLU_LIMIT: Key = key("swiglu_clamp_exp", &["swiglu_limit"]);

pub(super) const ATTENTION_CAP: Key = key("attn_logit_softcapping", &["attn_logit_softcapping"]);
pub(super) const LOGIT_CAP: Key = key("final_logit_softcapping", &["final_logit_softcapping"]);

pub(super) const LOCAL_HEAD_DIM: Size =
    size("attention.key_length_swa", &["head_dim"], limits::HEAD_DIM);
pub(super) const LOCAL_ROPE_DIM: Size = size("rope.dimension_count_swa", &[], limits::HEAD_DIM);
/// GGUF has it as the head dimension; of layers without a window.
pub(super) const GLOBAL_HEAD_DIM: Size =
    size("attention.key_length", &["global_head_dim"], limits::HEAD_DIM);
pub(super) const SHARED_KEYS: Key = key("attention.shared_kv_layers", &["num_kv_shared_layers"]);
/// 0 for none.
pub(super) const LAYER_INPUT: Key =
    key("embedding_length_per_layer_input", &["hidden_size_per_layer_input"]);
pub(super) const LAYER_INPUT_VOCAB: Size = size("", &["vocab_size_per_layer_input"], limits::VOCAB);
pub(super) const STREAMS: Size = size("altup.num_inputs", &["altup_num_inputs"], limits::STREAMS);
pub(super) const ACTIVE_STREAM: Key = key("altup.active_idx", &["altup_active_idx"]);
pub(super) const LOW_RANK: Size = size("", &["laurel_rank"], limits::WIDTH);
pub(super) const FULL_INTERVAL: Size =
    size("full_attention_interval", &["full_attention_interval"], limits::LAYERS);
pub(super) const DELTA_KEY_HEADS: Size =
    size("ssm.group_count", &["linear_num_key_heads"], limits::HEADS);
pub(super) const DELTA_VALUE_HEADS: Size =
    size("ssm.time_step_rank", &["linear_num_value_heads"], limits::HEADS);
pub(super) const DELTA_KEY_DIM: Size =
    size("ssm.state_size", &["linear_key_head_dim"], limits::HEAD_DIM);
pub(super) const DELTA_VALUE_DIM: Size = size("", &["linear_value_head_dim"], limits::HEAD_DIM);
pub(super) const INNER: Size = size("ssm.inner_size", &[], limits::WIDTH);
pub(super) const MAMBA_HEADS: Size =
    size("ssm.time_step_rank", &["mamba_n_heads", "mamba_num_heads"], limits::HEADS);
pub(super) const MAMBA_HEAD_DIM: Size =
    size("", &["mamba_d_head", "mamba_head_dim"], limits::HEAD_DIM);
pub(super) const MAMBA_STATE: Size =
    size("ssm.state_size", &["mamba_d_state", "ssm_state_size"], limits::HEAD_DIM);
pub(super) const MAMBA_GROUPS: Size =
    size("ssm.group_count", &["mamba_n_groups", "n_groups"], limits::HEADS);
pub(super) const MAMBA_TAPS: Size =
    size("ssm.conv_kernel", &["mamba_d_conv", "conv_kernel"], limits::TAPS);
pub(super) const TAPS: Size = size("ssm.conv_kernel", &["linear_conv_kernel_dim"], limits::TAPS);
pub(super) const SHORT_TAPS: Size = size("shortconv.l_cache", &["conv_L_cache"], limits::TAPS);
pub(super) const CONV_BIAS: Key = key("shortconv.bias", &["conv_bias"]);

/// Where the values are.
#[derive(Clone, Copy)]
pub(crate) enum Keys<'a> {
    /// The metadata of a GGUF file, and the architecture that its keys begin with.
    Gguf { metadata: &'a Metadata, arch: &'a str },
    /// The top level of a config.json.
    Json(Object<'a>),
}

impl<'a> Keys<'a> {
    /// The key's full name in this file.
    pub(super) fn name(self, key: Key) -> String {
        match self {
            Self::Gguf { arch, .. } => format!("{arch}.{}", key.gguf),
            Self::Json(json) => {
                // All spellings are read: a file that has several says the same with them.
                for name in key.json {
                    let _ = json.get(name);
                }
                let there = key.json.iter().find(|name| json.map.contains_key(**name));
                there.or(key.json.first()).map_or(key.gguf, |name| name).to_owned()
            }
        }
    }

    /// Whether the key is there, be it null.
    pub(super) fn has(self, key: Key) -> bool {
        let name = self.name(key);
        match self {
            Self::Gguf { metadata, .. } => metadata.get(&name).is_some(),
            Self::Json(json) => json.map.contains_key(&name),
        }
    }

    pub(super) fn error(self, key: Key, problem: impl std::fmt::Display) -> Error {
        match self {
            Self::Gguf { .. } => config_error(format!("key \"{}\" {problem}", self.name(key))),
            Self::Json(json) => json.error(&self.name(key), problem),
        }
    }

    pub(super) fn f32(self, key: Key) -> Result<Option<f32>> {
        match self {
            Self::Gguf { metadata, .. } => metadata.get_f32(&self.name(key)),
            Self::Json(json) => json.f32(&self.name(key)),
        }
    }

    pub(super) fn bool(self, key: Key) -> Result<Option<bool>> {
        match self {
            Self::Gguf { metadata, .. } => metadata.get_bool(&self.name(key)),
            Self::Json(json) => json.bool(&self.name(key)),
        }
    }

    /// An integer, or in GGUF an array of one integer per layer when all are the same.
    pub(super) fn count(self, key: Key) -> Result<Option<usize>> {
        let name = self.name(key);
        let metadata = match self {
            Self::Json(json) => return json.usize(&name),
            Self::Gguf { metadata, .. } => metadata,
        };
        let number = match metadata.get(&name) {
            Some(Value::Array(array)) => {
                let all = array.to_u64s().unwrap_or_default();
                match all.first() {
                    Some(first) if all.iter().all(|x| x == first) => Some(*first),
                    _ => {
                        return Err(unsupported(format!(
                            "key \"{name}\": layers of different sizes are not supported"
                        )));
                    }
                }
            }
            _ => metadata.get_u64(&name)?,
        };
        number.map(usize::try_from).transpose().map_err(|_| self.error(key, "is out of range"))
    }

    /// An integer for every layer: of a list, or the same for all; none without the key.
    pub(super) fn counts(self, key: Key, n_layers: usize) -> Result<Vec<usize>> {
        let name = self.name(key);
        let list = match self {
            Self::Gguf { metadata, .. } => match metadata.get(&name) {
                Some(Value::Array(array)) => Some(array.to_u64s()),
                _ => None,
            },
            Self::Json(json) => json
                .get(&name)
                .and_then(serde_json::Value::as_array)
                .map(|list| list.iter().map(serde_json::Value::as_u64).collect::<Option<Vec<_>>>()),
        };
        let Some(list) = list else {
            return Ok(self.count(key)?.map_or(Vec::new(), |n| vec![n; n_layers]));
        };
        let list = list.filter(|list| list.len() == n_layers);
        let list = list.and_then(|list| list.into_iter().map(|n| n.try_into().ok()).collect());
        list.ok_or_else(|| self.error(key, format_args!("is not a list of {n_layers} counts")))
    }

    /// As [`counts`](Self::counts), from 1 on.
    pub(super) fn per_layer(self, size: Size, n_layers: usize) -> Result<Option<Vec<usize>>> {
        let counts = self.counts(size.key, n_layers)?;
        if counts.is_empty() {
            return Ok(None);
        }
        counts.into_iter().map(|n| self.checked(size, n)).collect::<Result<_>>().map(Some)
    }

    fn checked(self, Size { key, max }: Size, size: usize) -> Result<usize> {
        if (1..=max).contains(&size) {
            return Ok(size);
        }
        Err(self.error(key, format_args!("is {size}, not 1 to {max}")))
    }

    /// A count from 1 on.
    pub(super) fn size(self, size: Size) -> Result<Option<usize>> {
        self.count(size.key)?.map(|count| self.checked(size, count)).transpose()
    }

    pub(super) fn need(self, size: Size) -> Result<usize> {
        self.size(size)?.ok_or_else(|| self.error(size.key, "is missing"))
    }
}

impl Size {
    pub(super) fn key(self) -> Key {
        self.key
    }
}
