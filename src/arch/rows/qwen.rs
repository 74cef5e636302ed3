//! Qwen.

use super::{LLAMA, QkNorm, Row, Windows};
use crate::arch::experts::{MIXTURE, Mixture, Renormalise, Shared};
use crate::config::RopeStyle;

pub(super) const ROWS: &[Row] = &[
    QWEN2,
    QWEN3,
    Row {
        name: "qwen2_moe",
        gguf: "qwen2moe",
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
