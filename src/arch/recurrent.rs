//! Recurrent mixers: which layers have them, their numbers, and the slots of a layer.

use super::decoder::Decoder;
use super::keys::{self, Keys};
use super::rows::{Recurrence, Row};
use super::singles::Single;
use super::state_space::MambaNumbers;
use super::windows::all_but_every;
use crate::config::limits;
use crate::error::{Result, config_error, unsupported};
use crate::load::{Array, Object, Value};
use crate::spec::{
    Convolution, Decay, DeltaHeads, DeltaNet, Fused, Linear, Mixer, Named, Norm, RowMap, ShortConv,
    Slots,
};

/// The recurrent layers of a model.
#[derive(Debug)]
pub(super) struct Recurrent {
    layers: Vec<bool>,
    numbers: Numbers,
}

#[derive(Debug)]
enum Numbers {
    DeltaNet { heads: DeltaHeads, taps: usize, logarithms: bool },
    ShortConv { taps: usize, bias: bool },
    Mamba(MambaNumbers),
}

impl Recurrent {
    pub(super) fn read(
        keys: Keys,
        row: &Row,
        n_layers: usize,
        singles: Option<&[Single]>,
    ) -> Result<Option<Self>> {
        if row.recurrence == Recurrence::None {
            return Ok(None);
        }
        let layers = match singles {
            Some(singles) => singles.iter().map(|single| *single == Single::Recurrent).collect(),
            None => layers(keys, row, n_layers)?,
        };
        if !layers.contains(&true) {
            return Ok(None);
        }
        let numbers = match row.recurrence {
            Recurrence::None => return Ok(None),
            Recurrence::DeltaNet { tiled } => {
                let is_gguf = matches!(keys, Keys::Gguf { .. });
                let heads = delta_heads(keys, tiled && is_gguf)?;
                Numbers::DeltaNet { heads, taps: taps(keys, keys::TAPS)?, logarithms: !is_gguf }
            }
            Recurrence::ShortConv => {
                if let Keys::Json(json) = keys {
                    check_widths(json)?;
                }
                let bias = keys.bool(keys::CONV_BIAS)?.unwrap_or(false);
                Numbers::ShortConv { taps: taps(keys, keys::SHORT_TAPS)?, bias }
            }
            Recurrence::Mamba => Numbers::Mamba(MambaNumbers::read(keys, row)?),
        };
        Ok(Some(Self { layers, numbers }))
    }

    pub(super) fn has(&self, layer: usize) -> bool {
        self.layers[layer]
    }
}

pub(super) fn taps(keys: Keys, key: keys::Size) -> Result<usize> {
    match keys.need(key)? {
        1 => Err(keys.error(key.key(), "is 1: a convolution over nothing but the token")),
        taps => Ok(taps),
    }
}

/// The width of a head, where GGUF has that of all.
pub(super) fn inner_of_head(keys: Keys, n_heads: usize) -> Result<usize> {
    let all = keys.need(keys::INNER)?;
    if !all.is_multiple_of(n_heads) {
        let problem = format!("is {all}, no multiple of {n_heads} heads");
        return Err(keys.error(keys::INNER.key(), problem));
    }
    Ok(all / n_heads)
}

/// lfm2 has keys for widths that are that of the model.
fn check_widths(json: Object) -> Result<()> {
    let hidden = Keys::Json(json).need(keys::HIDDEN)?;
    for key in ["conv_dim", "conv_dim_out", "block_dim"] {
        if let Some(width) = json.usize(key)?.filter(|&width| width != hidden) {
            return Err(unsupported(format!("key \"{key}\": {width} is not the width {hidden}")));
        }
    }
    Ok(())
}

fn delta_heads(keys: Keys, tiled: bool) -> Result<DeltaHeads> {
    let (n_k, n_v) = (keys.need(keys::DELTA_KEY_HEADS)?, keys.need(keys::DELTA_VALUE_HEADS)?);
    let d_k = keys.need(keys::DELTA_KEY_DIM)?;
    let d_v = match keys {
        Keys::Json(_) => keys.need(keys::DELTA_VALUE_DIM)?,
        Keys::Gguf { .. } => inner_of_head(keys, n_v)?,
    };
    if !n_v.is_multiple_of(n_k) {
        return Err(config_error(format!("{n_v} value heads do not share {n_k} key heads evenly")));
    }
    let widest = limits::WIDTH;
    let heads = DeltaHeads { n_k, n_v, d_k, d_v, tiled };
    if n_k * d_k > widest || n_v * d_v > widest || heads.convolved() * heads.slot() > 4 * widest {
        return Err(config_error(format!("{n_v} states of {d_k} by {d_v} are too wide")));
    }
    Ok(heads)
}

