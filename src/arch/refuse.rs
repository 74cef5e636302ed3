//! Keys that change what an architecture computes, in a way that is not run here.

use super::experts::{Bank, Shared};
use super::keys::{self, Keys};
use super::rows::{Cap, Multipliers, Parallel, Row};
use crate::error::{Result, unsupported};
use crate::load::{Metadata, Object};

/// Keys that change what the architecture computes.
pub(super) fn refuse_variants(keys: Keys, row: &Row) -> Result<()> {
    let json = match keys {
        Keys::Gguf { metadata, arch } => return refuse_in_gguf(keys, metadata, arch, row),
        Keys::Json(json) => json,
    };
    let refuse = |key: &str, value: &dyn std::fmt::Display| {
        Err(unsupported(format!("key \"{key}\": {value} is not supported with {}", row.name)))
    };
    for key in ["attention_bias", "mlp_bias"] {
        // qwen2 has its biases whatever the key says.
        let read = row.bias_key.is_some_and(|(own, _)| own == key)
            || row.qkv_bias && key.ends_with("bias");
        if json.bool(key)? == Some(true) && !read {
            return refuse(key, &true);
        }
    }
    if row.gated_heads && json.bool("attn_output_gate")? == Some(false) {
        return refuse("attn_output_gate", &false);
    }
    // "vision" concerns images alone.
    if let Some(both) = json.get("use_bidirectional_attention")
        && both != false
        && both != "vision"
    {
        return refuse("use_bidirectional_attention", both);
    }
    for key in ["qk_layernorm", "add_cross_attention", "scale_attn_by_inverse_layer_idx"] {
        if json.bool(key)? == Some(true) {
            return refuse(key, &true);
        }
    }
    if row.parallel != Parallel::IfSaid && json.bool("use_parallel_residual")? == Some(true) {
        return refuse("use_parallel_residual", &true);
    }
    for (key, read) in [
        (
            "embedding_multiplier",
            matches!(row.multipliers, Multipliers::Granite | Multipliers::FalconH1),
        ),
        ("attention_multiplier", row.multipliers == Multipliers::Granite),
        ("residual_multiplier", row.multipliers == Multipliers::Granite),
        ("logits_scaling", row.multipliers == Multipliers::Granite),
        ("logit_scale", matches!(row.multipliers, Multipliers::Logits(_))),
    ] {
        if let Some(factor) = json.get(key)
            && !read
            && factor.as_f64() != Some(1.0)
        {
            return refuse(key, factor);
        }
    }
    for (key, expected) in row.expects {
        if let Some(value) = json.get(key)
            && serde_json::from_str::<serde_json::Value>(expected).ok().as_ref() != Some(value)
        {
            return refuse(key, value);
        }
    }
    // The numbers of Mamba layers are there where there are none of them, too; `layer_types` says.
    // And so are those of mixtures, whose layers would be named.
    if row.single_mixers {
        let idle = [
            "moe_",
            "n_routed_experts",
            "n_shared_experts",
            "n_group",
            "topk_group",
            "norm_topk_prob",
            "num_experts_per_tok",
            "routed_scaling_factor",
            "mtp_",
            "expand",
        ];
        for key in json.map.keys().filter(|key| idle.iter().any(|start| key.starts_with(start))) {
            let _ = json.get(key);
        }
    }
    if row.shared_ffn {
        for key in json.map.keys().filter(|key| key.starts_with("mamba_")) {
            let _ = json.get(key);
        }
    }
    let [function, acts @ ..] = ["activation_function", "hidden_act", "hidden_activation"]
        .map(|key| json.get(key).map(|act| (key, act)));
    // Some files have gpt2's key beside their own, with another value.
    let act = if acts.iter().all(Option::is_none) { function } else { None };
    for (key, act) in acts.into_iter().chain([act]).flatten() {
        if !act.as_str().is_some_and(|name| row.act_names.contains(&name)) {
            return refuse(key, act);
        }
    }
    for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
        let read = match key {
            "attn_logit_softcapping" => row.attention_cap,
            _ => row.logit_cap,
        };
        if read == Cap::Never
            && let Some(cap) = json.get(key)
        {
            return refuse(key, cap);
        }
    }
    if json.get("quantization").is_some_and(|value| value.get("group_size").is_some()) {
        let problem = "folders quantised by MLX are not supported";
        return Err(unsupported(format!("key \"quantization\": {problem}")));
    }
    refuse_quantizations(json, row)
}

