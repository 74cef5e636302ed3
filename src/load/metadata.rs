//! Metadata of a model file: named, typed values in file order.

use std::collections::HashMap;

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::unread::Seen;
use crate::error::{Error, Result, config_error, format_error};

/// A value of the metadata.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // the variants are the types of the GGUF format
#[non_exhaustive]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(String),
    Array(Array),
}

/// An array, typed as a whole, so that its memory stays in proportion to the file.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bool(Vec<bool>),
    String(Vec<String>),
    Array(Vec<Array>),
}

/// Runs one expression for whichever element type an array has.
macro_rules! each_array {
    ($array:expr, $items:ident => $body:expr) => {
        match $array {
            Array::U8($items) => $body,
            Array::I8($items) => $body,
            Array::U16($items) => $body,
            Array::I16($items) => $body,
            Array::U32($items) => $body,
            Array::I32($items) => $body,
            Array::U64($items) => $body,
            Array::I64($items) => $body,
            Array::F32($items) => $body,
            Array::F64($items) => $body,
            Array::Bool($items) => $body,
            Array::String($items) => $body,
            Array::Array($items) => $body,
        }
    };
}
pub(super) use each_array;

impl Array {
    /// Number of elements.
    pub fn len(&self) -> usize {
        each_array!(self, items => items.len())
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements as unsigned integers, when all of them are.
    pub(crate) fn to_bools(&self) -> Option<Vec<bool>> {
        match self {
            Self::Bool(items) => Some(items.clone()),
            _ => None,
        }
    }

    pub(crate) fn to_u64s(&self) -> Option<Vec<u64>> {
        fn all<T: Copy + TryInto<u64>>(items: &[T]) -> Option<Vec<u64>> {
            items.iter().map(|&x| x.try_into().ok()).collect()
        }
        match self {
            Self::U8(v) => all(v),
            Self::I8(v) => all(v),
            Self::U16(v) => all(v),
            Self::I16(v) => all(v),
            Self::U32(v) => all(v),
            Self::I32(v) => all(v),
            Self::U64(v) => all(v),
            Self::I64(v) => all(v),
            _ => None,
        }
    }
}

impl Value {
    /// The type's name, as in the GGUF specification.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::U8(_) => "u8",
            Self::I8(_) => "i8",
            Self::U16(_) => "u16",
            Self::I16(_) => "i16",
            Self::U32(_) => "u32",
            Self::I32(_) => "i32",
            Self::U64(_) => "u64",
            Self::I64(_) => "i64",
            Self::F32(_) => "f32",
            Self::F64(_) => "f64",
            Self::Bool(_) => "bool",
            Self::String(_) => "string",
            Self::Array(_) => "array",
        }
    }

    /// The value of any integer type, where it is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(x) => Some(x.into()),
            Self::U16(x) => Some(x.into()),
            Self::U32(x) => Some(x.into()),
            Self::U64(x) => Some(x),
            Self::I8(x) => x.try_into().ok(),
            Self::I16(x) => x.try_into().ok(),
            Self::I32(x) => x.try_into().ok(),
            Self::I64(x) => x.try_into().ok(),
            _ => None,
        }
    }

    /// The value of either float type.
    pub fn as_f32(&self) -> Option<f32> {
        match *self {
            Self::F32(x) => Some(x),
            Self::F64(x) => Some(x as f32),
            _ => None,
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::U8(x) => x.serialize(serializer),
            Self::I8(x) => x.serialize(serializer),
            Self::U16(x) => x.serialize(serializer),
            Self::I16(x) => x.serialize(serializer),
            Self::U32(x) => x.serialize(serializer),
            Self::I32(x) => x.serialize(serializer),
            Self::U64(x) => x.serialize(serializer),
            Self::I64(x) => x.serialize(serializer),
            Self::F32(x) => x.serialize(serializer),
            Self::F64(x) => x.serialize(serializer),
            Self::Bool(x) => x.serialize(serializer),
            Self::String(x) => x.serialize(serializer),
            Self::Array(x) => x.serialize(serializer),
        }
    }
}

