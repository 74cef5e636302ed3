//! A writer of safetensors files and small Hugging Face folders.

use std::path::Path;

use serde_json::{Value, json};

/// One F32 tensor of each name and shape, in order.
pub fn build(tensors: &[(&str, Vec<usize>)]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, shape) in tensors {
        let start = data.len();
        for i in 0..shape.iter().product() {
            data.extend(((i % 5) as f32 * 0.25).to_le_bytes());
        }
        let info = json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]});
        header.insert((*name).to_string(), info);
    }
    with_header(&Value::Object(header).to_string(), &data)
}

/// A file of this header, right or wrong.
pub fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.extend(data);
    out
}

/// The tensors of a llama of one layer, under their Hugging Face names.
pub fn tiny_tensors() -> Vec<(&'static str, Vec<usize>)> {
    vec![
        ("model.embed_tokens.weight", vec![24, 32]),
        ("model.norm.weight", vec![32]),
        ("lm_head.weight", vec![24, 32]),
        ("model.layers.0.input_layernorm.weight", vec![32]),
        ("model.layers.0.self_attn.q_proj.weight", vec![32, 32]),
        ("model.layers.0.self_attn.k_proj.weight", vec![16, 32]),
        ("model.layers.0.self_attn.v_proj.weight", vec![16, 32]),
        ("model.layers.0.self_attn.o_proj.weight", vec![32, 32]),
        ("model.layers.0.post_attention_layernorm.weight", vec![32]),
        ("model.layers.0.mlp.gate_proj.weight", vec![48, 32]),
        ("model.layers.0.mlp.up_proj.weight", vec![48, 32]),
        ("model.layers.0.mlp.down_proj.weight", vec![32, 48]),
    ]
}

/// The config.json that goes with [`tiny_tensors`].
pub fn tiny_config() -> Value {
    json!({
        "model_type": "llama", "vocab_size": 24, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
        "hidden_act": "silu", "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": false,
        "bos_token_id": 1, "eos_token_id": [2, 3],
    })
}

/// Writes a whole folder.
pub fn write_tiny(dir: &Path) {
    std::fs::write(dir.join("config.json"), tiny_config().to_string()).unwrap();
    std::fs::write(dir.join("model.safetensors"), build(&tiny_tensors())).unwrap();
}
