//! Whether the tensors of a file are those that its model calls for: all of them, and no others.

use std::collections::HashSet;
use std::ops::Range;

use crate::arch::{Decoder, Keys, LONG_ROPE, ROPE_FREQS, Source};
use crate::config::{Config, limits};
use crate::error::{Error, Result, config_error, tensor_error, unsupported};
use crate::spec::{Named, Part, Slot, Slots, Spec};

use super::{Checkpoint, GgmlType, Origin, Tensor, unread};

const EMBEDDING: &str = "token_embd.weight";
const HEAD: &str = "output.weight";

/// Tensors that no pass reads, since they say nothing that the configuration does not: how their
/// names end, and why.
const DERIVED: &[(&str, &str)] = &[
    ("rotary_emb.inv_freq", "rope's frequencies, computed from its base"),
    ("attn_rot_embd.weight", "rope's frequencies, computed from its base"),
    ("attn_rot_embd", "rope's frequencies, computed from its base"),
    (".attn.bias", "the causal mask"),
    (".attn.masked_bias", "what the causal mask puts in place of a score"),
    ("position_ids", "0, 1, 2, ..."),
];

/// Parts of checkpoints that are no part of the language model: how the names of their tensors begin.
const OTHER_PARTS: &[(&str, &str)] = &[
    ("vision_tower.", "images"),
    ("vision_model.", "images"),
    ("visual.", "images"),
    ("multi_modal_projector.", "images"),
    ("embed_vision.", "images"),
    ("audio_tower.", "sounds"),
    ("embed_audio.", "sounds"),
    ("mtp.", "drafts of several tokens"),
];

/// What part of a checkpoint a tensor is of, if not of its language model.
fn other_part(tensor: &Tensor) -> Option<&'static str> {
    let name = tensor.name.strip_prefix("model.").unwrap_or(&tensor.name);
    OTHER_PARTS.iter().find(|(start, _)| name.starts_with(start)).map(|(_, what)| *what)
}

/// Whether a tensor is of the layers that draft several tokens.
fn draft(tensor: &Tensor, layers: &Range<usize>) -> Option<&'static str> {
    let name = tensor.name.strip_prefix("model.layers.").or(tensor.name.strip_prefix("blk."))?;
    let layer: usize = name.split_once('.')?.0.parse().ok()?;
    layers.contains(&layer).then_some("drafts of several tokens")
}

/// Why a tensor is left unread; `None` for one that a pass would miss.
fn derived(tensor: &Tensor) -> Option<&'static str> {
    let (end, why) = DERIVED.iter().find(|(end, _)| tensor.name.ends_with(end))?;
    // A mask is a square for every head at once; the bias of a product is no square.
    let is_mask = matches!(tensor.shape[..], [1, 1, n, m] if n == m);
    (*end != ".attn.bias" || is_mask).then_some(why)
}

