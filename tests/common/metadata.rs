//! Metadata for tokenizer tests, made by hand: right or wrong in any way.
#![allow(unreachable_pub, dead_code)]

use std::collections::HashMap;

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
