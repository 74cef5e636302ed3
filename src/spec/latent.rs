//! Latent attention.

use super::{Heads, Linear, Norm, Stage};

/// Attention whose keys and values are made of one latent a position: the cache has the latent and a
/// part of the key that turns, which all heads share.
///
/// It runs in the absorbed form, the same for a prompt and for a token: a query is taken into the
/// space of latents (`keys`), and what it attends to, a sum of latents, becomes values (`values`).
#[derive(Debug)]
pub(crate) struct Latent<S: Stage> {
    pub(crate) heads: LatentHeads,
    /// Queries, or what they are made of; and `[rank + rope, hidden]`: latents and the keys' turning
    /// part.
    pub(crate) inputs: [Linear<S>; 2],
    /// What makes queries of the first.
    pub(crate) low_rank: Option<(Norm<S>, Linear<S>)>,
    /// Of latents.
    pub(crate) norm: Norm<S>,
    /// `[n_heads, rank, nope]`
    pub(crate) keys: S::Heads,
    /// `[n_heads, value, rank]`
    pub(crate) values: S::Heads,
    /// `[hidden, n_heads * value]`
    pub(crate) output: Linear<S>,
    /// Which of the state's keys and values.
    pub(crate) kept: usize,
    /// Which of the model's rotations.
    pub(crate) rope: usize,
}

/// The numbers of a layer's heads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct LatentHeads {
    pub(crate) n_heads: usize,
    /// Width of a latent.
    pub(crate) rank: usize,
    /// Width of the part of queries and keys that does not turn, and of the part that does.
    pub(crate) nope: usize,
    pub(crate) rope: usize,
    /// Width of a head's values.
    pub(crate) value: usize,
    /// The factor on the products of queries and keys.
    pub(crate) scale: f32,
}

impl LatentHeads {
    /// Width of a head's query as it is projected.
    pub(crate) fn query(&self) -> usize {
        self.nope + self.rope
    }

    /// Width of what the cache has as a key.
    pub(crate) fn key(&self) -> usize {
        self.rank + self.rope
    }

    /// Width of all values.
    pub(crate) fn values(&self) -> usize {
        self.n_heads * self.value
    }

    /// As attention sees them: all heads share keys, and the values are the latents.
    pub(crate) fn kept(&self) -> Heads {
        Heads {
            n_heads: self.n_heads,
            n_kv_heads: 1,
            head_dim: self.key(),
            value_dim: self.rank,
            window: None,
            scale: self.scale,
            cap: None,
        }
    }
}
