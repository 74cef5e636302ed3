//! What a model is made of: a list of blocks, each a residual step around one mixer.
//!
//! The tree exists twice: of names and shapes ([`Named`]), which an architecture makes of its
//! numbers, and of weights ([`Loaded`](crate::model::Loaded)). Checks, packing, packed files,
//! synthetic models and the memory needed all follow from it: a layer's tensors are written down
//! once, in [`crate::arch`].

mod latent;
mod recurrent;
mod streams;

use std::fmt;

use goldcrest_kernels::Nonlinearity;

use crate::config::Rope;
use crate::error::Result;
pub(crate) use latent::{Latent, LatentHeads};
pub(crate) use recurrent::{
    Convolution, Decay, DeltaHeads, DeltaNet, Mamba, MambaHeads, ShortConv,
};
pub(crate) use streams::{Correct, Predict, Router, Streams};

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
    /// Several matrices of one shape, such as one for each head.
    type Heads: fmt::Debug;
}

/// The stage of names and shapes.
#[derive(Debug)]
pub(crate) struct Named;

impl Stage for Named {
    type Matrix = Slot;
    type Vector = Slot;
    type Rows = Slot;
    type Bank = [Slot; 3];
    type Heads = Slot;
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
    /// On the products of the matrix of a [`Linear`].
    pub(crate) factor: f32,
    /// Where a file without a tensor of this name has it.
    pub(crate) part: Option<Part>,
}

/// Some rows of a tensor that fuses several.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Part {
    /// GGUF name.
    pub(crate) tensor: String,
    /// Of the whole tensor.
    pub(crate) shape: Vec<usize>,
    pub(crate) rows: RowMap,
    /// The tensor's columns are meant: it has the transposed matrix, or that of each expert or head,
    /// one every so many rows.
    pub(crate) transposed: Option<usize>,
}

/// Which rows of a tensor are those of a matrix: runs of `run`, one every `step` rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct RowMap {
    pub(crate) first: usize,
    pub(crate) run: usize,
    pub(crate) step: usize,
}

impl RowMap {
    /// One run from `first` on.
    pub(crate) const fn from(first: usize) -> Self {
        Self { first, run: usize::MAX, step: 0 }
    }

    /// The tensor's row that is row `row` of the matrix.
    pub(crate) fn row(&self, row: usize) -> usize {
        self.first + row / self.run * self.step + row % self.run
    }
}

impl Slot {
    /// The name of one expert's or head's matrix, where each has a tensor of its own.
    pub(crate) fn expert_name(&self, expert: usize) -> String {
        let (from, to) = if self.name.contains("_exps.") {
            ("_exps.", format!(".{expert}."))
        } else {
            (".weight", format!(".{expert}.weight"))
        };
        self.name.replacen(from, &to, 1)
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
    /// `[context, hidden]`: added to the embedding by position.
    pub(crate) positions: Option<S::Rows>,
    /// A factor on the embedding.
    pub(crate) embed_scale: f32,
    /// What each layer gets of a token beside the residual stream.
    pub(crate) layer_inputs: Option<LayerInputs<S>>,
    /// Residual streams beside the one that blocks see.
    pub(crate) streams: Option<Streams<S>>,
    /// The rotations that [`Attention::rope`] chooses from.
    pub(crate) ropes: Vec<Rope>,
    pub(crate) blocks: Vec<Block<S>>,
    /// The first block of each layer.
    pub(crate) layers: Vec<usize>,
    pub(crate) norm: Norm<S>,
    /// `[vocab, hidden]`
    pub(crate) head: Linear<S>,
    pub(crate) logits: Logits,
}

/// For each layer: (norm(projection(x) / sqrt(hidden)) + sqrt(width) * table) / sqrt(2), where x is the
/// token's embedding.
#[derive(Debug)]
pub(crate) struct LayerInputs<S: Stage> {
    /// Of one layer.
    pub(crate) width: usize,
    pub(crate) layers: usize,
    /// Tokens of the table: those beyond it have what the first has.
    pub(crate) vocab: usize,
    /// `[vocab, layers * width]`
    pub(crate) table: S::Rows,
    /// `[layers * width, hidden]`
    pub(crate) projection: S::Matrix,
    /// Over each `width`.
    pub(crate) norm: Norm<S>,
}

/// What is done to the head's products.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Logits {
    pub(crate) scale: f32,
    /// `cap tanh(x / cap)`, after the scale.
    pub(crate) cap: Option<f32>,
}

impl<S: Stage> Spec<S> {
    /// The heads of every attention block that keeps keys and values: each has a place in a state.
    pub(crate) fn attentions(&self) -> impl Iterator<Item = Heads> {
        self.mixers().filter_map(|mixer| match mixer {
            Mixer::Attention(attention) => attention.kv.is_some().then_some(attention.heads),
            Mixer::Latent(latent) => Some(latent.heads.kept()),
            _ => None,
        })
    }

