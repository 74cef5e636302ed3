//! Files of models: GGUF and Hugging Face folders, read into one [`Checkpoint`].

use std::path::Path;

use crate::config::Config;
use crate::error::Result;

/// A GGML tensor type: every type of the format, runnable or not.
pub struct GgmlType;

/// One tensor of a checkpoint, under its GGUF name whatever file it came from.
pub struct Tensor {
    /// GGUF name, e.g. `blk.0.attn_q.weight`.
    pub name: String,
    /// Element type.
    pub ty: GgmlType,
    /// Outermost dimension first: a matrix is `[rows, k]`, rows contiguous.
    pub shape: Vec<usize>,
}

/// How to read a file.
pub struct ReadOptions {
    /// Map the file (default) or read it into memory.
    pub mmap: bool,
}

/// An open model file or folder.
pub struct Checkpoint;

impl Checkpoint {
    /// Opens a GGUF file (or the first of a split one) or a Hugging Face folder, sniffed from its content.
    pub fn open(_path: impl AsRef<Path>, _options: &ReadOptions) -> Result<Self> {
        Ok(Self)
    }
    /// The model's configuration.
    pub fn config(&self) -> Result<Config> {
        Err(crate::error::config_error(""))
    }
    /// All tensors in file order.
    pub fn tensors(&self) -> &[Tensor] {
        &[]
    }
    /// The tensor of this GGUF name.
    pub fn tensor(&self, _name: &str) -> Option<&Tensor> {
        None
    }
    /// The bytes of a tensor.
    pub fn data(&self, _tensor: &Tensor) -> &[u8] {
        &[]
    }
}
