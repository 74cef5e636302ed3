//! Qwen.

use super::{LLAMA, NormKind, QkNorm, Recurrence, Row, Windows};
use crate::arch::experts::{MIXTURE, Mixture, Renormalise, Shared};
use crate::config::RopeStyle;

pub(super) const ROWS: &[Row] = &[
    QWEN2,
    QWEN3,
    Row {
        name: "qwen2_moe",
        gguf: "qwen2moe",
        bias_key: Some(("qkv_bias", true)),
        windows: Windows::EveryOther,
        experts: Some(Mixture {
            renormalise: Renormalise::AsTheFileSays { folder: false, gguf: false },
            shared: Shared::Gated,
            ..MIXTURE
        }),
        names: &[
            ("mlp.gate", "ffn_gate_inp"),
            ("mlp.shared_expert_gate", "ffn_gate_inp_shexp"),
            ("mlp.shared_expert.gate_proj", "ffn_gate_shexp"),
            ("mlp.shared_expert.up_proj", "ffn_up_shexp"),
            ("mlp.shared_expert.down_proj", "ffn_down_shexp"),
        ],
        ..QWEN2
    },
    Row {
        name: "qwen3_moe",
        gguf: "qwen3moe",
        experts: Some(Mixture {
            renormalise: Renormalise::AsTheFileSays { folder: false, gguf: true },
            ..MIXTURE
        }),
        head_dim: None,
        names: &[("mlp.gate", "ffn_gate_inp")],
        ..QWEN3
    },
    QWEN3_5,
    Row { name: "qwen3_5_moe_text", gguf: "qwen35moe", experts: Some(GATED_MIXTURE), ..QWEN3_5 },
    Row {
        name: "qwen3_next",
        gguf: "qwen3next",
        recurrence: Recurrence::DeltaNet { tiled: false },
        experts: Some(Mixture {
            renormalise: Renormalise::AsTheFileSays { folder: true, gguf: true },
            ..GATED_MIXTURE
        }),
        ..QWEN3_5
    },
];

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
    qk_norm: QkNorm::PerHead,
    head_dim: Some(128),
    ..QWEN2
};

const GATED_MIXTURE: Mixture = Mixture { shared: Shared::Gated, ..MIXTURE };

/// Of qwen3-next, 3.5 and later, dense or mixtures.
const NEXT_NAMES: &[(&str, &str)] = &[
    ("post_attention_layernorm", "post_attention_norm"),
    ("linear_attn.in_proj_qkvz", "ssm_in"),
    ("linear_attn.in_proj_ba", "ssm_ba"),
    ("linear_attn.in_proj_qkv", "attn_qkv"),
    ("linear_attn.in_proj_z", "attn_gate"),
    ("linear_attn.in_proj_b", "ssm_beta"),
    ("linear_attn.in_proj_a", "ssm_alpha"),
    ("linear_attn.conv1d", "ssm_conv1d"),
    ("linear_attn.A_log", "ssm_a"),
    ("linear_attn.dt_bias", "ssm_dt.bias"),
    ("linear_attn.norm", "ssm_norm"),
    ("linear_attn.out_proj", "ssm_out"),
    ("mlp.gate", "ffn_gate_inp"),
    ("mlp.shared_expert_gate", "ffn_gate_inp_shexp"),
    ("mlp.shared_expert.gate_proj", "ffn_gate_shexp"),
    ("mlp.shared_expert.up_proj", "ffn_up_shexp"),
    ("mlp.shared_expert.down_proj", "ffn_down_shexp"),
];

/// And 3.6 and 3.8.
const QWEN3_5: Row = Row {
    name: "qwen3_5_text",
    gguf: "qwen35",
    recurrence: Recurrence::DeltaNet { tiled: true },
    gated_heads: true,
    norm: NormKind::RmsFromOne,
    ffn_norm: "post_attention_norm",
    windows: Windows::Llama,
    partial_rope: Some(0.25),
    head_dim: Some(256),
    names: NEXT_NAMES,
    ..QWEN3
};
