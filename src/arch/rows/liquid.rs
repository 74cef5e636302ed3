//! Liquid.

use super::{LLAMA, QkNorm, Recurrence, Row};
use crate::arch::experts::{MIXTURE, Mixture, Renormalise};
use crate::config::RopeStyle;
use crate::spec::Scores;

pub(super) const ROWS: &[Row] = &[
    LFM2,
    Row {
        name: "lfm2_moe",
        gguf: "lfm2moe",
        experts: Some(Mixture {
            renormalise: Renormalise::AsTheFileSays { folder: true, gguf: true },
            scores: Scores::Sigmoid,
            choice_bias: true,
            ..MIXTURE
        }),
        expects: &[("use_expert_bias", "true")],
        ..LFM2
    },
];

const LFM2: Row = Row {
    name: "lfm2",
    gguf: "lfm2",
    recurrence: Recurrence::ShortConv,
    qk_norm: QkNorm::PerHead,
    output_norm: "token_embd_norm",
    gguf_rope: RopeStyle::Halves,
    theta: 1e6,
    eps: 1e-5,
    kv_heads_default: false,
    tied: true,
    names: &[
        ("embedding_norm", "token_embd_norm"),
        ("operator_norm", "attn_norm"),
        ("ffn_norm", "ffn_norm"),
        ("conv.in_proj", "shortconv.in_proj"),
        ("conv.conv", "shortconv.conv"),
        ("conv.out_proj", "shortconv.out_proj"),
        ("self_attn.out_proj", "attn_output"),
        ("self_attn.q_layernorm", "attn_q_norm"),
        ("self_attn.k_layernorm", "attn_k_norm"),
        ("feed_forward.w1", "ffn_gate"),
        ("feed_forward.w2", "ffn_down"),
        ("feed_forward.w3", "ffn_up"),
        ("feed_forward.gate", "ffn_gate_inp"),
        ("feed_forward.expert_bias", "exp_probs_b.bias"),
        ("feed_forward.experts.*.w1", "ffn_gate.*"),
        ("feed_forward.experts.*.w2", "ffn_down.*"),
        ("feed_forward.experts.*.w3", "ffn_up.*"),
    ],
    ..LLAMA
};
