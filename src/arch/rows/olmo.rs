//! OLMo and EXAONE, which normalise what a mixer made, and not what it reads.

use super::{LLAMA, Places, QkNorm, Roped, Row, Windows};
use crate::config::RopeStyle;

pub(super) const ROWS: &[Row] = &[
    OLMO2,
    // In GGUF an olmo2 with windows.
    Row {
        name: "olmo3",
        windows: Windows::AllButEvery(4),
        local_rope: true,
        local_theta: None,
        theta: 5e5,
        ..OLMO2
    },
    Row {
        name: "exaone4",
        gguf: "exaone4",
        qk_norm: QkNorm::PerHead,
        windows: Windows::AllButEvery(4),
        roped: Roped::Windowed,
        ..OLMO2
    },
];

const OLMO2: Row = Row {
    name: "olmo2",
    gguf: "olmo2",
    qk_norm: QkNorm::Whole,
    norms: Places::After,
    gguf_rope: RopeStyle::Halves,
    eps: 1e-5,
    names: &[
        ("post_attention_layernorm", "post_attention_norm"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
    ],
    ..LLAMA
};
