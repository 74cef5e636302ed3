//! Any bytes as the config.json and the model.safetensors of a folder.
//!
//! The input is the length of the configuration as two bytes, the configuration, the weights.
#![no_main]

use goldcrest::load::fuzzing;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((len, rest)) = bytes.split_first_chunk::<2>() else { return };
    let len = usize::from(u16::from_le_bytes(*len)).min(rest.len());
    let (config, weights) = rest.split_at(len);
    if let Ok(checkpoint) = fuzzing::folder(config, weights) {
        fuzzing::exercise(&checkpoint);
        let _ = fuzzing::run(checkpoint);
    }
});