/// Which weights of a folder are quantised, and to what, is told by its tensors: of what its
/// `quantization_config` may say, all that is not known to say the same is refused.
fn refuse_quantizations(json: Object, row: &Row) -> Result<()> {
    const KEY: &str = "quantization_config";
    let Some(map) = json.object(KEY)? else { return Ok(()) };
    let prefix = format!("{KEY}.");
    let config = json.inner(map, &prefix);
    let method = config.str("quant_method")?.unwrap_or("null");
    let known = row.experts.is_some_and(|mixture| mixture.bank == Bank::Columns);
    if method != "mxfp4" || !known {
        let problem = format!("{method} is not supported with {}", row.name);
        return Err(unsupported(format!("key \"{KEY}\": {problem}")));
    }
    for (key, value) in config.map {
        let harmless = match key.as_str() {
            "quant_method" => true,
            "modules_to_not_convert" => value.is_array() || value.is_null(),
            // How transformers computes with the same weights.
            "dequantize" => value.is_boolean(),
            _ => false,
        };
        if !harmless {
            let problem = format!("{value} is not supported with {method}");
            return Err(unsupported(format!("key \"{prefix}{key}\": {problem}")));
        }
        let _ = config.get(key);
    }
    Ok(())
}

fn refuse_in_gguf(keys: Keys, metadata: &Metadata, arch: &str, row: &Row) -> Result<()> {
    let refuse = |key: &str, problem: &dyn std::fmt::Display| {
        Err(unsupported(format!("key \"{arch}.{key}\": {problem}")))
    };
    if let Some(experts) = keys.count(keys::EXPERTS.key())?
        && experts > 0
        && row.experts.is_none()
    {
        let problem = format!("mixtures of {experts} experts are not supported with {arch}");
        return refuse("expert_count", &problem);
    }
    // Of layers that dense ones of granite 4 have not; their feed-forward layer is as wide as a key
    // says that others have, too.
    if row.multipliers == Multipliers::Granite {
        let idle = [format!("{arch}.ssm."), format!("{arch}.expert_shared_feed_forward_length")];
        let keys = metadata.iter().map(|(key, _)| key);
        for key in keys.filter(|key| idle.iter().any(|start| key.starts_with(start))) {
            let _ = metadata.get(key);
        }
    }
    if keys.bool(keys::CAUSAL)? == Some(false) {
        return refuse("attention.causal", &"attention in both directions is not supported");
    }
    // The value without an effect: none.
    for (key, neutral) in [
        ("attn_logit_softcapping", 0.0),
        ("final_logit_softcapping", 0.0),
        ("expert_shared_count", 0.0),
        ("attention.scale", 0.0),
        ("logit_scale", 1.0),
        ("residual_scale", 1.0),
        ("embedding_scale", 1.0),
    ] {
        let name = format!("{arch}.{key}");
        let number = match metadata.get(&name) {
            Some(crate::load::Value::F32(x)) => f64::from(*x),
            Some(_) => metadata.get_u64(&name)?.unwrap_or(0) as f64,
            None => continue,
        };
        let read = match key {
            "attn_logit_softcapping" => row.attention_cap != Cap::Never,
            "final_logit_softcapping" => row.logit_cap != Cap::Never,
            "expert_shared_count" => {
                row.experts.is_some_and(|mixture| mixture.shared != Shared::None)
            }
            "logit_scale" => row.multipliers != Multipliers::None,
            "attention.scale" | "residual_scale" | "embedding_scale" => {
                row.multipliers == Multipliers::Granite
            }
            _ => false,
        };
        if number != neutral && number != 0.0 && !read {
            return refuse(key, &format!("{number} is not supported with {arch}"));
        }
    }
    Ok(())
}
