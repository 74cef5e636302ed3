//! From a checkpoint to files that engines read.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use goldcrest::load::{
    Array, GgmlType, GgufEntry, Metadata, Value, gguf_padding, write_gguf_header,
};
use goldcrest::synthetic::Mixture;
use serde_json::json;

use crate::checkpoint;
use crate::error::{Result, input, io};
use crate::model::Model;
use crate::preset::Dimensions;
use crate::quantize::quantize_row;
use crate::tokenizer::{PRE, Tokenizer};

/// A matrix or a norm, as published models divide them.
struct Tensor {
    /// The name in Hugging Face's files, without `model.` and `.weight`.
    name: String,
    /// Outermost dimension first.
    shape: Vec<usize>,
    values: Vec<f32>,
}

/// The model's tensors, those that are fused in training taken apart.
fn tensors(model: &Model) -> Result<Vec<Tensor>> {
    let d = model.dimensions();
    let (q, kv) = (d.n_heads * d.head_dim, d.n_kv_heads * d.head_dim);
    let mut all = Vec::new();
    for weight in model.weights() {
        let values: Vec<f32> = weight.var.flatten_all()?.to_vec1()?;
        let name = &weight.name;
        let parts: &[(&str, usize)] = match name.rsplit('.').next() {
            Some("qkv_proj") => {
                &[("self_attn.q_proj", q), ("self_attn.k_proj", kv), ("self_attn.v_proj", kv)]
            }
            Some("o_proj") => &[("self_attn.o_proj", d.hidden)],
            Some("gate_up_proj") => &[("mlp.gate_proj", d.ffn), ("mlp.up_proj", d.ffn)],
            Some("down_proj") => &[("mlp.down_proj", d.hidden)],
            _ => {
                all.push(Tensor { name: name.clone(), shape: weight.var.dims().to_vec(), values });
                continue;
            }
        };
        let (layer, _) = name.rsplit_once('.').unwrap_or_default();
        let cols = weight.var.dims()[1];
        let mut rest = &values[..];
        for &(part, rows) in parts {
            let (values, after) = rest.split_at(rows * cols);
            let name = format!("{layer}.{part}");
            all.push(Tensor { name, shape: vec![rows, cols], values: values.to_vec() });
            rest = after;
        }
    }
    Ok(all)
}

/// Writes a Hugging Face folder: config.json, model.safetensors, tokenizer.json.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io); [`Error::Input`](crate::Error::Input) for the tokenizer of
/// another model.
pub fn folder(model: &Model, tokenizer: &Tokenizer, dir: &Path) -> Result<()> {
    check(model, tokenizer)?;
    fs::create_dir_all(dir).map_err(io(dir))?;
    let file = |tensor: Tensor| {
        let bytes = tensor.values.iter().flat_map(|v| v.to_le_bytes()).collect();
        (format!("model.{}.weight", tensor.name), tensor.shape, bytes)
    };
    let all = tensors(model)?.into_iter().map(file).collect();
    let format = [("format".to_string(), "pt".to_string())].into();
    checkpoint::write(&dir.join("model.safetensors"), &all, Some(format))?;
    let config = serde_json::to_string_pretty(&config(model.dimensions(), tokenizer.end()))?;
    let path = dir.join("config.json");
    fs::write(&path, config).map_err(io(&path))?;
    tokenizer.save(&dir.join("tokenizer.json"))
}

fn config(d: &Dimensions, end: u32) -> serde_json::Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": d.vocab,
        "hidden_size": d.hidden,
        "intermediate_size": d.ffn,
        "num_hidden_layers": d.n_layers,
        "num_attention_heads": d.n_heads,
        "num_key_value_heads": d.n_kv_heads,
        "head_dim": d.head_dim,
        "max_position_embeddings": d.context,
        "rms_norm_eps": d.norm_eps,
        "rope_theta": d.rope_theta,
        "hidden_act": "silu",
        "attention_bias": false,
        "mlp_bias": false,
        "tie_word_embeddings": true,
        "bos_token_id": end,
        "eos_token_id": end,
        "torch_dtype": "float32",
    })
}

fn check(model: &Model, tokenizer: &Tokenizer) -> Result<()> {
    let (have, want) = (tokenizer.vocab(), model.dimensions().vocab);
    if have != want {
        return input(format!("the tokenizer has {have} tokens, the model {want}"));
    }
    Ok(())
}

/// Writes a GGUF file, its types chosen as `mixture` says.
///
/// # Errors
/// As [`folder`].
pub fn gguf(
    model: &Model,
    tokenizer: &Tokenizer,
    mixture: &Mixture,
    name: &str,
    path: &Path,
) -> Result<()> {
    check(model, tokenizer)?;
    let d = model.dimensions();
    let metadata = metadata(d, tokenizer, mixture, name)?;
    let mut entries = Vec::new();
    let mut data = Vec::new();
    for mut tensor in tensors(model)? {
        interleave(&mut tensor, d);
        let name = gguf_name(&tensor.name)?;
        let ty = mixture.type_of(&name, &tensor.shape, d.n_layers, true);
        let bytes = encode(ty, &tensor)?;
        entries.push(GgufEntry { name, shape: tensor.shape, ty, bytes: bytes.len() as u64 });
        data.push(bytes);
    }
    let write = || {
        let mut out = BufWriter::new(File::create(path)?);
        write_gguf_header(&mut out, &metadata, &entries)?;
        for bytes in &data {
            out.write_all(bytes)?;
            out.write_all(gguf_padding(bytes.len() as u64))?;
        }
        out.flush()
    };
    write().map_err(io(path))
}