impl Checkpoint {
    /// Checks that the model runs: its configuration is sound, every tensor that it needs is there
    /// with the shape that it must have and a type that has kernels, and there is none that a pass
    /// would leave out.
    ///
    /// Loading and packing do the same. Of the weights' numbers nothing is looked at, but whether a head
    /// is the embedding.
    ///
    /// # Errors
    /// Those of [`config`](Self::config); [`ErrorKind::Tensor`](crate::ErrorKind::Tensor) with the
    /// tensor, the shape expected and the one found;
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) where vocabulary and embedding differ;
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) with a tensor that would be left
    /// out, or a type without kernels.
    pub fn check(&self) -> Result<()> {
        self.spec(&self.decoder()?).map(drop)
    }

    /// The numbers of the model.
    pub(crate) fn decoder(&self) -> Result<Decoder> {
        match &self.origin {
            Origin::Gguf { .. } => self.decoder_of_gguf().map_err(|e| e.at(&self.path)),
            Origin::Folder(folder) => {
                let config = folder.config()?;
                let keys = Keys::Json(config);
                let source =
                    Source { keys, rope_factors: None, long_rope: None, embedding_rows: None };
                let decoder = Decoder::read(source);
                let checked = decoder.and_then(|decoder| {
                    unread::check_json(config, &folder.seen, decoder.config.arch)?;
                    Ok(decoder)
                });
                checked.map_err(|e| e.at(folder.config_path()))
            }
        }
    }

    fn decoder_of_gguf(&self) -> Result<Decoder> {
        let metadata = self.metadata();
        let arch = metadata.get_str("general.architecture")?;
        let arch = super::Metadata::need("general.architecture", arch)?;
        let factors = self.rope_factors(ROPE_FREQS)?;
        let [short, long] = LONG_ROPE.map(|name| self.rope_factors(name));
        let long_rope = short?.zip(long?);
        let rows = self.tensor(EMBEDDING).map(Tensor::rows);
        let decoder = Decoder::read(Source {
            keys: Keys::Gguf { metadata, arch },
            rope_factors: factors.as_deref(),
            long_rope: long_rope.as_ref().map(|(short, long)| [&short[..], long]),
            embedding_rows: rows.or(self.vocabulary()),
        })?;
        unread::check_gguf(metadata, arch)?;
        Ok(decoder)
    }

    /// A stretch of rope, one divisor per pair of dimensions.
    fn rope_factors(&self, name: &str) -> Result<Option<Vec<f32>>> {
        let Some(tensor) = self.tensor(name) else { return Ok(None) };
        if tensor.ty != GgmlType::F32 || tensor.elements() > limits::HEAD_DIM {
            return Err(self.tensor_error(
                tensor,
                format_args!("is {} {:?}, not a few F32", tensor.ty, tensor.shape),
            ));
        }
        let (values, _) = self.data(tensor).as_chunks::<4>();
        Ok(Some(values.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()))
    }

    /// The model's blocks, every slot of which a tensor fills.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub(crate) fn spec(&self, decoder: &Decoder) -> Result<Spec<Named>> {
        if self.tensors().is_empty() {
            return Err(tensor_error(self.no_weights()).at(self.path()));
        }
        self.check_vocabulary(&decoder.config)?;
        let tied = self.is_tied()?;
        let mut read = HashSet::new();
        if matches!(self.origin, Origin::Gguf { .. }) {
            read.insert(ROPE_FREQS.to_owned());
            read.extend(LONG_ROPE.map(str::to_owned));
        }
        if tied {
            read.insert(HEAD.to_owned());
        }
        let mut visit = |slot: &Slot| self.check_slot(slot, &mut read);
        let has = |name: &str| self.tensor(name).is_some();
        let mut slots = Slots::new(&mut visit, &has);
        let spec = decoder.spec(&mut slots, tied)?;
        let unused = slots.into_unused();
        self.hadamard(&spec)?;
        read.extend(unused);
        let drafts = decoder.config.n_layers..decoder.config.n_layers + decoder.drafts;
        let known = |t: &Tensor| {
            derived(t).or_else(|| other_part(t)).or_else(|| draft(t, &drafts)).is_some()
        };
        let left_out = |t: &&Tensor| !read.contains(&t.name) && !known(t);
        match self.tensors().iter().find(left_out) {
            None => Ok(spec),
            Some(tensor) => Err(unsupported(format!(
                "tensor \"{}\" is not part of a {} of {} layers as it is run here",
                tensor.name, decoder.config.arch, decoder.config.n_layers
            ))
            .at(self.file_of(tensor))),
        }
    }

    /// Whether the embedding is the head: there is no other, or one of the same bytes.
    fn is_tied(&self) -> Result<bool> {
        let Some(head) = self.tensor(HEAD) else {
            return if self.may_tie() { Ok(true) } else { Err(self.missing(HEAD)) };
        };
        let same = |embedding: &Tensor| {
            let alike = embedding.ty == head.ty && embedding.shape == head.shape;
            let same = alike && !head.is_packed() && self.data(embedding) == self.data(head);
            self.release(embedding, 0..embedding.byte_len());
            self.release(head, 0..head.byte_len());
            same
        };
        Ok(self.tensor(EMBEDDING).is_some_and(same))
    }

    /// Whether a missing head means that the embedding serves: always in GGUF and in packed files,
    /// by a key in a folder.
    fn may_tie(&self) -> bool {
        let Origin::Folder(folder) = &self.origin else { return true };
        let whole = || self.metadata().get_bool("tie_word_embeddings").ok().flatten();
        let text = folder.config().and_then(|text| text.bool("tie_word_embeddings"));
        let key = text.ok().flatten().or_else(whole);
        let default = || self.architecture().is_some_and(crate::arch::ties_by_default);
        self.panels().is_some() || key.unwrap_or_else(default)
    }

    fn check_slot(&self, slot: &Slot, read: &mut HashSet<String>) -> Result<()> {
        if let Some(part) = self.part_of(slot) {
            self.check_tensor(&part.tensor, &part.shape)?;
            read.insert(part.tensor.clone());
        } else if slot.shape.len() == 3 && self.tensor(&slot.name).is_none() {
            for expert in 0..slot.shape[0] {
                let name = slot.expert_name(expert);
                self.check_tensor(&name, &slot.shape[1..])?;
                read.insert(name);
            }
        } else {
            self.check_tensor(&slot.name, &slot.shape)?;
            read.insert(slot.name.clone());
        }
        self.check_factor(slot, read)
    }

    /// The tensors beside a matrix: a number, or one for each expert.
    fn check_factor(&self, slot: &Slot, read: &mut HashSet<String>) -> Result<()> {
        let count = if let [count, _, _] = slot.shape[..] { count } else { 1 };
        for tensor in [self.factor_of(slot), self.input_scale_of(slot)].into_iter().flatten() {
            self.check_tensor(&tensor.name, &[count])?;
            read.insert(tensor.name.clone());
        }
        Ok(())
    }

    /// Where the slot is, unless in a tensor of its own, or one for each expert.
    pub(crate) fn part_of<'s>(&self, slot: &'s Slot) -> Option<&'s Part> {
        let own = self.tensor(&slot.name).is_some_and(|own| own.shape[0] == slot.shape[0]);
        slot.part.as_ref().filter(|part| !own && self.tensor(&part.tensor).is_some())
    }

    /// Whether a tensor has the shape, but for dimensions of 1; a packed file has the numbers of what
    /// is no matrix of a product as one row.
    fn has_shape(&self, tensor: &Tensor, shape: &[usize]) -> bool {
        let dims = |shape: &[usize]| -> Vec<usize> {
            shape.iter().copied().filter(|&dim| dim != 1).collect()
        };
        let one_row = self.panels().is_some() && tensor.shape.len() == 1;
        let elements = shape.iter().try_fold(1usize, |all, &dim| all.checked_mul(dim));
        dims(&tensor.shape) == dims(shape) || one_row && elements == Some(tensor.elements())
    }

    fn check_tensor(&self, name: &str, shape: &[usize]) -> Result<()> {
        let tensor = self.tensor(name).ok_or_else(|| self.missing(name))?;
        if !self.has_shape(tensor, shape) {
            let problem = format!("has shape {:?}, expected {shape:?}", tensor.shape);
            return Err(self.tensor_error(tensor, problem));
        }
        let Some(format) = tensor.ty.kernel_format() else {
            return Err(self.no_kernels(tensor));
        };
        if format.row_bytes(tensor.k()).is_none() {
            let problem =
                format_args!("is {format}, but its rows of {} are no whole blocks", tensor.k());
            return Err(self.tensor_error(tensor, problem));
        }
        Ok(())
    }

    fn no_kernels(&self, tensor: &Tensor) -> Error {
        let runnable: Vec<_> =
            GgmlType::ALL.iter().filter(|ty| ty.runnable()).map(|ty| ty.name()).collect();
        unsupported(format!(
            "tensor \"{}\" has type {}, which this version does not run (it runs {})",
            tensor.name,
            tensor.ty,
            runnable.join(", ")
        ))
        .at(self.file_of(tensor))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(name: &str, shape: &[usize]) -> Tensor {
        Tensor {
            name: name.into(),
            ty: GgmlType::F32,
            shape: shape.into(),
            file: 0,
            offset: 0,
            len: 4 * shape.iter().product::<usize>(),
            stride: 0,
            transposed: false,
            scales: None,
        }
    }

    #[test]
    fn towers_are_left_unread() {
        for name in ["model.visual.patch_embed.proj.weight", "mtp.fc.weight", "vision_tower.a"] {
            assert!(other_part(&tensor(name, &[8, 8])).is_some(), "{name}");
        }
        for name in ["blk.0.visual.weight", "model.norm.weight", "output.weight"] {
            assert!(other_part(&tensor(name, &[8, 8])).is_none(), "{name}");
        }
    }

    #[test]
    fn layers_of_drafts_are_left_unread() {
        for (name, left) in [
            ("blk.4.attn_q.weight", true),
            ("model.layers.5.eh_proj.weight", true),
            ("blk.3.attn_q.weight", false),
            ("blk.6.attn_q.weight", false),
            ("blk.x.attn_q.weight", false),
        ] {
            assert_eq!(draft(&tensor(name, &[8]), &(4..6)).is_some(), left, "{name}");
        }
    }

    #[test]
    fn only_what_is_derived_is_left_unread() {
        for (name, shape) in [
            ("model.layers.0.self_attn.rotary_emb.inv_freq", &[8][..]),
            ("h.0.attn.bias", &[1, 1, 16, 16]),
            ("embeddings.position_ids", &[1, 512]),
        ] {
            assert!(derived(&tensor(name, shape)).is_some(), "{name}");
        }
        for (name, shape) in
            [("h.0.attn.bias", &[48][..]), ("blk.0.attn_q.bias", &[32]), ("output.bias", &[24])]
        {
            assert!(derived(&tensor(name, shape)).is_none(), "{name}");
        }
    }
}
