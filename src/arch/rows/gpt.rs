//! GPT-2 and GPT-NeoX.

use goldcrest_kernels::Nonlinearity;

use super::{LLAMA, Mlp, NormKind, Parallel, Roped, Row};
use crate::config::RopeStyle;

pub(super) const ROWS: &[Row] = &[
    GPT2,
    Row {
        name: "gpt_neox",
        gguf: "gptneox",
        fused_by_head: true,
        transposed: &[],
        parallel: Parallel::IfSaid,
        learned_positions: false,
        act: Nonlinearity::GeluErf,
        act_names: &["gelu"],
        roped: Roped::All,
        partial_rope: Some(0.25),
        ffn_times: None,
        tied: false,
        names: &[
            ("embed_in", "token_embd"),
            ("final_layer_norm", "output_norm"),
            ("embed_out", "output"),
            ("attention.query_key_value", "attn_qkv"),
            ("attention.dense", "attn_output"),
            ("mlp.dense_h_to_4h", "ffn_up"),
            ("mlp.dense_4h_to_h", "ffn_down"),
        ],
        ..GPT2
    },
];

const GPT2: Row = Row {
    name: "gpt2",
    gguf: "gpt2",
    qkv_bias: true,
    output_bias: true,
    mlp_bias: true,
    fused: true,
    transposed: &["attn_qkv", "attn_output", "ffn_up", "ffn_down"],
    norm: NormKind::Layer,
    mlp: Mlp::Plain,
    learned_positions: true,
    act: Nonlinearity::GeluTanh,
    expects: &[("scale_attn_weights", "true")],
    act_names: &["gelu_new", "gelu_pytorch_tanh", "gelu_fast"],
    roped: Roped::None,
    gguf_rope: RopeStyle::Halves,
    eps: 1e-5,
    ffn_times: Some(4),
    tied: true,
    names: &[
        ("wte", "token_embd"),
        ("wpe", "position_embd"),
        ("ln_f", "output_norm"),
        ("ln_1", "attn_norm"),
        ("attn.c_attn", "attn_qkv"),
        ("attn.c_proj", "attn_output"),
        ("ln_2", "ffn_norm"),
        ("mlp.c_fc", "ffn_up"),
        ("mlp.c_proj", "ffn_down"),
    ],
    ..LLAMA
};
