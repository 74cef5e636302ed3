//! GLM's mixtures.

use super::{LLAMA, QkNorm, Row};
use crate::arch::experts::{MIXTURE, Mixture, Renormalise, Shared};
use crate::config::RopeStyle;
use crate::spec::Scores;

pub(super) const ROWS: &[Row] = &[Row {
    name: "glm4_moe",
    gguf: "glm4moe",
    experts: Some(Mixture {
        renormalise: Renormalise::AsTheFileSays { folder: true, gguf: false },
        scores: Scores::Sigmoid,
        choice_bias: true,
        shared: Shared::Plain,
        ..MIXTURE
    }),
    qkv_bias: true,
    qk_norm: QkNorm::PerHeadIfThere,
    ffn_norm: "post_attention_norm",
    partial_rope: Some(0.5),
    gguf_rope: RopeStyle::Halves,
    head_dim: Some(128),
    eps: 1e-5,
    kv_heads_default: false,
    names: &[
        ("post_attention_layernorm", "post_attention_norm"),
        ("mlp.gate", "ffn_gate_inp"),
        ("mlp.gate.e_score_correction_bias", "exp_probs_b.bias"),
        ("mlp.shared_experts.gate_proj", "ffn_gate_shexp"),
        ("mlp.shared_experts.up_proj", "ffn_up_shexp"),
        ("mlp.shared_experts.down_proj", "ffn_down_shexp"),
    ],
    ..LLAMA
}];
