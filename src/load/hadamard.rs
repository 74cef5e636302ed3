//! Weights that were quantised in a rotated basis: the keys `prism.hadamard.*`.
//!
//! Before a product with such a matrix its input is turned, `x = H (s x) / sqrt(block)`: signs s for
//! each width, then the Walsh-Hadamard transform H of each block. Rows of an embedding are turned
//! back once they are looked up, `x = s (H x) / sqrt(block)`. Layout and rules are those of the
//! llama.cpp of PrismML (<https://github.com/PrismML-Eng/llama.cpp>, `src/llama-model.cpp` and
//! `src/llama-graph.cpp`); no real file was at hand.

use std::collections::{HashMap, HashSet};

use goldcrest_kernels::Kernels;

use super::{Checkpoint, Metadata};
use crate::error::{Error, Result, config_error, unsupported};
use crate::spec::{Mixer, Named, Slot, Spec};

const EMBEDDING: &str = "token_embd.weight";
const HEAD: &str = "output.weight";

/// Every key that is understood; another one that speaks of such a transform is refused.
const KEYS: &[&str] = &[
    "version",
    "block_size",
    "transform",
    "axis",
    "sign_mode",
    "sign_widths",
    "sign_values",
    "weight_names",
    "inverse_weight_names",
    "tied_output",
    "gdn_v_grouped",
];

/// How activations are turned, and for which matrices.
#[derive(Debug)]
pub(crate) struct Hadamard {
    block: usize,
    /// 1 or -1 for each element of a row, by the row's width; none where all are 1.
    signs: HashMap<usize, Vec<f32>>,
    has_signs: bool,
    weights: HashSet<String>,
    /// Whether the embedding's rows are turned.
    embedding: bool,
}

impl Checkpoint {
    /// The rotation of the model's activations, if it has one.
    ///
    /// # Errors
    /// Those of a key that is not understood, or that does not fit the model.
    pub(crate) fn hadamard(&self, spec: &Spec<Named>) -> Result<Option<Hadamard>> {
        let read = || {
            let Some(mut hadamard) = Hadamard::read(self.metadata())? else { return Ok(None) };
            hadamard.fit(spec)?;
            Ok(Some(hadamard))
        };
        read().map_err(|e: Error| e.at(self.path()))
    }
}

fn key(name: &str) -> String {
    format!("prism.hadamard.{name}")
}

fn wrong(name: &str, problem: impl std::fmt::Display) -> Error {
    config_error(format!("key \"{}\": {problem}", key(name)))
}

fn unknown(name: &str, problem: impl std::fmt::Display) -> Error {
    unsupported(format!("key \"{}\": {problem}", key(name)))
}

/// Checks a string that has one meaning so far.
fn need_word(metadata: &Metadata, name: &str, words: &[&str]) -> Result<String> {
    let word = metadata.get_str(&key(name))?;
    let word = word.ok_or_else(|| wrong(name, "is missing"))?;
    if !words.contains(&word) {
        return Err(unknown(name, format_args!("\"{word}\" is not {}", words.join(" or "))));
    }
    Ok(word.to_owned())
}

impl Hadamard {
    fn read(metadata: &Metadata) -> Result<Option<Self>> {
        let known: Vec<_> = KEYS.iter().map(|name| key(name)).collect();
        let mut found = metadata.iter().map(|(key, _)| key);
        let stranger = found.find(|k| {
            k.to_ascii_lowercase().contains("hadamard") && !known.iter().any(|known| known == k)
        });
        if let Some(stranger) = stranger {
            return Err(unsupported(format!(
                "key \"{stranger}\" is not understood: it may turn activations"
            )));
        }
        if !known.iter().any(|key| metadata.get(key).is_some()) {
            return Ok(None);
        }
        let version =
            metadata.get_u32(&key("version"))?.ok_or_else(|| wrong("version", "is missing"))?;
        let tied = metadata.get_bool(&key("tied_output"))?.unwrap_or(false);
        if !matches!((version, tied), (1, false) | (2, true)) {
            let problem = format_args!(
                "{version} with tied_output {tied} is not 1 with false or 2 with true"
            );
            return Err(unknown("version", problem));
        }
        let block = metadata.get_u32(&key("block_size"))?.unwrap_or(0) as usize;
        if !block.is_power_of_two() {
            return Err(wrong("block_size", format_args!("{block} is no power of two")));
        }
        need_word(metadata, "transform", &["normalized-sylvester-walsh-hadamard"])?;
        need_word(metadata, "axis", &["input-last-dimension"])?;
        let has_signs = need_word(metadata, "sign_mode", &["identity", "explicit"])? == "explicit";
        let mut weights = names(metadata, "weight_names")?;
        let inverse = names(metadata, "inverse_weight_names")?;
        if let Some(name) = inverse.iter().find(|name| *name != EMBEDDING) {
            return Err(unknown(
                "inverse_weight_names",
                format_args!("\"{name}\" is not {EMBEDDING}"),
            ));
        }
        if tied {
            weights.insert(EMBEDDING.to_owned());
        }
        let grouped = metadata.get_bool(&key("gdn_v_grouped"))?.unwrap_or(false);
        if let Some(name) = weights.iter().find(|name| grouped && name.contains(".ssm_out.")) {
            let problem =
                format_args!("the heads of \"{name}\" are in an order that is not run here");
            return Err(unknown("gdn_v_grouped", problem));
        }
        let signs = if has_signs { signs(metadata, block)? } else { HashMap::new() };
        Ok(Some(Self { block, signs, has_signs, weights, embedding: !inverse.is_empty() }))
    }

