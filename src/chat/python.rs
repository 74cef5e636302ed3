//! Values as Python writes them: `str()`, `repr()` and `json.dumps()`.

use std::fmt::{self, Write};

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

/// `str(value)`, which is what a template prints. What is undefined is nothing.
pub(super) fn write_str(out: &mut impl Write, value: &Value) -> fmt::Result {
    match value.kind() {
        ValueKind::Undefined => Ok(()),
        ValueKind::String => out.write_str(value.as_str().unwrap_or_default()),
        _ => write_repr(out, value),
    }
}

/// `repr(value)`: how values look inside lists and dictionaries.
fn write_repr(out: &mut impl Write, value: &Value) -> fmt::Result {
    match value.kind() {
        ValueKind::None => out.write_str("None"),
        ValueKind::Bool => out.write_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => write_number(out, value),
        ValueKind::String => write_quoted(out, value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => {
            out.write_char('[')?;
            for (i, item) in items(value).enumerate() {
                out.write_str(if i > 0 { ", " } else { "" })?;
                write_repr(out, &item)?;
            }
            out.write_char(']')
        }
        ValueKind::Map => {
            out.write_char('{')?;
            for (i, key) in items(value).enumerate() {
                out.write_str(if i > 0 { ", " } else { "" })?;
                write_repr(out, &key)?;
                out.write_str(": ")?;
                write_repr(out, &value.get_item(&key).unwrap_or_default())?;
            }
            out.write_char('}')
        }
        _ => write!(out, "{value}"),
    }
}

/// The elements of a list, or the keys of a dictionary.
fn items(value: &Value) -> impl Iterator<Item = Value> {
    value.try_iter().into_iter().flatten()
}

fn write_number(out: &mut impl Write, value: &Value) -> fmt::Result {
    match f64::try_from(value.clone()) {
        Ok(number) if !value.is_integer() => write_float(out, number),
        _ => write!(out, "{value}"),
    }
}

/// The shortest digits that read back as the same number; exponents from 1e16 on and below 1e-4.
fn write_float(out: &mut impl Write, number: f64) -> fmt::Result {
    let magnitude = number.abs();
    if number.is_nan() {
        return out.write_str("nan");
    }
    if number.is_infinite() {
        return out.write_str(if number > 0.0 { "inf" } else { "-inf" });
    }
    if magnitude == 0.0 || (1e-4..1e16).contains(&magnitude) {
        return write!(out, "{number:?}");
    }
    let text = format!("{number:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(exponent) => ('-', exponent),
        None => ('+', exponent),
    };
    write!(out, "{digits}e{sign}{exponent:0>2}")
}

fn write_quoted(out: &mut impl Write, text: &str) -> fmt::Result {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.write_char(quote)?;
    for c in text.chars() {
        match c {
            '\\' => out.write_str("\\\\")?,
            '\n' => out.write_str("\\n")?,
            '\r' => out.write_str("\\r")?,
            '\t' => out.write_str("\\t")?,
            c if c == quote => write!(out, "\\{c}")?,
            c if c.is_control() => write!(out, "\\x{:02x}", u32::from(c))?,
            c => out.write_char(c)?,
        }
    }
    out.write_char(quote)
}

/// The filter `tojson`, as `transformers` defines it: `json.dumps` with `ensure_ascii=False`.
pub(super) fn to_json(value: &Value, kwargs: Kwargs) -> Result<Value, Error> {
    let indent = match kwargs.get::<Option<Value>>("indent")? {
        Some(indent) if indent.is_integer() => {
            Some(" ".repeat(usize::try_from(indent).unwrap_or(0).min(64)))
        }
        Some(indent) => indent.as_str().map(str::to_owned),
        None => None,
    };
    let separators = match kwargs.get::<Option<Value>>("separators")? {
        Some(pair) => Some((separator(&pair, 0)?, separator(&pair, 1)?)),
        None => None,
    };
    let sort_keys = kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    let ensure_ascii = kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    kwargs.assert_all_used()?;
    let comma = if indent.is_some() { "," } else { ", " };
    let (comma, colon) = separators.unwrap_or_else(|| (comma.to_owned(), ": ".to_owned()));
    let mut json = Json { out: String::new(), indent, comma, colon, sort_keys, ensure_ascii };
    json.write(value, 0)?;
    Ok(Value::from(json.out))
}

fn separator(pair: &Value, index: usize) -> Result<String, Error> {
    let text = pair.get_item_by_index(index)?;
    text.as_str()
        .map(str::to_owned)
        .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "separators are two texts"))
}

