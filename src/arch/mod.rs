//! Architectures: from the keys of a file to the numbers of a model, and from those to its blocks.
//!
//! A file a family. Inside a family a model is a row of data; see [`decoder`].

mod attention;
mod decoder;
mod experts;
mod feed_forward;
mod keys;
mod latent;
mod layer;
mod layer_inputs;
mod multipliers;
mod recurrent;
mod refuse;
mod rope;
mod rows;
mod singles;
mod sparsity;
mod state_space;
mod streams;
mod windows;

pub(crate) use decoder::Decoder;
pub(crate) use keys::Keys;
pub(crate) use rope::{LONG_ROPE, ROPE_FREQS};

use crate::error::{Error, unsupported};

/// What a file says beside its keys.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) keys: Keys<'a>,
    /// The numbers of the tensor [`ROPE_FREQS`].
    pub(crate) rope_factors: Option<&'a [f32]>,
    /// Those of the tensors [`LONG_ROPE`].
    pub(crate) long_rope: Option<[&'a [f32]; 2]>,
    /// Rows of the embedding, where no key says how many tokens there are.
    pub(crate) embedding_rows: Option<usize>,
}

/// The architectures that run, by the `model_type` of a config.json.
pub fn architectures() -> impl Iterator<Item = &'static str> {
    let first = |name| rows::all().find(|row| row.name == name);
    rows::all()
        .filter(move |row| first(row.name).is_some_and(|f| std::ptr::eq(f, *row)))
        .map(|row| row.name)
}

/// Hugging Face's names of tensors of this `model_type` and GGUF's, without the layers and the
/// ending: those that differ from the usual ones. `None` if it does not run.
pub(crate) fn tensor_names(model_type: &str) -> Option<&'static [(&'static str, &'static str)]> {
    rows::all().find(|row| row.name == model_type).map(|row| row.names)
}

/// Matrices that folders of this `model_type` store transposed, by GGUF's names without the layer
/// and the ending.
pub(crate) fn transposed(model_type: &str) -> &'static [&'static str] {
    rows::all().find(|row| row.name == model_type).map_or(&[], |row| row.transposed)
}

/// Whether the embedding is the head where a config.json of this `model_type` does not say.
pub(crate) fn ties_by_default(model_type: &str) -> bool {
    rows::all().any(|row| row.name == model_type && row.tied)
}

fn unknown(name: &str) -> Error {
    let known: Vec<_> = architectures().collect();
    unsupported(format!(
        "architecture \"{name}\" is not supported (supported: {})",
        known.join(", ")
    ))
}
