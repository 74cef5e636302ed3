//! NVIDIA's Nemotron-H.

use goldcrest_kernels::Nonlinearity;

use super::{LLAMA, Mlp, Recurrence, Roped, Row};

pub(super) const ROWS: &[Row] = &[Row {
    name: "nemotron_h",
    gguf: "nemotron_h",
    single_mixers: true,
    recurrence: Recurrence::Mamba,
    // As transformers' class has it, whatever its `time_step_limit` says. (llama.cpp has no least step.)
    least_step: Some(1e-3),
    roped: Roped::None,
    mlp: Mlp::Plain,
    act: Nonlinearity::ReluSquared,
    act_names: &["relu2"],
    eps: 1e-5,
    head_dim: Some(128),
    kv_heads_default: false,
    expects: &[
        ("mlp_hidden_act", "\"relu2\""),
        ("mamba_hidden_act", "\"silu\""),
        ("use_bias", "false"),
        ("residual_in_fp32", "false"),
    ],
    names: &[
        ("embeddings", "token_embd"),
        ("norm_f", "output_norm"),
        ("norm", "attn_norm"),
        ("mixer.in_proj", "ssm_in"),
        ("mixer.conv1d", "ssm_conv1d"),
        ("mixer.A_log", "ssm_a"),
        ("mixer.D", "ssm_d"),
        ("mixer.dt_bias", "ssm_dt.bias"),
        ("mixer.norm", "ssm_norm"),
        ("mixer.out_proj", "ssm_out"),
        ("mixer.q_proj", "attn_q"),
        ("mixer.k_proj", "attn_k"),
        ("mixer.v_proj", "attn_v"),
        ("mixer.o_proj", "attn_output"),
        ("mixer.up_proj", "ffn_up"),
        ("mixer.down_proj", "ffn_down"),
    ],
    ..LLAMA
}];
