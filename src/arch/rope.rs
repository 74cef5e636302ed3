//! Rope's numbers, whose keys GGUF and config.json arrange in different ways.

use serde_json::Map;

use super::Source;
use super::attention::global_head_dim;
use super::keys::{self, Keys};
use super::rows::Row;
use crate::config::{Rope, RopeScaling, RopeStyle};
use crate::error::{Error, Result, unsupported};
use crate::load::{Metadata, Object};

/// The model's rope, and the one of its layers with a window where that is another.
pub(super) fn ropes(
    source: Source<'_>,
    row: &Row,
    head_dim: usize,
    context: usize,
) -> Result<(Rope, Option<Rope>)> {
    let keys = source.keys;
    let dim = match global_head_dim(keys, row)? {
        Some(dim) => dim,
        None => head_dim,
    };
    let rope = match keys {
        Keys::Json(json) => {
            let kind = row.local_rope.then_some("full_attention");
            from_json(json, kind, row, dim, context)?
        }
        Keys::Gguf { .. } => from_gguf(source, row.gguf_rope, dim, context)?,
    };
    if !row.local_rope {
        return Ok((rope, None));
    }
    let local = match keys {
        Keys::Json(json) => local_from_json(json, row, head_dim, context)?,
        Keys::Gguf { .. } => None,
    };
    let local = match local {
        Some(local) => local,
        None => Rope {
            dim: keys.size(keys::LOCAL_ROPE_DIM)?.unwrap_or(rope.dim),
            theta: keys.f32(keys::LOCAL_THETA)?.or(row.local_theta).unwrap_or(rope.theta),
            scaling: RopeScaling::None,
            ..rope.clone()
        },
    };
    Ok((rope, Some(local)))
}

/// Rope in a folder. `kind` names the layers, where the file has one set for each kind of them.
fn from_json(
    json: Object,
    kind: Option<&str>,
    row: &Row,
    head_dim: usize,
    context: usize,
) -> Result<Rope> {
    let empty = Map::new();
    let (part, map) = parameters(json)?.unwrap_or(("", &empty));
    let prefix = format!("{}{part}", json.prefix);
    let all = json.inner(map, &prefix);
    let own = kind.map(|kind| all.object(kind)).transpose()?.flatten();
    let prefix = own.and(kind).map_or(prefix.clone(), |kind| format!("{prefix}{kind}."));
    let scaling = json.inner(own.unwrap_or(map), &prefix);
    let part = partial(json, scaling, row)?;
    let theta = match scaling.f32("rope_theta")? {
        None => Keys::Json(json).f32(keys::THETA)?,
        some => some,
    };
    let theta = theta.unwrap_or(row.theta);
    let rope = Rope {
        theta,
        dim: (head_dim as f64 * part) as usize,
        style: row.json_rope,
        scaling: RopeScaling::None,
    };
    match (kind_of(scaling)?.1, scaling.f64("alpha")?) {
        ("proportional", _) => {
            let scaling = proportional(scaling, part, head_dim)?;
            Ok(Rope { dim: head_dim, scaling, ..rope })
        }
        ("longrope" | "su", _) => {
            Ok(Rope { scaling: longrope_json(json, scaling, context)?, ..rope })
        }
        // A greater base, and nothing that changes with the length.
        ("dynamic", Some(alpha)) if alpha >= 1.0 => {
            for key in ["factor", "mscale", "mscale_all_dim"] {
                if let Some(other) = scaling.f64(key)?.filter(|&x| x != 1.0) {
                    return Err(scaling.error(key, format_args!("is {other}, with a key alpha")));
                }
            }
            let dim = rope.dim as f64;
            let stretch = libm::pow(alpha, dim / (dim - 2.0));
            Ok(Rope { theta: (f64::from(theta) * stretch) as f32, ..rope })
        }
        _ => Ok(Rope { scaling: scaling_json(scaling, context)?, ..rope }),
    }
}

/// The object with the keys of a scaling, and its name with a dot.
pub(super) fn parameters(
    json: Object<'_>,
) -> Result<Option<(&'static str, &Map<String, serde_json::Value>)>> {
    Ok(match (json.object("rope_scaling")?, json.object("rope_parameters")?) {
        (Some(map), _) => Some(("rope_scaling.", map)),
        (None, Some(map)) => Some(("rope_parameters.", map)),
        (None, None) => None,
    })
}

/// What scales, after the key that says so.
fn kind_of(scaling: Object<'_>) -> Result<(&'static str, &str)> {
    let key = if scaling.get("rope_type").is_some() { "rope_type" } else { "type" };
    Ok((key, scaling.str(key)?.unwrap_or("default")))
}