/// Which layers are recurrent.
fn layers(keys: Keys, row: &Row, n_layers: usize) -> Result<Vec<bool>> {
    let short = row.recurrence == Recurrence::ShortConv;
    let listed = short || row.recurrence == Recurrence::Mamba;
    if row.beside_attention {
        return Ok(vec![true; n_layers]);
    }
    let json = match keys {
        Keys::Gguf { .. } if listed => {
            let heads = keys.counts(keys::KV_HEADS.key(), n_layers)?;
            return Ok(heads.iter().map(|&heads| heads == 0).collect());
        }
        Keys::Gguf { metadata, arch } => {
            let key = format!("{arch}.attention.recurrent_layers");
            let pattern = every(keys, n_layers)?;
            return match metadata.get(&key) {
                None => Ok(pattern),
                Some(Value::Array(Array::Bool(list))) if list.len() == n_layers => Ok(list.clone()),
                Some(_) => Err(config_error(format!("key \"{key}\" is not {n_layers} truths"))),
            };
        }
        Keys::Json(json) => json,
    };
    let pattern = match row.recurrence {
        Recurrence::ShortConv => all_but(json, n_layers)?,
        // Without a list, as its class has it.
        Recurrence::Mamba => vec![true; n_layers],
        _ => every(keys, n_layers)?,
    };
    match json.get("layer_types") {
        None => Ok(pattern),
        // The check of the windows has seen that it is one of the names.
        Some(types) => {
            let types = types.as_array().filter(|types| types.len() == n_layers);
            let types = types.ok_or_else(|| {
                json.error("layer_types", format_args!("is not a list of {n_layers} names"))
            })?;
            let is = |name: &serde_json::Value| name.as_str().is_some_and(is_recurrent);
            Ok(types.iter().map(is).collect())
        }
    }
}

/// Whether `layer_types` names a recurrent layer so.
pub(super) fn is_recurrent(name: &str) -> bool {
    matches!(name, "linear_attention" | "conv" | "mamba")
}

/// All but every so many.
fn every(keys: Keys, n_layers: usize) -> Result<Vec<bool>> {
    Ok(all_but_every(keys.size(keys::FULL_INTERVAL)?.unwrap_or(4), n_layers))
}

/// All but those that `full_attn_idxs` lists.
fn all_but(json: Object, n_layers: usize) -> Result<Vec<bool>> {
    const KEY: &str = "full_attn_idxs";
    let Some(list) = json.get(KEY) else { return Ok(vec![false; n_layers]) };
    let mut layers = vec![true; n_layers];
    for layer in list.as_array().map_or(&[][..], Vec::as_slice) {
        let layer = layer.as_u64().and_then(|layer| usize::try_from(layer).ok());
        match layer.and_then(|layer| layers.get_mut(layer)) {
            Some(layer) => *layer = false,
            None => return Err(json.error(KEY, "is not a list of layers")),
        }
    }
    Ok(layers)
}

/// Heads of keys and values in the layers that have some.
pub(super) fn kv_heads(keys: Keys, n_layers: usize) -> Result<Option<usize>> {
    let key = keys::KV_HEADS.key();
    let mut heads = keys.counts(key, n_layers)?;
    heads.retain(|&heads| heads > 0);
    heads.dedup();
    match heads[..] {
        [] => Ok(None),
        [heads] if heads <= limits::HEADS => Ok(Some(heads)),
        [heads] => Err(keys.error(key, format_args!("is {heads}, not 1 to {}", limits::HEADS))),
        _ => {
            let name = keys.name(key);
            Err(unsupported(format!("key \"{name}\": layers of different sizes are not supported")))
        }
    }
}

/// Width of lfm2's feed-forward layers, as its class computes it.
pub(super) fn adjusted_ffn(json: Object) -> Result<usize> {
    let given = json.usize("block_ff_dim")?;
    let given = match given {
        Some(ffn) => ffn,
        None => Keys::Json(json).need(keys::FFN)?,
    };
    let mut ffn = given;
    if json.bool("block_auto_adjust_ff_dim")?.unwrap_or(true) {
        let multiple = json.usize("block_multiple_of")?.unwrap_or(256);
        let factor = json.f64("block_ffn_dim_multiplier")?.unwrap_or(1.0);
        ffn = (factor * (given / 3 * 2 + given % 3 * 2 / 3) as f64) as usize;
        ffn = ffn.checked_next_multiple_of(multiple.max(1)).unwrap_or(usize::MAX);
    }
    if !(1..=limits::WIDTH).contains(&ffn) {
        let problem = format_args!("makes layers of {ffn}, not 1 to {}", limits::WIDTH);
        return Err(json.error("block_ff_dim", problem));
    }
    Ok(ffn)
}

