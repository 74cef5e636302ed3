//! [`Config`] from GGUF metadata.

use crate::config::{Arch, Config, Rope, RopeScaling, limits};
use crate::error::{Result, config_error, unsupported};

use super::metadata::{Metadata, Value};
use super::{Checkpoint, GgmlType};

const ROPE_FREQS: &str = "rope_freqs.weight";

pub(super) fn config(checkpoint: &Checkpoint) -> Result<Config> {
    let metadata = checkpoint.metadata();
    let name = metadata.get_str("general.architecture")?;
    let name = Metadata::need("general.architecture", name)?;
    let arch = Arch::from_name(name)?;
    let keys = Keys { metadata, arch: name };
    refuse_variants(keys)?;

    let hidden = keys.need_size("embedding_length", limits::WIDTH)?;
    let n_heads = keys.need_size("attention.head_count", limits::HEADS)?;
    let head_dim = head_dim(keys, hidden, n_heads)?;
    let context_length = keys.need_size("context_length", limits::CONTEXT)?;
    let n_layers = keys.need_size("block_count", limits::LAYERS)?;
    let window = keys.count("attention.sliding_window")?.filter(|&window| window > 0);
    let norm_eps = keys.f32("attention.layer_norm_rms_epsilon")?;
    let config = Config {
        arch,
        vocab_size: vocab_size(checkpoint, keys)?,
        hidden,
        ffn: keys.need_size("feed_forward_length", limits::WIDTH)?,
        n_layers,
        n_heads,
        n_kv_heads: keys.size("attention.head_count_kv", limits::HEADS)?.unwrap_or(n_heads),
        head_dim,
        context_length,
        norm_eps: Metadata::need(&keys.key("attention.layer_norm_rms_epsilon"), norm_eps)?,
        rope: Rope {
            theta: keys.f32("rope.freq_base")?.unwrap_or(10_000.0),
            dim: keys.size("rope.dimension_count", limits::HEAD_DIM)?.unwrap_or(head_dim),
            style: arch.row().gguf_rope,
            scaling: rope_scaling(checkpoint, keys, context_length)?,
        },
        windows: vec![window; n_layers],
    };
    config.check()?;
    Ok(config)
}

/// The keys of one architecture.
#[derive(Clone, Copy)]
struct Keys<'a> {
    metadata: &'a Metadata,
    arch: &'a str,
}

impl<'a> Keys<'a> {
    fn key(self, name: &str) -> String {
        format!("{}.{name}", self.arch)
    }

    fn f32(self, name: &str) -> Result<Option<f32>> {
        self.metadata.get_f32(&self.key(name))
    }

    fn str(self, name: &str) -> Result<Option<&'a str>> {
        self.metadata.get_str(&self.key(name))
    }

    /// An integer, or an array of one integer per layer when all are the same.
    fn count(self, name: &str) -> Result<Option<usize>> {
        let key = self.key(name);
        let number = match self.metadata.get(&key) {
            Some(Value::Array(array)) => {
                let all = array.to_u64s().unwrap_or_default();
                match all.first() {
                    Some(first) if all.iter().all(|x| x == first) => Some(*first),
                    _ => {
                        return Err(unsupported(format!(
                            "key \"{key}\": layers of different sizes are not supported"
                        )));
                    }
                }
            }
            _ => self.metadata.get_u64(&key)?,
        };
        number
            .map(usize::try_from)
            .transpose()
            .map_err(|_| config_error(format!("key \"{key}\" is out of range")))
    }

    /// A count from 1 to `max`.
    fn size(self, name: &str, max: usize) -> Result<Option<usize>> {
        let Some(size) = self.count(name)? else { return Ok(None) };
        if !(1..=max).contains(&size) {
            let key = self.key(name);
            return Err(config_error(format!("key \"{key}\" is {size}, not 1 to {max}")));
        }
        Ok(Some(size))
    }

    fn need_size(self, name: &str, max: usize) -> Result<usize> {
        Metadata::need(&self.key(name), self.size(name, max)?)
    }
}

/// Keys that change what the architecture computes.
fn refuse_variants(keys: Keys) -> Result<()> {
    if let Some(experts) = keys.count("expert_count")?
        && experts > 0
    {
        return Err(unsupported(format!(
            "key \"{}\": mixtures of {experts} experts are not supported",
            keys.key("expert_count")
        )));
    }
    let causal = keys.key("attention.causal");
    if keys.metadata.get_bool(&causal)? == Some(false) {
        return Err(unsupported(format!(
            "key \"{causal}\": attention in both directions is not supported"
        )));
    }
    Ok(())
}

