//! IBM's Granite.

use super::{LLAMA, Multipliers, Roped, Row};

pub(super) const ROWS: &[Row] = &[
    GRANITE,
    // Granite 4; in GGUF its dense models call themselves granite.
    Row {
        name: "granitemoehybrid",
        gguf: "granitehybrid",
        fused: true,
        roped: Roped::AsTheFileSays { default: false },
        shared_ffn: true,
        expects: &[("normalization_function", "\"rmsnorm\""), ("init_method", "\"mup\"")],
        names: &[("shared_mlp.input_linear", "ffn_up"), ("shared_mlp.output_linear", "ffn_down")],
        ..GRANITE
    },
];

const GRANITE: Row = Row {
    name: "granite",
    gguf: "granite",
    multipliers: Multipliers::Granite,
    roped: Roped::AsTheFileSays { default: true },
    ..LLAMA
};
