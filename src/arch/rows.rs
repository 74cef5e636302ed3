//! The decoders: a row of data each. A new member of the family is a row here.

use goldcrest_kernels::Nonlinearity;

use crate::config::RopeStyle;

/// All that tells one decoder from another.
#[derive(Debug)]
pub(super) struct Row {
    /// `model_type` in config.json.
    pub(super) name: &'static str,
    /// `general.architecture` in GGUF.
    pub(super) gguf: &'static str,
    /// Layers are mixtures of experts, but for those that the file names.
    pub(super) experts: Option<Routing>,
    /// Queries, keys and values have biases.
    pub(super) qkv_bias: bool,
    /// Queries and keys are normalised per head before rope.
    pub(super) qk_norm: bool,
    /// What a mixer made is normalised before it is added.
    pub(super) post_norms: bool,
    /// A folder stores the weights of norms less 1 (GGUF's converter adds it).
    pub(super) norms_from_one: bool,
    /// The embedding is multiplied by the square root of its width.
    pub(super) scaled_embedding: bool,
    pub(super) act: Nonlinearity,
    /// config.json's names of `act`.
    pub(super) act_names: &'static [&'static str],
    pub(super) windows: Windows,
    /// Which dimensions rope pairs in a GGUF file; a folder always has [`RopeStyle::Halves`].
    pub(super) gguf_rope: RopeStyle,
    /// Base of rope's frequencies, and what norms add, where a config.json does not say.
    pub(super) theta: f32,
    pub(super) eps: f32,
    /// The head dimension where a config.json does not say: `hidden / n_heads` if this does not.
    pub(super) head_dim: Option<usize>,
    /// Without a number of key and value heads there are as many as query heads.
    pub(super) kv_heads_default: bool,
    /// The embedding is the head where a config.json does not say.
    pub(super) tied: bool,
    /// Hugging Face's names of tensors in a layer and GGUF's, where they are not the usual ones.
    pub(super) names: &'static [(&'static str, &'static str)],
}

/// How experts are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Routing {
    /// The probabilities of the chosen ones are made to sum to 1.
    Renormalised,
    /// `norm_topk_prob` of a config.json says whether they are; in GGUF they are.
    AsTheFileSays,
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
    /// All but every sixth, or what the file says instead of six; these have a rope of their own.
    Gemma,
}

pub(super) const ROWS: &[Row] = &[
    LLAMA,
    Row {
        name: "mistral",
        gguf: "mistral",
        windows: Windows::Mistral,
        kv_heads_default: false,
        ..LLAMA
    },
    MIXTRAL,
    QWEN2,
    QWEN3,
    Row {
        name: "qwen3_moe",
        gguf: "qwen3moe",
        experts: Some(Routing::AsTheFileSays),
        head_dim: None,
        names: &[("mlp.gate", "ffn_gate_inp")],
        ..QWEN3
    },
    Row {
        name: "gemma3_text",
        gguf: "gemma3",
        qk_norm: true,
        post_norms: true,
        norms_from_one: true,
        scaled_embedding: true,
        act: Nonlinearity::GeluTanh,
        act_names: &["gelu_pytorch_tanh"],
        windows: Windows::Gemma,
        gguf_rope: RopeStyle::Halves,
        theta: 1e6,
        head_dim: Some(256),
        kv_heads_default: false,
        tied: true,
        names: &[
            ("post_attention_layernorm", "post_attention_norm"),
            ("pre_feedforward_layernorm", "ffn_norm"),
            ("post_feedforward_layernorm", "post_ffw_norm"),
        ],
        ..LLAMA
    },
];

const LLAMA: Row = Row {
    name: "llama",
    gguf: "llama",
    experts: None,
    qkv_bias: false,
    qk_norm: false,
    post_norms: false,
    norms_from_one: false,
    scaled_embedding: false,
    act: Nonlinearity::Silu,
    act_names: &["silu", "swish"],
    windows: Windows::Llama,
    gguf_rope: RopeStyle::Pairs,
    theta: 10_000.0,
    eps: 1e-6,
    head_dim: None,
    kv_heads_default: true,
    tied: false,
    names: &[],
};

/// In GGUF a llama with experts.
const MIXTRAL: Row = Row {
    name: "mixtral",
    experts: Some(Routing::Renormalised),
    windows: Windows::Mistral,
    theta: 1e6,
    eps: 1e-5,
    kv_heads_default: false,
    names: &[
        ("block_sparse_moe.gate", "ffn_gate_inp"),
        ("block_sparse_moe.experts.*.w1", "ffn_gate.*"),
        ("block_sparse_moe.experts.*.w2", "ffn_down.*"),
        ("block_sparse_moe.experts.*.w3", "ffn_up.*"),
    ],
    ..LLAMA
};

const QWEN2: Row = Row {
    name: "qwen2",
    gguf: "qwen2",
    qkv_bias: true,
    windows: Windows::Qwen,
    gguf_rope: RopeStyle::Halves,
    kv_heads_default: false,
    ..LLAMA
};

const QWEN3: Row = Row {
    name: "qwen3",
    gguf: "qwen3",
    qkv_bias: false,
    qk_norm: true,
    head_dim: Some(128),
    ..QWEN2
};
