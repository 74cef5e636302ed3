//! TII's Falcon-H1.

use super::{LLAMA, Multipliers, Recurrence, Row};
use crate::config::RopeStyle;

/// A GGUF file without a head of its own has the factor on the embedding in it and none on the logits:
/// they are those of llama.cpp, not of transformers.
pub(super) const ROWS: &[Row] = &[Row {
    name: "falcon_h1",
    gguf: "falcon-h1",
    recurrence: Recurrence::Mamba,
    beside_attention: true,
    optional_gated_norm: true,
    multipliers: Multipliers::FalconH1,
    gguf_rope: RopeStyle::Halves,
    eps: 1e-5,
    bare_norms: &["ffn_norm"],
    expects: &[
        ("mamba_use_mlp", "true"),
        // Some of the factors are on biases, too.
        ("mamba_proj_bias", "false"),
        ("projectors_bias", "false"),
    ],
    names: &[
        ("final_layernorm", "output_norm"),
        ("pre_ff_layernorm.weight", "ffn_norm"),
        ("feed_forward.gate_proj", "ffn_gate"),
        ("feed_forward.up_proj", "ffn_up"),
        ("feed_forward.down_proj", "ffn_down"),
        ("mamba.in_proj", "ssm_in"),
        ("mamba.conv1d", "ssm_conv1d"),
        ("mamba.A_log", "ssm_a"),
        ("mamba.D", "ssm_d"),
        ("mamba.dt_bias", "ssm_dt.bias"),
        ("mamba.norm", "ssm_norm"),
        ("mamba.out_proj", "ssm_out"),
    ],
    ..LLAMA
}];
