//! Llama, and those that are nearly it.

use goldcrest_kernels::Nonlinearity;

use super::{
    Cap, Mlp, Multipliers, NormKind, Parallel, Places, QkNorm, Recurrence, Roped, Row, Scale,
    Windows,
};
use crate::arch::experts::MIXTURE;
use crate::config::RopeStyle;

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
    BITNET,
    BITNET_SILU,
    Row {
        name: "ministral3",
        gguf: "mistral3",
        temperature: true,
        windows: Windows::IfGiven,
        theta: 1e6,
        eps: 1e-5,
        head_dim: Some(128),
        kv_heads_default: false,
        ..LLAMA
    },
];

pub(in crate::arch) const LLAMA: Row = Row {
    name: "llama",
    gguf: "llama",
    experts: None,
    qkv_bias: false,
    bias_key: None,
    output_bias: false,
    mlp_bias: false,
    fused: false,
    fused_by_head: false,
    transposed: &[],
    qk_norm: QkNorm::None,
    gated_heads: false,
    temperature: false,
    single_mixers: false,
    least_step: None,
    recurrence: Recurrence::None,
    beside_attention: false,
    optional_gated_norm: false,
    latent: false,
    sinks: false,
    sub_norms: false,
    norm: NormKind::Rms,
    norms: Places::Before,
    bare_norms: &[],
    ffn_norm: "ffn_norm",
    output_norm: "output_norm",
    scale: Scale::HeadDim,
    attention_cap: Cap::Never,
    logit_cap: Cap::Never,
    v_norm: false,
    global_heads: false,
    shared_keys: false,
    layer_inputs: false,
    streams: false,
    sparse_gates: false,
    layer_scale: false,
    mlp: Mlp::Gated,
    parallel: Parallel::No,
    scaled_embedding: false,
    multipliers: Multipliers::None,
    head_bias: false,
    learned_positions: false,
    act: Nonlinearity::Silu,
    act_names: &["silu", "swish"],
    windows: Windows::Llama,
    local_rope: false,
    local_theta: Some(10_000.0),
    roped: Roped::All,
    gguf_rope: RopeStyle::Pairs,
    json_rope: RopeStyle::Halves,
    partial_rope: None,
    theta: 10_000.0,
    eps: 1e-6,
    head_dim: None,
    ffn_times: None,
    shared_ffn: false,
    kv_heads_default: true,
    tied: false,
    expects: &[],
    names: &[],
};

/// In GGUF a llama with experts.
const MIXTRAL: Row = Row {
    name: "mixtral",
    experts: Some(MIXTURE),
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

/// Ternary weights. GGUF files of it have types and an architecture of their publisher's own.
const BITNET: Row = Row {
    name: "bitnet",
    gguf: "",
    sub_norms: true,
    act: Nonlinearity::ReluSquared,
    act_names: &["relu2"],
    theta: 500_000.0,
    eps: 1e-5,
    names: &[("self_attn.attn_sub_norm", "attn_sub_norm"), ("mlp.ffn_sub_norm", "ffn_sub_norm")],
    ..LLAMA
};

/// The first of them, which llama.cpp's files are of.
const BITNET_SILU: Row = Row {
    gguf: "bitnet",
    gguf_rope: RopeStyle::Halves,
    act: LLAMA.act,
    act_names: LLAMA.act_names,
    ..BITNET
};