impl Decoder {
    /// `kept` is its place in a state.
    pub(super) fn recurrence(
        &self,
        slots: &mut Slots<'_>,
        Recurrent { numbers, .. }: &Recurrent,
        kept: usize,
    ) -> Result<Mixer<Named>> {
        Ok(match *numbers {
            Numbers::DeltaNet { heads, taps, logarithms } => {
                let hidden = self.config.hidden;
                let conv = channels(slots, "ssm_conv1d", 2 * heads.keys() + heads.values(), taps)?;
                let weight = slots.tensor("ssm_norm.weight", &[heads.d_v], 0.0)?;
                Mixer::DeltaNet(Box::new(DeltaNet {
                    heads,
                    inputs: delta_inputs(slots, heads, hidden)?,
                    conv: Convolution { bias: None, ..conv },
                    decay: Decay {
                        rates: slots.tensor("ssm_a", &[heads.n_v], 0.0)?,
                        logarithms,
                        bias: slots.tensor("ssm_dt.bias", &[heads.n_v], 0.0)?,
                        limits: [0.0, f32::INFINITY],
                    },
                    norm: Norm::rms(Some(weight), self.config.norm_eps),
                    output: self.linear(slots, "ssm_out", &[hidden, heads.values()], false)?,
                    kept,
                }))
            }
            Numbers::ShortConv { taps, bias } => {
                let hidden = self.config.hidden;
                let conv = channels(slots, "shortconv.conv", hidden, taps)?;
                let own = bias.then(|| slots.tensor("shortconv.conv.bias", &[hidden], 0.0));
                let (input, output) = ("shortconv.in_proj", "shortconv.out_proj");
                Mixer::ShortConv(ShortConv {
                    conv: Convolution { bias: own.transpose()?, ..conv },
                    input: self.linear(slots, input, &[3 * hidden, hidden], bias)?,
                    output: self.linear(slots, output, &[hidden, hidden], bias)?,
                    kept,
                })
            }
            Numbers::Mamba(numbers) => {
                Mixer::Mamba(Box::new(self.state_space(slots, numbers, kept)?))
            }
        })
    }
}

/// A convolution without a bias.
pub(super) fn channels(
    slots: &mut Slots<'_>,
    part: &str,
    channels: usize,
    taps: usize,
) -> Result<Convolution<Named>> {
    let weights = slots.tensor(&format!("{part}.weight"), &[channels, taps], 0.0)?;
    Ok(Convolution { taps, channels, weights, bias: None })
}

/// What a delta rule begins with. A file has queries, keys and values as one tensor, one after
/// another or, with the gates, key head by key head; so may those of the state be.
fn delta_inputs(
    slots: &mut Slots<'_>,
    heads: DeltaHeads,
    hidden: usize,
) -> Result<[Linear<Named>; 6]> {
    let DeltaHeads { n_k, n_v, d_k, d_v, .. } = heads;
    let shared = n_v / n_k;
    // With the rows of a key head in each.
    let by_head = |part, runs: &[usize], which: usize| {
        let step = runs.iter().sum::<usize>();
        let first = runs[..which].iter().sum();
        Fused { part, of: n_k * step, rows: RowMap { first, run: runs[which], step } }
    };
    let rows = heads.inputs();
    let together = slots.has("ssm_in.weight");
    let gates_together = slots.has("ssm_ba.weight");
    let fused = |which: usize| match which {
        0..4 if together => Some(by_head("ssm_in", &[d_k, d_k, shared * d_v, shared * d_v], which)),
        0..3 => {
            let (of, first) = (rows[..3].iter().sum(), rows[..which].iter().sum());
            Some(Fused { part: "attn_qkv", of, rows: RowMap::from(first) })
        }
        4.. if gates_together => Some(by_head("ssm_ba", &[shared, shared], which - 4)),
        _ => None,
    };
    let mut linear = |which: usize, part| -> Result<Linear<Named>> {
        let fused = fused(which);
        let matrix = slots.part((part, "weight"), &[rows[which], hidden], fused.as_ref())?;
        Ok(Linear { matrix, bias: None })
    };
    Ok([
        linear(0, "attn_q")?,
        linear(1, "attn_k")?,
        linear(2, "attn_v")?,
        linear(3, "attn_gate")?,
        linear(4, "ssm_beta")?,
        linear(5, "ssm_alpha")?,
    ])
}
