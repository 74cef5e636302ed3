//! The state space of Mamba-2: its numbers, and the slots of a layer.

use goldcrest_kernels::GateOrder;

use super::decoder::Decoder;
use super::keys::{self, Keys};
use super::recurrent::{channels, inner_of_head, taps};
use super::rows::Row;
use crate::config::limits;
use crate::error::{Result, config_error};
use crate::load::Object;
use crate::spec::{Convolution, Decay, Mamba, MambaHeads, Named, Norm, Slots};

/// The numbers of its layers.
#[derive(Debug, Clone, Copy)]
pub(super) struct MambaNumbers {
    heads: MambaHeads,
    taps: usize,
    /// Of the convolution, and of the matrices.
    biases: [bool; 2],
    /// Steps in time stay within these.
    limits: [f32; 2],
    norm: GatedNorm,
    /// Whether the file has logarithms of decays, and each group's norm as a row.
    folder: bool,
}

/// The norm of what a state space gives.
#[derive(Debug, Clone, Copy)]
enum GatedNorm {
    None,
    There(GateOrder),
    /// In files that have its weights, after the gate.
    IfThere,
}

impl MambaNumbers {
    pub(super) fn read(keys: Keys, row: &Row) -> Result<Self> {
        let n_heads = keys.need(keys::MAMBA_HEADS)?;
        let head_dim = match keys {
            Keys::Json(_) => keys.need(keys::MAMBA_HEAD_DIM)?,
            Keys::Gguf { .. } => inner_of_head(keys, n_heads)?,
        };
        let (n_groups, d_state) = (keys.need(keys::MAMBA_GROUPS)?, keys.need(keys::MAMBA_STATE)?);
        if !n_heads.is_multiple_of(n_groups) {
            return Err(config_error(format!(
                "{n_heads} heads do not share {n_groups} groups evenly"
            )));
        }
        let heads = MambaHeads { n_heads, head_dim, n_groups, d_state };
        if n_heads * head_dim > limits::WIDTH
            || n_groups * d_state > limits::WIDTH
            || heads.convolved() * heads.slot() > 4 * limits::WIDTH
        {
            return Err(config_error(format!(
                "{n_heads} states of {d_state} by {head_dim} are too wide"
            )));
        }
        let taps = taps(keys, keys::MAMBA_TAPS)?;
        let (biases, limits) = match keys {
            Keys::Json(json) => (mamba_biases(json)?, step_limits(json, row)?),
            Keys::Gguf { .. } => ([true, false], [row.least_step.unwrap_or(0.0), f32::INFINITY]),
        };
        if let Keys::Json(json) = keys {
            check_inner(json, heads)?;
        }
        let norm = gated_norm(keys, row)?;
        let folder = matches!(keys, Keys::Json(_));
        Ok(Self { heads, taps, biases, limits, norm, folder })
    }
}

/// The width of all inputs, which is a key's or that of the model a whole number of times.
fn check_inner(json: Object, heads: MambaHeads) -> Result<()> {
    let expand = json.usize("mamba_expand")?;
    let (key, inner) = match (json.usize("mamba_d_ssm")?, expand) {
        (Some(inner), _) => ("mamba_d_ssm", inner),
        (None, Some(expand)) => {
            ("mamba_expand", Keys::Json(json).need(keys::HIDDEN)?.saturating_mul(expand))
        }
        (None, None) => return Ok(()),
    };
    if inner != heads.inner() {
        let MambaHeads { n_heads, head_dim, .. } = heads;
        let problem = format!("makes {inner}, which is not {n_heads} heads of {head_dim}");
        return Err(json.error(key, problem));
    }
    Ok(())
}

fn gated_norm(keys: Keys, row: &Row) -> Result<GatedNorm> {
    Ok(match keys {
        _ if !row.optional_gated_norm => GatedNorm::There(GateOrder::BeforeNorm),
        Keys::Gguf { .. } => GatedNorm::IfThere,
        Keys::Json(json) => {
            let order = match json.bool("mamba_norm_before_gate")?.unwrap_or(true) {
                true => GateOrder::AfterNorm,
                false => GateOrder::BeforeNorm,
            };
            match json.bool("mamba_rms_norm")?.unwrap_or(false) {
                true => GatedNorm::There(order),
                false => GatedNorm::None,
            }
        }
    })
}

