//! Mixtures of experts: what a file says of them, and the slots of a layer.

use super::decoder::Decoder;
use super::keys::{self, Keys};
use super::rows::Row;
use crate::config::{Experts, limits};
use crate::error::{Result, config_error, unsupported};
use crate::spec::{
    self, Dense, Gating, Groups, Linear, Named, Norm, Part, RankedBy, RowMap, Scores, Selection,
    Slot, Slots, Up,
};

/// What tells one model's mixtures from another's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mixture {
    pub(super) renormalise: Renormalise,
    /// Of the router's products, where the file does not say.
    pub(super) scores: Scores,
    /// The factor on the weights where a config.json does not say.
    pub(super) scale: f32,
    /// A bias enters the choice of experts. (In a GGUF file it may, if it is there.)
    pub(super) choice_bias: bool,
    pub(super) shared: Shared,
    /// The router and the experts have biases.
    pub(super) biases: bool,
    /// Gate and up are clamped, as in [`Gating::Clamped`].
    pub(super) clamped: bool,
    /// How a folder has the experts where each has no tensors of its own.
    pub(super) bank: Bank,
    /// Experts beside the dense path, with norms of their own, and another one for the router, in
    /// models that may have none.
    pub(super) beside: bool,
    /// Models may have none: those whose files count none.
    pub(super) optional: bool,
}

/// Whether the weights of the chosen experts are made to sum to 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Renormalise {
    Always,
    /// What the file says, or where it does not say.
    AsTheFileSays {
        folder: bool,
        gguf: bool,
    },
}

/// An expert that all rows go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shared {
    None,
    Plain,
    /// By the sigmoid of its own product with the row.
    Gated,
}

/// How gate and up of all experts lie in one tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bank {
    /// `[count, gate then up, hidden]`
    Rows,
    /// `[count, hidden, gate and up in turn]`, and down is `[count, ffn, hidden]`: the transposed
    /// matrices. In MXFP4 they are not transposed.
    Columns,
}

/// The usual ones.
pub(super) const MIXTURE: Mixture = Mixture {
    renormalise: Renormalise::Always,
    scores: Scores::Softmax,
    scale: 1.0,
    choice_bias: false,
    shared: Shared::None,
    biases: false,
    clamped: false,
    bank: Bank::Rows,
    beside: false,
    optional: false,
};

/// A model's mixtures.
#[derive(Debug)]
pub(super) struct Mixtures {
    row: Mixture,
    selection: Selection,
    gating: Gating,
    /// Width of the shared expert.
    shared: Option<usize>,
}

impl Mixtures {
    pub(super) fn read(keys: Keys, row: &Row, mixture: Mixture, numbers: Experts) -> Result<Self> {
        let scores = scores(keys, mixture)?;
        let selection = Selection {
            scores,
            groups: groups(keys, scores, numbers)?,
            renormalise: match mixture.renormalise {
                Renormalise::Always => true,
                Renormalise::AsTheFileSays { folder, gguf } => {
                    let default = if matches!(keys, Keys::Json(_)) { folder } else { gguf };
                    keys.bool(keys::EXPERTS_NORM)?.unwrap_or(default)
                }
            },
            scale: scale(keys, mixture)?,
        };
        let gating = if mixture.clamped {
            Gating::Clamped { limit: limit(keys)? }
        } else {
            Gating::By(row.act)
        };
        Ok(Self { row: mixture, selection, gating, shared: shared(keys, mixture, numbers)? })
    }

    pub(super) fn beside(&self) -> bool {
        self.row.beside
    }
}

