//! Hugging Face tensor names to GGUF names.

/// Names inside a layer.
const IN_LAYER: &[(&str, &str)] = &[
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// Names outside the layers.
const OUTSIDE: &[(&str, &str)] =
    &[("embed_tokens", "token_embd"), ("norm", "output_norm"), ("lm_head", "output")];

/// The GGUF name of a tensor of the llama family, or `None` for one that has none.
///
/// The `model.` in front is absent from checkpoints saved without their head.
pub(super) fn gguf_name(name: &str) -> Option<String> {
    let name = name.strip_prefix("model.").unwrap_or(name);
    let (stem, kind) = name.rsplit_once('.')?;
    if !matches!(kind, "weight" | "bias") {
        return None;
    }
    let Some(rest) = stem.strip_prefix("layers.") else {
        return look_up(OUTSIDE, stem).map(|to| format!("{to}.{kind}"));
    };
    let (number, stem) = rest.split_once('.')?;
    let layer: u32 = number.parse().ok()?;
    let to = look_up(IN_LAYER, stem)?;
    // "01" and "+1" parse too, and would collide with "1".
    (layer.to_string() == number).then(|| format!("blk.{layer}.{to}.{kind}"))
}

fn look_up(table: &[(&str, &'static str)], name: &str) -> Option<&'static str> {
    table.iter().find(|(from, _)| *from == name).map(|(_, to)| *to)
}

#[cfg(test)]
mod tests {
    use super::gguf_name;

    #[test]
    fn names() {
        for (from, to) in [
            ("model.layers.12.self_attn.q_proj.weight", "blk.12.attn_q.weight"),
            ("layers.0.self_attn.k_proj.bias", "blk.0.attn_k.bias"),
            ("model.layers.3.post_attention_layernorm.weight", "blk.3.ffn_norm.weight"),
            ("model.embed_tokens.weight", "token_embd.weight"),
            ("model.norm.weight", "output_norm.weight"),
            ("lm_head.weight", "output.weight"),
        ] {
            assert_eq!(gguf_name(from).as_deref(), Some(to));
        }
        for odd in
            ["", "x", "model.layers.01.mlp.up_proj.weight", "model.layers.0.rotary_emb.inv_freq"]
        {
            assert_eq!(gguf_name(odd), None);
        }
    }
}
