//! Phi.

use goldcrest_kernels::Nonlinearity;

use super::{LLAMA, Mlp, NormKind, Parallel, Row, Windows};
use crate::config::RopeStyle;

pub(super) const ROWS: &[Row] = &[
    // Phi 3, 3.5 and 4.
    Row {
        name: "phi3",
        gguf: "phi3",
        fused: true,
        windows: Windows::IfGiven,
        partial_rope: Some(1.0),
        gguf_rope: RopeStyle::Halves,
        eps: 1e-5,
        expects: &[("interpolate_factor", "1"), ("lm_head_bias", "false")],
        names: &[("self_attn.qkv_proj", "attn_qkv"), ("mlp.gate_up_proj", "ffn_up")],
        ..LLAMA
    },
    // Phi 1, 1.5 and 2.
    Row {
        name: "phi",
        gguf: "phi2",
        qkv_bias: true,
        output_bias: true,
        mlp_bias: true,
        head_bias: true,
        fused: true,
        norm: NormKind::Layer,
        mlp: Mlp::Plain,
        parallel: Parallel::OneNorm,
        act: Nonlinearity::GeluTanh,
        act_names: &["gelu_new", "gelu_pytorch_tanh", "gelu_fast"],
        gguf_rope: RopeStyle::Halves,
        partial_rope: Some(0.5),
        eps: 1e-5,
        names: &[
            ("final_layernorm", "output_norm"),
            ("self_attn.dense", "attn_output"),
            ("mlp.fc1", "ffn_up"),
            ("mlp.fc2", "ffn_down"),
        ],
        ..LLAMA
    },
];
