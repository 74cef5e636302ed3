//! Any bytes as a tokenizer.json: an error or a tokenizer that works, never a panic.
//!
//! The input is the file; what follows its last line break is the text to encode and decode.
#![no_main]

use goldcrest::{EncodeOptions, Tokenizer};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let split = bytes.iter().rposition(|&byte| byte == b'\n').unwrap_or(bytes.len());
    let (json, text) = bytes.split_at(split);
    let Ok(tokenizer) = Tokenizer::from_json(json, None) else { return };
    let text = String::from_utf8_lossy(text.get(1..).unwrap_or_default());
    for parse_special in [true, false] {
        let options = EncodeOptions { add_special: true, parse_special };
        let Ok(ids) = tokenizer.encode_with(&text, options) else { continue };
        let Ok(whole) = tokenizer.decode(&ids, false) else { continue };
        let mut decoder = tokenizer.decoder().keep_special();
        let mut shown: String =
            ids.iter().map(|&id| decoder.push(id).expect("all ids decode at once")).collect();
        shown += &decoder.finish();
        assert_eq!(shown, whole);
    }
});
