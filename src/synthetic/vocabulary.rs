//! A byte-level vocabulary of any size: every text encodes, most tokens stand for made-up words.

use super::Shape;
use crate::error::Result;
use crate::load::{Array, Metadata, Value};

/// Pairs of letters that merge, so that a tokenizer has something to do.
const PAIRS: &[[&str; 2]] =
    &[["t", "h"], ["i", "n"], ["e", "r"], ["a", "n"], ["o", "n"], ["r", "e"], ["s", "t"]];
const END: &str = "<|endoftext|>";

/// Token types of GGML.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;

/// Adds the keys `tokenizer.ggml.*` of `shape`.
pub(super) fn describe(shape: &Shape, metadata: &mut Metadata) -> Result<()> {
    let end = shape.vocab as u32 - 1;
    let mut kinds = vec![NORMAL; shape.vocab];
    kinds[end as usize] = CONTROL;
    let merges = PAIRS.iter().map(|pair| pair.join(" ")).collect();
    let mut put = |key: &str, value: Value| metadata.insert(format!("tokenizer.ggml.{key}"), value);
    put("model", Value::String("gpt2".into()))?;
    put("pre", Value::String(shape.pre.into()))?;
    put("tokens", Value::Array(Array::String(tokens(shape.vocab))))?;
    put("token_type", Value::Array(Array::I32(kinds)))?;
    put("merges", Value::Array(Array::String(merges)))?;
    put("bos_token_id", Value::U32(end))?;
    put("eos_token_id", Value::U32(end))?;
    put("add_bos_token", Value::Bool(false))
}

/// The 256 bytes, the merged pairs, words, and the end of a text.
fn tokens(vocab: usize) -> Vec<String> {
    let mut tokens: Vec<String> = byte_letters().map(String::from).collect();
    tokens.extend(PAIRS.iter().map(|pair| pair.concat()));
    let words = vocab.saturating_sub(tokens.len() + 1);
    tokens.extend((0..words).map(word));
    tokens.truncate(vocab - 1);
    tokens.push(END.into());
    tokens
}

/// A space and at least two letters: no byte and no pair.
fn word(mut number: usize) -> String {
    let mut word = String::from('\u{120}');
    number += 26;
    while number > 0 {
        word.push((b'a' + (number % 26) as u8).into());
        number /= 26;
    }
    word
}

/// GPT-2's letters for the bytes: printable ones stand for themselves, the rest follow U+0100.
fn byte_letters() -> impl Iterator<Item = char> {
    let mut next = 0x100;
    (0u8..=255).map(move |byte| {
        if matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) {
            return byte.into();
        }
        next += 1;
        char::from_u32(next - 1).expect("letters of Latin Extended-A")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::Tokenizer;

    #[test]
    fn every_text_survives() {
        for shape in Shape::ALL {
            let mut metadata = Metadata::default();
            describe(shape, &mut metadata).unwrap();
            let tokenizer = Tokenizer::from_gguf(&metadata).unwrap();
            assert_eq!(tokenizer.vocab_size(), shape.vocab);
            let text = "the rain in Zürich 日本 \n\0";
            let ids = tokenizer.encode(text).unwrap();
            assert!(ids.len() < text.len(), "{}", shape.name);
            assert_eq!(tokenizer.decode(&ids, true).unwrap(), text, "{}", shape.name);
        }
    }

    #[test]
    fn tokens_are_distinct() {
        let tokens = tokens(49152);
        let distinct: std::collections::HashSet<_> = tokens.iter().collect();
        assert_eq!((tokens.len(), distinct.len()), (49152, 49152));
    }
}
