//! Feed-forward layers, dense or of experts.

use super::attention::shared_keys;
use super::decoder::Decoder;
use super::experts::Mixtures;
use super::keys::{self, Keys};
use super::rows::{Mlp, Row};
use super::sparsity;
use serde_json::Value;

use crate::config::Config;
use crate::error::{Result, unsupported};
use crate::spec::{Dense, Fused, Linear, Mixer, Named, RowMap, Slots, Up};

/// What a file says of its feed-forward layers beside their widths.
#[derive(Debug)]
pub(super) struct FeedForward {
    mixtures: Option<Mixtures>,
    /// Width of each layer, where it is dense, and how far above the mean its gates must be.
    widths: Vec<usize>,
    sparse: Vec<Option<f32>>,
    /// Layers without experts in a mixture.
    dense: Vec<usize>,
    /// The first so many have none.
    dense_first: usize,
    /// Experts come every so many layers.
    sparse_step: usize,
}

impl FeedForward {
    pub(super) fn read(keys: Keys, row: &Row, config: &Config) -> Result<Self> {
        let (dense, sparse_step) = dense_layers(keys)?;
        let mixtures = row.experts.zip(config.experts);
        let mixtures =
            mixtures.map(|(mixture, numbers)| Mixtures::read(keys, row, mixture, numbers));
        let dense_first = keys.count(keys::DENSE_FIRST)?.unwrap_or(0);
        let widths = widths(keys, row, config)?;
        let sparse = sparsity::deviations(keys, row, config.n_layers)?;
        let mixtures = mixtures.transpose()?;
        Ok(Self { mixtures, widths, sparse, dense, dense_first, sparse_step })
    }

    /// Whether experts are beside the dense path, apart from it.
    pub(super) fn beside(&self) -> bool {
        self.mixtures.as_ref().is_some_and(Mixtures::beside)
    }

    fn has_experts(&self, layer: usize) -> bool {
        layer >= self.dense_first
            && !self.dense.contains(&layer)
            && (layer + 1).is_multiple_of(self.sparse_step)
    }
}

impl Decoder {
    /// The branches of a layer's feed-forward block: the routed experts, and the shared one beside
    /// them.
    pub(super) fn feed_forward(
        &self,
        slots: &mut Slots<'_>,
        layer: usize,
    ) -> Result<Vec<Mixer<Named>>> {
        match (self.config.experts, &self.feed_forward.mixtures) {
            (Some(numbers), Some(mixtures)) if self.feed_forward.has_experts(layer) => {
                let routed = Mixer::Experts(self.experts(slots, numbers, mixtures)?);
                if self.feed_forward.beside() {
                    let dense = self.dense(slots, layer)?;
                    return Ok(vec![Mixer::Dense(dense), routed]);
                }
                let shared = self.shared_expert(slots, mixtures)?.map(Mixer::Dense);
                Ok(std::iter::once(routed).chain(shared).collect())
            }
            _ => Ok(vec![Mixer::Dense(self.dense(slots, layer)?)]),
        }
    }

    fn dense(&self, slots: &mut Slots<'_>, layer: usize) -> Result<Dense<Named>> {
        let (hidden, ffn) = (self.config.hidden, self.feed_forward.widths[layer]);
        let Row { act, mlp, mlp_bias, fused, shared_ffn, .. } = *self.row;
        let up = match mlp {
            Mlp::Plain => Up::Plain(self.linear(slots, "ffn_up", &[ffn, hidden], mlp_bias)?),
            Mlp::Gated => {
                let mut first = 0;
                let mut half = |part| -> Result<Linear<Named>> {
                    let rows = RowMap::from(first);
                    first += ffn;
                    // GGUF's name of gate and up together is that of up.
                    let part_of = if shared_ffn { "ffn_up_shexp" } else { "ffn_up" };
                    let fused = fused.then_some(Fused { part: part_of, of: 2 * ffn, rows });
                    let matrix = slots.part((part, "weight"), &[ffn, hidden], fused.as_ref())?;
                    let bias = mlp_bias.then(|| slots.part((part, "bias"), &[ffn], fused.as_ref()));
                    Ok(Linear { matrix, bias: bias.transpose()? })
                };
                let pair = [half("ffn_gate")?.times(self.factors.gate), half("ffn_up")?];
                match self.feed_forward.sparse[layer] {
                    Some(deviations) => Up::Sparse(pair, deviations),
                    None => Up::Gated(pair),
                }
            }
        };
        let down = if shared_ffn {
            let rows = RowMap::from(0);
            let whole = Fused { part: "ffn_down_shexp", of: hidden, rows };
            let matrix = slots.part(("ffn_down", "weight"), &[hidden, ffn], Some(&whole))?;
            Linear { matrix, bias: None }
        } else {
            self.linear(slots, "ffn_down", &[hidden, ffn], mlp_bias)?
        };
        let down_norm = self.row.sub_norms.then(|| self.norm(slots, "ffn_sub_norm", ffn));
        let down = down.times(self.factors.down);
        Ok(Dense { ffn, act, up, down_norm: down_norm.transpose()?, down, gate: None })
    }
}

/// The width of each layer: a file may have a list; in a folder layers that share keys may be twice as
/// wide.
fn widths(keys: Keys, row: &Row, config: &Config) -> Result<Vec<usize>> {
    let n_layers = config.n_layers;
    let given = match keys {
        Keys::Gguf { .. } if !row.single_mixers => keys.per_layer(keys::FFN, n_layers)?,
        Keys::Json(json) if json.get("intermediate_size").is_some_and(Value::is_array) => {
            keys.per_layer(keys::FFN, n_layers)?
        }
        _ => None,
    };
    let mut widths = given.unwrap_or_else(|| vec![config.ffn; n_layers]);
    if let Keys::Json(json) = keys
        && row.shared_keys
        && json.bool("use_double_wide_mlp")?.unwrap_or(false)
    {
        let own = n_layers - shared_keys(keys, row, config)?;
        widths.iter_mut().skip(own).for_each(|width| *width *= 2);
    }
    Ok(widths)
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
    if let Some(every) = json.usize("moe_layer_freq")?.filter(|&every| every != 1) {
        return Err(unsupported(format!("key \"moe_layer_freq\": {every} is not supported")));
    }
    Ok((layers.transpose()?.unwrap_or_default(), step))
}
