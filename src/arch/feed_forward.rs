//! Feed-forward layers, dense or of experts.

use super::attention::shared_keys;
use super::decoder::Decoder;
use super::keys::{self, Keys};
use super::rows::{Mlp, Routing, Row};
use crate::config::{Config, Experts};
use crate::error::Result;
use crate::spec::{self, Dense, Fused, Linear, Mixer, Named, RowMap, Slots, Up};

/// What a file says of its feed-forward layers beside their widths.
#[derive(Debug)]
pub(super) struct FeedForward {
    /// Whether the probabilities of the chosen experts are made to sum to 1.
    renormalise: bool,
    /// Width of each layer, where it is dense.
    widths: Vec<usize>,
    /// Layers without experts in a mixture.
    dense: Vec<usize>,
    /// Experts come every so many layers.
    sparse_step: usize,
}

impl FeedForward {
    pub(super) fn read(keys: Keys, row: &Row, config: &Config) -> Result<Self> {
        let (dense, sparse_step) = dense_layers(keys)?;
        let widths = widths(keys, row, config)?;
        Ok(Self { renormalise: renormalise(keys, row)?, widths, dense, sparse_step })
    }

    fn has_experts(&self, layer: usize) -> bool {
        !self.dense.contains(&layer) && (layer + 1).is_multiple_of(self.sparse_step)
    }
}

impl Decoder {
    pub(super) fn feed_forward(&self, slots: &mut Slots<'_>, layer: usize) -> Result<Mixer<Named>> {
        match self.config.experts {
            Some(numbers) if self.feed_forward.has_experts(layer) => {
                Ok(Mixer::Experts(self.experts(slots, numbers)?))
            }
            _ => Ok(Mixer::Dense(self.dense(slots, self.feed_forward.widths[layer])?)),
        }
    }

    fn experts(&self, slots: &mut Slots<'_>, numbers: Experts) -> Result<spec::Experts<Named>> {
        let (hidden, Experts { count, used, ffn }) = (self.config.hidden, numbers);
        Ok(spec::Experts {
            count,
            used,
            ffn,
            act: self.row.act,
            renormalise: self.feed_forward.renormalise,
            router: slots.matrix("ffn_gate_inp", &[count, hidden])?,
            bank: [
                slots.matrix("ffn_gate_exps", &[count, ffn, hidden])?,
                slots.matrix("ffn_up_exps", &[count, ffn, hidden])?,
                slots.matrix("ffn_down_exps", &[count, hidden, ffn])?,
            ],
        })
    }

    fn dense(&self, slots: &mut Slots<'_>, ffn: usize) -> Result<Dense<Named>> {
        let hidden = self.config.hidden;
        let Row { act, mlp, mlp_bias, fused, .. } = *self.row;
        let up = match mlp {
            Mlp::Plain => Up::Plain(self.linear(slots, "ffn_up", &[ffn, hidden], mlp_bias)?),
            Mlp::Gated => {
                let mut first = 0;
                let mut half = |part| -> Result<Linear<Named>> {
                    let rows = RowMap::from(first);
                    first += ffn;
                    // GGUF's name of gate and up together is that of up.
                    let fused = fused.then_some(Fused { part: "ffn_up", of: 2 * ffn, rows });
                    let matrix = slots.part((part, "weight"), &[ffn, hidden], fused.as_ref())?;
                    let bias = mlp_bias.then(|| slots.part((part, "bias"), &[ffn], fused.as_ref()));
                    Ok(Linear { matrix, bias: bias.transpose()? })
                };
                Up::Gated([half("ffn_gate")?, half("ffn_up")?])
            }
        };
        let down = self.linear(slots, "ffn_down", &[hidden, ffn], mlp_bias)?;
        Ok(Dense { ffn, act, up, down })
    }
}

pub(super) fn experts(keys: Keys) -> Result<Experts> {
    let count = keys.need(keys::EXPERTS)?;
    // Mixtral's experts are as wide as the key of dense layers says.
    let ffn = match keys.size(keys::EXPERT_FFN)? {
        Some(ffn) => ffn,
        None => keys.need(keys::FFN)?,
    };
    Ok(Experts { count, used: keys.need(keys::EXPERTS_USED)?, ffn })
}

/// The width of each layer: GGUF may have an array; in a folder those that share keys may be twice as
/// wide.
fn widths(keys: Keys, row: &Row, config: &Config) -> Result<Vec<usize>> {
    let n_layers = config.n_layers;
    let mut widths = match keys {
        Keys::Gguf { .. } => keys.per_layer(keys::FFN, n_layers)?,
        Keys::Json(_) => None,
    }
    .unwrap_or_else(|| vec![config.ffn; n_layers]);
    if let Keys::Json(json) = keys
        && row.shared_keys
        && json.bool("use_double_wide_mlp")?.unwrap_or(false)
    {
        let own = n_layers - shared_keys(keys, row, config)?;
        widths.iter_mut().skip(own).for_each(|width| *width *= 2);
    }
    Ok(widths)
}

fn renormalise(keys: Keys, row: &Row) -> Result<bool> {
    Ok(match (row.experts, keys) {
        (Some(Routing::AsTheFileSays), Keys::Json(json)) => {
            json.bool("norm_topk_prob")?.unwrap_or(false)
        }
        _ => true,
    })
}

/// The layers of a mixture that are dense, and that experts come every so many layers.
fn dense_layers(keys: Keys) -> Result<(Vec<usize>, usize)> {
    let Keys::Json(json) = keys else { return Ok((Vec::new(), 1)) };
    let list = json.get("mlp_only_layers").map(|list| {
        let layers = list.as_array()?.iter();
        layers.map(|layer| layer.as_u64()?.try_into().ok()).collect::<Option<Vec<usize>>>()
    });
    let layers = list
        .map(|list| list.ok_or_else(|| json.error("mlp_only_layers", "is not a list of layers")));
    let step = json.usize("decoder_sparse_step")?.unwrap_or(1);
    if step == 0 {
        return Err(json.error("decoder_sparse_step", "is 0"));
    }
    Ok((layers.transpose()?.unwrap_or_default(), step))
}