    /// All mixers in the order of the pass.
    pub(crate) fn mixers(&self) -> impl Iterator<Item = &Mixer<S>> {
        self.blocks.iter().flat_map(|block| &block.branches).map(|branch| &branch.mixer)
    }

    /// Numbers in the state of every recurrent block in turn: of the tail of its convolution, and of
    /// its matrix.
    pub(crate) fn recurrences(&self) -> impl Iterator<Item = [usize; 2]> {
        self.mixers().filter_map(|mixer| match mixer {
            Mixer::DeltaNet(mixer) => {
                let DeltaNet { heads, conv, .. } = &**mixer;
                let tail = conv.tail(heads.convolved() * heads.slot());
                Some([tail, heads.n_v.saturating_mul(heads.state())])
            }
            Mixer::Mamba(mixer) => {
                let Mamba { heads, conv, .. } = &**mixer;
                let tail = conv.tail(heads.convolved() * heads.slot());
                Some([tail, heads.n_heads.saturating_mul(heads.state())])
            }
            Mixer::ShortConv(mixer) => {
                Some([mixer.conv.tail(mixer.tasks() * ShortConv::<S>::CHANNELS), 0])
            }
            _ => None,
        })
    }
}

/// x += factor * post(sum of the branches), then x *= scale
#[derive(Debug)]
pub(crate) struct Block<S: Stage> {
    /// One, or several that all see the same x.
    pub(crate) branches: Vec<Branch<S>>,
    pub(crate) post: Option<Norm<S>>,
    pub(crate) factor: f32,
    pub(crate) scale: Option<Scale<S>>,
    /// Whether all residual streams but the first are x, where there are several.
    pub(crate) to_others: bool,
}

impl<S: Stage> Block<S> {
    /// x += the sum of the branches
    pub(crate) fn plain(branches: Vec<Branch<S>>) -> Self {
        Self { branches, post: None, factor: 1.0, scale: None, to_others: false }
    }
}

/// A factor on the residual stream.
#[derive(Debug)]
pub(crate) enum Scale<S: Stage> {
    /// `[1]`
    Tensor(S::Vector),
    Number(f32),
}

/// post(mixer(pre(x)))
#[derive(Debug)]
pub(crate) struct Branch<S: Stage> {
    pub(crate) pre: Option<Norm<S>>,
    pub(crate) mixer: Mixer<S>,
    pub(crate) post: Option<Norm<S>>,
}

/// x / sqrt(mean(x^2) + eps) * weight, or of x - mean(x); + bias
#[derive(Debug)]
pub(crate) struct Norm<S: Stage> {
    /// Whether the mean is subtracted first.
    pub(crate) centred: bool,
    /// `None` for ones.
    pub(crate) weight: Option<S::Vector>,
    pub(crate) bias: Option<S::Vector>,
    pub(crate) eps: f32,
}

impl<S: Stage> Norm<S> {
    /// By the root mean square, without a bias.
    pub(crate) fn rms(weight: Option<S::Vector>, eps: f32) -> Self {
        Self { centred: false, weight, bias: None, eps }
    }
}

/// What a block does to the normalised rows.
#[derive(Debug)]
pub(crate) enum Mixer<S: Stage> {
    Attention(Box<Attention<S>>),
    Latent(Box<Latent<S>>),
    DeltaNet(Box<DeltaNet<S>>),
    ShortConv(ShortConv<S>),
    Mamba(Box<Mamba<S>>),
    Dense(Dense<S>),
    Experts(Experts<S>),
    LayerInput(LayerInput<S>),
    LowRank(LowRank<S>),
    /// The rows as they are.
    Identity,
    Predict(Predict<S>),
    Correct(Correct<S>),
}

/// right(left(x))
#[derive(Debug)]
pub(crate) struct LowRank<S: Stage> {
    /// `[rank, hidden]`
    pub(crate) left: S::Matrix,
    /// `[hidden, rank]`
    pub(crate) right: Linear<S>,
}

impl<S: Stage> Mixer<S> {
    /// Whether there are kernels of it for GPUs.
    pub(crate) fn on_gpus(&self) -> bool {
        match self {
            Self::Attention(_) | Self::Experts(_) => true,
            Self::Dense(dense) => !matches!(dense.up, Up::Sparse(..)),
            _ => false,
        }
    }
}

/// projection(act(gate(x)) * the layer's input)
#[derive(Debug)]
pub(crate) struct LayerInput<S: Stage> {
    pub(crate) layer: usize,
    pub(crate) act: Nonlinearity,
    /// `[width, hidden]`
    pub(crate) gate: S::Matrix,
    /// `[hidden, width]`
    pub(crate) projection: Linear<S>,
}

