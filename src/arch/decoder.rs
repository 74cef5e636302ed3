//! Decoders: from the keys of a file to their numbers, and from those to their blocks. [`Row`] tells
//! one model from another.

use super::attention::{
    Global, global_head_dim, head_dim, kv_heads, shared_keys, softcap, temperature,
};
use super::experts;
use super::feed_forward::FeedForward;
use super::keys::{self, Keys};
use super::latent;
use super::layer_inputs::LayerWidths;
use super::multipliers::Factors;
use super::recurrent::{Recurrent, adjusted_ffn};
use super::refuse::refuse_variants;
use super::rope::ropes;
use super::rows::{self, NormKind, Parallel, Recurrence, Row, Windows};
use super::singles::{self, Single};
use super::streams;
use super::windows::{roped, windows};
use super::{Source, unknown};
use crate::config::{Config, Rope, limits};
use crate::error::{Result, config_error};
use crate::spec::{Linear, Logits, Named, Norm, Slots, Spec, Temperature};

/// A decoder's numbers.
#[derive(Debug)]
pub(crate) struct Decoder {
    pub(super) row: &'static Row,
    pub(crate) config: Config,
    /// The factor on the products of queries and keys, and the cap on them.
    pub(super) scale: f32,
    pub(super) cap: Option<f32>,
    pub(super) global: Option<Global>,
    pub(super) latent: Option<latent::Numbers>,
    /// Layers after the others that draft tokens, which nothing here runs.
    pub(crate) drafts: usize,
    /// What the file says of norms of queries and keys.
    pub(super) qk_norm: Option<bool>,
    pub(super) shared_keys: usize,
    pub(super) feed_forward: FeedForward,
    pub(super) layer_inputs: Option<LayerWidths>,
    pub(super) streams: Option<streams::Numbers>,
    pub(super) recurrent: Option<Recurrent>,
    /// The mixer of each layer, where layers have one.
    pub(super) singles: Option<Vec<Single>>,
    /// 1 where the file stores the weights of norms less 1.
    norms_plus: f32,
    /// Whether queries, keys and values have biases; `None` if there are tensors of them.
    pub(super) qkv_bias: Option<bool>,
    /// Whether those of one tensor alternate head by head.
    pub(super) by_head: bool,
    pub(super) temperature: Option<Temperature>,
    /// Whether each layer rotates queries and keys.
    pub(super) roped: Vec<bool>,
    pub(super) parallel: bool,
    pub(super) factors: Factors,
    logits: Logits,
}

impl Decoder {
    /// Reads the numbers.
    pub(crate) fn read(source: Source<'_>) -> Result<Self> {
        let row = find(source.keys)?;
        let keys = source.keys;
        refuse_variants(keys, row)?;
        let hidden = keys.need(keys::HIDDEN)?;
        let n_heads = keys.need(keys::HEADS)?;
        let latent = latent::Numbers::read(keys, row, n_heads)?;
        let head_dim = match &latent {
            Some(latent) => latent.head_dim(),
            None => head_dim(keys, row, hidden, n_heads)?,
        };
        let drafts = keys.count(keys::DRAFTS)?.unwrap_or(0);
        let singles = singles::read(keys, row)?;
        let all = match &singles {
            Some(singles) => singles.len(),
            None => keys.need(keys::LAYERS)?,
        };
        let n_layers = match (all, keys) {
            (all, Keys::Gguf { .. }) if drafts > 0 => {
                let few = || keys.error(keys::DRAFTS, format_args!("is {drafts} of {all} layers"));
                all.checked_sub(drafts).filter(|&n| n > 0).ok_or_else(few)?
            }
            (n, _) => n,
        };
        let context_length = keys.need(keys::CONTEXT)?;
        let windows = windows(keys, row, n_layers)?;
        let turning = latent.as_ref().map_or(head_dim, |latent| latent.rope);
        let (mut rope, local_rope) = ropes(source, row, turning, context_length)?;
        if latent.is_some() {
            latent::adjust_rope(keys, &mut rope)?;
        }
        let config = Config {
            arch: row.name,
            vocab_size: vocab_size(source)?,
            hidden,
            ffn: ffn(keys, row, hidden, n_layers)?,
            n_layers,
            n_heads,
            n_kv_heads: kv_heads(keys, row, n_heads, &windows)?,
            head_dim,
            global_head_dim: global_head_dim(keys, row)?,
            context_length,
            norm_eps: norm_eps(keys, row)?,
            rope,
            local_rope,
            windows,
            experts: match row.experts {
                Some(mixture) => experts::numbers(keys, mixture)?,
                None => None,
            },
        };
        config.check()?;
        let factors = Factors::read(keys, row, &config)?;
        let in_folder = matches!(keys, Keys::Json(_));
        Ok(Self {
            row,
            qkv_bias: qkv_bias(keys, row)?,
            by_head: row.fused_by_head && in_folder,
            temperature: temperature(keys, row)?,
            roped: roped(keys, row, &config)?,
            parallel: parallel(keys, row)?,
            scale: match &latent {
                Some(latent) => latent.scale(keys, &config.rope)?,
                None => super::attention::scale(keys, row, &config)? * factors.scores,
            },
            latent,
            drafts,
            qk_norm: match keys {
                Keys::Json(_) => keys.bool(keys::QK_NORM)?,
                Keys::Gguf { .. } => None,
            },
            cap: softcap(keys, row.attention_cap, keys::ATTENTION_CAP)?,
            global: Global::read(keys, &config)?,
            shared_keys: shared_keys(keys, row, &config)?,
            feed_forward: FeedForward::read(keys, row, &config)?,
            layer_inputs: LayerWidths::read(keys, row, &config)?,
            streams: streams::Numbers::read(keys, row)?,
            recurrent: Recurrent::read(keys, row, config.n_layers, singles.as_deref())?,
            singles,
            norms_plus: match keys {
                Keys::Json(_) if row.norm == NormKind::RmsFromOne => 1.0,
                _ => 0.0,
            },
            logits: Logits {
                scale: factors.logits,
                cap: softcap(keys, row.logit_cap, keys::LOGIT_CAP)?,
            },
            factors,
            config,
        })
    }

