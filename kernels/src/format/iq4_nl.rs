//! IQ4_NL: `scale * value of the code`, a nibble a code, which stands for one of sixteen bytes.

use crate::matmul::simple::{Codebook, Looked, Simple};

/// The format.
#[allow(non_camel_case_types, reason = "formats keep the GGUF spelling")]
pub(crate) type IQ4_NL = Simple<Looked<Codes>>;

/// Its codes.
pub(crate) struct Codes;

impl Codebook for Codes {
    const VALUES: [i8; 16] =
        [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
}
