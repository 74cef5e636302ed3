//! One or two models of a house.

use goldcrest_kernels::Nonlinearity;

use super::{LLAMA, Mlp, NormKind, Places, QkNorm, Roped, Row, Windows};
use crate::config::RopeStyle;

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "smollm3",
        gguf: "smollm3",
        roped: Roped::AllButEvery(4),
        theta: 2e6,
        kv_heads_default: false,
        tied: true,
        ..LLAMA
    },
    Row {
        name: "ernie4_5",
        gguf: "ernie4_5",
        json_rope: RopeStyle::Pairs,
        theta: 5e5,
        eps: 1e-5,
        head_dim: Some(128),
        kv_heads_default: false,
        tied: true,
        ..LLAMA
    },
    Row {
        name: "hunyuan_v1_dense",
        gguf: "hunyuan-dense",
        qk_norm: QkNorm::PerHeadRotated,
        gguf_rope: RopeStyle::Halves,
        eps: 1e-5,
        expects: &[
            ("use_qk_norm", "true"),
            ("norm_type", "\"hf_rms\""),
            ("attention_head_dim", "128"),
            ("cla_share_factor", "2"),
        ],
        names: &[
            ("self_attn.query_layernorm", "attn_q_norm"),
            ("self_attn.key_layernorm", "attn_k_norm"),
        ],
        ..LLAMA
    },
    Row {
        name: "glm4",
        gguf: "glm4",
        bias_key: Some(("attention_bias", true)),
        fused: true,
        norms: Places::Both,
        json_rope: RopeStyle::Pairs,
        partial_rope: Some(0.5),
        eps: 1.5625e-7,
        head_dim: Some(128),
        kv_heads_default: false,
        names: &[
            ("post_self_attn_layernorm", "post_attention_norm"),
            ("post_attention_layernorm", "ffn_norm"),
            ("post_mlp_layernorm", "post_ffw_norm"),
            ("mlp.gate_up_proj", "ffn_up"),
        ],
        ..LLAMA
    },
    Row {
        name: "starcoder2",
        gguf: "starcoder2",
        qkv_bias: true,
        output_bias: true,
        mlp_bias: true,
        norm: NormKind::Layer,
        mlp: Mlp::Plain,
        act: Nonlinearity::GeluTanh,
        expects: &[
            ("use_bias", "true"),
            ("norm_type", "\"layer_norm\""),
            ("scale_attn_weights", "true"),
            ("scale_attention_softmax_in_fp32", "true"),
        ],
        act_names: &["gelu_pytorch_tanh", "gelu_new", "gelu_fast"],
        windows: Windows::IfGiven,
        gguf_rope: RopeStyle::Halves,
        eps: 1e-5,
        kv_heads_default: false,
        tied: true,
        names: &[("mlp.c_fc", "ffn_up"), ("mlp.c_proj", "ffn_down")],
        ..LLAMA
    },
    Row {
        name: "stablelm",
        gguf: "stablelm",
        bias_key: Some(("use_qkv_bias", false)),
        norm: NormKind::Layer,
        gguf_rope: RopeStyle::Halves,
        partial_rope: Some(0.25),
        eps: 1e-5,
        kv_heads_default: false,
        expects: &[("rotary_scaling_factor", "1.0")],
        ..LLAMA
    },
];