    /// The model's blocks; `tied` where the embedding is the head, too.
    ///
    /// # Errors
    /// Those of the visitor of `slots`.
    pub(crate) fn spec(&self, slots: &mut Slots<'_>, tied: bool) -> Result<Spec<Named>> {
        let Config { vocab_size: vocab, hidden, n_layers, .. } = self.config;
        let table = [vocab, hidden];
        let slots = slots.outside();
        let embed = slots.matrix("token_embd", &table)?;
        let (embed, head) =
            if tied { (None, embed) } else { (Some(embed), slots.matrix("output", &table)?) };
        let norm = self.norm(slots, self.row.output_norm, hidden)?;
        let layer_inputs = self.layer_inputs.as_ref();
        let layer_inputs = layer_inputs.map(|widths| self.inputs(slots, widths)).transpose()?;
        let streams = self.streams.map(|numbers| self.all_streams(slots, numbers)).transpose()?;
        let positions = if self.row.learned_positions {
            Some(slots.matrix("position_embd", &[self.config.context_length, hidden])?)
        } else {
            None
        };
        let bias = self.row.head_bias.then(|| slots.tensor("output.bias", &[vocab], 0.0));
        let bias = bias.transpose()?;
        let (mut blocks, mut layers) = (Vec::new(), Vec::new());
        for layer in 0..n_layers {
            layers.push(blocks.len());
            self.layer(slots.layer(layer), layer, &mut blocks)?;
        }
        Ok(Spec {
            vocab,
            hidden,
            embed,
            layer_inputs,
            streams,
            positions,
            embed_scale: self.factors.embedding,
            ropes: self.ropes(),
            blocks,
            layers,
            norm,
            head: Linear { matrix: head, bias },
            logits: self.logits,
        })
    }

    /// The rotations that its layers choose from.
    fn ropes(&self) -> Vec<Rope> {
        let Config { rope, local_rope, .. } = &self.config;
        let any = self.roped.contains(&true);
        std::iter::once(rope).chain(local_rope).filter(|_| any).cloned().collect()
    }

    pub(super) fn norm(
        &self,
        slots: &mut Slots<'_>,
        part: &str,
        len: usize,
    ) -> Result<Norm<Named>> {
        let (centred, biased) = match self.row.norm {
            NormKind::Rms | NormKind::RmsFromOne => (false, false),
            NormKind::Layer => (true, true),
            NormKind::LayerUnbiased => (true, false),
        };
        let ending = if self.row.bare_norms.contains(&part) { "" } else { ".weight" };
        let weight = slots.tensor(&format!("{part}{ending}"), &[len], self.norms_plus)?;
        let bias = biased.then(|| slots.tensor(&format!("{part}.bias"), &[len], 0.0));
        let eps = self.config.norm_eps;
        Ok(Norm { centred, weight: Some(weight), bias: bias.transpose()?, eps })
    }
}