fn encode(ty: GgmlType, tensor: &Tensor) -> Result<Vec<u8>> {
    let k = tensor.shape[tensor.shape.len() - 1];
    let Some(row) = ty.bytes_for(k) else {
        return input(format!("{}: no rows of {k} in {ty}", tensor.name));
    };
    let mut out = vec![0; tensor.values.len() / k * row];
    for (values, out) in tensor.values.chunks_exact(k).zip(out.chunks_exact_mut(row)) {
        quantize_row(ty, values, out)?;
    }
    Ok(out)
}

/// Orders the rows of queries and keys for rope of neighbouring values: GGUF's llama turns values
/// `2i` and `2i + 1` of a head, Hugging Face's `i` and `i + head_dim / 2`.
fn interleave(tensor: &mut Tensor, d: &Dimensions) {
    if !tensor.name.ends_with("q_proj") && !tensor.name.ends_with("k_proj") {
        return;
    }
    let (cols, half) = (tensor.shape[1], d.head_dim / 2);
    let from = |row: usize| {
        let (head, i) = (row / d.head_dim, row % d.head_dim);
        head * d.head_dim + i / 2 + i % 2 * half
    };
    tensor.values = (0..tensor.shape[0])
        .flat_map(|row| &tensor.values[from(row) * cols..][..cols])
        .copied()
        .collect();
}

fn gguf_name(name: &str) -> Result<String> {
    let part = |part: &str| {
        Some(match part {
            "input_layernorm" => "attn_norm",
            "self_attn.q_proj" => "attn_q",
            "self_attn.k_proj" => "attn_k",
            "self_attn.v_proj" => "attn_v",
            "self_attn.o_proj" => "attn_output",
            "post_attention_layernorm" => "ffn_norm",
            "mlp.gate_proj" => "ffn_gate",
            "mlp.up_proj" => "ffn_up",
            "mlp.down_proj" => "ffn_down",
            _ => return None,
        })
    };
    let layer = || {
        let (layer, rest) = name.strip_prefix("layers.")?.split_once('.')?;
        Some(format!("blk.{layer}.{}.weight", part(rest)?))
    };
    match name {
        "embed_tokens" => Ok("token_embd.weight".into()),
        "norm" => Ok("output_norm.weight".into()),
        _ => match layer() {
            Some(name) => Ok(name),
            None => input(format!("{name}: no name in GGUF")),
        },
    }
}

fn metadata(
    d: &Dimensions,
    tokenizer: &Tokenizer,
    mixture: &Mixture,
    name: &str,
) -> Result<Metadata> {
    let mut metadata = Metadata::default();
    let count = |n: usize| Value::U32(n as u32);
    let text = |text: &str| Value::String(text.into());
    for (key, value) in [
        ("general.architecture", text("llama")),
        ("general.name", text(name)),
        ("general.license", text("MIT OR Apache-2.0")),
        ("general.file_type", Value::U32(mixture.file_type)),
        ("general.quantization_version", Value::U32(2)),
        ("llama.context_length", count(d.context)),
        ("llama.embedding_length", count(d.hidden)),
        ("llama.block_count", count(d.n_layers)),
        ("llama.feed_forward_length", count(d.ffn)),
        ("llama.attention.head_count", count(d.n_heads)),
        ("llama.attention.head_count_kv", count(d.n_kv_heads)),
        ("llama.attention.key_length", count(d.head_dim)),
        ("llama.attention.value_length", count(d.head_dim)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(d.norm_eps)),
        ("llama.rope.freq_base", Value::F32(d.rope_theta)),
        ("llama.rope.dimension_count", count(d.head_dim)),
        ("llama.vocab_size", count(d.vocab)),
    ] {
        metadata.insert(key, value)?;
    }
    vocabulary(tokenizer, &mut metadata)?;
    Ok(metadata)
}

fn vocabulary(tokenizer: &Tokenizer, metadata: &mut Metadata) -> Result<()> {
    /// Token types of GGML.
    const NORMAL: i32 = 1;
    const CONTROL: i32 = 3;
    let mut kinds = vec![NORMAL; tokenizer.vocab()];
    kinds[tokenizer.end() as usize] = CONTROL;
    for (key, value) in [
        ("model", Value::String("gpt2".into())),
        ("pre", Value::String(PRE.into())),
        ("tokens", Value::Array(Array::String(tokenizer.tokens()?))),
        ("token_type", Value::Array(Array::I32(kinds))),
        ("merges", Value::Array(Array::String(tokenizer.merges()?))),
        ("bos_token_id", Value::U32(tokenizer.end())),
        ("eos_token_id", Value::U32(tokenizer.end())),
        ("add_bos_token", Value::Bool(true)),
    ] {
        metadata.insert(format!("tokenizer.ggml.{key}"), value)?;
    }
    Ok(())
}
