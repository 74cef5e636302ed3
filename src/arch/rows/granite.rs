//! IBM's Granite.

use super::{LLAMA, Multipliers, Recurrence, Roped, Row};
use crate::arch::experts::{MIXTURE, Mixture, Shared};

pub(super) const ROWS: &[Row] = &[
    GRANITE,
    // Granite 4; in GGUF its dense models call themselves granite.
    Row {
        name: "granitemoehybrid",
        gguf: "granitehybrid",
        fused: true,
        roped: Roped::AsTheFileSays { default: false },
        shared_ffn: true,
        recurrence: Recurrence::Mamba,
        experts: Some(Mixture { optional: true, shared: Shared::Plain, ..MIXTURE }),
        expects: &[("normalization_function", "\"rmsnorm\""), ("init_method", "\"mup\"")],
        names: &[
            ("shared_mlp.input_linear", "ffn_up_shexp"),
            ("shared_mlp.output_linear", "ffn_down_shexp"),
            ("block_sparse_moe.router.layer", "ffn_gate_inp"),
            ("block_sparse_moe.input_linear", "ffn_gate_up_exps"),
            ("block_sparse_moe.output_linear", "ffn_down_exps"),
            ("mamba.in_proj", "ssm_in"),
            ("mamba.conv1d", "ssm_conv1d"),
            ("mamba.A_log", "ssm_a"),
            ("mamba.D", "ssm_d"),
            ("mamba.dt_bias", "ssm_dt.bias"),
            ("mamba.norm", "ssm_norm"),
            ("mamba.out_proj", "ssm_out"),
        ],
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
