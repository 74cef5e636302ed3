//! MXFP4: `2^(exponent - 128) * twice the code`, a nibble a code, a float of a sign, two bits of exponent
//! and one of mantissa (<https://www.opencompute.org/documents/ocp-microscaling-formats-mx-v1-0-spec-final-pdf>).

use crate::matmul::simple::{Exponent, Nibbles, Simple, Unsigned};

/// The format.
pub(crate) type MXFP4 = Simple<Unsigned<Codes>, Exponent>;

/// Its codes.
pub(crate) struct Codes;

impl Nibbles for Codes {
    const BITS: u32 = 4;
    const OFFSET: i32 = 16;
    const MIN: bool = false;
    /// Twice 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their opposites, above 16.
    const TABLE: Option<[u8; 16]> =
        Some([16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4]);
}
