//! What a synthetic model is described by.

use super::shapes::SHAPES;
use crate::arch::{Decoder, Keys, Source};
use crate::config::Config;
use crate::error::Result;
use crate::load::{Array, Metadata, Value};
use crate::spec::{Slot, Slots};

/// The dimensions of a model, as its publisher's config.json gives them.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// The model's name.
    pub name: &'static str,
    /// Its architecture, as `general.architecture` of a GGUF file names it.
    pub arch: &'static str,
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
    /// What divides the frequencies of rope, pair by pair.
    pub rope_factors: Option<RopeFactors>,
    /// Epsilon of the norms.
    pub norm_eps: f32,
    /// The longest context.
    pub context_length: usize,
    /// Positions that a token sees in the layers that have a window.
    pub window: Option<usize>,
    /// Experts of a layer, how many a token goes through, and their width.
    pub experts: Option<[usize; 3]>,
    /// The pre-tokenizer's name in GGUF files.
    pub pre: &'static str,
    /// Keys of the architecture's own, and those that say it otherwise than the fields above.
    pub more: &'static [(&'static str, More)],
}

/// The value of a key that few architectures have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum More {
    /// An integer.
    Count(u32),
    /// An integer of each layer: each of the list as often as it says.
    Counts(&'static [(u32, usize)]),
    /// A floating-point number.
    Number(f32),
    /// A truth value.
    Flag(bool),
    /// A truth value of each layer: these, again and again.
    Flags(&'static [bool]),
    /// A string.
    Text(&'static str),
}

impl More {
    fn value(self, n_layers: usize) -> Value {
        match self {
            Self::Count(n) => Value::U32(n),
            Self::Counts(runs) => {
                let all = runs.iter().flat_map(|&(n, times)| std::iter::repeat_n(n, times));
                Value::Array(Array::U32(all.collect()))
            }
            Self::Number(x) => Value::F32(x),
            Self::Flag(x) => Value::Bool(x),
            Self::Flags(pattern) => {
                let all = pattern.iter().copied().cycle().take(n_layers);
                Value::Array(Array::Bool(all.collect()))
            }
            Self::Text(text) => Value::String(text.into()),
        }
    }
}

/// Divisors of rope's frequencies, the tensor `rope_freqs.weight`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeFactors {
    /// Llama 3.2's stretch: wavelengths above 8192 are divided by 32, those below 2048 stay,
    /// between them the two mix.
    Llama3,
    /// Gemma 4's: the first quarter of the pairs turns, the rest stays.
    Quarter,
}

impl RopeFactors {
    fn of(self, pair: usize, pairs: usize, theta: f32) -> f32 {
        match self {
            Self::Llama3 => stretch(theta.powf(pair as f32 / pairs as f32)),
            Self::Quarter if pair < pairs / 4 => 1.0,
            Self::Quarter => 1e30,
        }
    }
}

/// Llama 3.2's divisor of a pair that turns by one radian in this many positions.
fn stretch(positions: f32) -> f32 {
    const FACTOR: f32 = 32.0;
    const ORIGINAL: f32 = 8192.0;
    const HIGH: f32 = 4.0;
    let turns = ORIGINAL / (std::f32::consts::TAU * positions);
    if turns > HIGH {
        1.0
    } else if turns < 1.0 {
        FACTOR
    } else {
        let smooth = (turns - 1.0) / (HIGH - 1.0);
        1.0 / ((1.0 - smooth) / FACTOR + smooth)
    }
}

impl Shape {
    /// Every shape.
    pub const ALL: &'static [Self] = SHAPES;

    /// The shape of this name.
    pub fn by_name(name: &str) -> Option<&'static Self> {
        Self::ALL.iter().find(|shape| shape.name.eq_ignore_ascii_case(name))
    }

    /// The shape as the engine's configuration.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) for numbers that do not fit one another,
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for an unknown architecture.
    pub fn config(&self) -> Result<Config> {
        Ok(self.decoder()?.config)
    }

    fn decoder(&self) -> Result<Decoder> {
        let metadata = self.keys()?;
        Decoder::read(Source {
            keys: Keys::Gguf { metadata: &metadata, arch: self.arch },
            rope_factors: self.rope_factors().as_deref(),
            long_rope: None,
            embedding_rows: None,
        })
    }

    /// The keys of the model's numbers.
    pub(super) fn keys(&self) -> Result<Metadata> {
        let mut metadata = Metadata::default();
        for (key, value) in self.more {
            metadata.insert(format!("{}.{key}", self.arch), value.value(self.n_layers))?;
        }
        let count = |n: usize| Value::U32(n as u32);
        for (key, value) in [
            ("context_length", count(self.context_length)),
            ("embedding_length", count(self.hidden)),
            ("block_count", count(self.n_layers)),
            ("feed_forward_length", count(self.ffn)),
            ("attention.head_count", count(self.n_heads)),
            ("attention.head_count_kv", count(self.n_kv_heads)),
            ("attention.key_length", count(self.head_dim)),
            ("attention.value_length", count(self.head_dim)),
            ("attention.layer_norm_rms_epsilon", Value::F32(self.norm_eps)),
            ("rope.freq_base", Value::F32(self.rope_theta)),
            ("rope.dimension_count", count(self.head_dim)),
            ("vocab_size", count(self.vocab)),
        ] {
            let key = format!("{}.{key}", self.arch);
            if metadata.get(&key).is_none() {
                metadata.insert(key, value)?;
            }
        }
        if let Some(window) = self.window {
            metadata.insert(format!("{}.attention.sliding_window", self.arch), count(window))?;
        }
        if let Some(experts) = self.experts {
            let keys = ["expert_count", "expert_used_count", "expert_feed_forward_length"];
            for (key, n) in keys.into_iter().zip(experts) {
                metadata.insert(format!("{}.{key}", self.arch), count(n))?;
            }
        }
        Ok(metadata)
    }

    /// Name and shape (outermost dimension first) of every tensor of weights.
    ///
    /// # Errors
    /// As [`config`](Self::config).
    pub fn tensors(&self) -> Result<Vec<(String, Vec<usize>)>> {
        let mut tensors = Vec::new();
        let mut visit = |slot: &Slot| {
            let tensor = tensor_of(slot);
            // The branches of a block have one norm, and queries, keys and values one tensor.
            if !tensors.contains(&tensor) {
                tensors.push(tensor);
            }
            Ok(())
        };
        self.decoder()?.spec(&mut Slots::new(&mut visit, &|_| false), self.tied)?;
        Ok(tensors)
    }

    /// Number of weights, embeddings included.
    ///
    /// # Errors
    /// As [`config`](Self::config).
    pub fn parameters(&self) -> Result<u64> {
        let count = |(_, shape): (_, Vec<usize>)| shape.iter().product::<usize>() as u64;
        Ok(self.tensors()?.into_iter().map(count).sum())
    }

    pub(super) fn rope_factors(&self) -> Option<Vec<f32>> {
        let kind = self.rope_factors?;
        let pairs = self.head_dim / 2;
        Some((0..pairs).map(|pair| kind.of(pair, pairs, self.rope_theta)).collect())
    }
}