impl Decoder {
    /// The routed experts of a layer.
    pub(super) fn experts(
        &self,
        slots: &mut Slots<'_>,
        numbers: Experts,
        mixtures: &Mixtures,
    ) -> Result<spec::Experts<Named>> {
        let (hidden, Experts { count, used, ffn }) = (self.config.hidden, numbers);
        let Mixture { choice_bias, biases, bank, .. } = mixtures.row;
        let bias = choice_bias || slots.has("exp_probs_b.bias");
        let bias = bias.then(|| slots.tensor("exp_probs_b.bias", &[count], 0.0)).transpose()?;
        if mixtures.row.beside {
            // The factor of each on its products: see `Checkpoint::factor_of`.
            slots.tensor("ffn_down_exps.scale", &[count], 0.0)?;
        }
        let biases = if biases { Some(expert_biases(slots, numbers, hidden)?) } else { None };
        Ok(spec::Experts {
            count,
            used,
            ffn,
            gating: mixtures.gating,
            selection: mixtures.selection,
            router_norm: self.router_norm(slots, mixtures.row.beside)?,
            router_scale: if mixtures.row.beside { 1.0 / (hidden as f32).sqrt() } else { 1.0 },
            router: self.linear(slots, "ffn_gate_inp", &[count, hidden], mixtures.row.biases)?,
            choice_bias: bias,
            bank: match bank {
                Bank::Rows => [
                    fused_half(slots, "ffn_gate_exps", numbers, hidden, 0)?,
                    fused_half(slots, "ffn_up_exps", numbers, hidden, ffn)?,
                    slots.matrix("ffn_down_exps", &[count, hidden, ffn])?,
                ],
                Bank::Columns => {
                    let both = ("ffn_gate_up_exps", 2 * ffn);
                    let in_turn = |first| RowMap { first, run: 1, step: 2 };
                    let (half, down) = ([count, ffn, hidden], [count, hidden, ffn]);
                    let alone = ("ffn_down_exps", hidden);
                    [
                        turned_part(slots, "ffn_gate_exps", half, both, in_turn(0))?,
                        turned_part(slots, "ffn_up_exps", half, both, in_turn(1))?,
                        turned_part(slots, "ffn_down_exps", down, alone, RowMap::from(0))?,
                    ]
                }
            },
            biases,
        })
    }

    fn router_norm(&self, slots: &mut Slots<'_>, own: bool) -> Result<Option<Norm<Named>>> {
        if !own {
            return Ok(None);
        }
        let weight = slots.tensor("ffn_gate_inp.scale", &[self.config.hidden], 0.0)?;
        Ok(Some(Norm::rms(Some(weight), self.config.norm_eps)))
    }

    /// The expert that all rows go through, if there is one.
    pub(super) fn shared_expert(
        &self,
        slots: &mut Slots<'_>,
        mixtures: &Mixtures,
    ) -> Result<Option<Dense<Named>>> {
        let Some(ffn) = mixtures.shared else { return Ok(None) };
        let hidden = self.config.hidden;
        let gate = (mixtures.row.shared == Shared::Gated)
            .then(|| slots.matrix("ffn_gate_inp_shexp", &[1, hidden]))
            .transpose()?;
        let mut half = |part, first| -> Result<Linear<Named>> {
            let fused = Part {
                tensor: slots.name("ffn_up_shexp.weight"),
                shape: vec![2 * ffn, hidden],
                rows: RowMap::from(first),
                transposed: None,
            };
            let matrix = slots.or_part(&format!("{part}.weight"), &[ffn, hidden], fused)?;
            Ok(Linear { matrix, bias: None })
        };
        let up = Up::Gated([half("ffn_gate_shexp", 0)?, half("ffn_up_shexp", ffn)?]);
        let down = self.linear(slots, "ffn_down_shexp", &[hidden, ffn], false)?;
        Ok(Some(Dense { ffn, act: self.row.act, up, down_norm: None, down, gate }))
    }
}

