//! F32, F16 and BF16: values as they are.

use half::{bf16, f16};

use crate::matmul::float::{Float, Number};
use crate::simd::Simd;

/// Single precision.
pub(crate) type F32 = Float<Single>;
/// Half precision.
pub(crate) type F16 = Float<Half>;
/// Truncated single precision.
pub(crate) type BF16 = Float<Brain>;

/// Values of F32.
pub(crate) struct Single;

// SAFETY: sixteen numbers of 4 bytes.
unsafe impl Number for Single {
    const BYTES: usize = 4;
    const SCALES: &'static [usize] = &[];

    fn read(b: &[u8]) -> f32 {
        f32::from_le_bytes([b[0], b[1], b[2], b[3]])
    }
    fn write(v: f32, b: &mut [u8]) {
        b.copy_from_slice(&v.to_le_bytes());
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, at: *const u8) -> S::F {
        s.f_load(at.cast())
    }
}

/// Values of F16.
pub(crate) struct Half;

// SAFETY: sixteen numbers of 2 bytes.
unsafe impl Number for Half {
    const BYTES: usize = 2;
    const SCALES: &'static [usize] = &[0];

    fn read(b: &[u8]) -> f32 {
        f16::from_le_bytes([b[0], b[1]]).to_f32()
    }
    fn write(v: f32, b: &mut [u8]) {
        b.copy_from_slice(&f16::from_f32(v).to_le_bytes());
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, at: *const u8) -> S::F {
        s.f_load_f16(at.cast())
    }
}

/// Values of BF16.
pub(crate) struct Brain;

// SAFETY: sixteen numbers of 2 bytes.
unsafe impl Number for Brain {
    const BYTES: usize = 2;
    const SCALES: &'static [usize] = &[];

    fn read(b: &[u8]) -> f32 {
        bf16::from_le_bytes([b[0], b[1]]).to_f32()
    }
    fn write(v: f32, b: &mut [u8]) {
        b.copy_from_slice(&bf16::from_f32(v).to_le_bytes());
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, at: *const u8) -> S::F {
        s.f_load_bf16(at.cast())
    }
}
