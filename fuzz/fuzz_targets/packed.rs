//! Any bytes as a packed file, with the checksums made right: what they guard is what is to be read.
//!
//! A start that gets far: `goldcrest pack` of a small model, as `.ci/run` makes it of a GGUF seed.
#![no_main]

use goldcrest::load::fuzzing;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    fuzzing::seal(&mut bytes);
    if let Ok(checkpoint) = fuzzing::packed(&bytes) {
        fuzzing::exercise(&checkpoint);
        let _ = fuzzing::run(checkpoint);
    }
});
