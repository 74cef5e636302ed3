//! Gemma.

use goldcrest_kernels::Nonlinearity;

use super::{LLAMA, NormKind, Places, QkNorm, Row, Scale, Windows};
use crate::config::RopeStyle;

pub(super) const ROWS: &[Row] = &[
    GEMMA2,
    Row {
        name: "gemma3_text",
        gguf: "gemma3",
        qk_norm: QkNorm::PerHead,
        scale: Scale::QueryPreAttention { odd: 62 },
        softcaps: false,
        windows: Windows::AllButEvery(6),
        local_rope: true,
        theta: 1e6,
        ..GEMMA2
    },
];

const GEMMA2: Row = Row {
    name: "gemma2",
    gguf: "gemma2",
    norm: NormKind::RmsFromOne,
    norms: Places::Both,
    scale: Scale::QueryPreAttention { odd: 46 },
    softcaps: true,
    scaled_embedding: true,
    act: Nonlinearity::GeluTanh,
    act_names: &["gelu_pytorch_tanh"],
    windows: Windows::AllButEvery(2),
    gguf_rope: RopeStyle::Halves,
    head_dim: Some(256),
    kv_heads_default: false,
    tied: true,
    names: &[
        ("post_attention_layernorm", "post_attention_norm"),
        ("pre_feedforward_layernorm", "ffn_norm"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
    ],
    ..LLAMA
};
