//! Keys that nobody reads, though by their names they change the numbers of a model.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use serde_json::Value as Json;

use super::json::Object;
use super::metadata::{Metadata, Value};
use crate::error::{Result, unsupported};

/// The keys that somebody has asked for.
#[derive(Debug, Default)]
pub(crate) struct Seen(Mutex<BTreeSet<String>>);

impl Seen {
    pub(crate) fn note(&self, key: &str) {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !keys.contains(key) {
            keys.insert(key.to_owned());
        }
    }

    fn has(&self, key: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(key)
    }
}

impl Clone for Seen {
    fn clone(&self) -> Self {
        Self(Mutex::new(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()))
    }
}

/// What the names of keys have in them that say how a model computes.
const TELLING: &[&str] = &[
    "act",
    "alibi",
    "attn_type",
    "bias",
    "bidirectional",
    "cap",
    "causal",
    "clamp",
    "clip",
    "conv",
    "delta",
    "depth",
    "expert",
    "factor",
    "gate",
    "gating",
    "hadamard",
    "head",
    "interval",
    "layer",
    "linear",
    "lora_rank",
    "mamba",
    "moe",
    "multiplier",
    "mup",
    "norm",
    "parallel",
    "position",
    "residual",
    "rope",
    "rotary",
    "rotat",
    "scal",
    "shar",
    "sink",
    "slid",
    "sparse",
    "ssm",
    "temperature",
    "topk",
    "top_k",
    "window",
];

/// Keys with such names that say nothing about the numbers of a text, and why.
const HARMLESS: &[(&str, &str)] = &[
    ("router_aux_loss_coef", "training"),
    ("router_jitter_noise", "training"),
    ("router_z_loss_coef", "training"),
    ("aux_loss_alpha", "training"),
    ("aux_loss_factor", "training"),
    ("seq_aux", "training"),
    ("layerdrop", "training"),
    ("initializer_factor", "training"),
    ("init_scale", "training"),
    ("dropout", "training"),
    ("rope.scaling.finetuned", "history"),
    ("original_max_position_embeddings", "read where a scaling of rope needs it"),
    ("original_context_length", "read where a scaling of rope needs it"),
    ("max_window_layers", "read where layers slide"),
    ("chunk_size_feed_forward", "how, not what"),
    ("rescale_prenorm_residual", "training"),
    ("time_step_floor", "training"),
    ("mamba_chunk_size", "how, not what"),
    ("use_mamba_kernels", "how, not what"),
    ("tensor_parallel", "how, not what"),
    ("pretraining_tp", "how, not what"),
    ("_activations_implementation", "how, not what"),
    ("cache_implementation", "how, not what"),
    ("num_nextn_predict_layers", "of drafts of several tokens"),
    ("nextn_predict_layers", "of drafts of several tokens"),
    ("dtype", "how, not what"),
    ("rope.dimension_sections", "of images: text is at the same place on every axis"),
    ("mrope_", "of images: text is at the same place on every axis"),
    ("altup_coef_clip", "training"),
    ("altup_lr_multiplier", "training"),
    ("mlp_expansion_factor", "the width is there, too"),
    ("block_norm_eps", "lfm2's class reads norm_eps"),
    ("block_ffn_dim_multiplier", "read where the width is adjusted"),
    ("mtp_", "of drafts of several tokens"),
    ("image_", "of images"),
    ("vision_", "of images"),
    ("audio_", "of sounds"),
];

fn tells(key: &str) -> bool {
    TELLING.iter().any(|word| key.contains(word))
        && !HARMLESS.iter().any(|(part, _)| key.contains(part))
}

fn refused(key: &str, value: &dyn std::fmt::Display, arch: &str) -> crate::error::Error {
    unsupported(format!("key \"{key}\" is {value}, which is not understood with {arch}"))
}

/// # Errors
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) with a key that nobody has asked for,
/// unless it says that there is nothing.
pub(super) fn check_json(object: Object, seen: &Seen, arch: &str) -> Result<()> {
    for (key, value) in object.map {
        let name = format!("{}{key}", object.prefix);
        match value {
            Json::Object(inner) if seen.has(&name) => {
                check_json(object.inner(inner, &format!("{name}.")), seen, arch)?;
            }
            _ if seen.has(&name) || says_nothing(value) || !tells(key) => {}
            _ => return Err(refused(&name, value, arch)),
        }
    }
    Ok(())
}

fn says_nothing(value: &Json) -> bool {
    match value {
        Json::Null | Json::Bool(false) => true,
        Json::Number(number) => number.as_f64() == Some(0.0),
        Json::String(text) => text.is_empty(),
        Json::Array(items) => items.is_empty(),
        Json::Object(map) => map.is_empty(),
        Json::Bool(true) => false,
    }
}

/// As [`check_json`], of the keys of an architecture.
pub(super) fn check_gguf(metadata: &Metadata, arch: &str) -> Result<()> {
    let own = metadata.iter().filter_map(|(key, value)| {
        let rest = key.strip_prefix(arch)?.strip_prefix('.')?;
        Some((key, rest, value))
    });
    for (key, rest, value) in own {
        let nothing = match value {
            Value::Bool(x) => !x,
            Value::F32(x) => *x == 0.0,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            other => other.as_u64() == Some(0),
        };
        if !metadata.seen.has(key) && !nothing && tells(rest) {
            return Err(refused(key, &super::inspect::brief(value), arch));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str, read: &[&str]) -> Result<()> {
        let Json::Object(map) = serde_json::from_str(text).unwrap() else { panic!("{text}") };
        let seen = Seen::default();
        let object = Object::new(&map, "").noted(&seen);
        for key in read {
            let _ = object.get(key);
        }
        check_json(object, &seen, "llama")
    }

    #[test]
    fn keys_that_nobody_asked_for() {
        assert!(json(r#"{"hidden_size": 8, "use_cache": true, "pretraining_tp": 1}"#, &[]).is_ok());
        assert!(json(r#"{"residual_multiplier": 0.5}"#, &["residual_multiplier"]).is_ok());
        assert!(json(r#"{"residual_multiplier": null, "alibi": false}"#, &[]).is_ok());
        let error = json(r#"{"residual_multiplier": 0.5}"#, &[]).unwrap_err().to_string();
        assert!(error.contains("residual_multiplier") && error.contains("0.5"), "{error}");
        let rope = r#"{"rope_scaling": {"rope_type": "yarn", "twist_factor": 3}}"#;
        assert!(json(rope, &["rope_scaling"]).is_err());
    }

    #[test]
    fn gguf_keys_of_the_architecture() {
        let mut metadata = Metadata::default();
        metadata.insert("llama.logit_twist_scale", Value::F32(2.0)).unwrap();
        metadata.insert("other.residual_scale", Value::F32(2.0)).unwrap();
        assert!(check_gguf(&metadata, "llama").is_err());
        assert!(metadata.get("llama.logit_twist_scale").is_some());
        assert!(check_gguf(&metadata, "llama").is_ok());
    }
}
