//! The tensor types of GGML: numbers, names, block sizes.

use std::fmt;

use goldcrest_kernels::Format;

macro_rules! ggml_types {
    ($($(#[$doc:meta])* $name:ident = $id:literal, $len:literal per $bytes:expr, scales $scales:expr;)*) => {
        /// A GGML tensor type: every type of the format, runnable or not.
        ///
        /// ```
        /// use goldcrest::load::GgmlType;
        /// let ty = GgmlType::from_id(2).unwrap();
        /// assert_eq!(ty.to_string(), "Q4_0");
        /// assert_eq!((ty.block_len(), ty.block_bytes()), (32, 18));
        /// ```
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(non_camel_case_types, missing_docs)] // GGML's own names, which say all there is to say
        #[non_exhaustive]
        pub enum GgmlType { $($(#[$doc])* $name = $id,)* }

        impl GgmlType {
            /// Every type, in the order of their numbers.
            pub const ALL: &'static [GgmlType] = &[$(GgmlType::$name,)*];

            /// The type of this number in a GGUF file.
            pub fn from_id(id: u32) -> Option<Self> {
                match id { $($id => Some(Self::$name),)* _ => None }
            }

            /// GGML's name, e.g. `Q4_0`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// Elements of one block; 1 for plain numbers.
            pub fn block_len(self) -> usize {
                match self { $(Self::$name => $len,)* }
            }

            /// Bytes of one block.
            pub fn block_bytes(self) -> usize {
                match self { $(Self::$name => $bytes,)* }
            }

            /// Where the half-float scales and minima of a block lie.
            pub(super) fn scale_offsets(self) -> &'static [usize] {
                match self { $(Self::$name => &$scales,)* }
            }
        }
    };
}

// Sizes and offsets: the block structs of ggml-common.h. IQ1_M, MXFP4 and NVFP4 keep their scales in other
// encodings than half floats.
ggml_types! {
    F32 = 0, 1 per 4, scales [];
    F16 = 1, 1 per 2, scales [];
    Q4_0 = 2, 32 per 2 + 16, scales [0];
    Q4_1 = 3, 32 per 2 + 2 + 16, scales [0, 2];
    Q5_0 = 6, 32 per 2 + 4 + 16, scales [0];
    Q5_1 = 7, 32 per 2 + 2 + 4 + 16, scales [0, 2];
    Q8_0 = 8, 32 per 2 + 32, scales [0];
    Q8_1 = 9, 32 per 2 + 2 + 32, scales [0, 2];
    Q2_K = 10, 256 per 16 + 64 + 2 + 2, scales [80, 82];
    Q3_K = 11, 256 per 32 + 64 + 12 + 2, scales [108];
    Q4_K = 12, 256 per 2 + 2 + 12 + 128, scales [0, 2];
    Q5_K = 13, 256 per 2 + 2 + 12 + 32 + 128, scales [0, 2];
    Q6_K = 14, 256 per 128 + 64 + 16 + 2, scales [208];
    Q8_K = 15, 256 per 4 + 256 + 32, scales [];
    IQ2_XXS = 16, 256 per 2 + 64, scales [0];
    IQ2_XS = 17, 256 per 2 + 64 + 8, scales [0];
    IQ3_XXS = 18, 256 per 2 + 96, scales [0];
    IQ1_S = 19, 256 per 2 + 32 + 16, scales [0];
    IQ4_NL = 20, 32 per 2 + 16, scales [0];
    IQ3_S = 21, 256 per 2 + 64 + 32 + 8 + 4, scales [0];
    IQ2_S = 22, 256 per 2 + 64 + 16, scales [0];
    IQ4_XS = 23, 256 per 2 + 2 + 4 + 128, scales [0];
    I8 = 24, 1 per 1, scales [];
    I16 = 25, 1 per 2, scales [];
    I32 = 26, 1 per 4, scales [];
    I64 = 27, 1 per 8, scales [];
    F64 = 28, 1 per 8, scales [];
    IQ1_M = 29, 256 per 32 + 16 + 8, scales [];
    BF16 = 30, 1 per 2, scales [];
    TQ1_0 = 34, 256 per 48 + 4 + 2, scales [52];
    TQ2_0 = 35, 256 per 64 + 2, scales [64];
    MXFP4 = 39, 32 per 1 + 16, scales [];
    NVFP4 = 40, 64 per 4 + 32, scales [];
    Q1_0 = 41, 128 per 2 + 16, scales [0];
    Q2_0 = 42, 64 per 2 + 16, scales [0];
    /// PrismML's: Q2_0 in blocks of 128, and TQ1_0 in blocks of 128.
    PQ2_0 = 142, 128 per 2 + 32, scales [0];
    PTQ1_0 = 143, 128 per 24 + 2 + 2, scales [26];
}

/// Types that GGML gave up; their numbers stay taken, and old files still hold some.
const REMOVED: &[(u32, &str)] = &[
    (4, "Q4_2"),
    (5, "Q4_3"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (36, "IQ4_NL_4_4"),
    (37, "IQ4_NL_4_8"),
    (38, "IQ4_NL_8_8"),
];

/// The name of a type that GGML removed.
pub(super) fn removed_name(id: u32) -> Option<&'static str> {
    REMOVED.iter().find(|(removed, _)| *removed == id).map(|(_, name)| *name)
}

impl GgmlType {
    /// The type's number in a GGUF file.
    pub fn id(self) -> u32 {
        self as u32
    }

    /// The format whose kernels multiply it: the one of the same name.
    pub fn kernel_format(self) -> Option<Format> {
        Format::ALL.iter().copied().find(|format| format.name() == self.name())
    }

    /// Whether this version has kernels for it.
    pub fn runnable(self) -> bool {
        self.kernel_format().is_some()
    }

    /// Bytes of `elements` elements; `None` on overflow or when they do not fill whole blocks.
    pub fn bytes_for(self, elements: usize) -> Option<usize> {
        if !elements.is_multiple_of(self.block_len()) {
            return None;
        }
        (elements / self.block_len()).checked_mul(self.block_bytes())
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl serde::Serialize for GgmlType {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_names_and_sizes_agree() {
        for &ty in GgmlType::ALL {
            assert_eq!(GgmlType::from_id(ty.id()), Some(ty));
            assert!(removed_name(ty.id()).is_none());
            assert!(ty.scale_offsets().iter().all(|at| at + 2 <= ty.block_bytes()), "{ty}");
            if let Some(format) = ty.kernel_format() {
                assert_eq!(
                    (ty.block_len(), ty.block_bytes()),
                    (format.block_len(), format.block_bytes())
                );
                // The table has no scales of plain numbers: `finite` looks at each of those.
                let scales = if ty.block_len() > 1 { format.scale_offsets() } else { &[] };
                assert_eq!(ty.scale_offsets(), scales, "{ty}");
            }
        }
        for &(id, _) in REMOVED {
            assert_eq!(GgmlType::from_id(id), None);
        }
        assert_eq!(GgmlType::Q6_K.block_bytes(), 210);
        assert_eq!(GgmlType::IQ3_S.block_bytes(), 110);
        assert_eq!(GgmlType::Q4_0.bytes_for(64), Some(36));
        assert_eq!(GgmlType::Q4_0.bytes_for(65), None);
        assert_eq!(GgmlType::F64.bytes_for(usize::MAX), None);
    }
}