    /// Checks the names and widths against the model.
    fn fit(&mut self, spec: &Spec<Named>) -> Result<()> {
        let tied = spec.embed.is_none();
        // A head of the embedding's own bytes is the embedding.
        if tied && self.weights.remove(HEAD) {
            self.weights.insert(EMBEDDING.to_owned());
        }
        let is_head = self.weights.contains(EMBEDDING);
        if is_head && !tied || tied && is_head != self.embedding {
            return Err(unknown("tied_output", "does not say how embedding and head are turned"));
        }
        let mut left: HashSet<&str> = self.weights.iter().map(String::as_str).collect();
        for readers in inputs(spec) {
            let turned = readers.iter().filter(|slot| left.remove(slot.name.as_str())).count();
            if turned != 0 && turned != readers.len() {
                let names: Vec<_> = readers.iter().map(|slot| slot.name.as_str()).collect();
                return Err(unknown(
                    "weight_names",
                    format_args!("has only some of {}, which read the same rows", names.join(", ")),
                ));
            }
            if turned > 0 {
                self.need_width(&readers[0].name, readers[0].shape[1])?;
            }
        }
        if let Some(name) = left.iter().min() {
            return Err(unknown(
                "weight_names",
                format_args!("the input of \"{name}\" is not turned here"),
            ));
        }
        if self.embedding { self.need_width(EMBEDDING, spec.hidden) } else { Ok(()) }
    }

    fn need_width(&self, name: &str, width: usize) -> Result<()> {
        if !width.is_multiple_of(self.block) {
            let problem = format_args!("{} does not divide the {width} of \"{name}\"", self.block);
            return Err(wrong("block_size", problem));
        }
        if self.has_signs && !self.signs.contains_key(&width) {
            return Err(wrong("sign_widths", format_args!("has no {width}, that of \"{name}\"")));
        }
        Ok(())
    }

    /// Whether the input of this matrix is turned.
    pub(crate) fn turns(&self, name: &str) -> bool {
        self.weights.contains(name)
    }

    /// Turns the input of a matrix.
    pub(crate) fn turn(&self, kernels: &Kernels, x: &mut [f32]) {
        self.sign(x);
        kernels.walsh_hadamard(self.block, x);
    }

    /// Turns a row of the embedding back, where it is turned.
    pub(crate) fn turn_back(&self, kernels: &Kernels, x: &mut [f32]) {
        if self.embedding {
            kernels.walsh_hadamard(self.block, x);
            self.sign(x);
        }
    }

    fn sign(&self, x: &mut [f32]) {
        let signs = self.signs.get(&x.len()).map_or(&[][..], Vec::as_slice);
        x.iter_mut().zip(signs).for_each(|(x, sign)| *x *= sign);
    }
}

/// The tensors of a list, each once.
fn names(metadata: &Metadata, name: &str) -> Result<HashSet<String>> {
    let list = metadata.get_strings(&key(name))?.unwrap_or_default();
    let set: HashSet<String> = list.iter().cloned().collect();
    if set.len() != list.len() {
        return Err(wrong(name, "has a name twice"));
    }
    Ok(set)
}

/// The signs of each width: those of all widths lie one after another.
fn signs(metadata: &Metadata, block: usize) -> Result<HashMap<usize, Vec<f32>>> {
    let widths = metadata.get_array(&key("sign_widths"))?.and_then(|widths| widths.to_u64s());
    let widths = widths.ok_or_else(|| wrong("sign_widths", "is no array of widths"))?;
    let values = metadata.get_i32s(&key("sign_values"))?;
    let mut rest = values.ok_or_else(|| wrong("sign_values", "is missing"))?;
    let mut signs = HashMap::new();
    for width in widths {
        let own = usize::try_from(width).ok().and_then(|width| rest.split_at_checked(width));
        let (own, after) =
            own.ok_or_else(|| wrong("sign_values", "has fewer values than sign_widths says"))?;
        if own.is_empty() || !own.len().is_multiple_of(block) {
            return Err(wrong(
                "sign_widths",
                format_args!("{width} is no whole number of blocks of {block}"),
            ));
        }
        if own.iter().any(|sign| sign.unsigned_abs() != 1) {
            return Err(wrong("sign_values", "has a value that is neither 1 nor -1"));
        }
        if signs.insert(own.len(), own.iter().map(|&sign| sign as f32).collect()).is_some() {
            return Err(wrong("sign_widths", format_args!("has {width} twice")));
        }
        rest = after;
    }
    if !rest.is_empty() {
        return Err(wrong("sign_values", "has more values than sign_widths says"));
    }
    Ok(signs)
}

/// The matrices that can read turned rows, together where they read the same ones.
fn inputs(spec: &Spec<Named>) -> Vec<Vec<&Slot>> {
    let mut inputs = vec![vec![&spec.head.matrix]];
    for mixer in spec.mixers() {
        match mixer {
            Mixer::Attention(mixer) => {
                inputs.push(mixer.linears().map(|linear| &linear.matrix).collect());
                inputs.push(vec![&mixer.output.matrix]);
            }
            Mixer::Dense(mixer) => {
                let up = mixer.up.linears().iter().map(|linear| &linear.matrix);
                inputs.push(up.chain(&mixer.gate).collect());
                inputs.push(vec![&mixer.down.matrix]);
            }
            _ => {}
        }
    }
    inputs
}
