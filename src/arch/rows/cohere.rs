//! Cohere's Command R.

use super::{LLAMA, Multipliers, NormKind, Parallel, Roped, Row, Windows};
use crate::config::RopeStyle;

pub(super) const ROWS: &[Row] = &[
    COHERE,
    Row {
        name: "cohere2",
        gguf: "cohere2",
        windows: Windows::AllButEvery(4),
        roped: Roped::Windowed,
        theta: 1e4,
        expects: &[
            ("position_embedding_type", "\"rope_gptj\""),
            ("rotary_pct", "1.0"),
            ("use_gated_activation", "true"),
            ("use_parallel_block", "true"),
            ("use_parallel_embedding", "true"),
            ("use_embedding_sharing", "true"),
            ("order_of_interleaved_layers", "\"local_attn_first\""),
            ("layer_switch", "4"),
        ],
        ..COHERE
    },
];

const COHERE: Row = Row {
    name: "cohere",
    gguf: "command-r",
    norm: NormKind::LayerUnbiased,
    parallel: Parallel::OneNorm,
    multipliers: Multipliers::Logits(0.0625),
    json_rope: RopeStyle::Pairs,
    theta: 5e5,
    eps: 1e-5,
    tied: true,
    ..LLAMA
};
