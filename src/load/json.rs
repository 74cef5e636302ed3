//! A JSON object of a model folder, with getters whose errors name the key.

use serde_json::{Map, Value};

use crate::error::{Error, Result, config_error, format_error};

use super::metadata::{Array, Metadata, Value as MetaValue};
use super::unread::Seen;

/// End-of-text tokens are compared with one another and with every token generated.
const MAX_TOKEN_IDS: usize = 256;

/// Parses the bytes of a JSON file as an object.
pub(crate) fn parse(bytes: &[u8]) -> Result<Map<String, Value>> {
    serde_json::from_slice(bytes)
        .map_err(|e| format_error(format!("not a JSON object: {e}")).because(e))
}

/// One object, and its place in the file for error messages.
#[derive(Clone, Copy)]
pub(crate) struct Object<'a> {
    pub(crate) map: &'a Map<String, Value>,
    /// Empty, or the enclosing key and a dot.
    pub(crate) prefix: &'a str,
    /// Where it is noted what is asked for.
    seen: Option<&'a Seen>,
}

impl<'a> Object<'a> {
    pub(crate) fn new(map: &'a Map<String, Value>, prefix: &'a str) -> Self {
        Self { map, prefix, seen: None }
    }

    /// The same, with what is asked for noted in `seen`.
    pub(crate) fn noted(self, seen: &'a Seen) -> Self {
        Self { seen: Some(seen), ..self }
    }

    /// An object inside it.
    pub(crate) fn inner<'b>(self, map: &'b Map<String, Value>, prefix: &'b str) -> Object<'b>
    where
        'a: 'b,
    {
        Object { map, prefix, seen: self.seen }
    }

    /// The value, unless it is absent or null.
    pub(crate) fn get(self, key: &str) -> Option<&'a Value> {
        if let Some(seen) = self.seen {
            seen.note(&format!("{}{key}", self.prefix));
        }
        self.map.get(key).filter(|value| !value.is_null())
    }

    pub(crate) fn error(self, key: &str, problem: impl std::fmt::Display) -> Error {
        config_error(format!("key \"{}{key}\" {problem}", self.prefix))
    }

    pub(crate) fn need<T>(self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.error(key, "is missing"))
    }

    pub(crate) fn usize(self, key: &str) -> Result<Option<usize>> {
        self.typed(key, "an integer that is not negative", |v| v.as_u64()?.try_into().ok())
    }

    pub(crate) fn f64(self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", Value::as_f64)
    }

    pub(crate) fn f32(self, key: &str) -> Result<Option<f32>> {
        Ok(self.f64(key)?.map(|x| x as f32))
    }

    pub(crate) fn bool(self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub(crate) fn str(self, key: &str) -> Result<Option<&'a str>> {
        self.typed(key, "a string", Value::as_str)
    }

    pub(crate) fn object(self, key: &str) -> Result<Option<&'a Map<String, Value>>> {
        self.typed(key, "an object", Value::as_object)
    }

    /// One token id or a list of them.
    pub(crate) fn token_ids(self, key: &str) -> Result<Vec<u32>> {
        fn id(value: &Value) -> Option<u32> {
            value.as_u64()?.try_into().ok()
        }
        let ids = self.typed(key, "a token id or a list of a few", |value| match value {
            Value::Array(items) if items.len() > MAX_TOKEN_IDS => None,
            Value::Array(items) => items.iter().map(id).collect(),
            single => id(single).map(|id| vec![id]),
        })?;
        Ok(ids.unwrap_or_default())
    }

    fn typed<T>(
        self,
        key: &str,
        wanted: &str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        convert(value).map(Some).ok_or_else(|| self.error(key, format_args!("is not {wanted}")))
    }
}

/// The top level as metadata. Nested objects and mixed lists become JSON text: flattening them into dotted
/// keys could repeat a long key any number of times.
pub(crate) fn metadata(map: &Map<String, Value>) -> Result<Metadata> {
    let mut metadata = Metadata::default();
    for (key, value) in map {
        if let Some(value) = scalar(value) {
            metadata.insert(key.as_str(), value)?;
        }
    }
    Ok(metadata)
}

fn scalar(value: &Value) -> Option<MetaValue> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(x) => MetaValue::Bool(*x),
        Value::String(x) => MetaValue::String(x.clone()),
        Value::Number(x) => match (x.as_u64(), x.as_i64()) {
            (Some(x), _) => MetaValue::U64(x),
            (None, Some(x)) => MetaValue::I64(x),
            _ => MetaValue::F64(x.as_f64().unwrap_or(f64::NAN)),
        },
        Value::Array(items) => match list(items) {
            Some(array) => MetaValue::Array(array),
            None => MetaValue::String(value.to_string()),
        },
        Value::Object(_) => MetaValue::String(value.to_string()),
    })
}

fn list(items: &[Value]) -> Option<Array> {
    if let Some(strings) = items.iter().map(|v| v.as_str().map(str::to_owned)).collect() {
        return Some(Array::String(strings));
    }
    if let Some(numbers) = items.iter().map(Value::as_i64).collect() {
        return Some(Array::I64(numbers));
    }
    items.iter().map(Value::as_f64).collect::<Option<_>>().map(Array::F64)
}
