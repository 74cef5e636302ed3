//! Q5_0: `scale * (code - 16)`, a nibble and a fifth bit a code.

use crate::matmul::simple::{Nibbles, Simple, Unsigned};

/// The format.
#[allow(non_camel_case_types, reason = "formats keep the GGUF spelling")]
pub(crate) type Q5_0 = Simple<Unsigned<Codes>>;

/// Its codes.
pub(crate) struct Codes;

impl Nibbles for Codes {
    const BITS: u32 = 5;
    const OFFSET: i32 = 16;
    const MIN: bool = false;
}
