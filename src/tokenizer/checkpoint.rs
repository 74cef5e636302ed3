//! The tokenizer that a checkpoint holds.

use super::{MetadataSource, Tokenizer};
use crate::error::{Result, tokenizer_error};
use crate::load::{Array, Checkpoint, Metadata, TokenizerSource, Value};

impl Tokenizer {
    /// The tokenizer of a model file or folder; `None` where it has none.
    ///
    /// # Errors
    /// [`ErrorKind::Tokenizer`](crate::ErrorKind::Tokenizer), as [`from_gguf`](Self::from_gguf)
    /// and [`from_json`](Self::from_json).
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Option<Self>> {
        let tokenizer = match checkpoint.tokenizer_source() {
            TokenizerSource::None => return Ok(None),
            TokenizerSource::Metadata(metadata) => Self::from_gguf(metadata),
            TokenizerSource::Json { tokenizer_json, tokenizer_config, .. } => {
                Self::from_json(tokenizer_json, tokenizer_config)
            }
        };
        tokenizer.map(Some).map_err(|error| error.at(checkpoint.path()))
    }

    /// As [`from_checkpoint`](Self::from_checkpoint), where there must be one.
    ///
    /// # Errors
    /// Also when the file has no tokenizer.
    pub fn need_from_checkpoint(checkpoint: &Checkpoint) -> Result<Self> {
        Self::from_checkpoint(checkpoint)?
            .ok_or_else(|| tokenizer_error("the model has no tokenizer").at(checkpoint.path()))
    }
}

impl MetadataSource for Metadata {
    fn string(&self, key: &str) -> Option<&str> {
        self.get_str(key).ok().flatten()
    }

    fn strings(&self, key: &str) -> Option<&[String]> {
        self.get_strings(key).ok().flatten()
    }

    fn floats(&self, key: &str) -> Option<Vec<f32>> {
        match self.get(key)? {
            Value::Array(Array::F32(values)) => Some(values.clone()),
            Value::Array(Array::F64(values)) => Some(values.iter().map(|&x| x as f32).collect()),
            _ => Some(self.integers(key)?.into_iter().map(|x| x as f32).collect()),
        }
    }

    fn integers(&self, key: &str) -> Option<Vec<i64>> {
        fn wide<T: Copy + Into<i64>>(values: &[T]) -> Vec<i64> {
            values.iter().map(|&x| x.into()).collect()
        }
        match self.get(key)? {
            Value::Array(array) => Some(match array {
                Array::U8(x) => wide(x),
                Array::I8(x) => wide(x),
                Array::U16(x) => wide(x),
                Array::I16(x) => wide(x),
                Array::U32(x) => wide(x),
                Array::I32(x) => wide(x),
                Array::I64(x) => wide(x),
                Array::U64(x) => x.iter().map(|&x| i64::try_from(x).ok()).collect::<Option<_>>()?,
                _ => return None,
            }),
            _ => None,
        }
    }

    fn integer(&self, key: &str) -> Option<i64> {
        match *self.get(key)? {
            Value::I8(x) => Some(x.into()),
            Value::I16(x) => Some(x.into()),
            Value::I32(x) => Some(x.into()),
            Value::I64(x) => Some(x),
            ref value => value.as_u64().and_then(|x| i64::try_from(x).ok()),
        }
    }

    fn boolean(&self, key: &str) -> Option<bool> {
        self.get_bool(key).ok().flatten()
    }
}
