//! The one error type of the crate.

use std::fmt;
use std::path::{Path, PathBuf};

/// `Result` with the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, as a class that a program can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system refused to read or write a file.
    Io,
    /// The bytes of a file are not what its format says.
    Format,
    /// The file is valid, but needs something that this engine does not have.
    Unsupported,
    /// A tensor is missing, or its shape or type does not fit the model.
    Tensor,
    /// The model's configuration is missing, contradictory or out of range.
    Config,
    /// The tokenizer is missing or cannot be built.
    Tokenizer,
    /// A chat template is wrong, or refuses the messages.
    Template,
    /// An argument of the caller is out of range (an empty prompt, a bad token id, a temperature below zero).
    Input,
    /// The context is full: the prompt or the generation does not fit.
    ContextFull,
    /// A model needs more memory than there is at hand.
    Memory,
    /// A GPU is missing, lost, or computes wrong numbers.
    Device,
    /// Another thread asked for the work to stop.
    Cancelled,
    /// A worker thread panicked, which is a bug of this crate, or could not be started. After a panic
    /// the model and its sessions are still usable. (A program built with `panic = "abort"`
    /// ends instead.)
    Worker,
}

/// An error with the file it concerns, where there is one, and its cause.
///
/// ```
/// let error = goldcrest::Model::open("no-such-file.gguf").unwrap_err();
/// assert_eq!(error.kind(), goldcrest::ErrorKind::Io);
/// assert!(error.to_string().contains("no-such-file.gguf"));
/// ```
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    path: Option<PathBuf>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind`; `message` names the tensor, key or value at fault.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), path: None, source: None }
    }

    /// An I/O error at `path`.
    pub fn io(path: impl AsRef<Path>, error: std::io::Error) -> Self {
        Self::new(ErrorKind::Io, error.to_string()).at(path).because(error)
    }

    /// Names the file, unless an inner caller already has.
    #[must_use]
    pub fn at(mut self, path: impl AsRef<Path>) -> Self {
        self.path.get_or_insert_with(|| path.as_ref().to_path_buf());
        self
    }

    /// Adds the cause that [`source`](std::error::Error::source) gives.
    #[must_use]
    pub fn because(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync + 'static>>,
    ) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The class of the error.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The file that the error concerns.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{}: {}", path.display(), self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

macro_rules! shorthand {
    ($($(#[$doc:meta])* $name:ident => $kind:ident;)*) => { $(
        $(#[$doc])*
        pub(crate) fn $name(message: impl Into<String>) -> Error {
            Error::new(ErrorKind::$kind, message)
        }
    )* };
}

shorthand! {
    /// [`ErrorKind::Format`].
    format_error => Format;
    /// [`ErrorKind::Unsupported`].
    unsupported => Unsupported;
    /// [`ErrorKind::Tensor`].
    tensor_error => Tensor;
    /// [`ErrorKind::Config`].
    config_error => Config;
    /// [`ErrorKind::Tokenizer`].
    tokenizer_error => Tokenizer;
    /// [`ErrorKind::Input`].
    input_error => Input;
}
