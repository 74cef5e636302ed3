//! Tokenizers from arbitrary metadata: an error or a tokenizer that works, never a panic.
//!
//! The input is lines; a line `key=a,b,c` is one key, without its `tokenizer.ggml.` in front. The
//! line `text=...` is encoded and decoded.
#![no_main]

use std::collections::HashMap;

use goldcrest::Tokenizer;
use goldcrest::tokenizer::MetadataSource;
use libfuzzer_sys::fuzz_target;

#[derive(Default)]
struct Keys<'d> {
    texts: HashMap<&'d str, &'d str>,
    lists: HashMap<&'d str, Vec<String>>,
}

impl<'d> Keys<'d> {
    fn parse(data: &'d str) -> Self {
        let mut keys = Self::default();
        for (key, value) in data.lines().filter_map(|line| line.split_once('=')) {
            keys.texts.insert(key, value);
            keys.lists.insert(key, value.split(',').map(str::to_owned).collect());
        }
        keys
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.texts.get(key.strip_prefix("tokenizer.ggml.")?).copied()
    }

    fn list<T: std::str::FromStr>(&self, key: &str) -> Option<Vec<T>> {
        self.strings(key)?.iter().map(|item| item.parse().ok()).collect()
    }
}

impl MetadataSource for Keys<'_> {
    fn string(&self, key: &str) -> Option<&str> {
        self.text(key)
    }
    fn strings(&self, key: &str) -> Option<&[String]> {
        self.lists.get(key.strip_prefix("tokenizer.ggml.")?).map(Vec::as_slice)
    }
    fn floats(&self, key: &str) -> Option<Vec<f32>> {
        self.list(key)
    }
    fn integers(&self, key: &str) -> Option<Vec<i64>> {
        self.list(key)
    }
    fn integer(&self, key: &str) -> Option<i64> {
        self.text(key)?.parse().ok()
    }
    fn boolean(&self, key: &str) -> Option<bool> {
        self.text(key)?.parse().ok()
    }
}

fuzz_target!(|data: &str| {
    let keys = Keys::parse(data);
    let Ok(tokenizer) = Tokenizer::from_gguf(&keys) else { return };
    let text = keys.texts.get("text").copied().unwrap_or(data);
    let Ok(ids) = tokenizer.encode(text) else { return };
    let mut decoder = tokenizer.decoder().keep_special();
    let mut shown: String =
        ids.iter().map(|&id| decoder.push(id).expect("own ids are in the vocabulary")).collect();
    shown += &decoder.finish();
    assert_eq!(shown, tokenizer.decode(&ids, false).expect("own ids are in the vocabulary"));
});