/// LongRoPE (<https://arxiv.org/abs/2402.13753>): divisors for contexts up to that of pre-training,
/// and for longer ones.
fn longrope_json(json: Object, scaling: Object, context: usize) -> Result<RopeScaling> {
    let list = |key: &str| {
        let list = scaling.get(key).and_then(serde_json::Value::as_array);
        let numbers = |list: &Vec<serde_json::Value>| {
            list.iter().map(|x| x.as_f64().map(|x| x as f32)).collect::<Option<Vec<_>>>()
        };
        list.and_then(numbers).ok_or_else(|| scaling.error(key, "is no list of numbers"))
    };
    let original = match Keys::Json(scaling).size(keys::ROPE_ORIGINAL)? {
        None => Keys::Json(json).need(keys::ROPE_ORIGINAL)?,
        Some(original) => original,
    };
    let factor = match scaling.f64("factor")? {
        None => context as f64 / original as f64,
        Some(factor) => factor,
    };
    let attention_factor = match scaling.f64("attention_factor")? {
        Some(given) => given,
        None if factor <= 1.0 => 1.0,
        None => libm::sqrt(1.0 + libm::log(factor) / libm::log(original as f64)),
    };
    Ok(RopeScaling::Long {
        short: list("short_factor")?,
        long: list("long_factor")?,
        original_context: original,
        attention_factor: attention_factor as f32,
    })
}

/// The part of a head that turns.
fn partial(json: Object, scaling: Object, row: &Row) -> Result<f64> {
    const KEY: &str = "partial_rotary_factor";
    let (older, outside) = (json.f64("rotary_pct")?, json.f64(KEY)?);
    let part = scaling.f64(KEY)?.or(outside).or(older);
    match (part.or(row.partial_rope), row.partial_rope) {
        (None, None) => Ok(1.0),
        (Some(part), None) if part != 1.0 => {
            Err(unsupported(format!("key \"{KEY}\": {part} is not supported with {}", row.name)))
        }
        (Some(part), _) if part > 0.0 && part <= 1.0 => Ok(part),
        (part, _) => Err(json.error(KEY, format_args!("is {}", part.unwrap_or_default()))),
    }
}

/// The frequencies of a whole head, of which those beyond `part` of it do not turn. GGUF has a
/// divisor of this size for them.
fn proportional(json: Object, part: f64, head_dim: usize) -> Result<RopeScaling> {
    const STILL: f32 = 1e30;
    let factor = json.f32("factor")?.unwrap_or(1.0);
    let turn = (head_dim as f64 * part) as usize / 2;
    Ok(RopeScaling::Factors(
        (0..head_dim / 2).map(|pair| if pair < turn { factor } else { STILL }).collect(),
    ))
}

/// Rope of layers with a window as transformers 5 writes it; `None` where the file has none.
fn local_from_json(
    json: Object,
    row: &Row,
    head_dim: usize,
    context: usize,
) -> Result<Option<Rope>> {
    const KIND: &str = "sliding_attention";
    let there = json.object("rope_parameters")?.is_some_and(|map| map.contains_key(KIND));
    let row = Row { theta: row.local_theta.unwrap_or(row.theta), ..*row };
    there.then(|| from_json(json, Some(KIND), &row, head_dim, context)).transpose()
}

fn scaling_json(json: Object, context: usize) -> Result<RopeScaling> {
    let (key, kind) = kind_of(json)?;
    let need = |key: &str| json.need(key, json.f32(key)?);
    Ok(match kind {
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
            original_context: Keys::Json(json).need(keys::ROPE_ORIGINAL)?,
        },
        "yarn" => yarn_json(json, context)?,
        other => {
            return Err(unsupported(format!(
                "key \"{}{key}\": rope scaling \"{other}\" is not supported \
                 (default, linear, llama3 and yarn are)",
                json.prefix
            )));
        }
    })
}

fn yarn_json(json: Object, context: usize) -> Result<RopeScaling> {
    let original_context = Keys::Json(json).size(keys::ROPE_ORIGINAL)?.unwrap_or(context);
    let factor = json.f64("factor")?.unwrap_or(context as f64 / original_context as f64);
    let mscale =
        |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * libm::log(factor) + 1.0 };
    let given = |key: &str| Ok::<_, Error>(json.f64(key)?.filter(|&x| x != 0.0));
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

/// Rope in GGUF metadata.
pub(super) fn from_gguf(
    source: Source<'_>,
    style: RopeStyle,
    head_dim: usize,
    context: usize,
) -> Result<Rope> {
    let keys = source.keys;
    let Keys::Gguf { metadata, arch } = keys else { unreachable!("the caller matched") };
    let scaling = Scaling { metadata, arch };
    Ok(Rope {
        theta: keys.f32(keys::THETA)?.unwrap_or(10_000.0),
        dim: keys.size(keys::ROPE_DIM)?.unwrap_or(head_dim),
        style,
        scaling: match source.long_rope {
            Some(factors) => longrope_gguf(scaling, factors, context)?,
            None => scaling_gguf(scaling, source.rope_factors, context)?,
        },
    })
}

