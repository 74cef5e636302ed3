//! Gemma.

use goldcrest_kernels::Nonlinearity;

use super::{Cap, LLAMA, NormKind, Places, QkNorm, Row, Scale, Windows};
use crate::arch::experts::{MIXTURE, Mixture};
use crate::config::RopeStyle;

pub(super) const ROWS: &[Row] = &[
    GEMMA2,
    Row {
        name: "gemma3_text",
        gguf: "gemma3",
        qk_norm: QkNorm::PerHead,
        scale: Scale::QueryPreAttention { odd: 62 },
        attention_cap: Cap::Never,
        logit_cap: Cap::Never,
        windows: Windows::AllButEvery(6),
        local_rope: true,
        theta: 1e6,
        ..GEMMA2
    },
    Row {
        name: "gemma4_text",
        gguf: "gemma4",
        qk_norm: QkNorm::PerHead,
        norm: NormKind::Rms,
        scale: Scale::One,
        attention_cap: Cap::Never,
        logit_cap: Cap::Key,
        v_norm: true,
        global_heads: true,
        shared_keys: true,
        layer_inputs: true,
        layer_scale: true,
        experts: Some(Mixture { beside: true, ..MIXTURE }),
        partial_rope: Some(1.0),
        windows: Windows::AllButEvery(6),
        local_rope: true,
        theta: 1e6,
        names: &[
            ("post_attention_layernorm", "post_attention_norm"),
            ("pre_feedforward_layernorm", "ffn_norm"),
            ("post_feedforward_layernorm", "post_ffw_norm"),
            ("layer_scalar", "layer_output_scale.weight"),
            ("post_feedforward_layernorm_1", "post_ffw_norm_1"),
            ("post_feedforward_layernorm_2", "post_ffw_norm_2"),
            ("pre_feedforward_layernorm_2", "pre_ffw_norm_2"),
            ("router.proj", "ffn_gate_inp"),
            ("router.scale", "ffn_gate_inp.scale"),
            ("router.per_expert_scale", "ffn_down_exps.scale"),
            ("experts.gate_up_proj", "ffn_gate_up_exps.weight"),
            ("experts.down_proj", "ffn_down_exps.weight"),
            ("per_layer_input_gate", "inp_gate"),
            ("per_layer_projection", "proj"),
            ("post_per_layer_input_norm", "post_norm"),
            ("embed_tokens_per_layer", "per_layer_token_embd"),
            ("per_layer_model_projection", "per_layer_model_proj"),
            ("per_layer_projection_norm", "per_layer_proj_norm"),
        ],
        ..GEMMA2
    },
];

const GEMMA2: Row = Row {
    name: "gemma2",
    gguf: "gemma2",
    norm: NormKind::RmsFromOne,
    norms: Places::Both,
    scale: Scale::QueryPreAttention { odd: 46 },
    attention_cap: Cap::Default(50.0),
    logit_cap: Cap::Default(30.0),
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
