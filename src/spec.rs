//! What a model is made of: a list of blocks, each a residual step around one mixer.
//!
//! The tree exists twice: of names and shapes ([`Named`]), which an architecture makes of its
//! numbers, and of weights ([`Loaded`](crate::model::Loaded)). Checks, packing, packed files,
//! synthetic models and the memory needed all follow from it: a layer's tensors are written down
//! once, in [`crate::arch`].

use std::fmt;

use goldcrest_kernels::Nonlinearity;

use crate::config::Rope;
use crate::error::Result;

/// What stands for a tensor at a stage of a model's life.
pub(crate) trait Stage {
    /// A matrix of a product.
    type Matrix: fmt::Debug;
    /// One row of numbers.
    type Vector: fmt::Debug;
    /// A matrix whose rows are looked up.
    type Rows: fmt::Debug;
    /// Gate, up and down matrices of all experts of a layer.
    type Bank: fmt::Debug;
}

/// The stage of names and shapes.
#[derive(Debug)]
pub(crate) struct Named;

impl Stage for Named {
    type Matrix = Slot;
    type Vector = Slot;
    type Rows = Slot;
    type Bank = [Slot; 3];
}

/// A tensor that a model needs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Slot {
    /// GGUF name.
    pub(crate) name: String,
    /// Outermost dimension first. Three of them: matrices of experts, in one tensor or each in its
    /// own ([`expert_name`](Self::expert_name)).
    pub(crate) shape: Vec<usize>,
    /// Added to the numbers of a vector: the norms of some models are stored as distances from 1.
    pub(crate) plus: f32,
}

impl Slot {
    /// The name of one expert's matrix, where each has a tensor of its own.
    pub(crate) fn expert_name(&self, expert: usize) -> String {
        self.name.replacen("_exps.", &format!(".{expert}."), 1)
    }
}

/// A decoder.
#[derive(Debug)]
pub(crate) struct Spec<S: Stage> {
    /// Tokens.
    pub(crate) vocab: usize,
    /// Width of the residual stream.
    pub(crate) hidden: usize,
    /// The embedding; `None` where the head's matrix is it, too.
    pub(crate) embed: Option<S::Rows>,
    /// A factor on the embedding.
    pub(crate) embed_scale: f32,
    /// The rotations that [`Attention::rope`] chooses from.
    pub(crate) ropes: Vec<Rope>,
    pub(crate) blocks: Vec<Block<S>>,
    pub(crate) norm: Norm<S>,
    /// `[vocab, hidden]`
    pub(crate) head: S::Matrix,
}

impl<S: Stage> Spec<S> {
    /// The heads of every attention block in turn: each has a place in a state.
    pub(crate) fn attentions(&self) -> impl Iterator<Item = Heads> {
        self.blocks.iter().filter_map(|block| match &block.mixer {
            Mixer::Attention(attention) => Some(attention.heads),
            Mixer::Dense(_) | Mixer::Experts(_) => None,
        })
    }
}

/// x += post(mixer(pre(x)))
#[derive(Debug)]
pub(crate) struct Block<S: Stage> {
    pub(crate) pre: Norm<S>,
    pub(crate) mixer: Mixer<S>,
    pub(crate) post: Option<Norm<S>>,
}

/// x / sqrt(mean(x^2) + eps) * weight
#[derive(Debug)]
pub(crate) struct Norm<S: Stage> {
    pub(crate) weight: S::Vector,
    pub(crate) eps: f32,
}

/// What a block does to the normalised rows.
#[derive(Debug)]
pub(crate) enum Mixer<S: Stage> {
    Attention(Attention<S>),
    Dense(Dense<S>),
    Experts(Experts<S>),
}

/// A matrix and what is added to its product.
#[derive(Debug)]
pub(crate) struct Linear<S: Stage> {
    pub(crate) matrix: S::Matrix,
    pub(crate) bias: Option<S::Vector>,
}

/// Softmax attention of grouped heads.
#[derive(Debug)]
pub(crate) struct Attention<S: Stage> {
    pub(crate) heads: Heads,
    /// Queries, keys, values.
    pub(crate) qkv: [Linear<S>; 3],
    /// Norms over each head of queries and of keys, before they are rotated.
    pub(crate) qk_norm: Option<[Norm<S>; 2]>,
    /// `[hidden, n_heads * head_dim]`
    pub(crate) output: S::Matrix,
    /// Which of the model's rotations.
    pub(crate) rope: usize,
}

/// The numbers of a layer's heads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Heads {
    pub(crate) n_heads: usize,
    pub(crate) n_kv_heads: usize,
    pub(crate) head_dim: usize,
    /// How many positions a token sees, itself included; `None` sees all.
    pub(crate) window: Option<usize>,
    /// The factor on the products of queries and keys.
    pub(crate) scale: f32,
}

impl Heads {
    /// Width of all queries.
    pub(crate) fn q(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Width of all keys, and of all values.
    pub(crate) fn kv(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// Query heads that share a key/value head.
    pub(crate) fn group(&self) -> usize {
        self.n_heads / self.n_kv_heads
    }
}

/// down(act(gate(x)) * up(x))
#[derive(Debug)]
pub(crate) struct Dense<S: Stage> {
    pub(crate) ffn: usize,
    pub(crate) act: Nonlinearity,
    /// `[ffn, hidden]` both.
    pub(crate) gate_up: [S::Matrix; 2],
    /// `[hidden, ffn]`
    pub(crate) down: S::Matrix,
}

/// The sum of what the likeliest experts, each as [`Dense`], make of a row, by their probability.
#[derive(Debug)]
pub(crate) struct Experts<S: Stage> {
    pub(crate) count: usize,
    pub(crate) used: usize,
    pub(crate) ffn: usize,
    pub(crate) act: Nonlinearity,
    /// Whether the probabilities of the chosen ones are made to sum to 1.
    pub(crate) renormalise: bool,
    /// `[count, hidden]`
    pub(crate) router: S::Matrix,
    pub(crate) bank: S::Bank,
}

/// Makes the slots of a model, and shows each to whoever wants to know: the number of layers is the
/// file's claim, and the first slot that it does not fill ends it.
pub(crate) struct Slots<'v> {
    visit: &'v mut dyn FnMut(&Slot) -> Result<()>,
    prefix: String,
}

impl<'v> Slots<'v> {
    pub(crate) fn new(visit: &'v mut dyn FnMut(&Slot) -> Result<()>) -> Self {
        Self { visit, prefix: String::new() }
    }

    /// The slots from here on are of layer `index`.
    pub(crate) fn layer(&mut self, index: usize) -> &mut Self {
        self.prefix = format!("blk.{index}.");
        self
    }

    /// The slots from here on are of no layer.
    pub(crate) fn outside(&mut self) -> &mut Self {
        self.prefix.clear();
        self
    }

    /// `part` is the name without the layer.
    pub(crate) fn tensor(&mut self, part: &str, shape: &[usize], plus: f32) -> Result<Slot> {
        let slot = Slot { name: format!("{}{part}", self.prefix), shape: shape.to_vec(), plus };
        (self.visit)(&slot)?;
        Ok(slot)
    }

    /// `part.weight`, a matrix or the matrices of experts.
    pub(crate) fn matrix(&mut self, part: &str, shape: &[usize]) -> Result<Slot> {
        self.tensor(&format!("{part}.weight"), shape, 0.0)
    }
}
