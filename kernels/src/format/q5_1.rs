//! Q5_1: `scale * code + minimum`, a nibble and a fifth bit a code.

use crate::matmul::simple::{Nibbles, Simple, Unsigned};

/// The format.
#[allow(non_camel_case_types, reason = "formats keep the GGUF spelling")]
pub(crate) type Q5_1 = Simple<Unsigned<Codes>>;

/// Its codes.
pub(crate) struct Codes;

impl Nibbles for Codes {
    const BITS: u32 = 5;
    const OFFSET: i32 = 0;
    const MIN: bool = true;
}
