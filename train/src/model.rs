//! The model: weights in candle's variables, and the forward pass that chains the ops.

use std::sync::{Arc, PoisonError};

use candle_core::{Device, Tensor, Var};

use crate::error::{Result, input};
use crate::ops::{
    Attention, Dropout, FeedForward, Heads, Loss, Losses, Mode, Norm, Rope, Soft, Targets,
};
use crate::preset::Dimensions;
use crate::random::{derive, normal};

/// Standard deviation of the weights at first, as in GPT-2.
const STD: f32 = 0.02;

/// One variable.
pub(crate) struct Weight {
    pub(crate) name: String,
    pub(crate) var: Var,
    /// Whether weight decay applies: not to norms and not to the embedding.
    pub(crate) decays: bool,
}

/// A llama model that can be trained.
pub struct Model {
    dimensions: Dimensions,
    rope: Arc<Rope>,
    /// In the order of [`Model::shapes`].
    weights: Vec<Weight>,
}

/// The tokens of some sequences of equal length, one after another, and what follows each.
pub struct Batch {
    /// Tokens of one sequence.
    pub seq_len: usize,
    /// `[sequences * seq_len]`
    pub inputs: Vec<u32>,
    /// `[sequences * seq_len]`
    pub targets: Vec<u32>,
}

/// A better model to learn from.
pub struct Teacher {
    /// The model.
    pub model: Model,
    /// What both models' logits are divided by.
    pub temperature: f32,
    /// The share of the teacher in the loss.
    pub share: f32,
}

/// How a forward pass is run.
#[derive(Clone, Copy)]
pub(crate) struct Pass {
    pub(crate) mode: Mode,
    pub(crate) dropout: f32,
    pub(crate) seed: u64,
}

impl Pass {
    pub(crate) const EVALUATE: Self = Self { mode: Mode::Evaluate, dropout: 0.0, seed: 0 };
}

const PER_LAYER: usize = 6;

impl Model {
    /// A model of random weights.
    ///
    /// # Errors
    /// [`Error::Candle`](crate::Error::Candle) if there is not enough memory.
    pub fn new(dimensions: &Dimensions, seed: u64) -> Result<Self> {
        Self::with_deviation(dimensions, seed, STD)
    }

