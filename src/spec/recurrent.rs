//! Mixers that keep a state of one size, however long the text.

use goldcrest_kernels::{GateOrder, state_len};

use super::{Linear, Norm, Stage};

/// A causal convolution of every channel by itself.
#[derive(Debug)]
pub(crate) struct Convolution<S: Stage> {
    /// How many of the last inputs a channel sees, this token's included.
    pub(crate) taps: usize,
    pub(crate) channels: usize,
    /// `[channels, taps]` in a file, `[taps, channels]` once it is loaded.
    pub(crate) weights: S::Vector,
    /// `[channels]`
    pub(crate) bias: Option<S::Vector>,
}

impl<S: Stage> Convolution<S> {
    /// Numbers of a state's tail: the inputs that the next token sees, of `width` numbers a row.
    pub(crate) fn tail(&self, width: usize) -> usize {
        (self.taps - 1).saturating_mul(width)
    }
}

/// The gated delta rule behind a convolution (Yang and others 2024).
#[derive(Debug)]
pub(crate) struct DeltaNet<S: Stage> {
    pub(crate) heads: DeltaHeads,
    /// Queries, keys, values: what is convolved; then the gates of what comes out, `n_v * d_v`, and
    /// of every value head how far the state moves and decays, `n_v` each.
    pub(crate) inputs: [Linear<S>; 6],
    /// Of queries, keys and values.
    pub(crate) conv: Convolution<S>,
    pub(crate) decay: Decay<S>,
    /// Of each head: norm(x) * silu(gate).
    pub(crate) norm: Norm<S>,
    /// `[hidden, n_v * d_v]`
    pub(crate) output: Linear<S>,
    /// Which of the state's recurrences.
    pub(crate) kept: usize,
}

/// The numbers of a delta rule's heads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct DeltaHeads {
    /// Heads of queries and keys; those of values and states.
    pub(crate) n_k: usize,
    pub(crate) n_v: usize,
    pub(crate) d_k: usize,
    pub(crate) d_v: usize,
    /// Whether value heads that share a key are `n_k` apart, not side by side.
    pub(crate) tiled: bool,
}

impl DeltaHeads {
    /// The key head of a value head.
    pub(crate) fn key_of(&self, value: usize) -> usize {
        if self.tiled { value % self.n_k } else { value / (self.n_v / self.n_k) }
    }

    /// Width of all keys, and of all queries.
    pub(crate) fn keys(&self) -> usize {
        self.n_k * self.d_k
    }

    /// Width of all values.
    pub(crate) fn values(&self) -> usize {
        self.n_v * self.d_v
    }

    /// Rows of [`DeltaNet::inputs`].
    pub(crate) fn inputs(&self) -> [usize; 6] {
        [self.keys(), self.keys(), self.values(), self.values(), self.n_v, self.n_v]
    }

    /// Heads that are convolved: queries, keys, values.
    pub(crate) fn convolved(&self) -> usize {
        2 * self.n_k + self.n_v
    }

    /// Numbers that a head has among the convolved ones, and so have all gates of a token.
    pub(crate) fn slot(&self) -> usize {
        self.d_k.max(self.d_v).max(2 * self.n_v)
    }

    /// Numbers of one head's state.
    pub(crate) fn state(&self) -> usize {
        state_len(self.d_k, self.d_v).unwrap_or(usize::MAX)
    }
}

/// How states decay: by `exp(rate * step)` in a step in time of `softplus(x + bias)`, a number a head.
#[derive(Debug)]
pub(crate) struct Decay<S: Stage> {
    /// Negative. Where a file has their logarithms, those of the distances from 0.
    pub(crate) rates: S::Vector,
    pub(crate) logarithms: bool,
    pub(crate) bias: S::Vector,
    /// What a step is held within.
    pub(crate) limits: [f32; 2],
}

/// c * conv(b * x), of three products as wide as the residual stream.
#[derive(Debug)]
pub(crate) struct ShortConv<S: Stage> {
    /// `[3 hidden, hidden]`: b, c and x.
    pub(crate) input: Linear<S>,
    pub(crate) conv: Convolution<S>,
    /// `[hidden, hidden]`
    pub(crate) output: Linear<S>,
    /// Which of the state's recurrences.
    pub(crate) kept: usize,
}

impl<S: Stage> ShortConv<S> {
    /// Channels of a task.
    pub(crate) const CHANNELS: usize = 64;

    /// Tasks of a token.
    pub(crate) fn tasks(&self) -> usize {
        self.conv.channels.div_ceil(Self::CHANNELS)
    }
}

/// The state space of Mamba-2 behind a convolution (Dao and Gu 2024).
#[derive(Debug)]
pub(crate) struct Mamba<S: Stage> {
    pub(crate) heads: MambaHeads,
    /// Gates of what comes out, inputs, B, C, and a step in time for each head.
    pub(crate) input: Linear<S>,
    /// On each of those.
    pub(crate) factors: Option<[f32; 5]>,
    /// Of inputs, B and C.
    pub(crate) conv: Convolution<S>,
    pub(crate) decay: Decay<S>,
    /// `[n_heads]`: how much of an input goes by the state.
    pub(crate) skip: S::Vector,
    /// Over each group of heads, before or after the gate; x * silu(gate) without one.
    pub(crate) norm: Option<(Norm<S>, GateOrder)>,
    /// `[hidden, n_heads * head_dim]`
    pub(crate) output: Linear<S>,
    /// Which of the state's recurrences.
    pub(crate) kept: usize,
}

/// The numbers of a state space's heads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct MambaHeads {
    pub(crate) n_heads: usize,
    pub(crate) head_dim: usize,
    /// Groups of heads that share B and C.
    pub(crate) n_groups: usize,
    pub(crate) d_state: usize,
}

impl MambaHeads {
    /// Width of all inputs.
    pub(crate) fn inner(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Channels that are convolved.
    pub(crate) fn channels(&self) -> usize {
        self.inner() + 2 * self.n_groups * self.d_state
    }

    /// Rows of each part of [`Mamba::input`].
    pub(crate) fn parts(&self) -> [usize; 5] {
        let shared = self.n_groups * self.d_state;
        [self.inner(), self.inner(), shared, shared, self.n_heads]
    }

    /// Rows of [`Mamba::input`].
    pub(crate) fn inputs(&self) -> usize {
        self.parts().iter().sum()
    }

    /// The group of a head.
    pub(crate) fn group_of(&self, head: usize) -> usize {
        head / (self.n_heads / self.n_groups)
    }

    /// What is convolved apart: the inputs of every head, B of every group, C of every group.
    pub(crate) fn convolved(&self) -> usize {
        self.n_heads + 2 * self.n_groups
    }

    /// Numbers that each of those has, and so have the steps and decays of a token.
    pub(crate) fn slot(&self) -> usize {
        self.head_dim.max(self.d_state).max(2 * self.n_heads)
    }

    /// Numbers of one head's state.
    pub(crate) fn state(&self) -> usize {
        state_len(self.d_state, self.head_dim).unwrap_or(usize::MAX)
    }
}
