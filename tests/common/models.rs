//! Models that everyone has: the one of the repository, as it is or with other keys, and random
//! ones of every type.

use std::path::PathBuf;

use goldcrest::load::{
    Checkpoint, GgmlType, GgufEntry, ReadOptions, Value, gguf_padding, write_gguf_header,
};
use goldcrest::synthetic::random_rows;
use goldcrest::{Loader, Model};

use super::gguf::{BOOL, Gguf, U32, value_of};

/// The beginning of a text that the model of the repository knows how to continue.
pub const PROMPT: &str = "Once upon a time";
/// What it begins with, whatever the instruction set.
pub const STORY: &str = " there lived a little girl";
/// Tokens of its vocabulary.
pub const VOCABULARY: usize = 2048;

/// Tokens of the vocabulary of a [`random`] model.
pub const RANDOM_VOCABULARY: usize = 384;

/// The model of the repository.
pub fn stories() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/models/stories.gguf"))
}

/// It, in memory, with other values of keys that it has: numbers of 32 bits, or truth.
pub fn stories_with(keys: &[(&str, u32)]) -> Vec<u8> {
    let mut bytes = std::fs::read(stories()).unwrap();
    for &(key, value) in keys {
        match value_of(&bytes, key) {
            (U32, at) => bytes[at..at + 4].copy_from_slice(&value.to_le_bytes()),
            (BOOL, at) => bytes[at] = u8::from(value != 0),
            (ty, _) => panic!("{key} is of type {ty}"),
        }
    }
    bytes
}

/// Says how to load it for contexts of `context` tokens; what it was trained for are 256.
pub fn long_stories(context: u32) -> Loader {
    Model::from_bytes("long stories", stories_with(&[("llama.context_length", context)]))
}

/// The model of the repository with a chat template.
pub fn stories_that_chat(template: &str) -> Vec<u8> {
    let file = Checkpoint::open(stories(), &ReadOptions::default()).unwrap();
    let mut metadata = file.metadata().clone();
    let template = Value::String(template.into());
    metadata.insert("tokenizer.chat_template", template).unwrap();
    let entry = |tensor: &goldcrest::load::Tensor| GgufEntry {
        name: tensor.name.clone(),
        shape: tensor.shape.clone(),
        ty: tensor.ty,
        bytes: file.data(tensor).len() as u64,
    };
    let entries: Vec<_> = file.tensors().iter().map(entry).collect();
    let mut out = Vec::new();
    write_gguf_header(&mut out, &metadata, &entries).unwrap();
    for (tensor, entry) in file.tensors().iter().zip(&entries) {
        out.extend_from_slice(file.data(tensor));
        out.extend(gguf_padding(entry.bytes));
    }
    out
}

/// The model of the repository with its weights as floats: what Q8_0 makes of them, exactly.
pub fn stories_in_floats() -> Vec<u8> {
    let file = Checkpoint::open(stories(), &ReadOptions::default()).unwrap();
    let floats = |shape: &[usize]| shape.iter().product::<usize>();
    let entry = |tensor: &goldcrest::load::Tensor| GgufEntry {
        name: tensor.name.clone(),
        shape: tensor.shape.clone(),
        ty: GgmlType::F32,
        bytes: floats(&tensor.shape) as u64 * 4,
    };
    let entries: Vec<_> = file.tensors().iter().map(entry).collect();
    let mut out = Vec::new();
    write_gguf_header(&mut out, file.metadata(), &entries).unwrap();
    for (tensor, entry) in file.tensors().iter().zip(&entries) {
        let mut values = vec![0.0; floats(&tensor.shape)];
        tensor.ty.kernel_format().unwrap().dequantize(file.data(tensor), &mut values);
        out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        out.extend(gguf_padding(entry.bytes));
    }
    out
}

/// Types of weights that run.
pub fn types() -> impl Iterator<Item = GgmlType> {
    GgmlType::ALL.iter().copied().filter(|ty| ty.kernel_format().is_some())
}

/// A llama of random weights of this type: see [`random_of`].
pub fn random(ty: GgmlType) -> Gguf {
    random_of("llama", ty)
}

/// A GGUF file of random weights: two layers of width 256, four heads of 64 over two, 384 tokens
/// without a tokenizer, a context of 512. The embedding of a qwen2 is the output matrix, too.
pub fn random_of(arch: &str, ty: GgmlType) -> Gguf {
    let mut file = Gguf::default();
    file.str("general.architecture", arch);
    for (key, value) in [
        ("block_count", 2),
        ("context_length", 512),
        ("embedding_length", 256),
        ("feed_forward_length", 512),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
    ] {
        file.u32(&format!("{arch}.{key}"), value);
    }
    file.f32(&format!("{arch}.attention.layer_norm_rms_epsilon"), 1e-5);
    matrix(&mut file, "token_embd", ty, RANDOM_VOCABULARY, 256);
    vector(&mut file, "output_norm.weight", 256);
    if arch != "qwen2" {
        matrix(&mut file, "output", ty, RANDOM_VOCABULARY, 256);
    }
    for layer in 0..2 {
        let name = |part: &str| format!("blk.{layer}.{part}");
        for (part, rows, k) in [
            ("attn_q", 256, 256),
            ("attn_k", 128, 256),
            ("attn_v", 128, 256),
            ("attn_output", 256, 256),
            ("ffn_gate", 512, 256),
            ("ffn_up", 512, 256),
            ("ffn_down", 256, 512),
        ] {
            matrix(&mut file, &name(part), ty, rows, k);
        }
        let own: &[(&str, u64)] = match arch {
            "qwen2" => &[("attn_q.bias", 256), ("attn_k.bias", 128), ("attn_v.bias", 128)],
            "qwen3" => &[("attn_q_norm.weight", 64), ("attn_k_norm.weight", 64)],
            _ => &[],
        };
        let norms = [("attn_norm.weight", 256), ("ffn_norm.weight", 256)];
        norms.iter().chain(own).for_each(|&(part, len)| vector(&mut file, &name(part), len));
    }
    file
}

/// Each matrix with a seed of its own.
fn matrix(file: &mut Gguf, name: &str, ty: GgmlType, rows: usize, k: usize) {
    let seed = file.tensors.len() as u64;
    let shape = [rows as u64, k as u64];
    file.tensor(&format!("{name}.weight"), &shape, ty.id(), random_rows(ty, rows, k, seed));
}

/// Numbers near 1.
fn vector(file: &mut Gguf, name: &str, len: u64) {
    let data = (0..len).flat_map(|i| (1.0 + (i % 9) as f32 / 32.0).to_le_bytes()).collect();
    file.tensor(name, &[len], GgmlType::F32.id(), data);
}

/// Ids that look random, `len` of them.
pub fn ids(len: usize, vocabulary: usize) -> Vec<u32> {
    (0..len).map(|i| ((i * i * 7 + i * 13 + 5) % vocabulary) as u32).collect()
}