/// A writer of JSON with Python's options.
struct Json {
    out: String,
    indent: Option<String>,
    comma: String,
    colon: String,
    sort_keys: bool,
    ensure_ascii: bool,
}

impl Json {
    fn write(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.number(value),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                self.list(['[', ']'], items(value).collect(), depth, |json, item| {
                    json.write(&item, depth + 1)
                })?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = items(value).collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.list(['{', '}'], keys, depth, |json, key| {
                    json.string(&key.to_string());
                    json.out.push_str(&json.colon);
                    json.write(&value.get_item(&key)?, depth + 1)
                })?;
            }
            kind => {
                let problem = format!("{kind} is not JSON serializable");
                return Err(Error::new(ErrorKind::InvalidOperation, problem));
            }
        }
        Ok(())
    }

    fn list(
        &mut self,
        [open, close]: [char; 2],
        items: Vec<Value>,
        depth: usize,
        mut write: impl FnMut(&mut Self, Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        let empty = items.is_empty();
        for (i, item) in items.into_iter().enumerate() {
            if i > 0 {
                self.out.push_str(&self.comma);
            }
            self.line(depth + 1);
            write(self, item)?;
        }
        if !empty {
            self.line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            (0..depth).for_each(|_| self.out.push_str(indent));
        }
    }

    fn number(&mut self, value: &Value) {
        let from = self.out.len();
        let _ = write_number(&mut self.out, value);
        let name = match &self.out[from..] {
            "nan" => "NaN",
            "inf" => "Infinity",
            "-inf" => "-Infinity",
            _ => return,
        };
        self.out.replace_range(from.., name);
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' ' || (self.ensure_ascii && !c.is_ascii()) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(self.out, "\\u{unit:04x}");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

#[cfg(test)]
mod tests {
    use minijinja::Environment;
    use serde_json::json;

    use super::{to_json, write_str};

    fn rendered(template: &str) -> String {
        let mut env = Environment::new();
        env.add_filter("tojson", to_json);
        env.set_formatter(|out, _, value| Ok(write_str(out, value)?));
        let context = json!({
            "all": {"b": [1, 2.5, true, null], "a": {}, "\u{e9}\u{1f600}": "x\"\\\n\u{1}</p>"},
            "floats": [1.0, 1e16, 1.5e-7, -0.0, 123456.75, 1e100],
            "texts": ["it's", "\"both\" it's", "tab\t"],
        });
        env.render_str(template, minijinja::Value::from(minijinja::value::Serde(context))).unwrap()
    }

    /// What CPython 3.11 writes.
    #[test]
    fn as_python_writes_them() {
        for (template, expected) in [
            ("{{ true }} {{ none }} {{ missing }}.", "True None ."),
            ("{{ floats }}", "[1.0, 1e+16, 1.5e-07, -0.0, 123456.75, 1e+100]"),
            ("{{ texts }}", r#"["it's", '"both" it\'s', 'tab\t']"#),
            ("{{ all.b }} {{ all.a }}", "[1, 2.5, True, None] {}"),
            (
                "{{ all|tojson }}",
                "{\"b\": [1, 2.5, true, null], \"a\": {}, \"\u{e9}\u{1f600}\": \"x\\\"\\\\\\n\\u0001</p>\"}",
            ),
            ("{{ all.b|tojson(separators=(',', ':')) }}", "[1,2.5,true,null]"),
            ("{{ all.b[:2]|tojson(indent=2) }}", "[\n  1,\n  2.5\n]"),
            (
                "{{ {'b': [], 'a': {'c': 1}}|tojson(indent=1, sort_keys=true) }}",
                "{\n \"a\": {\n  \"c\": 1\n },\n \"b\": []\n}",
            ),
            ("{{ '\u{e9}\u{1f600}'|tojson(ensure_ascii=true) }}", r#""\u00e9\ud83d\ude00""#),
        ] {
            assert_eq!(rendered(template), expected, "{template}");
        }
    }
}