/// A matrix and what is added to its product.
#[derive(Debug)]
pub(crate) struct Linear<S: Stage> {
    pub(crate) matrix: S::Matrix,
    pub(crate) bias: Option<S::Vector>,
}

impl Linear<Named> {
    /// With a factor on its products, before the bias.
    pub(crate) fn times(mut self, factor: f32) -> Self {
        self.matrix.factor *= factor;
        self
    }
}

/// Softmax attention of grouped heads.
#[derive(Debug)]
pub(crate) struct Attention<S: Stage> {
    pub(crate) heads: Heads,
    /// Queries; where the heads are gated, each head's query and then its gate.
    pub(crate) q: Linear<S>,
    pub(crate) q_norm: Option<Norm<S>>,
    /// `None`: those of an earlier block.
    pub(crate) kv: Option<KeysValues<S>>,
    /// Which of the state's keys and values.
    pub(crate) kept: usize,
    /// Whether `q_norm` and `k_norm` are over all heads together, not over each.
    pub(crate) norms_whole: bool,
    /// Whether they come after the rotation.
    pub(crate) norms_last: bool,
    /// On rotated queries, by position.
    pub(crate) temperature: Option<Temperature>,
    /// Whether what a head attends to is multiplied by the sigmoid of its gate.
    pub(crate) gated: bool,
    /// `[n_heads]`: a score that no position has.
    pub(crate) sinks: Option<S::Vector>,
    /// Of what all heads attend to together.
    pub(crate) output_norm: Option<Norm<S>>,
    /// `[hidden, n_heads * head_dim]`
    pub(crate) output: Linear<S>,
    /// Which of the model's rotations.
    pub(crate) rope: Option<usize>,
}

/// 1 + beta ln(1 + floor(position / step))
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Temperature {
    pub(crate) beta: f32,
    pub(crate) step: usize,
}

impl Temperature {
    pub(crate) fn at(self, position: usize) -> f32 {
        let steps = (1 + position / self.step) as f64;
        (1.0 + f64::from(self.beta) * libm::log(steps)) as f32
    }
}

/// What makes the keys and values.
#[derive(Debug)]
pub(crate) struct KeysValues<S: Stage> {
    pub(crate) k: Linear<S>,
    /// `None`: the products of `k`, as they are before they are normalised and rotated.
    pub(crate) v: Option<Linear<S>>,
    pub(crate) k_norm: Option<Norm<S>>,
    /// Over each head.
    pub(crate) v_norm: Option<Norm<S>>,
}

impl<S: Stage> Attention<S> {
    /// The products that the mixer begins with, in their order.
    pub(crate) fn linears(&self) -> impl Iterator<Item = &Linear<S>> + Clone {
        let kv = self.kv.iter().flat_map(|kv| std::iter::once(&kv.k).chain(&kv.v));
        std::iter::once(&self.q).chain(kv)
    }
}

/// The numbers of a layer's heads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Heads {
    pub(crate) n_heads: usize,
    pub(crate) n_kv_heads: usize,
    pub(crate) head_dim: usize,
    /// Of a value in the cache.
    pub(crate) value_dim: usize,
    /// How many positions a token sees, itself included; `None` sees all.
    pub(crate) window: Option<usize>,
    /// The factor on the products of queries and keys.
    pub(crate) scale: f32,
    /// `cap tanh(x / cap)` of those.
    pub(crate) cap: Option<f32>,
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

/// down(act(gate(x)) * up(x)), or down(act(up(x)))
#[derive(Debug)]
pub(crate) struct Dense<S: Stage> {
    pub(crate) ffn: usize,
    pub(crate) act: Nonlinearity,
    pub(crate) up: Up<S>,
    /// Of what `down` reads.
    pub(crate) down_norm: Option<Norm<S>>,
    /// `[hidden, ffn]`
    pub(crate) down: Linear<S>,
    /// `[1, hidden]`: the sigmoid of its product with a row is a factor on what the layer makes.
    pub(crate) gate: Option<S::Matrix>,
}

/// The first product of a feed-forward layer; `[ffn, hidden]` each.
#[derive(Debug)]
pub(crate) enum Up<S: Stage> {
    /// Gate and up.
    Gated([Linear<S>; 2]),
    /// The same, with gates less than so many standard deviations above their row's mean taken for it:
    /// a gate is how far it is above.
    Sparse([Linear<S>; 2], f32),
    Plain(Linear<S>),
}

impl<S: Stage> Up<S> {
    pub(crate) fn linears(&self) -> &[Linear<S>] {
        match self {
            Self::Gated(both) | Self::Sparse(both, _) => both,
            Self::Plain(linear) => std::slice::from_ref(linear),
        }
    }
}

