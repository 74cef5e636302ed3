//! The dimensions of published models.

use crate::config::{Arch, Config, Rope, RopeScaling};
use crate::load::expected_tensors;

/// The dimensions of a model, as its publisher's config.json gives them.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// The model's name.
    pub name: &'static str,
    /// Its architecture.
    pub arch: Arch,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward layer.
    pub ffn: usize,
    /// Transformer blocks.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Tokens.
    pub vocab: usize,
    /// The embedding is the output matrix, too.
    pub tied: bool,
    /// Base of rope's frequencies.
    pub rope_theta: f32,
    /// Whether rope is stretched as in Llama 3.2.
    pub llama3_rope: bool,
    /// Epsilon of the norms.
    pub norm_eps: f32,
    /// The longest context.
    pub context_length: usize,
    /// The pre-tokenizer's name in GGUF files.
    pub pre: &'static str,
}

impl Shape {
    /// Every shape.
    pub const ALL: &'static [Self] = &[
        Self {
            name: "smollm2-135m",
            arch: Arch::Llama,
            hidden: 576,
            ffn: 1536,
            n_layers: 30,
            n_heads: 9,
            n_kv_heads: 3,
            head_dim: 64,
            vocab: 49152,
            tied: true,
            rope_theta: 1e5,
            llama3_rope: false,
            norm_eps: 1e-5,
            context_length: 8192,
            pre: "smollm",
        },
        Self {
            name: "qwen2.5-0.5b",
            arch: Arch::Qwen2,
            hidden: 896,
            ffn: 4864,
            n_layers: 24,
            n_heads: 14,
            n_kv_heads: 2,
            head_dim: 64,
            vocab: 151936,
            tied: true,
            rope_theta: 1e6,
            llama3_rope: false,
            norm_eps: 1e-6,
            context_length: 32768,
            pre: "qwen2",
        },
        Self {
            name: "qwen3-0.6b",
            arch: Arch::Qwen3,
            hidden: 1024,
            ffn: 3072,
            n_layers: 28,
            n_heads: 16,
            n_kv_heads: 8,
            head_dim: 128,
            vocab: 151936,
            tied: true,
            rope_theta: 1e6,
            llama3_rope: false,
            norm_eps: 1e-6,
            context_length: 40960,
            pre: "qwen2",
        },
        Self {
            name: "llama-3.2-1b",
            arch: Arch::Llama,
            hidden: 2048,
            ffn: 8192,
            n_layers: 16,
            n_heads: 32,
            n_kv_heads: 8,
            head_dim: 64,
            vocab: 128256,
            tied: true,
            rope_theta: 5e5,
            llama3_rope: true,
            norm_eps: 1e-5,
            context_length: 131072,
            pre: "llama-bpe",
        },
        Self {
            name: "deepseek-r1-distill-qwen-1.5b",
            arch: Arch::Qwen2,
            hidden: 1536,
            ffn: 8960,
            n_layers: 28,
            n_heads: 12,
            n_kv_heads: 2,
            head_dim: 128,
            vocab: 151936,
            tied: false,
            rope_theta: 1e4,
            llama3_rope: false,
            norm_eps: 1e-6,
            context_length: 131072,
            pre: "deepseek-r1-qwen",
        },
    ];

    /// The shape of this name.
    pub fn by_name(name: &str) -> Option<&'static Self> {
        Self::ALL.iter().find(|shape| shape.name.eq_ignore_ascii_case(name))
    }

    /// The shape as the engine's configuration.
    pub fn config(&self) -> Config {
        let scaling = match self.rope_factors() {
            Some(factors) => RopeScaling::Factors(factors),
            None => RopeScaling::None,
        };
        Config {
            arch: self.arch,
            vocab_size: self.vocab,
            hidden: self.hidden,
            ffn: self.ffn,
            n_layers: self.n_layers,
            n_heads: self.n_heads,
            n_kv_heads: self.n_kv_heads,
            head_dim: self.head_dim,
            context_length: self.context_length,
            norm_eps: self.norm_eps,
            rope: Rope {
                theta: self.rope_theta,
                dim: self.head_dim,
                style: self.arch.row().gguf_rope,
                scaling,
            },
            windows: vec![None; self.n_layers],
        }
    }

    /// Name and shape (outermost dimension first) of every tensor of weights.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let config = self.config();
        let tensors = expected_tensors(&config);
        tensors.filter(|(name, _)| !self.tied || name != "output.weight").collect()
    }

    /// Number of weights, embeddings included.
    pub fn parameters(&self) -> u64 {
        let count = |(_, shape): (_, Vec<usize>)| shape.iter().product::<usize>() as u64;
        self.tensors().into_iter().map(count).sum()
    }

    /// Llama 3.2's stretch of the rope, one divisor per pair of dimensions: wavelengths above
    /// 8192 are divided by 32, those below 2048 stay, between them the two mix.
    pub(super) fn rope_factors(&self) -> Option<Vec<f32>> {
        const FACTOR: f32 = 32.0;
        const ORIGINAL: f32 = 8192.0;
        const HIGH: f32 = 4.0;
        self.llama3_rope.then(|| {
            let factor = |pair: usize| {
                let exponent = 2.0 * pair as f32 / self.head_dim as f32;
                let wavelength = std::f32::consts::TAU * self.rope_theta.powf(exponent);
                let turns = ORIGINAL / wavelength;
                if turns > HIGH {
                    1.0
                } else if turns < 1.0 {
                    FACTOR
                } else {
                    let smooth = (turns - 1.0) / (HIGH - 1.0);
                    1.0 / ((1.0 - smooth) / FACTOR + smooth)
                }
            };
            (0..self.head_dim / 2).map(factor).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The publishers' counts, which count a tied embedding once.
    #[test]
    fn parameters_are_the_published_ones() {
        let published = [
            ("smollm2-135m", 134_515_008),
            ("qwen2.5-0.5b", 494_032_768),
            ("qwen3-0.6b", 596_049_920),
            ("llama-3.2-1b", 1_235_814_400),
            ("deepseek-r1-distill-qwen-1.5b", 1_777_088_000),
        ];
        assert_eq!(published.len(), Shape::ALL.len());
        for (name, parameters) in published {
            assert_eq!(Shape::by_name(name).unwrap().parameters(), parameters, "{name}");
        }
    }

    #[test]
    fn configurations_are_sound() {
        for shape in Shape::ALL {
            shape.config().check().unwrap();
        }
        assert!(Shape::by_name("SmolLM2-135M").is_some());
        assert!(Shape::by_name("gpt-2").is_none());
    }

    #[test]
    fn rope_factors_go_from_1_to_32() {
        let factors = Shape::by_name("llama-3.2-1b").unwrap().rope_factors().unwrap();
        assert_eq!((factors[0], factors[31]), (1.0, 32.0));
        assert!(factors.windows(2).all(|pair| pair[0] <= pair[1]));
    }
}
