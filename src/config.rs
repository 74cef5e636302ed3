//! The numbers of a model, whatever file they came from.

use crate::error::{Result, config_error};

/// Bounds on what a file may claim: far above any model, low enough that products fit and that nothing sized
/// by a claim alone is large.
pub(crate) mod limits {
    pub(crate) const LAYERS: usize = 4096;
    pub(crate) const HEADS: usize = 1 << 14;
    pub(crate) const HEAD_DIM: usize = 1 << 13;
    pub(crate) const WIDTH: usize = 1 << 22;
    pub(crate) const VOCAB: usize = 1 << 26;
    pub(crate) const CONTEXT: usize = 1 << 30;
    pub(crate) const EXPERTS: usize = 1 << 12;
    /// Inputs that a convolution sees.
    pub(crate) const TAPS: usize = 8;
    /// Residual streams.
    pub(crate) const STREAMS: usize = 8;
    /// Of the queries that share keys: what a block of a shared buffer may be wide.
    pub(crate) const HEAD_GROUP: usize = 1 << 20;
}

/// The numbers of a model, as its file or folder gives them.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub(crate) arch: &'static str,
    pub(crate) vocab_size: usize,
    pub(crate) hidden: usize,
    pub(crate) ffn: usize,
    pub(crate) n_layers: usize,
    pub(crate) n_heads: usize,
    pub(crate) n_kv_heads: usize,
    pub(crate) head_dim: usize,
    /// Of the layers without a window, where it is another one.
    pub(crate) global_head_dim: Option<usize>,
    pub(crate) context_length: usize,
    pub(crate) norm_eps: f32,
    pub(crate) rope: Rope,
    /// Of the layers that have a window, where their rope is another one.
    pub(crate) local_rope: Option<Rope>,
    pub(crate) windows: Vec<Option<usize>>,
    pub(crate) experts: Option<Experts>,
}

/// The experts of a mixture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Experts {
    /// Experts of a layer.
    pub count: usize,
    /// How many of them a token goes through.
    pub used: usize,
    /// Width of one expert.
    pub ffn: usize,
}

impl Config {
    /// The architecture: `model_type` of the model's config.json.
    pub fn arch(&self) -> &'static str {
        self.arch
    }

    /// Rows of the embedding, the width of the logits.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Width of the residual stream.
    pub fn hidden(&self) -> usize {
        self.hidden
    }

    /// Width of a dense feed-forward layer.
    pub fn ffn(&self) -> usize {
        self.ffn
    }

    /// Layers: attention and feed-forward together are one.
    pub fn n_layers(&self) -> usize {
        self.n_layers
    }

    /// Query heads.
    pub fn n_heads(&self) -> usize {
        self.n_heads
    }

    /// Key and value heads; divides [`n_heads`](Self::n_heads).
    pub fn n_kv_heads(&self) -> usize {
        self.n_kv_heads
    }

    /// Width of one head, not always `hidden / n_heads`.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Width of one head in the layers without a window, where it is another one.
    pub fn global_head_dim(&self) -> Option<usize> {
        self.global_head_dim
    }

    /// The longest context that the model was made for, in tokens.
    pub fn context_length(&self) -> usize {
        self.context_length
    }

    /// Added to the mean square in RMSNorm.
    pub fn norm_eps(&self) -> f32 {
        self.norm_eps
    }

    /// Rotary position embedding; of the layers without a window, where the others have their own.
    pub fn rope(&self) -> &Rope {
        &self.rope
    }

    /// Rotary position embedding of the layers with a window, where it is another one.
    pub fn local_rope(&self) -> Option<&Rope> {
        self.local_rope.as_ref()
    }

    /// Per layer: how many positions a token sees, itself included; `None` sees all.
    pub fn windows(&self) -> &[Option<usize>] {
        &self.windows
    }

    /// The experts, in a mixture of them.
    pub fn experts(&self) -> Option<Experts> {
        self.experts
    }

    /// Checks that the numbers fit one another.
    pub(crate) fn check(&self) -> Result<()> {
        let Self { n_heads, n_kv_heads, head_dim, norm_eps, rope, .. } = self;
        if *n_kv_heads == 0 || !n_heads.is_multiple_of(*n_kv_heads) {
            return Err(config_error(format!(
                "{n_heads} query heads are no multiple of {n_kv_heads} key and value heads"
            )));
        }
        if n_heads * head_dim > limits::WIDTH
            || n_heads / n_kv_heads * head_dim > limits::HEAD_GROUP
        {
            return Err(config_error(format!(
                "{n_heads} query heads of {head_dim} on {n_kv_heads} key and value heads are too wide"
            )));
        }
        if *head_dim == 0 || !head_dim.is_multiple_of(2) {
            return Err(config_error(format!("the head dimension {head_dim} is not even")));
        }
        if !norm_eps.is_finite() || *norm_eps < 0.0 {
            return Err(config_error(format!("the epsilon of the norms is {norm_eps}")));
        }
        if self.windows.len() != self.n_layers || self.windows.contains(&Some(0)) {
            return Err(config_error("the sliding windows do not fit the layers"));
        }
        if let Some(Experts { count, used, .. }) = self.experts
            && !(1..=count).contains(&used)
        {
            return Err(config_error(format!("{used} of {count} experts for a token")));
        }
        if self.global_head_dim.is_some_and(|dim| dim == 0 || !dim.is_multiple_of(2)) {
            return Err(config_error("the head dimension of layers without a window is not even"));
        }
        self.local_rope.iter().try_for_each(|rope| rope.check(*head_dim))?;
        rope.check(self.global_head_dim.unwrap_or(*head_dim))
    }
}

