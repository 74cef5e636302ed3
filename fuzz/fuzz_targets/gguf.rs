//! Any bytes as a GGUF file.
#![no_main]

use goldcrest::load::fuzzing;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(checkpoint) = fuzzing::gguf(bytes) {
        fuzzing::exercise(&checkpoint);
        let _ = fuzzing::run(checkpoint);
    }
});
