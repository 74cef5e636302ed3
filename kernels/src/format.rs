//! Weight formats: the table of them, their sizes, and the plain definition of their values.
//!
//! Layouts are GGML's (<https://github.com/ggml-org/ggml>, `ggml-common.h`); all numbers are
//! little-endian. `dequantize` here is the naive reference that kernels are tested against.
#![allow(unsafe_op_in_unsafe_fn, reason = "the contract of every kernel is `Args`'")]

mod codebooks;
pub(crate) mod float;
pub(crate) mod iq1;
pub(crate) mod iq2;
pub(crate) mod iq3;
pub(crate) mod iq4_nl;
pub(crate) mod iq4_xs;
pub(crate) mod mxfp4;
pub(crate) mod nvfp4;
pub(crate) mod pq2_0;
pub(crate) mod ptq1_0;
pub(crate) mod q1_0;
pub(crate) mod q2_0;
pub(crate) mod q2_k;
pub(crate) mod q3_k;
pub(crate) mod q4_0;
pub(crate) mod q4_1;
pub(crate) mod q4_k;
pub(crate) mod q5_0;
pub(crate) mod q5_1;
pub(crate) mod q5_k;
pub(crate) mod q6_k;
pub(crate) mod q8_0;
mod quantize;
pub(crate) mod tq1_0;
pub(crate) mod tq2_0;

use std::fmt;

use crate::activation::Activation;
use crate::extent::whole_lines;
use crate::panel::Stack;

/// The formats, a row each. Of floats: name, file, entry points fused and unfused; of codes: name
/// and file, which is the entry point's name too; of those that are decoded before they are
/// multiplied, as F32: name and file. Everything else follows from the row.
macro_rules! formats {
    ($then:ident $($with:tt)*) => { $then! { $($with)*
        floats {
            /// Single precision.
            F32 float f32 f32_unfused;
            /// Half precision.
            F16 float f16 f16_unfused;
            /// Truncated single precision.
            BF16 float bf16 bf16_unfused;
        }
        codes {
            /// 8 bits, a scale per 32.
            Q8_0 q8_0;
            /// 4 bits, a scale per 32.
            Q4_0 q4_0;
            /// 4 bits, a scale and a minimum per 32.
            Q4_1 q4_1;
            /// 5 bits, a scale per 32.
            Q5_0 q5_0;
            /// 5 bits, a scale and a minimum per 32.
            Q5_1 q5_1;
            /// 4 bits, 6-bit scale and minimum per 32, in blocks of 256.
            Q4_K q4_k;
            /// 5 bits, 6-bit scale and minimum per 32, in blocks of 256.
            Q5_K q5_k;
            /// 6 bits, 8-bit scale per 16, in blocks of 256.
            Q6_K q6_k;
            /// 2 bits for -1, 0 and 1, a scale per 256.
            TQ2_0 tq2_0;
            /// 2 bits, a scale per 64.
            Q2_0 q2_0;
            /// 2 bits, a scale per 128.
            PQ2_0 pq2_0;
            /// 1 bit, a scale per 128.
            Q1_0 q1_0;
            /// Ternary digits, a scale per 256.
            TQ1_0 tq1_0;
            /// Ternary digits, a scale per 128.
            PTQ1_0 ptq1_0;
            /// 4 bits for sixteen uneven values, a scale per 32.
            IQ4_NL iq4_nl;
            /// 4-bit floats, a power of two per 32.
            MXFP4 mxfp4;
            /// 2 bits, 4-bit scale and minimum per 16, in blocks of 256.
            Q2_K q2_k;
            /// 3 bits, 6-bit scale per 16, in blocks of 256.
            Q3_K q3_k;
            /// 4 bits for sixteen uneven values, 6-bit scale per 32, in blocks of 256.
            IQ4_XS iq4_xs;
        }
        decoded as f32 f32_unfused {
            /// 1 bit and a half, from a codebook of eights, a scale per 32.
            IQ1_S iq1;
            /// 1 bit and three quarters, from a codebook of eights, a scale per 16.
            IQ1_M iq1;
            /// 2 bits, from a codebook of eights with signs, a scale per 32.
            IQ2_XXS iq2;
            /// 2 bits, from a codebook of eights with signs, a scale per 16.
            IQ2_XS iq2;
            /// 2 bits, from a larger codebook of eights with signs, a scale per 16.
            IQ2_S iq2;
            /// 3 bits, from a codebook of fours with signs, a scale per 32.
            IQ3_XXS iq3;
            /// 3 bits, from a larger codebook of fours with signs, a scale per 32.
            IQ3_S iq3;
            /// Floats of 4 bits, a scale of 8 bits per 16.
            NVFP4 nvfp4;
        }
    } };
}
pub(crate) use formats;

