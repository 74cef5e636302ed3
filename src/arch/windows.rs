//! Which layers see a window only.

use super::keys::{self, Keys};
use super::recurrent::is_recurrent;
use super::rows::{Recurrence, Row, Windows};
use crate::config::limits;
use crate::error::{Result, config_error, unsupported};
use crate::load::{Object, Value};

/// The sliding window of each layer.
pub(super) fn windows(keys: Keys, row: &Row, n_layers: usize) -> Result<Vec<Option<usize>>> {
    match keys {
        Keys::Json(json) => windows_json(json, row, n_layers),
        Keys::Gguf { metadata, arch } => {
            let window = keys.count(keys::WINDOW.key())?.filter(|&window| window > 0);
            let window = window.map(|window| window.min(limits::CONTEXT));
            let Windows::AllButEvery(every) = row.windows else {
                return Ok(vec![window; n_layers]);
            };
            let key = format!("{arch}.attention.sliding_window_pattern");
            if let Some(Value::Array(slides)) = metadata.get(&key) {
                let slides = slides.to_bools().filter(|slides| slides.len() == n_layers);
                let slides = slides.ok_or_else(|| {
                    config_error(format!("key \"{key}\" is not a list of {n_layers} booleans"))
                })?;
                return Ok(slides.into_iter().map(|slides| window.filter(|_| slides)).collect());
            }
            let every = metadata.get_u64(&key)?.unwrap_or(every as u64);
            if every == 0 {
                return Err(config_error(format!("key \"{key}\" is 0")));
            }
            let slides = |layer: usize| !(layer as u64 + 1).is_multiple_of(every);
            Ok((0..n_layers).map(|layer| window.filter(|_| slides(layer))).collect())
        }
    }
}

/// As in transformers: `layer_types` decides where it is there; otherwise mistral slides in every
/// layer, qwen in those from `max_window_layers` on, gemma in all but every so many. A qwen slides
/// only with `use_sliding_window`.
fn windows_json(json: Object, row: &Row, n_layers: usize) -> Result<Vec<Option<usize>>> {
    let keys = Keys::Json(json);
    let given = keys.size(keys::WINDOW)?;
    let absent = !keys.has(keys::WINDOW.key());
    let window = given.or(absent.then_some(4096));
    let (window, slides): (_, Box<dyn Fn(usize) -> bool>) = match row.windows {
        Windows::Llama => (None, Box::new(|_| false)),
        // What transformers' class has by default: mistral a window, mixtral none.
        Windows::Mistral if row.experts.is_some() => (given, Box::new(|_| true)),
        Windows::Mistral => (window, Box::new(|_| true)),
        Windows::Qwen => {
            let used = json.bool("use_sliding_window")?.unwrap_or(false);
            let first = json.usize("max_window_layers")?.unwrap_or(28);
            let first = if row.experts.is_some() { 0 } else { first };
            (window.filter(|_| used), Box::new(move |layer| layer >= first))
        }
        Windows::AllButEvery(usual) => {
            let saved = json.usize("_sliding_window_pattern")?;
            let every = json.usize("sliding_window_pattern")?.or(saved).unwrap_or(usual);
            if every == 0 {
                return Err(json.error("sliding_window_pattern", "is 0"));
            }
            (window, Box::new(move |layer| !(layer + 1).is_multiple_of(every)))
        }
    };
    let Some(types) = json.get("layer_types") else {
        return Ok((0..n_layers).map(|layer| window.filter(|_| slides(layer))).collect());
    };
    let types = types.as_array().filter(|types| types.len() == n_layers).ok_or_else(|| {
        json.error("layer_types", format_args!("is not a list of {n_layers} names"))
    })?;
    let slides = |value: &serde_json::Value| match value.as_str() {
        Some("full_attention") => Ok(None),
        Some(name) if row.recurrence != Recurrence::None && is_recurrent(name) => Ok(None),
        Some("sliding_attention") if window.is_some() => Ok(window),
        Some("sliding_attention") => {
            Err(json.error("layer_types", "has sliding layers, but there is no sliding window"))
        }
        _ => Err(unsupported(format!("key \"layer_types\": {value} is not supported"))),
    };
    types.iter().map(slides).collect()
}