/// The keys of rope's scaling.
#[derive(Clone, Copy)]
struct Scaling<'a> {
    metadata: &'a Metadata,
    arch: &'a str,
}

impl<'a> Scaling<'a> {
    fn key(self, name: &str) -> String {
        format!("{}.rope.{name}", self.arch)
    }

    fn f32(self, name: &str) -> Result<Option<f32>> {
        self.metadata.get_f32(&self.key(name))
    }

    fn ty(self) -> Result<Option<&'a str>> {
        self.metadata.get_str(&self.key("scaling.type"))
    }
}

fn scaling_gguf(keys: Scaling, factors: Option<&[f32]>, context: usize) -> Result<RopeScaling> {
    // llama.cpp reads a factor without a type, and the key of before there were types, as linear.
    let factor = match keys.f32("scaling.factor")? {
        None => keys.f32("scale_linear")?,
        some => some,
    };
    let factor = factor.filter(|&factor| factor != 0.0 && factor != 1.0);
    let scaling = match (keys.ty()?.unwrap_or("linear"), factor) {
        ("none", _) | ("linear" | "yarn", None) => RopeScaling::None,
        ("linear", Some(factor)) => RopeScaling::Linear { factor },
        ("yarn", Some(factor)) => yarn_gguf(keys, factor, context)?,
        (other, _) => {
            return Err(unsupported(format!(
                "key \"{}\": rope scaling \"{other}\" is not supported (none, linear and yarn are)",
                keys.key("scaling.type")
            )));
        }
    };
    match (factors, scaling) {
        (None, scaling) => Ok(scaling),
        (Some(factors), RopeScaling::None) => Ok(RopeScaling::Factors(factors.to_vec())),
        (Some(_), _) => Err(unsupported(format!(
            "tensor \"{ROPE_FREQS}\" together with the key \"{}\" is not supported",
            keys.key("scaling.type")
        ))),
    }
}

/// LongRoPE's divisors as the converter stores them: for short contexts, and for long ones.
pub(crate) const LONG_ROPE: [&str; 2] = ["rope_factors_short.weight", "rope_factors_long.weight"];

fn longrope_gguf(keys: Scaling, factors: [&[f32]; 2], context: usize) -> Result<RopeScaling> {
    let Scaling { metadata, arch } = keys;
    let original = Keys::Gguf { metadata, arch }.size(keys::ROPE_ORIGINAL)?;
    if let Some(other) = keys.ty()?.filter(|ty| !matches!(*ty, "longrope" | "none")) {
        return Err(unsupported(format!(
            "tensor \"{}\" together with the key \"{}\" ({other}) is not supported",
            LONG_ROPE[0],
            keys.key("scaling.type")
        )));
    }
    let [short, long] = factors.map(<[f32]>::to_vec);
    Ok(RopeScaling::Long {
        short,
        long,
        original_context: original.unwrap_or(context),
        attention_factor: keys.f32("scaling.attn_factor")?.unwrap_or(1.0),
    })
}

/// The scaling of Llama 3 and the partial rope of Gemma 4 as the converter stores them: one divisor per pair
/// of dimensions.
pub(crate) const ROPE_FREQS: &str = "rope_freqs.weight";

fn yarn_gguf(keys: Scaling, factor: f32, context: usize) -> Result<RopeScaling> {
    let extrapolation = "scaling.yarn_ext_factor";
    if let Some(given) = keys.f32(extrapolation)?
        && given != 1.0
        && given >= 0.0
    {
        return Err(unsupported(format!(
            "key \"{}\" is {given}; only 1 is supported",
            keys.key(extrapolation)
        )));
    }
    let mscale =
        |scale: f32| if factor <= 1.0 { 1.0 } else { 0.1 * scale * libm::logf(factor) + 1.0 };
    // The converter writes config.json's `attention_factor` under the first key: the whole factor.
    let whole = match keys.f32("scaling.yarn_attn_factor")? {
        Some(whole) => whole,
        None => match keys.f32("scaling.yarn_log_multiplier")?.unwrap_or(0.0) {
            0.0 => mscale(1.0),
            all_dims => mscale(1.0) / mscale(all_dims),
        },
    };
    let Scaling { metadata, arch } = keys;
    let original = Keys::Gguf { metadata, arch }.size(keys::ROPE_ORIGINAL)?;
    Ok(RopeScaling::Yarn {
        factor,
        original_context: original.unwrap_or(context),
        beta_fast: keys.f32("scaling.yarn_beta_fast")?.unwrap_or(32.0),
        beta_slow: keys.f32("scaling.yarn_beta_slow")?.unwrap_or(1.0),
        attention_factor: whole * keys.f32("scaling.attn_factor")?.unwrap_or(1.0),
        truncate: true,
    })
}