/// The gates or the ups of all experts, which a file may have as rows from `first` on of each
/// expert's gate and up.
fn fused_half(
    slots: &mut Slots<'_>,
    part: &str,
    Experts { count, ffn, .. }: Experts,
    hidden: usize,
    first: usize,
) -> Result<Slot> {
    let fused = Part {
        tensor: slots.name("ffn_gate_up_exps.weight"),
        shape: vec![count, 2 * ffn, hidden],
        rows: RowMap { first, run: ffn, step: 2 * ffn },
        transposed: None,
    };
    slots.or_part(&format!("{part}.weight"), &[count, ffn, hidden], fused)
}

/// Matrices of all experts, which a file may have in a tensor with `of` rows for each: as columns of it,
/// transposed, or in MXFP4 as rows.
fn turned_part(
    slots: &mut Slots<'_>,
    part: &str,
    shape: [usize; 3],
    (tensor, of): (&str, usize),
    rows: RowMap,
) -> Result<Slot> {
    let [count, _, k] = shape;
    let other = if slots.has(&format!("{tensor}.mxfp4")) {
        let tensor = slots.name(&format!("{tensor}.mxfp4"));
        Part { tensor, shape: vec![count, of, k], rows, transposed: None }
    } else {
        let tensor = slots.name(&format!("{tensor}.transposed"));
        Part { tensor, shape: vec![count, k, of], rows, transposed: Some(k) }
    };
    slots.or_part(&format!("{part}.weight"), &shape, other)
}

/// Of gate, up and down; a folder has those of gate and up in turn.
fn expert_biases(
    slots: &mut Slots<'_>,
    Experts { count, ffn, .. }: Experts,
    hidden: usize,
) -> Result<[Slot; 3]> {
    let mut half = |part: &str, first| {
        let both = Part {
            tensor: slots.name("ffn_gate_up_exps.bias"),
            shape: vec![count, 2 * ffn],
            rows: RowMap { first, run: 1, step: 2 },
            transposed: None,
        };
        slots.or_part(&format!("{part}.bias"), &[count, ffn], both)
    };
    let (gate, up) = (half("ffn_gate_exps", 0)?, half("ffn_up_exps", 1)?);
    Ok([gate, up, slots.tensor("ffn_down_exps.bias", &[count, hidden], 0.0)?])
}

fn scores(keys: Keys, mixture: Mixture) -> Result<Scores> {
    match keys {
        Keys::Json(json) => match json.str("scoring_func")? {
            None => Ok(mixture.scores),
            Some("softmax") => Ok(Scores::Softmax),
            Some("sigmoid") => Ok(Scores::Sigmoid),
            Some(other) => {
                Err(unsupported(format!("key \"scoring_func\": \"{other}\" is not supported")))
            }
        },
        Keys::Gguf { .. } => match keys.count(keys::EXPERTS_SCORES)? {
            None | Some(0) => Ok(mixture.scores),
            Some(1) => Ok(Scores::Softmax),
            Some(2) => Ok(Scores::Sigmoid),
            Some(other) => {
                let name = keys.name(keys::EXPERTS_SCORES);
                Err(unsupported(format!("key \"{name}\": {other} is not supported")))
            }
        },
    }
}

/// Softmax goes with groups ranked by their best expert, sigmoids with the sum of two.
fn groups(keys: Keys, scores: Scores, experts: Experts) -> Result<Option<Groups>> {
    let ranked_by = match scores {
        Scores::Softmax => RankedBy::Best,
        Scores::Sigmoid => RankedBy::BestTwo,
    };
    let count = keys.size(keys::EXPERT_GROUPS)?.unwrap_or(1);
    let used = keys.size(keys::EXPERT_GROUPS_USED)?;
    if let Keys::Json(json) = keys {
        match (json.str("topk_method")?, ranked_by) {
            (Some("greedy"), _) => return Ok(None),
            (None, _)
            | (Some("group_limited_greedy"), RankedBy::Best)
            | (Some("noaux_tc"), RankedBy::BestTwo) => {}
            (Some(other), _) => {
                let problem = format!("\"{other}\" with {scores:?} is not supported");
                return Err(unsupported(format!("key \"topk_method\": {problem}")));
            }
        }
    }
    if count == 1 {
        return Ok(None);
    }
    let missing = || keys.error(keys::EXPERT_GROUPS_USED.key(), "is missing");
    let used = used.ok_or_else(missing)?;
    if !experts.count.is_multiple_of(count)
        || used > count
        || experts.used > used * (experts.count / count)
    {
        return Err(config_error(format!(
            "{} of {} experts from {used} of {count} groups",
            experts.used, experts.count
        )));
    }
    Ok(Some(Groups { count, used, ranked_by }))
}