    /// A model of random weights of standard deviation `std`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_deviation(dimensions: &Dimensions, seed: u64, std: f32) -> Result<Self> {
        // What is added to the residual stream gets smaller with the number of additions.
        let added = std / (2.0 * dimensions.n_layers as f32).sqrt();
        let mut part = 0;
        Self::from_values(dimensions, |name, shape| {
            part += 1;
            let len = shape.iter().product();
            Ok(match shape {
                [_] => vec![1.0; len],
                _ if name.contains("o_proj") || name.contains("down_proj") => {
                    normal(derive(seed, part), len, added)
                }
                _ => normal(derive(seed, part), len, std),
            })
        })
    }

    /// A model of the weights that `values` gives for each name and shape.
    pub(crate) fn from_values(
        dimensions: &Dimensions,
        mut values: impl FnMut(&str, &[usize]) -> Result<Vec<f32>>,
    ) -> Result<Self> {
        let weight = |(name, shape): (String, Vec<usize>)| {
            let tensor = Tensor::from_vec(values(&name, &shape)?, &*shape, &Device::Cpu)?;
            let decays = shape.len() == 2 && !name.starts_with("embed");
            Ok(Weight { name, var: Var::from_tensor(&tensor)?, decays })
        };
        Ok(Self {
            rope: Arc::new(Rope::new(
                dimensions.context,
                dimensions.head_dim,
                dimensions.rope_theta,
            )),
            weights: Self::shapes(dimensions).into_iter().map(weight).collect::<Result<_>>()?,
            dimensions: dimensions.clone(),
        })
    }

    /// A model of some of another one's layers, in that order; all else is the other's, too.
    ///
    /// # Errors
    /// [`Error::Input`](crate::Error::Input) if a layer is missing or the widths differ.
    pub fn from_layers(dimensions: &Dimensions, other: &Self, layers: &[usize]) -> Result<Self> {
        let n_layers = other.dimensions.n_layers;
        let same = Dimensions { n_layers, ..dimensions.clone() } == other.dimensions;
        if !same || layers.len() != dimensions.n_layers || layers.iter().any(|&l| l >= n_layers) {
            return input(format!(
                "{} layers of a model of {n_layers} for one of {}; all other dimensions have to \
                 agree",
                layers.len(),
                dimensions.n_layers
            ));
        }
        let source = |name: &str| -> Option<String> {
            let Some(rest) = name.strip_prefix("layers.") else { return Some(name.into()) };
            let (layer, part) = rest.split_once('.')?;
            Some(format!("layers.{}.{part}", layers[layer.parse::<usize>().ok()?]))
        };
        Self::from_values(dimensions, |name, _| {
            let weight =
                source(name).and_then(|name| other.weights.iter().find(|w| w.name == name));
            match weight {
                Some(weight) => Ok(weight.var.flatten_all()?.to_vec1()?),
                None => input(format!("{name}: not in the other model")),
            }
        })
    }

    /// Name and shape of every variable. Matrices have a row for each output.
    pub(crate) fn shapes(d: &Dimensions) -> Vec<(String, Vec<usize>)> {
        let q = d.n_heads * d.head_dim;
        let qkv = q + 2 * d.n_kv_heads * d.head_dim;
        let mut shapes = vec![("embed_tokens".into(), vec![d.vocab, d.hidden])];
        for layer in 0..d.n_layers {
            for (part, shape) in [
                ("input_layernorm", vec![d.hidden]),
                ("qkv_proj", vec![qkv, d.hidden]),
                ("o_proj", vec![d.hidden, q]),
                ("post_attention_layernorm", vec![d.hidden]),
                ("gate_up_proj", vec![2 * d.ffn, d.hidden]),
                ("down_proj", vec![d.hidden, d.ffn]),
            ] {
                shapes.push((format!("layers.{layer}.{part}"), shape));
            }
        }
        shapes.push(("norm".into(), vec![d.hidden]));
        shapes
    }

    /// The dimensions.
    pub fn dimensions(&self) -> &Dimensions {
        &self.dimensions
    }

    pub(crate) fn weights(&self) -> &[Weight] {
        &self.weights
    }

    fn embedding(&self) -> &Tensor {
        &self.weights[0].var
    }

    /// The last hidden states after the norm, `[tokens, hidden]`.
    fn hidden(&self, inputs: &[u32], seq_len: usize, pass: Pass) -> Result<Tensor> {
        let d = &self.dimensions;
        let heads =
            Heads { n_heads: d.n_heads, n_kv_heads: d.n_kv_heads, head_dim: d.head_dim, seq_len };
        let norm = || Norm { eps: d.norm_eps };
        let ids = Tensor::new(inputs, &Device::Cpu)?;
        let mut x = self.embedding().index_select(&ids, 0)?;
        let (layers, last) = self.weights[1..].as_chunks::<PER_LAYER>();
        for (layer, weights) in layers.iter().enumerate() {
            let [norm1, w_qkv, w_o, norm2, gate_up, down] = weights.each_ref().map(|w| &*w.var);
            let y = x.apply_op2(norm1, norm())?;
            let y =
                y.apply_op3(w_qkv, w_o, Attention::new(heads, Arc::clone(&self.rope), pass.mode))?;
            x = (x + pass.drop(y, 2 * layer)?)?;
            let y = x.apply_op2(norm2, norm())?;
            let y = y.apply_op3(gate_up, down, FeedForward::new(pass.mode))?;
            x = (x + pass.drop(y, 2 * layer + 1)?)?;
        }
        Ok(x.apply_op2(&last[0].var, norm())?)
    }

    /// The loss as a tensor to go back from, and its parts.
    pub(crate) fn loss(
        &self,
        batch: Batch,
        pass: Pass,
        teacher: Option<&Teacher>,
    ) -> Result<(Tensor, Losses)> {
        let soft = match teacher {
            Some(Teacher { model, temperature, share }) => Some(Soft {
                hidden: model.hidden(&batch.inputs, batch.seq_len, Pass::EVALUATE)?.detach(),
                output: model.embedding().detach(),
                temperature: *temperature,
                share: *share,
            }),
            None => None,
        };
        let hidden = self.hidden(&batch.inputs, batch.seq_len, pass)?;
        let (op, losses) = Loss::new(Targets { ids: batch.targets, soft }, pass.mode);
        let loss = hidden.apply_op2(self.embedding(), op)?;
        let losses = *losses.lock().unwrap_or_else(PoisonError::into_inner);
        Ok((loss, losses))
    }

    /// Cross-entropy of a batch in nats per token.
    ///
    /// # Errors
    /// [`Error::Candle`](crate::Error::Candle) for tokens outside the vocabulary.
    pub fn evaluate(&self, batch: Batch) -> Result<f64> {
        Ok(self.loss(batch, Pass::EVALUATE, None)?.1.hard)
    }

    /// The logits after each token of one sequence, `[tokens, vocab]`.
    ///
    /// # Errors
    /// [`Error::Candle`](crate::Error::Candle) for tokens outside the vocabulary.
    pub fn logits(&self, ids: &[u32]) -> Result<Vec<f32>> {
        let hidden = self.hidden(ids, ids.len(), Pass::EVALUATE)?;
        Ok(hidden.matmul(&self.embedding().t()?)?.flatten_all()?.to_vec1()?)
    }
}

impl Pass {
    fn drop(self, x: Tensor, site: usize) -> Result<Tensor> {
        if self.mode == Mode::Evaluate || self.dropout == 0.0 {
            return Ok(x);
        }
        let seed = derive(self.seed, site as u64);
        Ok(x.apply_op1(Dropout { p: self.dropout, seed })?)
    }
}
