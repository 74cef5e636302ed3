//! The decoders: a row of data each, in a file for each house that makes them.

mod cohere;
mod deepseek;
mod falcon;
mod gemma;
mod glm;
mod gpt;
mod gpt_oss;
mod granite;
mod liquid;
mod llama;
mod microsoft;
mod nvidia;
mod olmo;
mod others;
mod qwen;

use goldcrest_kernels::Nonlinearity;

use super::experts::Mixture;
use crate::config::RopeStyle;

/// All that tells one decoder from another.
#[derive(Debug)]
pub(super) struct Row {
    /// `model_type` in config.json.
    pub(super) name: &'static str,
    /// `general.architecture` in GGUF.
    pub(super) gguf: &'static str,
    /// Layers are mixtures of experts, but for those that the file names.
    pub(super) experts: Option<Mixture>,
    /// Queries, keys and values have biases.
    pub(super) qkv_bias: bool,
    /// This key of a config.json says whether they have, with what it is by default; in GGUF they have
    /// them where there are tensors.
    pub(super) bias_key: Option<(&'static str, bool)>,
    /// So has the projection of what heads attend to.
    pub(super) output_bias: bool,
    /// And so have the matrices of feed-forward layers.
    pub(super) mlp_bias: bool,
    /// Some files have queries, keys and values as one tensor, and gate and up.
    pub(super) fused: bool,
    /// In a folder, queries, keys and values of one tensor alternate head by head.
    pub(super) fused_by_head: bool,
    /// Matrices that a folder stores transposed, by GGUF's names without the layer and ending.
    pub(super) transposed: &'static [&'static str],
    /// Queries and keys are normalised before rope.
    pub(super) qk_norm: QkNorm,
    /// Heads have gates, each after its query.
    pub(super) gated_heads: bool,
    /// Rotated queries grow with their position.
    pub(super) temperature: bool,
    /// Layers have one mixer each: recurrent, attention or dense.
    pub(super) single_mixers: bool,
    /// Steps in time are this at least, or what a config.json says as `time_step_min`; `None` where
    /// `time_step_limit` holds them.
    pub(super) least_step: Option<f32>,
    /// What some layers have instead of attention.
    pub(super) recurrence: Recurrence,
    /// All layers have it beside attention: both read the same rows and are added together.
    pub(super) beside_attention: bool,
    /// What it gives is normalised in the files that say so.
    pub(super) optional_gated_norm: bool,
    /// Keys and values are made of latents.
    pub(super) latent: bool,
    /// Each head has a score that no position has.
    pub(super) sinks: bool,
    /// What the last matrix of attention and of a feed-forward layer reads is normalised.
    pub(super) sub_norms: bool,
    pub(super) norm: NormKind,
    /// Where a block has norms.
    pub(super) norms: Places,
    /// Norms whose weights have the norm's name alone, without an ending.
    pub(super) bare_norms: &'static [&'static str],
    /// GGUF's names of the norm before a feed-forward layer, and of the last.
    pub(super) ffn_norm: &'static str,
    pub(super) output_norm: &'static str,
    pub(super) scale: Scale,
    /// Whether attention's scores are capped, and whether the logits are.
    pub(super) attention_cap: Cap,
    pub(super) logit_cap: Cap,
    /// Values are normalised, per head and without weights.
    pub(super) v_norm: bool,
    /// Layers without a window may have other heads, and keys that are their values.
    pub(super) global_heads: bool,
    /// Layers at the end may use the keys and values of an earlier one, and be wider.
    pub(super) shared_keys: bool,
    /// Tokens may have an embedding for each layer.
    pub(super) layer_inputs: bool,
    /// Layers see one of several residual streams, and have a learned residual beside attention.
    pub(super) streams: bool,
    /// In some layers few gates count.
    pub(super) sparse_gates: bool,
    /// Each layer's output is multiplied by a number of its own.
    pub(super) layer_scale: bool,
    pub(super) mlp: Mlp,
    /// Attention and feed-forward layer read the same rows and are added together.
    pub(super) parallel: Parallel,
    /// The embedding is multiplied by the square root of its width.
    pub(super) scaled_embedding: bool,
    pub(super) multipliers: Multipliers,
    /// The head has a bias.
    pub(super) head_bias: bool,
    /// Positions are rows of a table that are added to the embedding.
    pub(super) learned_positions: bool,
    pub(super) act: Nonlinearity,
    /// config.json's names of `act`.
    pub(super) act_names: &'static [&'static str],
    pub(super) windows: Windows,
    /// Layers with a window have a rope of their own.
    pub(super) local_rope: bool,
    /// Its base where a file does not say; without one, that of the others.
    pub(super) local_theta: Option<f32>,
    /// Layers whose queries and keys are rotated.
    pub(super) roped: Roped,
    /// Which dimensions rope pairs in a GGUF file, and in a folder.
    pub(super) gguf_rope: RopeStyle,
    pub(super) json_rope: RopeStyle,
    /// The part of a head that rope turns where a config.json does not say; `None` where it is always
    /// all.
    pub(super) partial_rope: Option<f64>,
    /// Base of rope's frequencies, and what norms add, where a config.json does not say.
    pub(super) theta: f32,
    pub(super) eps: f32,
    /// The head dimension where a config.json does not say: `hidden / n_heads` if this does not.
    pub(super) head_dim: Option<usize>,
    /// The width of feed-forward layers where a file does not say, as a multiple of the hidden size.
    pub(super) ffn_times: Option<usize>,
    /// It has a key of its own in a config.json.
    pub(super) shared_ffn: bool,
    /// Without a number of key and value heads there are as many as query heads.
    pub(super) kv_heads_default: bool,
    /// The embedding is the head where a config.json does not say.
    pub(super) tied: bool,
    /// Keys of a config.json with the one value, as JSON, that is understood.
    pub(super) expects: &'static [(&'static str, &'static str)],
    /// Hugging Face's names of tensors in a layer and GGUF's, where they are not the usual ones.
    pub(super) names: &'static [(&'static str, &'static str)],
}