/// The name and shape that llama.cpp's converter gives a tensor: it keeps queries, keys and values in
/// one where the model has them so, and takes everything else apart.
fn tensor_of(slot: &Slot) -> (String, Vec<usize>) {
    match &slot.part {
        Some(part) if part.tensor.ends_with("attn_qkv.weight") => {
            (part.tensor.clone(), part.shape.clone())
        }
        _ => (slot.name.clone(), slot.shape.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The publishers' counts, which count a tied embedding once; of gemma 4 and qwen3.5, whose
    /// publishers count their towers too, our own.
    #[test]
    fn parameters_are_the_published_ones() {
        let published: [(&str, u64); 16] = [
            ("smollm2-135m", 134_515_008),
            ("qwen2.5-0.5b", 494_032_768),
            ("qwen3-0.6b", 596_049_920),
            ("llama-3.2-1b", 1_235_814_400),
            ("deepseek-r1-distill-qwen-1.5b", 1_777_088_000),
            ("mistral-7b", 7_248_023_552),
            ("gemma-3-270m", 268_098_176),
            ("qwen3-30b-a3b", 30_532_122_624),
            ("mixtral-8x7b", 46_702_792_704),
            ("gemma-4-e2b", 4_626_210_083),
            ("qwen3-4b", 4_022_468_096),
            ("qwen3.5-0.8b", 752_393_024),
            ("qwen3.5-4b", 4_205_751_296),
            ("lfm2.5-1.2b", 1_170_340_608),
            ("gpt-oss-20b", 20_914_757_184),
            ("deepseek-v2-lite", 15_706_484_224),
        ];
        assert_eq!(published.len(), Shape::ALL.len());
        for (name, parameters) in published {
            let shape = Shape::by_name(name).unwrap();
            assert_eq!(shape.parameters().unwrap(), parameters, "{name}");
        }
    }

    #[test]
    fn configurations_are_sound() {
        for shape in Shape::ALL {
            assert_eq!(shape.config().unwrap().windows().len(), shape.n_layers);
        }
        assert!(Shape::by_name("SmolLM2-135M").is_some());
        assert!(Shape::by_name("gpt-2").is_none());
    }

    #[test]
    fn a_delta_rule_has_one_tensor_of_queries_keys_and_values() {
        let tensors = Shape::by_name("qwen3.5-0.8b").unwrap().tensors().unwrap();
        let shape = |name: &str| {
            tensors.iter().find(|(other, _)| other == name).map(|(_, shape)| shape.as_slice())
        };
        assert_eq!(shape("blk.0.attn_qkv.weight"), Some(&[3 * 2048, 1024][..]));
        assert_eq!(shape("blk.0.attn_q.weight"), None);
        assert_eq!(shape("blk.3.attn_q.weight"), Some(&[2 * 2048, 1024][..]));
        assert_eq!(shape("blk.3.attn_qkv.weight"), None);
        assert_eq!(tensors.len(), 320);
    }

    #[test]
    fn rope_factors_go_from_1_to_32() {
        let factors = Shape::by_name("llama-3.2-1b").unwrap().rope_factors().unwrap();
        assert_eq!((factors[0], factors[31]), (1.0, 32.0));
        assert!(factors.windows(2).all(|pair| pair[0] <= pair[1]));
    }
}
