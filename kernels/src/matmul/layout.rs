//! Where a panel keeps what: units along K, each the codes of sixteen rows and their scales.
//!
//! A unit of the 32-value formats is two blocks, so that every unit begins on a cache line:
//!
//! ```text
//! codes of block 0 | codes of block 1 | scales of 0, of 1 (16 f16 each) | minima of 0, of 1
//! ```
//!
//! Codes are 64-byte vectors: four consecutive k of one row side by side, sixteen rows. A vector
//! of nibbles holds group j (k = 4 j .. 4 j + 3) in its low halves and group j + 4 in its high
//! ones. The fifth bits are one vector, bit j of a byte for group j; bits five and six of Q6_K
//! are two vectors, two bits for each of four groups.
//!
//! A unit of a K-quant is its 256 values:
//!
//! ```text
//! Q4_K, Q5_K: scales d (16 f16) | minimum scales (16 f16) | 8 x 16 scales u8 | 2 x 64 minima u8 | 8 blocks of codes
//! Q6_K:       8 blocks of codes | 16 x 16 scales i8 | scales d (16 f16) | 32 bytes of padding
//! ```
//!
//! Minima lie as codes do (four of one row side by side), so that they multiply in pairs.

use crate::format::Format;

/// Values in half of a simple unit, and in a block of a K-quant.
pub(crate) const BLOCK: usize = 32;
/// Bytes of a vector.
pub(crate) const VECTOR: usize = 64;
/// Bytes of sixteen half floats.
pub(crate) const HALVES: usize = 32;
/// Bytes of the four vectors of nibbles of a block.
pub(crate) const NIBBLES: usize = 4 * VECTOR;

/// Bytes of the bits above the nibbles, per block of 32 values in sixteen rows.
pub(crate) const fn high_bytes(format: Format) -> usize {
    match format {
        Format::Q5_0 | Format::Q5_1 | Format::Q5_K => VECTOR,
        Format::Q6_K => 2 * VECTOR,
        _ => 0,
    }
}

/// Bytes of the codes of a block of 32 values in sixteen rows.
pub(crate) const fn code_bytes(format: Format) -> usize {
    match format {
        Format::Q8_0 => 8 * VECTOR,
        _ => NIBBLES + high_bytes(format),
    }
}

/// Whether a simple format has minima.
pub(crate) const fn has_min(format: Format) -> bool {
    matches!(format, Format::Q4_1 | Format::Q5_1)
}

/// In a unit of Q4_K or Q5_K.
pub(crate) mod affine {
    pub(crate) const SCALES: usize = 64;
    pub(crate) const MINS: usize = 192;
    pub(crate) const CODES: usize = 320;
}

/// In a unit of Q6_K.
pub(crate) mod q6_k {
    pub(crate) const SCALES: usize = 8 * (super::NIBBLES + 2 * super::VECTOR);
    pub(crate) const SUPER: usize = SCALES + 256;
}

/// Values along K and bytes of one unit.
pub(crate) const fn unit(format: Format) -> (usize, usize) {
    match format {
        Format::F32 => (1, 64),
        Format::F16 | Format::BF16 => (1, 32),
        Format::Q4_K | Format::Q5_K => (256, affine::CODES + 8 * code_bytes(format)),
        Format::Q6_K => (256, q6_k::SUPER + 2 * HALVES),
        simple => {
            let scales = if has_min(simple) { 4 } else { 2 };
            (2 * BLOCK, 2 * code_bytes(simple) + scales * HALVES)
        }
    }
}

const _: () = {
    assert!(unit(Format::Q8_0).1 == 1088);
    assert!(unit(Format::Q4_0).1 == 576);
    assert!(unit(Format::Q4_1).1 == 640);
    assert!(unit(Format::Q5_0).1 == 704);
    assert!(unit(Format::Q5_1).1 == 768);
    assert!(unit(Format::Q4_K).1 == 2368);
    assert!(unit(Format::Q5_K).1 == 2880);
    assert!(unit(Format::Q6_K).1 == 3392);
};