/// Writes the values of one block into the file's layout.
pub(crate) type Quantize = fn(&[f32], &mut [u8]);

/// What blocks and panels of a format look like; how it multiplies is its `Weight` or `Quantized`.
pub(crate) trait Definition {
    /// Values and bytes of a block of the file.
    const BLOCK: (usize, usize);
    /// Where a block has half floats that scale it.
    const SCALES: &'static [usize];
    /// Values along K and bytes of a unit of a panel.
    const UNIT: (usize, usize);
    const ACTIVATION: Activation;
    const QUANTIZE: Option<Quantize> = None;
    /// See [`Format::is_decoded`].
    const DECODED: bool = false;

    /// The values of a block.
    fn dequantize(block: &[u8], out: &mut [f32]);
    /// Writes all of a panel.
    fn pack(rows: &Stack<'_>, panel: &mut [u8]);
    /// The values of row `lane` of a unit, or as many as `out` has.
    fn unpack(unit: &[u8], lane: usize, out: &mut [f32]);
}

/// A format's [`Definition`] as a value.
pub(crate) struct Entry {
    name: &'static str,
    block: (usize, usize),
    scales: &'static [usize],
    pub(crate) unit: (usize, usize),
    activation: Activation,
    quantize: Option<Quantize>,
    decoded: bool,
    dequantize: fn(&[u8], &mut [f32]),
    pub(crate) pack: fn(&Stack<'_>, &mut [u8]),
    pub(crate) unpack: fn(&[u8], usize, &mut [f32]),
}

impl Entry {
    const fn of<D: Definition>(name: &'static str) -> Self {
        Self {
            name,
            block: D::BLOCK,
            scales: D::SCALES,
            unit: D::UNIT,
            activation: D::ACTIVATION,
            quantize: D::QUANTIZE,
            decoded: D::DECODED,
            dequantize: |row, out| {
                let blocks = row.chunks_exact(D::BLOCK.1);
                blocks.zip(out.chunks_exact_mut(D::BLOCK.0)).for_each(|(b, x)| D::dequantize(b, x));
            },
            pack: D::pack,
            unpack: |panel, lane, out| {
                let units = panel.chunks_exact(D::UNIT.1);
                units.zip(out.chunks_mut(D::UNIT.0)).for_each(|(u, x)| D::unpack(u, lane, x));
            },
        }
    }
}

macro_rules! format_type {
    (floats {
        $($(#[$float_doc:meta])* $float:ident $float_file:ident $fused:ident $unfused:ident;)*
    } codes { $($(#[$doc:meta])* $code:ident $file:ident;)*
    } decoded as $float_fused:ident $float_unfused:ident {
        $($(#[$decoded_doc:meta])* $decoded:ident $decoded_file:ident;)*
    }) => {
        /// A weight format that has kernels, in GGUF spelling.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[expect(non_camel_case_types, reason = "formats keep the GGUF spelling")]
        #[non_exhaustive]
        pub enum Format {
            $($(#[$float_doc])* $float,)*
            $($(#[$doc])* $code,)*
            $($(#[$decoded_doc])* $decoded,)*
        }

        impl Format {
            /// Every format.
            pub const ALL: &'static [Self] =
                &[$(Self::$float,)* $(Self::$code,)* $(Self::$decoded,)*];

            pub(crate) const fn entry(self) -> &'static Entry {
                const ENTRIES: &[Entry] = &[
                    $(Entry::of::<$float_file::$float>(stringify!($float)),)*
                    $(Entry::of::<$file::$code>(stringify!($code)),)*
                    $(Entry::of::<$decoded_file::$decoded>(stringify!($decoded)),)*
                ];
                &ENTRIES[self as usize]
            }
        }
    };
}

formats!(format_type);

impl Format {
    /// The name in GGUF spelling.
    pub const fn name(self) -> &'static str {
        self.entry().name
    }

    /// Values in a block of the file: a row has a multiple of them.
    pub const fn block_len(self) -> usize {
        self.entry().block.0
    }

    /// Bytes of a block in the file.
    pub const fn block_bytes(self) -> usize {
        self.entry().block.1
    }

    /// Where a block in the file has half floats that scale it, in bytes from its start.
    pub const fn scale_offsets(self) -> &'static [usize] {
        self.entry().scales
    }

    /// Bytes of a row of `k` values in the file; `None` if `k` is no multiple of a block, or the
    /// row does not fit in memory.
    pub fn row_bytes(self, k: usize) -> Option<usize> {
        let whole = k.is_multiple_of(self.block_len());
        if whole { (k / self.block_len()).checked_mul(self.block_bytes()) } else { None }
    }

    /// Bytes of a packed panel of sixteen rows of `k` values; a multiple of 64.
    ///
    /// # Panics
    /// If the panel does not fit in memory.
    #[track_caller]
    pub const fn panel_bytes(self, k: usize) -> usize {
        let (len, bytes) = self.entry().unit;
        whole_lines(k.div_ceil(len), bytes)
    }

    /// Whether its products decode the blocks to floats first, by plain code: slower than the
    /// formats with kernels of their own.
    pub const fn is_decoded(self) -> bool {
        self.entry().decoded
    }

    /// The form that activations take against this format.
    pub const fn activation(self) -> Activation {
        self.entry().activation
    }

    /// Writes the values of a row in the file's layout.
    ///
    /// # Panics
    /// If `row` is not exactly the bytes of `out.len()` values.
    pub fn dequantize(self, row: &[u8], out: &mut [f32]) {
        assert_eq!(Some(row.len()), self.row_bytes(out.len()), "a row of {} in {self}", out.len());
        (self.entry().dequantize)(row, out);
    }

    /// Whether there is a quantiser to this format.
    pub const fn can_quantize(self) -> bool {
        self.entry().quantize.is_some()
    }

    /// Quantises a row into the file's layout, to the bytes that ggml's reference gives.
    ///
    /// # Errors
    /// [`NoQuantizer`] for a format that [`can_quantize`](Self::can_quantize) denies.
    ///
    /// # Panics
    /// If `out` is not exactly the bytes of `row.len()` values.
    pub fn quantize(self, row: &[f32], out: &mut [u8]) -> Result<(), NoQuantizer> {
        assert_eq!(Some(out.len()), self.row_bytes(row.len()), "a row of {} in {self}", row.len());
        let write = self.entry().quantize.ok_or(NoQuantizer(self))?;
        let blocks = out.chunks_exact_mut(self.block_bytes());
        row.chunks_exact(self.block_len()).zip(blocks).for_each(|(x, b)| write(x, b));
        Ok(())
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The format can be read and multiplied, but not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoQuantizer(pub Format);

impl fmt::Display for NoQuantizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no quantiser to {}", self.0)
    }
}

impl std::error::Error for NoQuantizer {}

/// Bytes of a block as `ggml-common.h` has them, and of a unit.
const _: () = {
    use Format::*;
    let known = [
        (F32, 4, 64),
        (F16, 2, 32),
        (BF16, 2, 32),
        (Q8_0, 34, 1088),
        (Q4_0, 18, 576),
        (Q4_1, 20, 640),
        (Q5_0, 22, 704),
        (Q5_1, 24, 768),
        (Q4_K, 144, 2368),
        (Q5_K, 176, 2880),
        (Q6_K, 210, 3392),
        (TQ2_0, 66, 1056),
        (Q2_0, 18, 1152),
        (PQ2_0, 34, 1088),
        (Q1_0, 18, 576),
        (TQ1_0, 54, 864),
        (PTQ1_0, 28, 896),
        (IQ4_NL, 18, 576),
        (MXFP4, 17, 544),
        (Q2_K, 84, 1344),
        (Q3_K, 110, 1792),
        (IQ4_XS, 136, 2240),
        (IQ1_S, 50, 800),
        (IQ1_M, 56, 896),
        (IQ2_XXS, 66, 1056),
        (IQ2_XS, 74, 1184),
        (IQ2_S, 82, 1312),
        (IQ3_XXS, 98, 1568),
        (IQ3_S, 110, 1760),
        (NVFP4, 36, 576),
    ];
    let mut i = 0;
    while i < known.len() {
        let (format, block, unit) = known[i];
        assert!(format.entry().block.1 == block && format.entry().unit.1 == unit);
        i += 1;
    }
};
