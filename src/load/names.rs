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
    ("mlp.experts.*.gate_proj", "ffn_gate.*"),
    ("mlp.experts.*.up_proj", "ffn_up.*"),
    ("mlp.experts.*.down_proj", "ffn_down.*"),
    ("mlp.experts.gate_up_proj", "ffn_gate_up_exps.weight"),
    ("mlp.experts.down_proj", "ffn_down_exps.weight"),
];

/// Names outside the layers.
const OUTSIDE: &[(&str, &str)] =
    &[("embed_tokens", "token_embd"), ("norm", "output_norm"), ("lm_head", "output")];

/// The GGUF name of a decoder's tensor, or `None` for one that has none. `own` are names of its
/// architecture, which go before the usual ones: without their endings, or whole where a name has no
/// `.weight` or `.bias`.
///
/// The `model.` in front is absent from checkpoints saved without their head; those of multimodal
/// models have the text's under [`TEXT`].
pub(super) fn gguf_name(name: &str, own: &[(&str, &str)]) -> Option<String> {
    let name = TEXT.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
    let name = MODEL.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
    let Some(rest) = LAYER.iter().find_map(|prefix| name.strip_prefix(prefix)) else {
        return translate(name, own, OUTSIDE);
    };
    let (layer, rest) = rest.split_once('.')?;
    let layer = number(layer)?;
    Some(format!("blk.{layer}.{}", translate(rest, own, IN_LAYER)?))
}

/// What the names of a model's tensors begin with, in one or another generation of checkpoints.
const MODEL: &[&str] = &["model.", "transformer.", "gpt_neox.", "backbone."];

/// And those of a layer's.
const LAYER: &[&str] = &["layers.", "h."];

/// What the text's tensors of multimodal checkpoints begin with.
const TEXT: &[&str] = &["model.language_model.", "language_model."];

/// A whole name of the architecture's own, or its own or a usual one without the ending.
fn translate(name: &str, own: &[(&str, &str)], usual: &[(&str, &str)]) -> Option<String> {
    if let Some((_, to)) = own.iter().chain(usual).find(|(from, _)| *from == name) {
        return Some((*to).to_owned());
    }
    let (stem, kind) = name.rsplit_once('.')?;
    if !matches!(kind, "weight" | "bias") {
        return None;
    }
    let to = look_up(own, stem).or_else(|| look_up(usual, stem))?;
    Some(format!("{to}.{kind}"))
}

/// A star in the table stands for the number of an expert.
fn look_up(table: &[(&str, &str)], name: &str) -> Option<String> {
    table.iter().find_map(|(from, to)| match from.split_once('*') {
        None => (*from == name).then(|| (*to).to_owned()),
        Some((before, after)) => {
            let expert = number(name.strip_prefix(before)?.strip_suffix(after)?)?;
            Some(to.replace('*', &expert.to_string()))
        }
    })
}

/// "01" and "+1" parse, too, and would collide with "1".
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|n: &u32| n.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::gguf_name;

    const OWN: &[(&str, &str)] = &[
        ("experts.*.w1", "ffn_gate.*"),
        ("self_attn.o_proj", "other"),
        ("layer_scalar", "layer_output_scale.weight"),
        ("extra_tokens", "extra_embd"),
    ];

    #[test]
    fn names() {
        for (from, to) in [
            ("model.layers.12.self_attn.q_proj.weight", "blk.12.attn_q.weight"),
            ("layers.0.self_attn.k_proj.bias", "blk.0.attn_k.bias"),
            ("model.layers.3.post_attention_layernorm.weight", "blk.3.ffn_norm.weight"),
            ("model.embed_tokens.weight", "token_embd.weight"),
            ("model.norm.weight", "output_norm.weight"),
            ("lm_head.weight", "output.weight"),
            ("model.layers.3.mlp.experts.17.up_proj.weight", "blk.3.ffn_up.17.weight"),
            ("model.layers.3.experts.2.w1.weight", "blk.3.ffn_gate.2.weight"),
            ("model.layers.3.self_attn.o_proj.weight", "blk.3.other.weight"),
            ("model.layers.3.layer_scalar", "blk.3.layer_output_scale.weight"),
            ("transformer.h.7.self_attn.q_proj.weight", "blk.7.attn_q.weight"),
            ("h.7.self_attn.q_proj.bias", "blk.7.attn_q.bias"),
            ("gpt_neox.layers.7.mlp.up_proj.weight", "blk.7.ffn_up.weight"),
            ("model.extra_tokens.weight", "extra_embd.weight"),
            ("language_model.model.norm.weight", "output_norm.weight"),
            ("language_model.lm_head.weight", "output.weight"),
            ("model.language_model.layers.1.self_attn.q_proj.weight", "blk.1.attn_q.weight"),
        ] {
            assert_eq!(gguf_name(from, OWN).as_deref(), Some(to));
        }
        for odd in [
            "",
            "x",
            "model.layers.01.mlp.up_proj.weight",
            "model.layers.0.mlp.experts.01.up_proj.weight",
            "model.layers.0.rotary_emb.inv_freq",
            "model.vision_tower.layers.0.self_attn.q_proj.weight",
            "vision_tower.norm.weight",
            "mtp.layers.0.self_attn.q_norm.weight",
        ] {
            assert_eq!(gguf_name(odd, OWN), None);
        }
    }
}
