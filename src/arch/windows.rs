//! Which layers see a window only.

use super::keys::{self, Keys};
use super::recurrent::is_recurrent;
use super::rows::{Recurrence, Roped, Row, Windows};
use crate::config::{Config, limits};
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
    let given = match row.windows {
        // What its class makes of a window that is not used.
        Windows::EveryOther if keys.count(keys::WINDOW.key())? == Some(0) => None,
        _ => keys.size(keys::WINDOW)?,
    };
    let absent = !keys.has(keys::WINDOW.key());
    let window = given.or(absent.then_some(4096));
    let (window, slides): (_, Box<dyn Fn(usize) -> bool>) = match row.windows {
        Windows::Llama => (None, Box::new(|_| false)),
        Windows::IfGiven => (given, Box::new(|_| true)),
        // What transformers' class has by default: mistral a window, mixtral none.
        Windows::Mistral if row.experts.is_some() => (given, Box::new(|_| true)),
        Windows::Mistral => (window, Box::new(|_| true)),
        Windows::Qwen => {
            let used = json.bool("use_sliding_window")?.unwrap_or(false);
            let first = json.usize("max_window_layers")?.unwrap_or(28);
            let first = if row.experts.is_some() { 0 } else { first };
            (window.filter(|_| used), Box::new(move |layer| layer >= first))
        }
        Windows::EveryOther => {
            let used = json.bool("use_sliding_window")?.unwrap_or(false);
            let end = json.usize("max_window_layers")?.unwrap_or(28);
            (window.filter(|_| used), Box::new(move |layer| layer.is_multiple_of(2) && layer < end))
        }
        Windows::AllButEvery(usual) => {
            let every = pattern(json)?.unwrap_or(usual);
            (window, Box::new(move |layer| every == 0 || !(layer + 1).is_multiple_of(every)))
        }
    };
    let Some(types) = json.get("layer_types") else {
        return Ok((0..n_layers).map(|layer| window.filter(|_| slides(layer))).collect());
    };
    let types = types.as_array().filter(|types| types.len() == n_layers).ok_or_else(|| {
        json.error("layer_types", format_args!("is not a list of {n_layers} names"))
    })?;
    let slides = |value: &serde_json::Value| match value.as_str() {
        Some("full_attention" | "attention") => Ok(None),
        Some(name) if row.recurrence != Recurrence::None && is_recurrent(name) => Ok(None),
        Some("sliding_attention") if window.is_some() => Ok(window),
        Some("sliding_attention") => {
            Err(json.error("layer_types", "has sliding layers, but there is no sliding window"))
        }
        _ => Err(unsupported(format!("key \"layer_types\": {value} is not supported"))),
    };
    types.iter().map(slides).collect()
}

/// One layer of how many sees all: a number, or a letter for each of them. `None` where the file does
/// not say, or lists its layers.
fn pattern(json: Object) -> Result<Option<usize>> {
    const KEY: &str = "sliding_window_pattern";
    let saved = json.usize("_sliding_window_pattern")?;
    let every = match json.get(KEY).and_then(serde_json::Value::as_str) {
        Some(letters) if letters.trim_start_matches('L') == "G" => Some(letters.len()),
        _ => json.usize(KEY)?.or(saved),
    };
    if every == Some(0) && json.get("layer_types").is_none() {
        return Err(json.error(KEY, "is 0"));
    }
    Ok(every)
}

/// Whether each layer rotates queries and keys.
pub(super) fn roped(keys: Keys, row: &Row, config: &Config) -> Result<Vec<bool>> {
    let Config { n_layers, windows, .. } = config;
    let all = |roped| Ok(vec![roped; *n_layers]);
    match row.roped {
        Roped::All => all(true),
        Roped::None => all(false),
        Roped::AllButEvery(every) => listed(keys, every, *n_layers),
        Roped::Windowed if windows.iter().all(Option::is_none) => all(true),
        Roped::Windowed => Ok(windows.iter().map(Option::is_some).collect()),
        Roped::AsTheFileSays { default } => match keys {
            Keys::Json(json) => {
                all(json.str("position_embedding_type")?.map_or(default, |kind| kind == "rope"))
            }
            Keys::Gguf { .. } => all(keys.bool(keys::ROTATES)?.unwrap_or(true)),
        },
    }
}

/// Whether each layer is none of those that come every so many.
pub(super) fn all_but_every(every: usize, n_layers: usize) -> Vec<bool> {
    (1..=n_layers).map(|layer| !layer.is_multiple_of(every)).collect()
}

/// A list of the layers that rotate, or all but every so many.
fn listed(keys: Keys, every: usize, n_layers: usize) -> Result<Vec<bool>> {
    const LIST: &str = "no_rope_layers";
    const EVERY: &str = "no_rope_layer_interval";
    let Keys::Json(json) = keys else { return Ok(all_but_every(every, n_layers)) };
    let every = json.usize(EVERY)?.unwrap_or(every);
    let Some(list) = json.get(LIST) else {
        return match every {
            0 => Err(json.error(EVERY, "is 0")),
            _ => Ok(all_but_every(every, n_layers)),
        };
    };
    // 1 stands for a layer that rotates, whatever the name of the key.
    let rotates = |value: &serde_json::Value| value.as_u64().map(|x| x != 0);
    let rotates =
        |list: &Vec<serde_json::Value>| list.iter().map(rotates).collect::<Option<Vec<_>>>();
    let list = list.as_array().filter(|list| list.len() == n_layers).and_then(rotates);
    list.ok_or_else(|| json.error(LIST, format_args!("is not a list of {n_layers} numbers")))
}
