//! Weight formats: their sizes, and the plain definition of their values.
//!
//! Layouts are GGML's (<https://github.com/ggml-org/ggml>, `ggml-common.h`); all numbers are
//! little-endian. `dequantize` here is the naive reference that kernels are tested against.

use std::fmt;

use half::{bf16, f16};

use crate::activation::Activation;
use crate::matmul::layout;

/// A weight format that has kernels, in GGUF spelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(non_camel_case_types, reason = "formats keep the GGUF spelling")]
#[non_exhaustive]
pub enum Format {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// Truncated single precision.
    BF16,
    /// 8 bits, a scale per 32.
    Q8_0,
    /// 4 bits, a scale per 32.
    Q4_0,
    /// 4 bits, a scale and a minimum per 32.
    Q4_1,
    /// 5 bits, a scale per 32.
    Q5_0,
    /// 5 bits, a scale and a minimum per 32.
    Q5_1,
    /// 4 bits, 6-bit scale and minimum per 32, in blocks of 256.
    Q4_K,
    /// 5 bits, 6-bit scale and minimum per 32, in blocks of 256.
    Q5_K,
    /// 6 bits, 8-bit scale per 16, in blocks of 256.
    Q6_K,
}

impl Format {
    /// Every format.
    pub const ALL: &'static [Self] = &[
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
    ];

    /// The name in GGUF spelling.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q4_K => "Q4_K",
            Self::Q5_K => "Q5_K",
            Self::Q6_K => "Q6_K",
        }
    }

    /// Values in a block of the file: a row has a multiple of them.
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 => 32,
            Self::Q4_K | Self::Q5_K | Self::Q6_K => 256,
        }
    }

    /// Bytes of a block in the file.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
        }
    }

    /// Bytes of a row of `k` values in the file; `None` if `k` is no multiple of a block.
    pub fn row_bytes(self, k: usize) -> Option<usize> {
        k.is_multiple_of(self.block_len()).then(|| k / self.block_len() * self.block_bytes())
    }

    /// Bytes of a packed panel of sixteen rows of `k` values; a multiple of 64.
    pub const fn panel_bytes(self, k: usize) -> usize {
        let (len, bytes) = layout::unit(self);
        (k.div_ceil(len) * bytes).next_multiple_of(64)
    }

    /// The form that activations take against this format.
    pub const fn activation(self) -> Activation {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => Activation::F32,
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 => Activation::Q8,
            Self::Q4_K | Self::Q5_K | Self::Q6_K => Activation::Q8K,
        }
    }

    /// Writes the values of a row in the file's layout.
    ///
    /// # Panics
    /// If `row` is not exactly the bytes of `out.len()` values.
    pub fn dequantize(self, row: &[u8], out: &mut [f32]) {
        assert_eq!(Some(row.len()), self.row_bytes(out.len()), "a row of {} in {self}", out.len());
        let blocks = row.chunks_exact(self.block_bytes());
        for (block, out) in blocks.zip(out.chunks_exact_mut(self.block_len())) {
            self.dequantize_block(block, out);
        }
    }

    fn dequantize_block(self, b: &[u8], out: &mut [f32]) {
        match self {
            Self::F32 => out[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            Self::F16 => out[0] = half_at(b, 0),
            Self::BF16 => out[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32(),
            Self::Q8_0 => {
                let d = half_at(b, 0);
                for (out, &q) in out.iter_mut().zip(&b[2..]) {
                    *out = d * f32::from(q as i8);
                }
            }
            Self::Q4_0 => each(out, |i| half_at(b, 0) * (f32::from(nibble(&b[2..], i)) - 8.0)),
            Self::Q4_1 => {
                each(out, |i| half_at(b, 0) * f32::from(nibble(&b[4..], i)) + half_at(b, 2));
            }
            Self::Q5_0 => each(out, |i| {
                let code = nibble(&b[6..], i) | bit(&b[2..], i) << 4;
                half_at(b, 0) * (f32::from(code) - 16.0)
            }),
            Self::Q5_1 => each(out, |i| {
                let code = nibble(&b[8..], i) | bit(&b[4..], i) << 4;
                half_at(b, 0) * f32::from(code) + half_at(b, 2)
            }),
            Self::Q4_K => each(out, |i| {
                let (scale, min) = scale_min(&b[4..16], i / 32);
                affine(b, scale, q4_k_code(&b[16..], i), min)
            }),
            Self::Q5_K => each(out, |i| {
                let (scale, min) = scale_min(&b[4..16], i / 32);
                let high = b[16 + i % 32] >> (i / 32) & 1;
                affine(b, scale, q4_k_code(&b[48..], i) | high << 4, min)
            }),
            Self::Q6_K => each(out, |i| {
                let scale = b[192 + i / 16] as i8;
                half_at(b, 208) * f32::from(scale) * (f32::from(q6_k_code(b, i)) - 32.0)
            }),
        }
    }

    /// Quantises a row into the file's layout, to the bytes that ggml's reference gives.
    ///
    /// Formats that the engine quantises to on load: F32, F16, BF16, Q8_0, Q4_0.
    ///
    /// # Errors
    /// [`NoQuantizer`] for another format.
    ///
    /// # Panics
    /// If `out` is not exactly the bytes of `row.len()` values.
    pub fn quantize(self, row: &[f32], out: &mut [u8]) -> Result<(), NoQuantizer> {
        assert_eq!(Some(out.len()), self.row_bytes(row.len()), "a row of {} in {self}", row.len());
        let write: fn(&[f32], &mut [u8]) = match self {
            Self::F32 => |x, b| b.copy_from_slice(&x[0].to_le_bytes()),
            Self::F16 => |x, b| b.copy_from_slice(&f16::from_f32(x[0]).to_le_bytes()),
            Self::BF16 => |x, b| b.copy_from_slice(&bf16::from_f32(x[0]).to_le_bytes()),
            Self::Q8_0 => quantize_q8_0,
            Self::Q4_0 => quantize_q4_0,
            other => return Err(NoQuantizer(other)),
        };
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

fn each(out: &mut [f32], value: impl Fn(usize) -> f32) {
    for (i, out) in out.iter_mut().enumerate() {
        *out = value(i);
    }
}

fn half_at(b: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}

/// Code `i` of 32: the low nibbles are the first sixteen.
fn nibble(codes: &[u8], i: usize) -> u8 {
    codes[i % 16] >> (i / 16 * 4) & 15
}

fn bit(bits: &[u8], i: usize) -> u8 {
    bits[i / 8] >> (i % 8) & 1
}

fn affine(b: &[u8], scale: u8, code: u8, min: u8) -> f32 {
    half_at(b, 0) * f32::from(scale) * f32::from(code) - half_at(b, 2) * f32::from(min)
}

/// The 6-bit scale and minimum of block `j` of eight, from the twelve bytes of a K-quant.
pub(crate) const fn scale_min(s: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (s[j] & 63, s[j + 4] & 63)
    } else {
        ((s[j + 4] & 15) | (s[j - 4] >> 6) << 4, (s[j + 4] >> 4) | (s[j] >> 6) << 4)
    }
}

fn q4_k_code(codes: &[u8], i: usize) -> u8 {
    codes[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15
}

fn q6_k_code(b: &[u8], i: usize) -> u8 {
    let (part, lane, quarter) = (i / 128, i % 32, i / 32 % 4);
    let low = b[part * 64 + lane + quarter % 2 * 32] >> (quarter / 2 * 4) & 15;
    let high = b[128 + part * 32 + lane] >> (quarter * 2) & 3;
    low | high << 4
}

fn quantize_q8_0(x: &[f32], b: &mut [u8]) {
    let greatest = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let d = greatest / 127.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    b[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    for (b, v) in b[2..].iter_mut().zip(x) {
        *b = (v * inverse).round() as i8 as u8;
    }
}

fn quantize_q4_0(x: &[f32], b: &mut [u8]) {
    // The value of greatest magnitude, sign kept, becomes -8: the range is -8 to 7.
    let extreme = x.iter().fold(0.0f32, |m, &v| if v.abs() > m.abs() { v } else { m });
    let d = extreme / -8.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    b[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    let code = |v: f32| ((v * inverse + 8.5) as i8).clamp(0, 15) as u8;
    for i in 0..16 {
        b[2 + i] = code(x[i]) | code(x[i + 16]) << 4;
    }
}