/// Which layers see a window only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Windows {
    /// None; in GGUF, where mistral calls itself llama, all if the file has a window.
    Llama,
    /// All.
    Mistral,
    /// With `use_sliding_window`, those from `max_window_layers` on; in a mixture all. In GGUF all if
    /// the file has a window.
    Qwen,
    /// With `use_sliding_window`, every other one from the first on, below `max_window_layers`. In GGUF
    /// all if the file has a window.
    EveryOther,
    /// All but every so many, or what the file says instead.
    AllButEvery(usize),
    /// All, if the file has a window.
    IfGiven,
}

/// Which layers rotate queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Roped {
    All,
    None,
    /// All but every so many, or those that the file lists.
    AllButEvery(usize),
    /// Those with a window, in a model that has any.
    Windowed,
    /// All or none, as `position_embedding_type` says; this where a config.json does not say.
    AsTheFileSays {
        default: bool,
    },
}

/// Whether attention and feed-forward layer of a layer are one block of two branches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parallel {
    No,
    /// Both read what one norm makes.
    OneNorm,
    /// Each has a norm, and the key `use_parallel_residual` says whether they are.
    IfSaid,
}

/// Factors that a file gives.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Multipliers {
    None,
    /// On the embedding, on scores, on what blocks add; and the logits are divided by one.
    Granite,
    /// `scale_emb`, `scale_depth` over the square root of the layers, and logits in the proportion of
    /// `dim_model_base` to the width; in GGUF those of the one model.
    MiniCpm,
    /// On the logits; this where a config.json does not say.
    Logits(f32),
    /// On the embedding, the logits, and most products of a layer. In GGUF the weights have them.
    FalconH1,
}

/// The recurrent mixers of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recurrence {
    None,
    /// Gated delta rules. In GGUF value heads that share a key are `tiled`, or side by side as in a
    /// folder.
    DeltaNet {
        tiled: bool,
    },
    ShortConv,
    /// The state space of Mamba-2.
    Mamba,
}

/// Over what queries and keys are normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QkNorm {
    None,
    PerHead,
    /// After rope.
    PerHeadRotated,
    /// In files that have the weights.
    PerHeadIfThere,
    /// All heads together.
    Whole,
}

/// The kind of all norms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NormKind {
    Rms,
    /// Root mean square; a folder stores the weights less 1 (GGUF's converter adds it).
    RmsFromOne,
    /// Mean and variance, with a bias.
    Layer,
    /// The same without a bias.
    LayerUnbiased,
}

/// Where a block normalises: what its mixer reads, what its mixer made before that is added, or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Places {
    Before,
    After,
    Both,
}

/// The factor on the products of queries and keys: 1 over the square root of this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    HeadDim,
    /// The factor is 1.
    One,
    /// `query_pre_attn_scalar`; in GGUF the head dimension, but `hidden / n_heads` in the model of
    /// `odd` layers.
    QueryPreAttention {
        odd: usize,
    },
}

/// Whether something is capped, by what a key says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Cap {
    Never,
    /// If the key is there.
    Key,
    /// By this where the key is not.
    Default(f32),
}

/// What a dense feed-forward layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mlp {
    /// down(act(gate(x)) * up(x))
    Gated,
    /// down(act(up(x)))
    Plain,
}

/// Every row.
pub(super) fn all() -> impl Iterator<Item = &'static Row> {
    let houses = [
        llama::ROWS,
        qwen::ROWS,
        gemma::ROWS,
        deepseek::ROWS,
        liquid::ROWS,
        glm::ROWS,
        gpt::ROWS,
        gpt_oss::ROWS,
        microsoft::ROWS,
        nvidia::ROWS,
        granite::ROWS,
        falcon::ROWS,
        olmo::ROWS,
        cohere::ROWS,
        others::ROWS,
    ];
    houses.into_iter().flatten()
}

/// What a row says unless it says something else.
pub(super) use llama::LLAMA;
