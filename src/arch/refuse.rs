//! Keys that change what an architecture computes, in a way that is not run here.

use super::experts::Shared;
use super::keys::{self, Keys};
use super::rows::{Cap, Row};
use crate::error::{Result, unsupported};
use crate::load::Metadata;

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
        if json.bool(key)? == Some(true) && !(row.qkv_bias && key.ends_with("bias")) {
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
    for key in ["hidden_act", "hidden_activation"] {
        if let Some(act) = json.get(key)
            && !act.as_str().is_some_and(|name| row.act_names.contains(&name))
        {
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
    if let Some(quantization) = json.get("quantization_config") {
        let method = quantization.get("quant_method").unwrap_or(&serde_json::Value::Null);
        return refuse("quantization_config", method);
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
            _ => false,
        };
        if number != neutral && number != 0.0 && !read {
            return refuse(key, &format!("{number} is not supported with {arch}"));
        }
    }
    Ok(())
}
