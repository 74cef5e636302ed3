//! What the forward pass needs to know of a model, whatever file it came from.

use crate::error::{Result, config_error, unsupported};

/// Bounds on what a file may claim: far above any model, low enough that products fit and that nothing sized
/// by a claim alone is large.
pub(crate) mod limits {
    pub(crate) const LAYERS: usize = 4096;
    pub(crate) const HEADS: usize = 1 << 14;
    pub(crate) const HEAD_DIM: usize = 1 << 13;
    pub(crate) const WIDTH: usize = 1 << 22;
    pub(crate) const VOCAB: usize = 1 << 26;
    pub(crate) const CONTEXT: usize = 1 << 30;
}

/// Dimensions and constants of a decoder-only transformer.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Which architecture's row of data applies.
    pub arch: Arch,
    /// Rows of the embedding, the width of the logits.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward layer.
    pub ffn: usize,
    /// Transformer blocks.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of one head, not always `hidden / n_heads`.
    pub head_dim: usize,
    /// The longest context that the model was made for, in tokens.
    pub context_length: usize,
    /// Added to the mean square in RMSNorm.
    pub norm_eps: f32,
    /// Rotary position embedding.
    pub rope: Rope,
    /// Per layer: how many positions a token sees, itself included; `None` sees all.
    pub windows: Vec<Option<usize>>,
}

impl Config {
    /// Checks that the numbers fit one another.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config), naming the numbers.
    pub fn check(&self) -> Result<()> {
        let Self { n_heads, n_kv_heads, head_dim, norm_eps, rope, .. } = self;
        if *n_kv_heads == 0 || !n_heads.is_multiple_of(*n_kv_heads) {
            return Err(config_error(format!(
                "{n_heads} query heads are no multiple of {n_kv_heads} key and value heads"
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
        rope.check(*head_dim)
    }
}

/// The architectures that run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Arch {
    /// Llama 1 to 3, and everything with its tensors.
    Llama,
    /// Mistral: llama with a sliding window.
    Mistral,
    /// Qwen 2 and 2.5: biases on queries, keys and values.
    Qwen2,
    /// Qwen 3: RMSNorm over each head of queries and keys.
    Qwen3,
}

/// One row of data per architecture: all that tells them apart.
#[derive(Debug)]
pub struct ArchRow {
    /// The architecture.
    pub arch: Arch,
    /// `general.architecture` in GGUF and `model_type` in config.json.
    pub name: &'static str,
    /// Queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Queries and keys are normalised per head before rope.
    pub qk_norm: bool,
    /// Which dimensions rope pairs in a GGUF file (a Hugging Face folder always has [`RopeStyle::Halves`]).
    pub gguf_rope: RopeStyle,
}

/// The table. A new architecture is one row here.
pub const ARCHS: &[ArchRow] = &[
    ArchRow {
        arch: Arch::Llama,
        name: "llama",
        qkv_bias: false,
        qk_norm: false,
        gguf_rope: RopeStyle::Pairs,
    },
    ArchRow {
        arch: Arch::Mistral,
        name: "mistral",
        qkv_bias: false,
        qk_norm: false,
        gguf_rope: RopeStyle::Pairs,
    },
    ArchRow {
        arch: Arch::Qwen2,
        name: "qwen2",
        qkv_bias: true,
        qk_norm: false,
        gguf_rope: RopeStyle::Halves,
    },
    ArchRow {
        arch: Arch::Qwen3,
        name: "qwen3",
        qkv_bias: false,
        qk_norm: true,
        gguf_rope: RopeStyle::Halves,
    },
];

impl Arch {
    /// The architecture of this name.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) with the name and the known ones.
    pub fn from_name(name: &str) -> Result<Self> {
        ARCHS.iter().find(|row| row.name == name).map(|row| row.arch).ok_or_else(|| {
            let known: Vec<_> = ARCHS.iter().map(|row| row.name).collect();
            unsupported(format!(
                "architecture \"{name}\" is not supported (supported: {})",
                known.join(", ")
            ))
        })
    }

    /// The architecture's row of data.
    pub fn row(self) -> &'static ArchRow {
        ARCHS.iter().find(|row| row.arch == self).expect("every architecture has a row")
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
            Self::Factors(factors) => {
                factors.len() == dim / 2 && factors.iter().copied().all(positive)
            }
        }
    }
}
