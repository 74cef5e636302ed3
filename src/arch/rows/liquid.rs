//! Liquid.

use super::{LLAMA, QkNorm, Recurrence, Row};
use crate::config::RopeStyle;

pub(super) const ROWS: &[Row] = &[LFM2];

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
    ],
    ..LLAMA
};
