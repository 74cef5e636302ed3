//! Several residual streams, of which blocks see one (AltUp: Baykal and others 2023).

use super::Stage;

/// Streams beside the usual one: the embedding, and what matrices make of it. In the end all are
/// averaged, the others again behind a matrix each, and with the first one's root mean square.
#[derive(Debug)]
pub(crate) struct Streams<S: Stage> {
    /// Of all streams.
    pub(crate) count: usize,
    /// `[count - 1, hidden, hidden]`: what makes the others of the embedding.
    pub(crate) split: S::Heads,
    /// `[count - 1, hidden, hidden]`: and what they end with.
    pub(crate) join: S::Heads,
}

impl<S: Stage> Streams<S> {
    /// What of a mean square counts at least where it is divided by.
    pub(crate) const LEAST: f32 = 1e-5;
}

/// The modalities of a stream, of which coefficients are made: m = tanh(router(x) / hidden), of its
/// normalised x.
#[derive(Debug)]
pub(crate) struct Router<S: Stage> {
    /// Of all streams, and the one that blocks see.
    pub(crate) count: usize,
    pub(crate) active: usize,
    /// `[count, hidden]`
    pub(crate) weights: S::Vector,
}

/// Predicts what the streams will be, before a layer that is run for one alone: stream i += the sum
/// over j of c(i, j) times stream j, where c = coefficients(m) of the active stream. That one is what
/// the layer's blocks see.
#[derive(Debug)]
pub(crate) struct Predict<S: Stage> {
    pub(crate) router: Router<S>,
    /// `[count * count, count]`
    pub(crate) coefficients: S::Vector,
}

/// Corrects the streams by what a layer made of the active one: stream i += c(i) times how far the
/// prediction was off, where c = 1 + coefficients(m) of what the layer made. Then blocks see
/// the corrected active stream, times `scale`.
#[derive(Debug)]
pub(crate) struct Correct<S: Stage> {
    pub(crate) router: Router<S>,
    /// `[count, count]`
    pub(crate) coefficients: S::Vector,
    /// `[hidden]`
    pub(crate) scale: Option<S::Vector>,
}