/// Which two dimensions of a head rope rotates together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RopeStyle {
    /// (0, 1), (2, 3), ...: llama's GGUF files, whose rows are permuted for it.
    Pairs,
    /// (i, i + dim / 2): Hugging Face weights, and qwen's GGUF files.
    Halves,
}

/// Rotary position embedding.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f32,
    /// How many dimensions of a head rotate; the rest pass.
    pub dim: usize,
    /// Which dimensions form a pair.
    pub style: RopeStyle,
    /// How frequencies are stretched for longer contexts.
    pub scaling: RopeScaling,
}

impl Rope {
    fn check(&self, head_dim: usize) -> Result<()> {
        let Self { theta, dim, .. } = self;
        if *dim == 0 || !dim.is_multiple_of(2) || *dim > head_dim {
            return Err(config_error(format!(
                "rope rotates {dim} dimensions of a head of {head_dim}"
            )));
        }
        if !theta.is_finite() || *theta <= 1.0 {
            return Err(config_error(format!("the base of rope's frequencies is {theta}")));
        }
        if !self.scaling.is_sound(*dim) {
            return Err(config_error(format!("rope scaling out of range: {:?}", self.scaling)));
        }
        Ok(())
    }
}

/// How rope's frequencies are stretched.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All divided by one factor.
    Linear {
        /// The divisor.
        factor: f32,
    },
    /// Llama 3.1's three bands.
    Llama3 {
        /// The divisor of the low frequencies.
        factor: f32,
        /// Wavelengths above `original_context / low_freq_factor` are divided whole.
        low_freq_factor: f32,
        /// Wavelengths below `original_context / high_freq_factor` stay.
        high_freq_factor: f32,
        /// The context of pre-training.
        original_context: usize,
    },
    /// YaRN (<https://arxiv.org/abs/2309.00071>).
    Yarn {
        /// The divisor of the low frequencies.
        factor: f32,
        /// The context of pre-training.
        original_context: usize,
        /// Rotations above which a frequency stays.
        beta_fast: f32,
        /// Rotations below which a frequency is divided whole.
        beta_slow: f32,
        /// The factor on cos and sin.
        attention_factor: f32,
        /// Whether the bounds between the bands are rounded outwards to whole pairs.
        truncate: bool,
    },
    /// LongRoPE (<https://arxiv.org/abs/2402.13753>): one divisor per pair, by the context that a model
    /// is loaded with.
    Long {
        /// `dim / 2` divisors for contexts up to `original_context`.
        short: Vec<f32>,
        /// And for longer ones.
        long: Vec<f32>,
        /// The context of pre-training.
        original_context: usize,
        /// The factor on cos and sin.
        attention_factor: f32,
    },
    /// One divisor per pair, from the tensor `rope_freqs.weight`.
    Factors(
        /// `dim / 2` divisors.
        Vec<f32>,
    ),
}

impl RopeScaling {
    /// Whether frequencies stay finite under it.
    fn is_sound(&self, dim: usize) -> bool {
        let positive = |x: f32| x.is_finite() && x > 0.0;
        match self {
            Self::None => true,
            Self::Linear { factor } => positive(*factor),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                positive(*factor)
                    && positive(*low_freq_factor)
                    && positive(*high_freq_factor)
                    && high_freq_factor > low_freq_factor
                    && *original_context > 0
            }
            Self::Yarn {
                factor, original_context, beta_fast, beta_slow, attention_factor, ..
            } => {
                [*factor, *beta_fast, *beta_slow, *attention_factor].into_iter().all(positive)
                    && *original_context > 0
            }
            Self::Long { short, long, original_context, attention_factor } => {
                [short, long].into_iter().all(|factors| factors.len() == dim / 2)
                    && short.iter().chain(long).copied().all(positive)
                    && positive(*attention_factor)
                    && *original_context > 0
            }
            Self::Factors(factors) => {
                factors.len() == dim / 2 && factors.iter().copied().all(positive)
            }
        }
    }
}
