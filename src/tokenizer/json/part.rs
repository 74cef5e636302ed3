//! One object of a tokenizer.json, with getters whose errors name it.

use std::fmt::Display;

use serde_json::Value;

use crate::error::{Error, Result, tokenizer_error};
use crate::tokenizer::limits::{check_steps, shown};
use crate::tokenizer::split::Splitter;
use crate::tokenizer::words::Pattern;

/// A component, and the key of the file that it belongs to.
#[derive(Clone, Copy)]
pub(super) struct Part<'v> {
    pub(super) name: &'static str,
    pub(super) value: &'v Value,
}

impl<'v> Part<'v> {
    /// The parts under `name`: those of a sequence, whose `list` is the key, in their order.
    ///
    /// # Errors
    /// A sequence without a list, or too many parts.
    pub(super) fn all(
        name: &'static str,
        value: Option<&'v Value>,
        list: &str,
    ) -> Result<Vec<Self>> {
        let mut parts = Vec::new();
        if let Some(value) = value.filter(|value| !value.is_null()) {
            Self { name, value }.flatten(list, &mut parts)?;
        }
        Ok(parts)
    }

    // As deep as the JSON parser allows.
    fn flatten(self, list: &str, parts: &mut Vec<Self>) -> Result<()> {
        if self.kind() != "Sequence" {
            parts.push(self);
            return check_steps(self.name, parts.len());
        }
        let items = self.value.get(list).and_then(Value::as_array);
        let items = items.ok_or_else(|| self.error(format_args!("needs the list {list}")))?;
        items.iter().try_for_each(|value| Self { value, ..self }.flatten(list, parts))
    }

    pub(super) fn kind(self) -> &'v str {
        self.value.get("type").and_then(Value::as_str).unwrap_or_default()
    }

    pub(super) fn error(self, what: impl Display) -> Error {
        let kind = shown(self.kind());
        tokenizer_error(format!("{}: {kind} {what}", self.name))
    }

    pub(super) fn unsupported(self) -> Error {
        self.error("is not supported")
    }

    /// The value, unless it is absent or null.
    pub(super) fn get(self, key: &str) -> Option<&'v Value> {
        self.value.get(key).filter(|value| !value.is_null())
    }

    fn need<T>(self, key: &str, what: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.error(format_args!("needs {what} {key}")))
    }

    pub(super) fn text(self, key: &str) -> Result<&'v str> {
        self.need(key, "the string", self.get(key).and_then(Value::as_str))
    }

    pub(super) fn flag(self, key: &str) -> Result<bool> {
        self.need(key, "the flag", self.get(key).and_then(Value::as_bool))
    }

    pub(super) fn flag_or(self, key: &str, default: bool) -> Result<bool> {
        self.get(key).map_or(Ok(default), |_| self.flag(key))
    }

    pub(super) fn number(self, key: &str) -> Result<usize> {
        let number = self.get(key).and_then(Value::as_u64);
        self.need(key, "the number", number.and_then(|number| number.try_into().ok()))
    }

    /// The one character under `key`.
    pub(super) fn character(self, key: &str) -> Result<char> {
        let mut chars = self.text(key)?.chars();
        self.need(key, "one character in", chars.next().filter(|_| chars.next().is_none()))
    }

    /// A pattern, `{"String": ...}` or `{"Regex": ...}`.
    pub(super) fn pattern(self) -> Result<Pattern> {
        let text = |kind: &str| self.value.get("pattern")?.get(kind)?.as_str();
        match (text("String"), text("Regex")) {
            (Some(""), None) => Err(self.error("has an empty pattern")),
            (Some(text), None) => Ok(Pattern::Literal(text.to_owned())),
            (None, Some(regex)) => {
                Splitter::new(regex).map(Pattern::Regex).map_err(|e| self.error(e))
            }
            _ => Err(self.error("needs a pattern")),
        }
    }
}
