//! Held-out loss of a file, as the engine runs it.

use std::path::Path;

use crate::corpus::Stream;
use crate::error::Result;

/// How well a model predicts a text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Loss {
    /// Tokens that were predicted.
    pub tokens: usize,
    /// Cross-entropy in nats per token.
    pub nats: f64,
    /// Cross-entropy in bits per byte of text, which vocabularies have no part in.
    pub bits_per_byte: f64,
}

/// Loads a model.
///
/// # Errors
/// [`Error::Engine`](crate::Error::Engine).
pub fn open(path: &Path) -> Result<goldcrest::Model> {
    Ok(goldcrest::Model::open(path)?)
}

/// The loss on all of a text, in pieces of `context` tokens that know nothing of each other.
///
/// # Errors
/// [`Error::Engine`](crate::Error::Engine).
pub fn loss(model: &goldcrest::Model, text: &Stream, context: usize) -> Result<Loss> {
    let mut session = model.session()?;
    let vocab = model.config().vocab_size();
    let (mut sum, mut tokens) = (0.0, 0);
    for batch in text.sequences(context) {
        session.clear();
        let logits = session.logits_all(&batch.inputs)?;
        for (logits, &id) in logits.chunks_exact(vocab).zip(&batch.targets) {
            sum += cross_entropy(logits, id);
            tokens += 1;
        }
    }
    let bits_per_byte = sum / std::f64::consts::LN_2 / text.bytes() as f64;
    Ok(Loss { tokens, nats: sum / tokens as f64, bits_per_byte })
}

fn cross_entropy(logits: &[f32], id: u32) -> f64 {
    let greatest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|&z| (f64::from(z) - greatest).exp()).sum();
    sum.ln() + greatest - f64::from(logits[id as usize])
}
