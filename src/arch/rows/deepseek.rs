//! DeepSeek, and MiniCPM 3, whose attention is DeepSeek's.

use super::{LLAMA, Multipliers, Row};
use crate::arch::experts::{MIXTURE, Mixture, Renormalise, Shared};
use crate::config::RopeStyle;
use crate::spec::Scores;

pub(super) const ROWS: &[Row] = &[
    DEEPSEEK2,
    Row {
        name: "deepseek_v3",
        experts: Some(Mixture {
            renormalise: Renormalise::AsTheFileSays { folder: true, gguf: false },
            scores: Scores::Sigmoid,
            scale: 2.5,
            choice_bias: true,
            shared: Shared::Plain,
            ..MIXTURE
        }),
        ..DEEPSEEK2
    },
    Row {
        name: "minicpm3",
        gguf: "minicpm3",
        experts: None,
        multipliers: Multipliers::MiniCpm,
        gguf_rope: RopeStyle::Halves,
        json_rope: RopeStyle::Halves,
        eps: 1e-5,
        tied: true,
        ..DEEPSEEK2
    },
];

/// In GGUF all of them: what differs is in the file.
const DEEPSEEK2: Row = Row {
    name: "deepseek_v2",
    gguf: "deepseek2",
    experts: Some(Mixture {
        renormalise: Renormalise::AsTheFileSays { folder: false, gguf: false },
        shared: Shared::Plain,
        ..MIXTURE
    }),
    latent: true,
    json_rope: RopeStyle::Pairs,
    names: &[
        ("self_attn.q_a_proj", "attn_q_a"),
        ("self_attn.q_a_layernorm", "attn_q_a_norm"),
        ("self_attn.q_b_proj", "attn_q_b"),
        ("self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa"),
        ("self_attn.kv_a_layernorm", "attn_kv_a_norm"),
        ("self_attn.kv_b_proj", "attn_kv_b"),
        ("mlp.gate", "ffn_gate_inp"),
        ("mlp.gate.e_score_correction_bias", "exp_probs_b.bias"),
        ("mlp.shared_experts.gate_proj", "ffn_gate_shexp"),
        ("mlp.shared_experts.up_proj", "ffn_up_shexp"),
        ("mlp.shared_experts.down_proj", "ffn_down_shexp"),
    ],
    ..LLAMA
};
