//! Formats that are decoded to floats before they are multiplied: those whose codes are indices into
//! codebooks, which no shuffle of bytes looks up.
//!
//! A unit of a panel is a block of each of the sixteen rows, one after another as the file has them. A
//! product decodes 256 values of all rows into a panel of F32, which stays in the first-level cache, and
//! multiplies that with all rows of activations by the entry point of F32. Decoding is plain code and
//! outside of the entry points, compiled once: it costs some times what the memory does, and these formats
//! are slower than those with kernels of their own.

use std::marker::PhantomData;
use std::ops::Range;

use super::{Args, MatmulFn};
use crate::activation::Activation;
use crate::format::{Definition, Entry};
use crate::panel::{NIBBLES, Stack, spread};
use crate::simd::LANES;

/// The blocks of such a format.
pub(crate) trait Decode {
    /// See [`Definition::BLOCK`]; the values divide [`STEP`].
    const BLOCK: (usize, usize);
    /// See [`Definition::SCALES`].
    const SCALES: &'static [usize];

    /// The values of a block.
    fn dequantize(block: &[u8], out: &mut [f32]);
}

/// A format of such blocks.
pub(crate) struct Decoded<D>(PhantomData<D>);

impl<D: Decode> Definition for Decoded<D> {
    const BLOCK: (usize, usize) = D::BLOCK;
    const SCALES: &'static [usize] = D::SCALES;
    const UNIT: (usize, usize) = (D::BLOCK.0, D::BLOCK.1 * LANES);
    const ACTIVATION: Activation = Activation::F32;
    const DECODED: bool = true;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        D::dequantize(block, out);
    }

    fn pack(rows: &Stack<'_>, panel: &mut [u8]) {
        const { assert!(STEP.is_multiple_of(D::BLOCK.0), "a step is whole blocks") };
        panel.fill(0);
        for (u, unit) in panel.chunks_exact_mut(Self::UNIT.1).enumerate() {
            for (lane, out) in unit.chunks_exact_mut(D::BLOCK.1).enumerate() {
                if let Some(block) = rows.block(lane, u * D::BLOCK.1, D::BLOCK.1) {
                    out.copy_from_slice(block);
                }
            }
        }
    }

    fn unpack(unit: &[u8], lane: usize, out: &mut [f32]) {
        D::dequantize(&unit[lane * D::BLOCK.1..][..D::BLOCK.1], out);
    }
}

/// Values of a row that are decoded at a time.
const STEP: usize = 256;

/// Rows that are multiplied at a time: a multiple of every group.
const ROWS: usize = 48;

/// Bytes of activations that stay in a second-level cache while all panels pass by.
const ACTIVATIONS: usize = 512 << 10;

/// A product of a format that is decoded; `product` is that of F32.
///
/// A row's sum is that of the sums of each 256 values, in order, whatever rows are beside it.
///
/// # Safety
/// The fields of `a` describe memory that is valid for them, of this format; the CPU has the
/// instruction set of `product`.
pub(crate) unsafe fn matmul(product: MatmulFn, format: &Entry, a: &Args) {
    let (len, bytes) = format.unit;
    let step = STEP / len;
    let at_once = (ACTIVATIONS / (a.rows.max(1) * STEP * size_of::<f32>())).max(1) * step;
    let mut values = Values([0; _]);
    for first in (0..a.units).step_by(at_once) {
        for p in 0..a.n_panels {
            for unit in (first..a.units.min(first + at_once)).step_by(step) {
                let n = step.min(a.units - unit);
                let at = a.panels.add(p * a.panel_bytes + unit * bytes);
                values.decode(format, std::slice::from_raw_parts(at, n * bytes));
                add(product, &values, unit * len..(unit + n) * len, a, p);
            }
        }
    }
}

/// Adds the products of values `k` of panel `p` to every row of the result, or begins them.
///
/// # Safety
/// As [`matmul`].
unsafe fn add(product: MatmulFn, values: &Values, k: Range<usize>, a: &Args, p: usize) {
    let mut sums = [[0.0f32; LANES]; ROWS];
    let cols = LANES.min(a.cols - p * LANES);
    for from in (0..a.rows).step_by(ROWS) {
        let rows = ROWS.min(a.rows - from);
        product(&Args {
            panels: values.0.as_ptr(),
            n_panels: 1,
            panel_bytes: size_of::<Values>(),
            units: k.len(),
            x: a.x.add(from * a.x_stride + k.start * size_of::<f32>()),
            rows,
            out: sums.as_mut_ptr().cast(),
            out_stride: LANES,
            cols: LANES,
            ..*a
        });
        for (row, sums) in sums[..rows].iter().enumerate() {
            let out = a.out.add((from + row) * a.out_stride + p * LANES);
            for (col, sum) in sums[..cols].iter().enumerate() {
                let before = if k.start == 0 { 0.0 } else { out.add(col).read() };
                out.add(col).write(before + sum);
            }
        }
    }
}

/// Decoded values: the beginning of a panel of F32.
#[repr(align(64))]
struct Values([u8; STEP * LANES * size_of::<f32>()]);

impl Values {
    /// Decodes the units that lie one after another in `units`.
    fn decode(&mut self, format: &Entry, units: &[u8]) {
        let mut rows = [[0.0f32; STEP]; LANES];
        for (lane, row) in rows.iter_mut().enumerate() {
            (format.unpack)(units, lane, row);
        }
        for (i, out) in self.0.as_chunks_mut::<NIBBLES>().0.iter_mut().enumerate() {
            let four = |lane: usize| rows[lane].as_chunks::<4>().0[i].map(f32::to_le_bytes);
            spread(|lane| *four(lane).as_flattened().first_chunk().expect("four floats"), out);
        }
    }
}