fn scale(keys: Keys, mixture: Mixture) -> Result<f32> {
    let default = if matches!(keys, Keys::Json(_)) { mixture.scale } else { 1.0 };
    match keys.f32(keys::EXPERTS_SCALE)? {
        None => Ok(default),
        // In GGUF 0 is none.
        Some(0.0) if matches!(keys, Keys::Gguf { .. }) => Ok(1.0),
        Some(scale) if scale.is_finite() => Ok(scale),
        Some(scale) => Err(keys.error(keys::EXPERTS_SCALE, format_args!("is {scale}"))),
    }
}

/// How far gates and ups go.
fn limit(keys: Keys) -> Result<f32> {
    if let Keys::Json(json) = keys
        && let Some(alpha) = json.f32("swiglu_alpha")?.filter(|&alpha| alpha != 1.702)
    {
        return Err(unsupported(format!("key \"swiglu_alpha\": {alpha} is not supported")));
    }
    match keys.f32(keys::SWIGLU_LIMIT)? {
        None => Ok(7.0),
        Some(limit) if limit.is_finite() && limit > 0.0 => Ok(limit),
        Some(limit) => Err(keys.error(keys::SWIGLU_LIMIT, format_args!("is {limit}"))),
    }
}

/// The width of the shared expert.
fn shared(keys: Keys, mixture: Mixture, experts: Experts) -> Result<Option<usize>> {
    if mixture.shared == Shared::None {
        return Ok(None);
    }
    if let Some(width) = keys.size(keys::SHARED_FFN)? {
        return Ok(Some(width));
    }
    match keys.count(keys::SHARED_EXPERTS)? {
        None if mixture.shared == Shared::Gated => keys.need(keys::FFN).map(Some),
        None | Some(0) => Ok(None),
        Some(n) => match n.checked_mul(experts.ffn).filter(|&width| width <= limits::WIDTH) {
            Some(width) => Ok(Some(width)),
            None => Err(keys.error(keys::SHARED_EXPERTS, format_args!("is {n}"))),
        },
    }
}

/// `None` for a model that may have none and has none.
pub(super) fn numbers(keys: Keys, mixture: Mixture) -> Result<Option<Experts>> {
    let off = match keys {
        Keys::Json(json) if mixture.beside => !json.bool("enable_moe_block")?.unwrap_or(false),
        _ if mixture.optional => keys.count(keys::EXPERTS.key())?.unwrap_or(0) == 0,
        Keys::Gguf { .. } if mixture.beside => keys.count(keys::EXPERTS.key())?.unwrap_or(0) == 0,
        _ => false,
    };
    if off {
        return Ok(None);
    }
    let count = keys.need(keys::EXPERTS)?;
    // Mixtral's experts are as wide as the key of dense layers says.
    let ffn = match keys.size(keys::EXPERT_FFN)? {
        Some(ffn) => ffn,
        None => keys.need(keys::FFN)?,
    };
    let used = keys.need(keys::EXPERTS_USED)?;
    if let Keys::Json(json) = keys
        && let Some(other) = json.usize("experts_per_token")?.filter(|&other| other != used)
    {
        return Err(json.error("experts_per_token", format_args!("is {other}, not {used}")));
    }
    Ok(Some(Experts { count, used, ffn }))
}
