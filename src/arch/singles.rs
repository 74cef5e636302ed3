//! Models whose layers have one mixer each: which one.

use super::keys::{self, Keys};
use super::rows::Row;
use crate::config::limits;
use crate::error::{Result, unsupported};
use crate::load::Object;

/// The mixer of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Single {
    Recurrent,
    Attention,
    Dense,
}

/// The mixer of each layer; `None` for a model whose layers have two.
pub(super) fn read(keys: Keys, row: &Row) -> Result<Option<Vec<Single>>> {
    if !row.single_mixers {
        return Ok(None);
    }
    let singles = match keys {
        Keys::Json(json) => from_json(json)?,
        Keys::Gguf { .. } => from_gguf(keys)?,
    };
    if !(1..=limits::LAYERS).contains(&singles.len()) {
        return Err(keys.error(keys::LAYERS.key(), format_args!("is {}", singles.len())));
    }
    Ok(Some(singles))
}

/// A layer with heads of keys attends, one with a width is a feed-forward layer.
fn from_gguf(keys: Keys) -> Result<Vec<Single>> {
    let n = keys.need(keys::LAYERS)?;
    let heads = keys.counts(keys::KV_HEADS.key(), n)?;
    let widths = keys.counts(keys::FFN.key(), n)?;
    let single = |layer: usize| match (heads.get(layer), widths.get(layer)) {
        (Some(0), Some(0)) => Some(Single::Recurrent),
        (Some(_), Some(0)) => Some(Single::Attention),
        (Some(0), Some(_)) => Some(Single::Dense),
        _ => None,
    };
    (0..n)
        .map(|layer| {
            single(layer).ok_or_else(|| {
                let problem = format!("does not say what layer {layer} is");
                keys.error(keys::KV_HEADS.key(), problem)
            })
        })
        .collect()
}

/// A list of names, or a letter for each layer.
fn from_json(json: Object) -> Result<Vec<Single>> {
    const LIST: &str = "layers_block_type";
    const PATTERN: &str = "hybrid_override_pattern";
    let wrong = |key: &str, value: &dyn std::fmt::Display| {
        unsupported(format!("key \"{key}\": layers of kind {value} are not supported"))
    };
    let singles: Vec<Single> = match json.get(LIST) {
        Some(list) => {
            let single = |name: &serde_json::Value| match name.as_str() {
                Some("linear_attention" | "mamba") => Ok(Single::Recurrent),
                Some("full_attention" | "attention") => Ok(Single::Attention),
                Some("mlp") => Ok(Single::Dense),
                _ => Err(wrong(LIST, name)),
            };
            let list = list.as_array().ok_or_else(|| json.error(LIST, "is not a list"))?;
            list.iter().map(single).collect::<Result<_>>()?
        }
        None => {
            let pattern = json.need(PATTERN, json.str(PATTERN)?)?;
            let single = |letter| match letter {
                'M' => Ok(Single::Recurrent),
                '*' => Ok(Single::Attention),
                '-' => Ok(Single::Dense),
                other => Err(wrong(PATTERN, &other)),
            };
            pattern.chars().map(single).collect::<Result<_>>()?
        }
    };
    match json.usize("num_hidden_layers")? {
        Some(n) if n != singles.len() => {
            Err(json.error("num_hidden_layers", format_args!("is {n}, not {}", singles.len())))
        }
        _ => Ok(singles),
    }
}
