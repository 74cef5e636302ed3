//! The error type.

use std::path::{Path, PathBuf};

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// candle refused.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// The engine refused.
    #[error(transparent)]
    Engine(#[from] goldcrest::Error),
    /// A file of tensors is not what it should be.
    #[error("{path}: {source}", path = path.display())]
    Tensors {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: safetensors::SafeTensorError,
    },
    /// JSON that cannot be read or written.
    #[error("JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// The tokenizer refused.
    #[error("tokenizer: {0}")]
    Tokenizer(#[from] tokenizers::Error),
    /// The arguments or files do not fit together.
    #[error("{0}")]
    Input(String),
}

/// A result with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// For `map_err`: the error of reading or writing `path`.
pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error + '_ {
    |source| Error::Io { path: path.into(), source }
}

pub(crate) fn input<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::Input(message.into()))
}
