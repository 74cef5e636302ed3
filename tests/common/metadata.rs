//! Metadata for tokenizer tests: made by hand, or read from a GGUF file.
#![allow(dead_code, unreachable_pub)]

use std::collections::HashMap;
use std::path::Path;

use goldcrest::tokenizer::MetadataSource;

#[derive(Debug, Clone)]
pub enum Value {
    Text(String),
    Texts(Vec<String>),
    Number(f64),
    Numbers(Vec<f64>),
    Flag(bool),
}

#[derive(Debug, Clone, Default)]
pub struct Metadata(pub HashMap<String, Value>);

impl Metadata {
    pub fn set(&mut self, key: &str, value: Value) {
        self.0.insert(key.to_owned(), value);
    }

    pub fn read(path: impl AsRef<Path>) -> Self {
        let bytes = std::fs::read(path).expect("readable file");
        let mut reader = Reader { rest: &bytes };
        assert_eq!(reader.take(4), b"GGUF");
        reader.number(4);
        reader.number(8);
        let keys = reader.number(8);
        Self((0..keys).map(|_| (reader.text(), reader.value())).collect())
    }
}

struct Reader<'b> {
    rest: &'b [u8],
}

impl<'b> Reader<'b> {
    fn take(&mut self, count: usize) -> &'b [u8] {
        let (head, rest) = self.rest.split_at(count);
        self.rest = rest;
        head
    }

    fn number(&mut self, size: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes[..size].copy_from_slice(self.take(size));
        u64::from_le_bytes(bytes)
    }

    fn text(&mut self) -> String {
        let length = self.number(8) as usize;
        String::from_utf8_lossy(self.take(length)).into_owned()
    }

    fn value(&mut self) -> Value {
        let kind = self.number(4);
        match kind {
            7 => Value::Flag(self.number(1) != 0),
            8 => Value::Text(self.text()),
            9 => {
                let (kind, count) = (self.number(4), self.number(8));
                match kind {
                    8 => Value::Texts((0..count).map(|_| self.text()).collect()),
                    _ => Value::Numbers((0..count).map(|_| self.scalar(kind)).collect()),
                }
            }
            _ => Value::Number(self.scalar(kind)),
        }
    }

    fn scalar(&mut self, kind: u64) -> f64 {
        match kind {
            0 | 7 => self.number(1) as f64,
            1 => f64::from(self.number(1) as i8),
            2 => self.number(2) as f64,
            3 => f64::from(self.number(2) as i16),
            4 => self.number(4) as f64,
            5 => f64::from(self.number(4) as i32),
            6 => f64::from(f32::from_bits(self.number(4) as u32)),
            10 => self.number(8) as f64,
            11 => self.number(8) as i64 as f64,
            12 => f64::from_bits(self.number(8)),
            other => panic!("type {other}"),
        }
    }
}

impl MetadataSource for Metadata {
    fn string(&self, key: &str) -> Option<&str> {
        match self.0.get(key)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
    fn strings(&self, key: &str) -> Option<&[String]> {
        match self.0.get(key)? {
            Value::Texts(texts) => Some(texts),
            _ => None,
        }
    }
    fn floats(&self, key: &str) -> Option<Vec<f32>> {
        match self.0.get(key)? {
            Value::Numbers(numbers) => Some(numbers.iter().map(|&n| n as f32).collect()),
            _ => None,
        }
    }
    fn integers(&self, key: &str) -> Option<Vec<i64>> {
        match self.0.get(key)? {
            Value::Numbers(numbers) => Some(numbers.iter().map(|&n| n as i64).collect()),
            _ => None,
        }
    }
    fn integer(&self, key: &str) -> Option<i64> {
        match self.0.get(key)? {
            Value::Number(number) => Some(*number as i64),
            _ => None,
        }
    }
    fn boolean(&self, key: &str) -> Option<bool> {
        match self.0.get(key)? {
            Value::Flag(flag) => Some(*flag),
            _ => None,
        }
    }
}
