//! The formats without codes: F32, F16, BF16. A unit of a panel is sixteen values.

use std::marker::PhantomData;

use super::{Weight, fetch_part};
use crate::activation::Activation;
use crate::format::{Definition, Quantize};
use crate::ops::mul_add;
use crate::panel::{Stack, spread};
use crate::simd::{LANES, Simd};

/// A plain number.
///
/// # Safety
/// `BYTES` is what a number takes, and [`load`](Self::load) reads sixteen.
pub(crate) unsafe trait Number {
    /// Bytes of one, two or four.
    const BYTES: usize;
    /// See [`Definition::SCALES`].
    const SCALES: &'static [usize];

    fn read(bytes: &[u8]) -> f32;
    fn write(value: f32, bytes: &mut [u8]);
    /// Reads sixteen.
    ///
    /// # Safety
    /// `at` is valid for sixteen values; the CPU has the instruction set of `s`.
    unsafe fn load<S: Simd>(s: S, at: *const u8) -> S::F;
}

/// A format of plain numbers.
pub(crate) struct Float<N>(PhantomData<N>);

/// Bytes of a row that are packed at a time.
const CHUNK: usize = 16;

impl<N: Number> Definition for Float<N> {
    const BLOCK: (usize, usize) = (1, N::BYTES);
    const SCALES: &'static [usize] = N::SCALES;
    const UNIT: (usize, usize) = (1, N::BYTES * LANES);
    const ACTIVATION: Activation = Activation::F32;
    const QUANTIZE: Option<Quantize> = Some(|x, block| N::write(x[0], block));

    fn dequantize(block: &[u8], out: &mut [f32]) {
        out[0] = N::read(block);
    }

    fn pack(rows: &Stack<'_>, panel: &mut [u8]) {
        let whole = rows.row_bytes() / CHUNK * CHUNK;
        let (chunks, tail) = panel.split_at_mut(whole * LANES);
        let chunks = chunks.as_chunks_mut::<{ CHUNK * LANES }>().0;
        for (i, out) in chunks.iter_mut().enumerate() {
            spread(|lane| *rows.bytes::<CHUNK>(lane, CHUNK * i), out);
            if N::BYTES == 2 {
                out.as_chunks_mut().0.iter_mut().for_each(split_pairs);
            }
        }
        tail.fill(0);
        for (i, vector) in tail.chunks_exact_mut(Self::UNIT.1).enumerate() {
            for (lane, out) in vector.chunks_exact_mut(N::BYTES).enumerate() {
                let at = whole + N::BYTES * i;
                match N::BYTES {
                    2 => out.copy_from_slice(rows.bytes::<2>(lane, at)),
                    _ => out.copy_from_slice(rows.bytes::<4>(lane, at)),
                }
            }
        }
    }

    fn unpack(unit: &[u8], lane: usize, out: &mut [f32]) {
        out[0] = N::read(&unit[N::BYTES * lane..][..N::BYTES]);
    }
}

/// Sixteen pairs of two-byte values become the sixteen first ones and the sixteen second ones.
fn split_pairs(vector: &mut [u8; 4 * LANES]) {
    let pairs: [u32; LANES] = std::array::from_fn(|lane| {
        u32::from_le_bytes(*vector[4 * lane..].first_chunk().expect("four bytes a lane"))
    });
    let (first, second) = vector.split_at_mut(2 * LANES);
    for (lane, pair) in pairs.into_iter().enumerate() {
        first[2 * lane..][..2].copy_from_slice(&(pair as u16).to_le_bytes());
        second[2 * lane..][..2].copy_from_slice(&((pair >> 16) as u16).to_le_bytes());
    }
}

// SAFETY: a unit is sixteen numbers, of which `load` reads no more; the record of each is a float.
unsafe impl<N: Number> Weight for Float<N> {
    /// Even and odd k add up apart, to halve the chain of additions.
    #[inline(always)]
    unsafe fn panel<S: Simd, const MR: usize, const FUSED: bool>(
        s: S,
        panel: *const u8,
        units: usize,
        x: *const u8,
        x_stride: usize,
    ) -> [S::F; MR] {
        let bytes = N::BYTES * LANES;
        let mut even = [s.f_splat(0.0); MR];
        let mut odd = [s.f_splat(0.0); MR];
        let mut k = 0;
        while k + 2 <= units {
            let at = panel.add(k * bytes);
            if MR <= 4 {
                fetch_part(s, at, 2 * bytes, 0, 1);
            }
            let first = N::load(s, at);
            let second = N::load(s, at.add(bytes));
            each!(m < MR => {
                let x = x.add(m * x_stride + 4 * k).cast::<f32>();
                even[m] = mul_add::<S, FUSED>(s, first, s.f_splat_at(x), even[m]);
                odd[m] = mul_add::<S, FUSED>(s, second, s.f_splat_at(x.add(1)), odd[m]);
            });
            k += 2;
        }
        if k < units {
            let last = N::load(s, panel.add(k * bytes));
            each!(m < MR => {
                let x = x.add(m * x_stride + 4 * k).cast::<f32>();
                even[m] = mul_add::<S, FUSED>(s, last, s.f_splat_at(x), even[m]);
            });
        }
        each!(m < MR => { even[m] = s.f_add(even[m], odd[m]); });
        even
    }
}