fn mamba_biases(json: Object) -> Result<[bool; 2]> {
    let conv = match json.bool("mamba_conv_bias")? {
        None => json.bool("use_conv_bias")?.unwrap_or(true),
        Some(bias) => bias,
    };
    Ok([conv, json.bool("mamba_proj_bias")?.unwrap_or(false)])
}

/// What steps in time are held within: a pair, the second of which may be no number of JSON.
fn step_limits(json: Object, row: &Row) -> Result<[f32; 2]> {
    const KEY: &str = "time_step_limit";
    let value = json.get(KEY);
    if let Some(least) = row.least_step {
        return Ok([json.f32("time_step_min")?.unwrap_or(least), f32::INFINITY]);
    }
    let Some(value) = value else { return Ok([0.0, f32::INFINITY]) };
    let number = |value: &serde_json::Value| match value {
        serde_json::Value::Object(map) => {
            (map.get("__float__")?.as_str() == Some("Infinity")).then_some(f32::INFINITY)
        }
        other => other.as_f64().map(|x| x as f32),
    };
    let pair = value.as_array().filter(|pair| pair.len() == 2);
    let pair = pair.and_then(|pair| Some([number(&pair[0])?, number(&pair[1])?]));
    match pair.filter(|[low, high]| *low >= 0.0 && low <= high) {
        Some(pair) => Ok(pair),
        None => Err(json.error(KEY, format_args!("is {value}, not two steps"))),
    }
}

impl Decoder {
    /// `kept` is its place in a state.
    pub(super) fn state_space(
        &self,
        slots: &mut Slots<'_>,
        numbers: MambaNumbers,
        kept: usize,
    ) -> Result<Mamba<Named>> {
        let MambaNumbers { heads, taps, biases: [conv_bias, bias], limits, norm, folder } = numbers;
        let (hidden, n) = (self.config.hidden, heads.n_heads);
        let conv = channels(slots, "ssm_conv1d", heads.channels(), taps)?;
        let own = conv_bias.then(|| slots.tensor("ssm_conv1d.bias", &[conv.channels], 0.0));
        let order = match norm {
            GatedNorm::There(order) => Some(order),
            GatedNorm::IfThere if slots.has("ssm_norm.weight") => Some(GateOrder::BeforeNorm),
            GatedNorm::IfThere | GatedNorm::None => None,
        };
        let norm = match order {
            Some(order) => Some((self.gated_norm(slots, heads, folder)?, order)),
            None => None,
        };
        let output = self.linear(slots, "ssm_out", &[hidden, heads.inner()], bias)?;
        Ok(Mamba {
            heads,
            input: self.linear(slots, "ssm_in", &[heads.inputs(), hidden], bias)?,
            factors: self.factors.state_space,
            conv: Convolution { bias: own.transpose()?, ..conv },
            decay: Decay {
                rates: slots.tensor("ssm_a", &[n], 0.0)?,
                logarithms: folder,
                bias: slots.tensor("ssm_dt.bias", &[n], 0.0)?,
                limits,
            },
            skip: slots.tensor("ssm_d", &[n], 0.0)?,
            norm,
            output: output.times(self.factors.recurrence),
            kept,
        })
    }

    /// Of what the heads of a group give, whose weights a file of GGUF has as a row.
    fn gated_norm(
        &self,
        slots: &mut Slots<'_>,
        heads: MambaHeads,
        folder: bool,
    ) -> Result<Norm<Named>> {
        let groups = [heads.n_groups, heads.inner() / heads.n_groups];
        let shape = if folder { vec![heads.inner()] } else { groups.to_vec() };
        let weight = slots.tensor("ssm_norm.weight", &shape, 0.0)?;
        Ok(Norm::rms(Some(weight), self.config.norm_eps))
    }
}
