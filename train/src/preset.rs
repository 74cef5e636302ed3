//! The sizes of the models.

use serde::{Deserialize, Serialize};

/// The dimensions of a llama model with one matrix for embedding and output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dimensions {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward layers.
    pub ffn: usize,
    /// Blocks.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Tokens.
    pub vocab: usize,
    /// Tokens of a training sequence, and the longest context.
    pub context: usize,
    /// Base of rope's frequencies.
    pub rope_theta: f32,
    /// Epsilon of the norms.
    pub norm_eps: f32,
}

/// Tokens of every model here.
pub const VOCAB: usize = 2048;

const BASE: Dimensions = Dimensions {
    hidden: 256,
    ffn: 768,
    n_layers: 7,
    n_heads: 4,
    n_kv_heads: 2,
    head_dim: 64,
    vocab: VOCAB,
    context: 256,
    rope_theta: 1e4,
    norm_eps: 1e-5,
};

/// A named size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Preset {
    /// 6.0 million parameters.
    Teacher,
    /// 2.9 million: the one that ships.
    Student,
    /// Half a million, to propose what the student checks.
    Draft,
    /// Too small to say anything; for tests.
    Tiny,
}

impl Preset {
    /// The dimensions of the size.
    pub fn dimensions(self) -> Dimensions {
        match self {
            Self::Teacher => BASE,
            Self::Student => Dimensions { n_layers: 3, ..BASE },
            Self::Draft => {
                Dimensions { hidden: 128, ffn: 384, n_layers: 1, n_heads: 2, n_kv_heads: 1, ..BASE }
            }
            Self::Tiny => Dimensions {
                hidden: 64,
                ffn: 96,
                n_layers: 2,
                n_heads: 4,
                n_kv_heads: 2,
                head_dim: 16,
                vocab: 512,
                context: 32,
                ..BASE
            },
        }
    }
}

impl Dimensions {
    /// Number of weights.
    pub fn parameters(&self) -> usize {
        let (h, d) = (self.hidden, self.head_dim);
        let attention = h * d * (2 * self.n_heads + 2 * self.n_kv_heads);
        let layer = attention + 3 * h * self.ffn + 2 * h;
        self.vocab * h + self.n_layers * layer + h
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters() {
        assert_eq!(Preset::Teacher.dimensions().parameters(), 6_033_152);
        assert_eq!(Preset::Student.dimensions().parameters(), 2_885_376);
        assert!(Preset::Draft.dimensions().parameters() < 500_000);
    }
}