/// Width of dense feed-forward layers, of the first where they differ; of the experts, where there
/// are no others.
fn ffn(keys: Keys, row: &Row, hidden: usize, n_layers: usize) -> Result<usize> {
    match (keys, keys.size(keys::EXPERT_FFN)?) {
        (Keys::Json(json), None) if row.recurrence == Recurrence::ShortConv => adjusted_ffn(json),
        (_, Some(expert)) if row.experts.is_some() && !keys.has(keys::FFN.key()) => Ok(expert),
        _ if row.single_mixers => {
            let widths = keys.counts(keys::FFN.key(), n_layers)?;
            let width = widths.into_iter().max().filter(|n| (1..=limits::WIDTH).contains(n));
            width.ok_or_else(|| keys.error(keys::FFN.key(), "is no width"))
        }
        (Keys::Json(_), _) if row.shared_ffn => keys.need(keys::SHARED_MLP),
        _ => {
            let widths = keys.per_layer(keys::FFN, n_layers)?;
            let first = widths.and_then(|widths| widths.first().copied());
            let default = row.ffn_times.map(|times| times * hidden);
            first.or(default).ok_or_else(|| keys.error(keys::FFN.key(), "is missing"))
        }
    }
}

fn find(keys: Keys) -> Result<&'static Row> {
    let row = match keys {
        Keys::Json(json) => {
            let name = json.need("model_type", json.str("model_type")?)?;
            let act = json.str("hidden_act")?;
            let named = || rows::all().filter(|row| row.name == name);
            let fits = |row: &&'static Row| act.is_none_or(|act| row.act_names.contains(&act));
            named().find(fits).or_else(|| named().next()).ok_or_else(|| unknown(name))?
        }
        Keys::Gguf { arch, .. } => {
            let experts = keys.count(keys::EXPERTS.key())?.is_some_and(|n| n > 0);
            let slides = keys.count(keys::WINDOW.key())?.is_some_and(|n| n > 0);
            let named = || rows::all().filter(|row| row.gguf == arch);
            let fits = || named().filter(|row| row.experts.is_some() == experts);
            // olmo3 calls itself olmo2.
            let sliding = |row: &&'static Row| matches!(row.windows, Windows::AllButEvery(_));
            let sliding = if slides { fits().find(sliding) } else { None };
            let row = sliding.or_else(|| fits().next()).or_else(|| named().next());
            row.ok_or_else(|| unknown(arch))?
        }
    };
    Ok(row)
}

fn norm_eps(keys: Keys, row: &Row) -> Result<f32> {
    let key = match row.norm {
        _ if row.single_mixers => keys::LAYER_EPS,
        NormKind::Rms | NormKind::RmsFromOne => keys::EPS,
        NormKind::Layer | NormKind::LayerUnbiased => keys::LAYER_EPS,
    };
    match (keys.f32(key)?, keys) {
        (Some(eps), _) => Ok(eps),
        (None, Keys::Json(_)) => Ok(row.eps),
        (None, Keys::Gguf { .. }) => Err(keys.error(key, "is missing")),
    }
}

fn qkv_bias(keys: Keys, row: &Row) -> Result<Option<bool>> {
    Ok(match (row.bias_key, keys) {
        (None, _) => Some(row.qkv_bias),
        (Some((key, default)), Keys::Json(json)) => Some(json.bool(key)?.unwrap_or(default)),
        (Some(_), Keys::Gguf { .. }) => None,
    })
}

fn parallel(keys: Keys, row: &Row) -> Result<bool> {
    Ok(match row.parallel {
        Parallel::No => false,
        Parallel::OneNorm => true,
        Parallel::IfSaid => keys.bool(keys::PARALLEL)?.unwrap_or(true),
    })
}

/// The embedding's rows are what the pass uses; a key that says otherwise is found by the check of
/// the shapes.
fn vocab_size(source: Source<'_>) -> Result<usize> {
    if let Some(size) = source.keys.size(keys::VOCAB)? {
        return Ok(size);
    }
    if let Keys::Json(_) = source.keys {
        return source.keys.need(keys::VOCAB);
    }
    source
        .embedding_rows
        .filter(|rows| (1..=limits::VOCAB).contains(rows))
        .ok_or_else(|| config_error("the file has neither an embedding nor a vocabulary"))
}
