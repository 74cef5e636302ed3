//! Whether the tensors of a file are those that its configuration calls for.

use std::collections::HashSet;

use crate::config::Config;
use crate::error::{Error, Result, config_error, tensor_error, unsupported};

use super::{Checkpoint, GgmlType, Origin, Tensor};

const EMBEDDING: &str = "token_embd.weight";
const HEAD: &str = "output.weight";

impl Checkpoint {
    /// Checks that every tensor that the model needs is there, with the shape that it must have, and that
    /// there is none that the forward pass would leave out.
    ///
    /// # Errors
    /// [`ErrorKind::Tensor`](crate::ErrorKind::Tensor) with the tensor, the shape expected and the one found;
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) where vocabulary and embedding differ.
    pub fn check_shapes(&self, config: &Config) -> Result<()> {
        if self.tensors().is_empty() {
            return Err(tensor_error(self.no_weights()).at(self.path()));
        }
        self.check_vocabulary(config)?;
        let mut known = HashSet::new();
        for (name, shape) in expected_tensors(config) {
            match self.tensor(&name) {
                Some(tensor) => self.check_shape(tensor, &shape)?,
                None if name == HEAD && self.may_tie() => {}
                None => return Err(self.missing(&name)),
            }
            known.insert(name);
        }
        match self.tensors().iter().find(|t| !known.contains(&t.name) && !is_harmless(&t.name)) {
            None => Ok(()),
            Some(tensor) => Err(unsupported(format!(
                "tensor \"{}\" is not part of a {} of {} layers as it is run here",
                tensor.name,
                config.arch.row().name,
                config.n_layers
            ))
            .at(self.file_of(tensor))),
        }
    }

    /// Checks that there are kernels for every tensor's type.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) with the first tensor and type that has none.
    pub fn check_types(&self) -> Result<()> {
        match self.tensors().iter().find(|t| !t.ty.runnable() && !is_harmless(&t.name)) {
            None => Ok(()),
            Some(tensor) => {
                let runnable: Vec<_> =
                    GgmlType::ALL.iter().filter(|ty| ty.runnable()).map(|ty| ty.name()).collect();
                Err(unsupported(format!(
                    "tensor \"{}\" has type {}, which this version does not run (it runs {})",
                    tensor.name,
                    tensor.ty,
                    runnable.join(", ")
                ))
                .at(self.file_of(tensor)))
            }
        }
    }

    fn check_vocabulary(&self, config: &Config) -> Result<()> {
        let Some(embedding) = self.tensor(EMBEDDING) else {
            return Err(self.missing(EMBEDDING));
        };
        let rows = embedding.rows();
        let compare = |what: &str, size: usize| {
            if size == rows {
                return Ok(());
            }
            let relation = if size < rows { "smaller" } else { "larger" };
            Err(config_error(format!(
                "{what} of {size} tokens is {relation} than the embedding \"{EMBEDDING}\" of {rows} rows"
            ))
            .at(self.path()))
        };
        compare("the vocabulary", config.vocab_size)?;
        // A folder's tokenizer may be smaller: the embedding is padded there.
        self.vocabulary().map_or(Ok(()), |size| compare("the tokenizer's vocabulary", size))
    }

    fn check_shape(&self, tensor: &Tensor, expected: &[usize]) -> Result<()> {
        if tensor.shape == expected {
            return Ok(());
        }
        let problem = format!("has shape {:?}, expected {expected:?}", tensor.shape);
        Err(self.tensor_error(tensor, problem))
    }

    /// Whether a missing head means that the embedding serves: always in GGUF, by a key in a folder.
    fn may_tie(&self) -> bool {
        match self.origin {
            Origin::Gguf { .. } => true,
            Origin::Folder(_) => {
                self.metadata().get_bool("tie_word_embeddings").ok().flatten().unwrap_or(false)
            }
        }
    }

    fn missing(&self, name: &str) -> Error {
        tensor_error(format!("tensor \"{name}\" is missing")).at(self.path())
    }

    fn no_weights(&self) -> &'static str {
        match self.origin {
            Origin::Gguf { .. } => "the file holds no tensors (a vocabulary alone?)",
            Origin::Folder(_) => {
                "the folder has no weights: neither model.safetensors nor model.safetensors.index.json"
            }
        }
    }
}

/// Tensors that hold nothing the configuration does not say already.
fn is_harmless(name: &str) -> bool {
    name == "rope_freqs.weight"
        || name == "lm_head.weight"
        || name.ends_with(".rotary_emb.inv_freq")
        || name.ends_with(".attn_rot_embd.weight")
        || name.ends_with(".attn_rot_embd")
}

/// Name and shape of every tensor of the model.
///
/// An iterator, so that the first missing one ends it: the number of layers is the file's claim.
pub(crate) fn expected_tensors(config: &Config) -> impl Iterator<Item = (String, Vec<usize>)> {
    let layer = layer(config);
    let (hidden, vocab) = (config.hidden, config.vocab_size);
    let outside = [
        (EMBEDDING.to_string(), vec![vocab, hidden]),
        ("output_norm.weight".to_string(), vec![hidden]),
        (HEAD.to_string(), vec![vocab, hidden]),
    ];
    let layers = (0..config.n_layers).flat_map(move |number| {
        layer.clone().into_iter().map(move |(name, shape)| (format!("blk.{number}.{name}"), shape))
    });
    outside.into_iter().chain(layers)
}

/// The tensors of one layer.
fn layer(config: &Config) -> Vec<(&'static str, Vec<usize>)> {
    let Config { hidden, ffn, head_dim, .. } = *config;
    let (q, kv) = (config.n_heads * head_dim, config.n_kv_heads * head_dim);
    let mut tensors = vec![
        ("attn_norm.weight", vec![hidden]),
        ("attn_q.weight", vec![q, hidden]),
        ("attn_k.weight", vec![kv, hidden]),
        ("attn_v.weight", vec![kv, hidden]),
        ("attn_output.weight", vec![hidden, q]),
        ("ffn_norm.weight", vec![hidden]),
        ("ffn_gate.weight", vec![ffn, hidden]),
        ("ffn_up.weight", vec![ffn, hidden]),
        ("ffn_down.weight", vec![hidden, ffn]),
    ];
    if config.arch.row().qkv_bias {
        tensors.extend([
            ("attn_q.bias", vec![q]),
            ("attn_k.bias", vec![kv]),
            ("attn_v.bias", vec![kv]),
        ]);
    }
    if config.arch.row().qk_norm {
        tensors.extend([
            ("attn_q_norm.weight", vec![head_dim]),
            ("attn_k_norm.weight", vec![head_dim]),
        ]);
    }
    tensors
}
