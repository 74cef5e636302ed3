//! OpenAI's open models.

use super::{LLAMA, Row, Windows};
use crate::arch::experts::{Bank, MIXTURE, Mixture};
use crate::config::RopeStyle;

pub(super) const ROWS: &[Row] = &[Row {
    name: "gpt_oss",
    gguf: "gpt-oss",
    experts: Some(Mixture { biases: true, clamped: true, bank: Bank::Columns, ..MIXTURE }),
    qkv_bias: true,
    output_bias: true,
    sinks: true,
    ffn_norm: "post_attention_norm",
    windows: Windows::AllButEvery(2),
    gguf_rope: RopeStyle::Halves,
    theta: 150_000.0,
    eps: 1e-5,
    head_dim: Some(64),
    kv_heads_default: false,
    names: &[
        ("post_attention_layernorm", "post_attention_norm"),
        ("self_attn.sinks", "attn_sinks.weight"),
        ("mlp.router", "ffn_gate_inp"),
        ("mlp.experts.gate_up_proj", "ffn_gate_up_exps.transposed"),
        ("mlp.experts.gate_up_proj_blocks", "ffn_gate_up_exps.blocks"),
        ("mlp.experts.gate_up_proj_scales", "ffn_gate_up_exps.scales"),
        ("mlp.experts.gate_up_proj_bias", "ffn_gate_up_exps.bias"),
        ("mlp.experts.down_proj", "ffn_down_exps.transposed"),
        ("mlp.experts.down_proj_blocks", "ffn_down_exps.blocks"),
        ("mlp.experts.down_proj_scales", "ffn_down_exps.scales"),
        ("mlp.experts.down_proj_bias", "ffn_down_exps.bias"),
    ],
    ..LLAMA
}];
