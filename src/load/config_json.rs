//! [`Config`] from config.json, as the hub's files and transformers 5 write it.

use serde_json::{Map, Value};

use crate::config::{Arch, Config, Rope, RopeScaling, RopeStyle, limits};
use crate::error::{Result, unsupported};

use super::json::Object;

pub(super) fn config(json: Object) -> Result<Config> {
    let arch = Arch::from_name(json.need("model_type", json.str("model_type")?)?)?;
    refuse_variants(json, arch)?;
    let hidden = need_size(json, "hidden_size", limits::WIDTH)?;
    let n_heads = need_size(json, "num_attention_heads", limits::HEADS)?;
    let head_dim = head_dim(json, arch, hidden, n_heads)?;
    let n_layers = need_size(json, "num_hidden_layers", limits::LAYERS)?;
    let context_length = need_size(json, "max_position_embeddings", limits::CONTEXT)?;
    let config = Config {
        arch,
        vocab_size: need_size(json, "vocab_size", limits::VOCAB)?,
        hidden,
        ffn: need_size(json, "intermediate_size", limits::WIDTH)?,
        n_layers,
        n_heads,
        n_kv_heads: kv_heads(json, arch, n_heads)?,
        head_dim,
        context_length,
        norm_eps: json.f32("rms_norm_eps")?.unwrap_or(1e-6),
        rope: rope(json, head_dim, context_length)?,
        windows: windows(json, arch, n_layers)?,
    };
    config.check()?;
    Ok(config)
}

fn size(json: Object, key: &str, max: usize) -> Result<Option<usize>> {
    match json.usize(key)? {
        Some(size) if !(1..=max).contains(&size) => {
            Err(json.error(key, format_args!("is {size}, not 1 to {max}")))
        }
        size => Ok(size),
    }
}

fn need_size(json: Object, key: &str, max: usize) -> Result<usize> {
    json.need(key, size(json, key, max)?)
}

/// Keys that change what the architecture computes.
fn refuse_variants(json: Object, arch: Arch) -> Result<()> {
    let refuse = |key: &str, value: &Value| {
        unsupported(format!("key \"{key}\": {value} is not supported with {}", arch.row().name))
    };
    for key in ["attention_bias", "mlp_bias"] {
        // qwen2 has its biases whatever the key says.
        if json.bool(key)? == Some(true) && !arch.row().qkv_bias {
            return Err(refuse(key, &Value::Bool(true)));
        }
    }
    if let Some(act) = json.get("hidden_act")
        && !matches!(act.as_str(), Some("silu" | "swish"))
    {
        return Err(refuse("hidden_act", act));
    }
    if let Some(quantization) = json.get("quantization_config") {
        let method = quantization.get("quant_method").unwrap_or(&Value::Null);
        return Err(refuse("quantization_config", method));
    }
    Ok(())
}

fn head_dim(json: Object, arch: Arch, hidden: usize, n_heads: usize) -> Result<usize> {
    if let Some(dim) = size(json, "head_dim", limits::HEAD_DIM)? {
        return Ok(dim);
    }
    // The one architecture whose default is a number.
    if arch == Arch::Qwen3 && !json.map.contains_key("head_dim") {
        return Ok(128);
    }
    if !hidden.is_multiple_of(n_heads) {
        return Err(json.error("hidden_size", format_args!("is no multiple of {n_heads} heads")));
    }
    Ok(hidden / n_heads)
}

fn kv_heads(json: Object, arch: Arch, n_heads: usize) -> Result<usize> {
    let key = "num_key_value_heads";
    if let Some(n) = size(json, key, limits::HEADS)? {
        return Ok(n);
    }
    // Absent, transformers' default is the number of heads for llama alone; null always means it.
    if arch == Arch::Llama || json.map.contains_key(key) {
        return Ok(n_heads);
    }
    Err(json.error(key, "is missing"))
}

fn rope(json: Object, head_dim: usize, context: usize) -> Result<Rope> {
    let empty = Map::new();
    let (prefix, map) = match (json.object("rope_scaling")?, json.object("rope_parameters")?) {
        (Some(map), _) => ("rope_scaling.", map),
        (None, Some(map)) => ("rope_parameters.", map),
        (None, None) => ("", &empty),
    };
    let scaling = Object { map, prefix };
    for object in [json, scaling] {
        if object.f64("partial_rotary_factor")?.is_some_and(|factor| factor != 1.0) {
            return Err(unsupported("key \"partial_rotary_factor\" other than 1 is not supported"));
        }
    }
    let theta = match scaling.f32("rope_theta")? {
        None => json.f32("rope_theta")?,
        some => some,
    };
    Ok(Rope {
        theta: theta.unwrap_or(10_000.0),
        dim: head_dim,
        style: RopeStyle::Halves,
        scaling: rope_scaling(scaling, context)?,
    })
}

