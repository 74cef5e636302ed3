//! The operations of the model as candle's custom ops, each with its own forward and backward pass.
//!
//! candle's tensors hold the weights and its autograd chains the ops. They are coarse (a whole
//! attention or feed-forward block each), since candle fills a gradient with zeros and adds to it
//! for every edge of its graph, on one thread: with an op per matrix that took a quarter of a step.
//! What a backward pass needs from the forward pass stays in the op.

mod attention;
mod dropout;
mod feed_forward;
mod loss;
mod norm;
mod rope;

#[cfg(test)]
mod tests;

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, Layout, Result, Storage, bail};

pub(crate) use attention::{Attention, Heads};
pub(crate) use dropout::Dropout;
pub(crate) use feed_forward::FeedForward;
pub(crate) use loss::{Loss, Losses, Soft, Targets};
pub(crate) use norm::Norm;
pub(crate) use rope::Rope;

/// Whether a backward pass follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It does: what it needs is kept.
    Train,
    /// It does not.
    Evaluate,
}

/// The values of a contiguous argument.
fn floats<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("an op of goldcrest-train wants contiguous arguments");
    };
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// The values of a contiguous tensor on the CPU.
pub(crate) fn values<'a>(storage: &'a Storage, layout: &Layout) -> Result<&'a [f32]> {
    match storage {
        Storage::Cpu(storage) => floats(storage, layout),
        _ => bail!("goldcrest-train runs on the CPU"),
    }
}

/// What the forward pass leaves to the backward pass.
struct Saved<T>(Mode, Mutex<Option<T>>);

impl<T> Saved<T> {
    fn new(mode: Mode) -> Self {
        Self(mode, Mutex::new(None))
    }

    fn put(&self, value: T) {
        if self.0 == Mode::Train {
            *self.1.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
        }
    }

    fn take(&self) -> Result<T> {
        match self.1.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(value) => Ok(value),
            None => bail!("a second backward pass, or one of an evaluation"),
        }
    }
}