/// The sum of what the chosen experts, each as [`Dense`], make of a row, by their weights.
#[derive(Debug)]
pub(crate) struct Experts<S: Stage> {
    pub(crate) count: usize,
    pub(crate) used: usize,
    pub(crate) ffn: usize,
    pub(crate) gating: Gating,
    pub(crate) selection: Selection,
    /// Of what the router reads, where that is not what the experts read.
    pub(crate) router_norm: Option<Norm<S>>,
    /// `[count, hidden]`
    pub(crate) router: Linear<S>,
    /// On the router's products.
    pub(crate) router_scale: f32,
    /// `[count]`: added to the scores for the choice alone.
    pub(crate) choice_bias: Option<S::Vector>,
    pub(crate) bank: S::Bank,
    /// Of gate, up and down: `[count, ffn]` twice, `[count, hidden]`.
    pub(crate) biases: Option<[S::Vector; 3]>,
}

/// What becomes of an expert's gate and up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Gating {
    /// act(gate) * up
    By(Nonlinearity),
    /// gate * sigmoid(1.702 gate) * (up + 1), both within a limit.
    Clamped { limit: f32 },
}

/// How a router's products become experts and their weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Selection {
    pub(crate) scores: Scores,
    /// Only experts of the best groups are chosen.
    pub(crate) groups: Option<Groups>,
    /// Whether the scores of the chosen ones are made to sum to 1.
    pub(crate) renormalise: bool,
    /// A factor on the weights.
    pub(crate) scale: f32,
}

/// What turns a router's products into scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scores {
    Softmax,
    Sigmoid,
}

/// Experts in groups of equal size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Groups {
    pub(crate) count: usize,
    pub(crate) used: usize,
    pub(crate) ranked_by: RankedBy,
}

/// What ranks a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RankedBy {
    /// Its best expert.
    Best,
    /// The sum of its two best.
    BestTwo,
}

/// Makes the slots of a model, and shows each to whoever wants to know: the number of layers is the
/// file's claim, and the first slot that it does not fill ends it.
pub(crate) struct Slots<'v> {
    visit: &'v mut dyn FnMut(&Slot) -> Result<()>,
    has: &'v dyn Fn(&str) -> bool,
    prefix: String,
    unused: Vec<String>,
}

impl<'v> Slots<'v> {
    /// `has` knows the tensors of the file, by their names.
    pub(crate) fn new(
        visit: &'v mut dyn FnMut(&Slot) -> Result<()>,
        has: &'v dyn Fn(&str) -> bool,
    ) -> Self {
        Self { visit, has, prefix: String::new(), unused: Vec::new() }
    }

    /// Says that a model has no use for this tensor, which some of its files have.
    pub(crate) fn unused(&mut self, part: &str) {
        self.unused.push(format!("{}{part}", self.prefix));
    }

    /// The tensors that a model has no use for.
    pub(crate) fn into_unused(self) -> Vec<String> {
        self.unused
    }

    /// Whether the file has this tensor: where nothing else says what a model is made of.
    pub(crate) fn has(&self, part: &str) -> bool {
        (self.has)(&self.name(part))
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
        self.slot(part, shape, plus, None)
    }

    /// `part.weight`, a matrix or the matrices of experts.
    pub(crate) fn matrix(&mut self, part: &str, shape: &[usize]) -> Result<Slot> {
        self.tensor(&format!("{part}.weight"), shape, 0.0)
    }

    /// `part.kind`, which a file may have as rows of the tensor `fused` of this layer.
    pub(crate) fn part(
        &mut self,
        (part, kind): (&str, &str),
        shape: &[usize],
        fused: Option<&Fused>,
    ) -> Result<Slot> {
        let fused = fused.map(|Fused { part, of, rows }| Part {
            tensor: format!("{}{part}.{kind}", self.prefix),
            shape: std::iter::once(*of).chain(shape[1..].iter().copied()).collect(),
            rows: *rows,
            transposed: None,
        });
        self.slot(&format!("{part}.{kind}"), shape, 0.0, fused)
    }

    /// `part`, the name without the layer, or what `other` says of a file that has no such tensor.
    pub(crate) fn or_part(&mut self, part: &str, shape: &[usize], other: Part) -> Result<Slot> {
        self.slot(part, shape, 0.0, Some(other))
    }

    /// The whole name of a tensor.
    pub(crate) fn name(&self, part: &str) -> String {
        format!("{}{part}", self.prefix)
    }

    fn slot(
        &mut self,
        part: &str,
        shape: &[usize],
        plus: f32,
        fused: Option<Part>,
    ) -> Result<Slot> {
        let name = self.name(part);
        let slot = Slot { name, shape: shape.to_vec(), plus, factor: 1.0, part: fused };
        (self.visit)(&slot)?;
        Ok(slot)
    }
}

/// A tensor of a layer, without its layer and ending, that has the rows of several.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fused {
    pub(crate) part: &'static str,
    /// Rows in all.
    pub(crate) of: usize,
    pub(crate) rows: RowMap,
}