fn rope_scaling(json: Object, context: usize) -> Result<RopeScaling> {
    let key = if json.get("rope_type").is_some() { "rope_type" } else { "type" };
    let need = |key: &str| json.need(key, json.f32(key)?);
    let original = "original_max_position_embeddings";
    Ok(match json.str(key)?.unwrap_or("default") {
        "default" => {
            // Some models have one set per kind of layer.
            if let Some((name, _)) = json.map.iter().find(|(_, value)| value.is_object()) {
                return Err(unsupported(format!(
                    "key \"{}{name}\": rope that differs by layer is not supported",
                    json.prefix
                )));
            }
            RopeScaling::None
        }
        "linear" => RopeScaling::Linear { factor: need("factor")? },
        "llama3" => RopeScaling::Llama3 {
            factor: need("factor")?,
            low_freq_factor: need("low_freq_factor")?,
            high_freq_factor: need("high_freq_factor")?,
            original_context: need_size(json, original, limits::CONTEXT)?,
        },
        "yarn" => yarn(json, context)?,
        other => {
            return Err(unsupported(format!(
                "key \"{}{key}\": rope scaling \"{other}\" is not supported \
                 (default, linear, llama3 and yarn are)",
                json.prefix
            )));
        }
    })
}

fn yarn(json: Object, context: usize) -> Result<RopeScaling> {
    let original = size(json, "original_max_position_embeddings", limits::CONTEXT)?;
    let original_context = original.unwrap_or(context);
    let factor = json.f64("factor")?.unwrap_or(context as f64 / original_context as f64);
    let mscale =
        |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * libm::log(factor) + 1.0 };
    let given = |key: &str| Ok::<_, crate::Error>(json.f64(key)?.filter(|&x| x != 0.0));
    let attention_factor = match json.f64("attention_factor")? {
        Some(factor) => factor,
        None => match (given("mscale")?, given("mscale_all_dim")?) {
            (Some(one), Some(all)) => mscale(one) / mscale(all),
            _ => mscale(1.0),
        },
    };
    Ok(RopeScaling::Yarn {
        factor: factor as f32,
        original_context,
        beta_fast: given("beta_fast")?.unwrap_or(32.0) as f32,
        beta_slow: given("beta_slow")?.unwrap_or(1.0) as f32,
        attention_factor: attention_factor as f32,
        truncate: json.bool("truncate")?.unwrap_or(true),
    })
}

/// The sliding window of each layer.
///
/// As in transformers: `layer_types` decides where it is there; otherwise mistral slides in every layer and
/// qwen in those from `max_window_layers` on. A qwen slides only with `use_sliding_window`.
fn windows(json: Object, arch: Arch, n_layers: usize) -> Result<Vec<Option<usize>>> {
    let given = size(json, "sliding_window", limits::CONTEXT)?;
    let absent = !json.map.contains_key("sliding_window");
    let (window, first) = match arch {
        Arch::Llama => (None, 0),
        Arch::Mistral => (given.or(absent.then_some(4096)), 0),
        Arch::Qwen2 | Arch::Qwen3 => {
            let used = json.bool("use_sliding_window")?.unwrap_or(false);
            let window = given.or(absent.then_some(4096)).filter(|_| used);
            (window, json.usize("max_window_layers")?.unwrap_or(28))
        }
    };
    let Some(types) = json.get("layer_types") else {
        return Ok((0..n_layers).map(|layer| window.filter(|_| layer >= first)).collect());
    };
    let types = types.as_array().filter(|types| types.len() == n_layers).ok_or_else(|| {
        json.error("layer_types", format_args!("is not a list of {n_layers} names"))
    })?;
    let slides = |value: &Value| match value.as_str() {
        Some("full_attention") => Ok(None),
        Some("sliding_attention") if window.is_some() => Ok(window),
        Some("sliding_attention") => {
            Err(json.error("layer_types", "has sliding layers, but there is no sliding window"))
        }
        _ => Err(unsupported(format!("key \"layer_types\": {value} is not supported"))),
    };
    types.iter().map(slides).collect()
}