fn head_dim(keys: Keys, hidden: usize, n_heads: usize) -> Result<usize> {
    let dim = match keys.size("attention.key_length", limits::HEAD_DIM)? {
        Some(dim) => dim,
        None if hidden.is_multiple_of(n_heads) => hidden / n_heads,
        None => {
            return Err(config_error(format!(
                "key \"{}\" is missing, and the width {hidden} is no multiple of {n_heads} heads",
                keys.key("attention.key_length")
            )));
        }
    };
    match keys.size("attention.value_length", limits::HEAD_DIM)? {
        Some(value) if value != dim => Err(unsupported(format!(
            "keys of {dim} and values of {value} dimensions are not supported"
        ))),
        _ => Ok(dim),
    }
}

/// The embedding's rows are what the forward pass uses; a key that says otherwise is found by `check_shapes`.
fn vocab_size(checkpoint: &Checkpoint, keys: Keys) -> Result<usize> {
    if let Some(size) = keys.size("vocab_size", limits::VOCAB)? {
        return Ok(size);
    }
    let rows = checkpoint.tensor("token_embd.weight").map(|tensor| tensor.rows());
    rows.or(checkpoint.vocabulary())
        .filter(|rows| (1..=limits::VOCAB).contains(rows))
        .ok_or_else(|| config_error("the file has neither an embedding nor a vocabulary"))
}

fn rope_scaling(checkpoint: &Checkpoint, keys: Keys, context: usize) -> Result<RopeScaling> {
    // llama.cpp reads a factor without a type, and the key of before there were types, as linear.
    let factor = match keys.f32("rope.scaling.factor")? {
        None => keys.f32("rope.scale_linear")?,
        some => some,
    };
    let factor = factor.filter(|&factor| factor != 0.0 && factor != 1.0);
    let scaling = match (keys.str("rope.scaling.type")?.unwrap_or("linear"), factor) {
        ("none", _) | ("linear" | "yarn", None) => RopeScaling::None,
        ("linear", Some(factor)) => RopeScaling::Linear { factor },
        ("yarn", Some(factor)) => yarn(keys, factor, context)?,
        (other, _) => {
            return Err(unsupported(format!(
                "key \"{}\": rope scaling \"{other}\" is not supported (none, linear and yarn are)",
                keys.key("rope.scaling.type")
            )));
        }
    };
    match (rope_factors(checkpoint)?, scaling) {
        (None, scaling) => Ok(scaling),
        (Some(factors), RopeScaling::None) => Ok(RopeScaling::Factors(factors)),
        (Some(_), _) => Err(unsupported(format!(
            "tensor \"{ROPE_FREQS}\" together with the key \"{}\" is not supported",
            keys.key("rope.scaling.type")
        ))),
    }
}

fn yarn(keys: Keys, factor: f32, context: usize) -> Result<RopeScaling> {
    if let Some(extrapolation) = keys.f32("rope.scaling.yarn_ext_factor")?
        && extrapolation != 1.0
        && extrapolation >= 0.0
    {
        return Err(unsupported(format!(
            "key \"{}\" is {extrapolation}; only 1 is supported",
            keys.key("rope.scaling.yarn_ext_factor")
        )));
    }
    let mscale =
        |scale: f32| if factor <= 1.0 { 1.0 } else { 0.1 * scale * libm::logf(factor) + 1.0 };
    // The converter writes config.json's `attention_factor` under the first key: the whole factor.
    let whole = match keys.f32("rope.scaling.yarn_attn_factor")? {
        Some(whole) => whole,
        None => match keys.f32("rope.scaling.yarn_log_multiplier")?.unwrap_or(0.0) {
            0.0 => mscale(1.0),
            all_dims => mscale(1.0) / mscale(all_dims),
        },
    };
    let original = keys.size("rope.scaling.original_context_length", limits::CONTEXT)?;
    Ok(RopeScaling::Yarn {
        factor,
        original_context: original.unwrap_or(context),
        beta_fast: keys.f32("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
        beta_slow: keys.f32("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
        attention_factor: whole * keys.f32("rope.scaling.attn_factor")?.unwrap_or(1.0),
        truncate: true,
    })
}

/// Llama 3's scaling as the converter stores it: one divisor per pair of dimensions.
fn rope_factors(checkpoint: &Checkpoint) -> Result<Option<Vec<f32>>> {
    let Some(tensor) = checkpoint.tensor(ROPE_FREQS) else { return Ok(None) };
    if tensor.ty != GgmlType::F32 || tensor.elements() > limits::HEAD_DIM {
        return Err(checkpoint.tensor_error(
            tensor,
            format_args!("is {} {:?}, not a few F32", tensor.ty, tensor.shape),
        ));
    }
    let (values, _) = checkpoint.data(tensor).as_chunks::<4>();
    Ok(Some(values.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()))
}