impl Serialize for Array {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        each_array!(self, items => items.serialize(serializer))
    }
}

/// Named values in file order, each name once.
///
/// The typed getters return `Ok(None)` for an absent key and an error that names the key for one of another
/// type; any integer type serves where an integer is asked for.
///
/// ```
/// use goldcrest::load::{Metadata, Value};
/// let mut metadata = Metadata::default();
/// metadata.insert("llama.block_count", Value::U64(5))?;
/// assert_eq!(metadata.get_u32("llama.block_count")?, Some(5));
/// assert_eq!(metadata.get_u32("llama.context_length")?, None);
/// let error = metadata.get_str("llama.block_count").unwrap_err();
/// assert!(error.to_string().contains("llama.block_count"));
/// # Ok::<(), goldcrest::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
    index: HashMap<String, usize>,
    /// The keys that somebody has asked for.
    pub(super) seen: Seen,
}

impl Metadata {
    /// Adds a value.
    ///
    /// # Errors
    /// When the key is there already.
    pub fn insert(&mut self, key: impl Into<String>, value: Value) -> Result<()> {
        let key = key.into();
        if self.index.contains_key(&key) {
            return Err(format_error(format!("key \"{key}\" occurs twice")));
        }
        self.index.insert(key.clone(), self.entries.len());
        self.entries.push((key, value));
        Ok(())
    }

    /// All entries in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The value of any type.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let at = *self.index.get(key)?;
        self.seen.note(key);
        Some(&self.entries[at].1)
    }

    /// A string.
    pub fn get_str(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a string", |value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// An integer that fits 32 bits without sign.
    pub fn get_u32(&self, key: &str) -> Result<Option<u32>> {
        self.typed(key, "an integer from 0 to 4294967295", |v| v.as_u64()?.try_into().ok())
    }

    /// An integer without sign.
    pub fn get_u64(&self, key: &str) -> Result<Option<u64>> {
        self.typed(key, "an integer that is not negative", Value::as_u64)
    }

    /// A floating-point number.
    pub fn get_f32(&self, key: &str) -> Result<Option<f32>> {
        self.typed(key, "a floating-point number", Value::as_f32)
    }

    /// A truth value.
    pub fn get_bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "a bool", |value| match value {
            Value::Bool(x) => Some(*x),
            _ => None,
        })
    }

    /// An array of any element type.
    pub fn get_array(&self, key: &str) -> Result<Option<&Array>> {
        self.typed(key, "an array", |value| match value {
            Value::Array(x) => Some(x),
            _ => None,
        })
    }

    /// An array of strings.
    pub fn get_strings(&self, key: &str) -> Result<Option<&[String]>> {
        self.typed(key, "an array of strings", |value| match value {
            Value::Array(Array::String(x)) => Some(x.as_slice()),
            _ => None,
        })
    }

    /// An array of 32-bit floats.
    pub fn get_f32s(&self, key: &str) -> Result<Option<&[f32]>> {
        self.typed(key, "an array of f32", |value| match value {
            Value::Array(Array::F32(x)) => Some(x.as_slice()),
            _ => None,
        })
    }

    /// An array of 32-bit integers with sign.
    pub fn get_i32s(&self, key: &str) -> Result<Option<&[i32]>> {
        self.typed(key, "an array of i32", |value| match value {
            Value::Array(Array::I32(x)) => Some(x.as_slice()),
            _ => None,
        })
    }

    /// The value, or an error that says which key is missing.
    pub(super) fn need<T>(key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| config_error(format!("key \"{key}\" is missing")))
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        wanted: &str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        convert(value).map(Some).ok_or_else(|| wrong_type(key, wanted, value))
    }
}

fn wrong_type(key: &str, wanted: &str, value: &Value) -> Error {
    let found = match value {
        Value::String(_) | Value::Array(_) => value.type_name().to_string(),
        scalar => format!("{} {}", scalar.type_name(), super::inspect::brief(scalar)),
    };
    config_error(format!("key \"{key}\" is not {wanted} (found {found})"))
}

impl Serialize for Metadata {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.len()))?;
        for (key, value) in self.iter() {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}
