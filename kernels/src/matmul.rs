//! Products of packed panels with rows of activations.
//!
//! A kernel is a format's decode times an instruction set's dot product: the formats are here,
//! each once, the instruction sets in [`crate::simd`], each once.
#![allow(unsafe_op_in_unsafe_fn, reason = "the contract of every kernel is `Args`'")]

pub(crate) mod layout;

/// `each!(i < n => body)`: the body for i = 0, 1, ..., n - 1. With a literal it is written out
/// here; else it is a loop short enough for the compiler to unroll, so that arrays of vectors
/// indexed by `i` live in registers. (Writing the rows out as well made the crate take ten
/// minutes to compile.)
macro_rules! each {
    ($i:ident < 2 => $body:block) => { each!(@ $i, $body, 0 1) };
    ($i:ident < 4 => $body:block) => { each!(@ $i, $body, 0 1 2 3) };
    ($i:ident < 8 => $body:block) => { each!(@ $i, $body, 0 1 2 3 4 5 6 7) };
    ($i:ident < $n:ident => $body:block) => {
        let mut $i = 0;
        while $i < $n {
            $body
            $i += 1;
        }
    };
    (@ $i:ident, $body:block, $($at:literal)*) => { $( {
        let $i: usize = $at;
        $body
    } )* };
}

mod float;
mod k_quant;
mod simple;

use std::mem::MaybeUninit;

use crate::ops;
use crate::simd::{LANES, Simd};

pub(crate) use float::{BF16, F16, F32};
pub(crate) use k_quant::{Q4_K, Q5_K, Q6_K};
pub(crate) use simple::{Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};

/// One product: panels times rows. Built by [`Kernels::matmul`](crate::Kernels::matmul), which
/// checks the lengths.
#[derive(Clone, Copy)]
pub(crate) struct Args {
    /// `panels` panels of `panel_bytes` each.
    pub(crate) panels: *const u8,
    pub(crate) n_panels: usize,
    pub(crate) panel_bytes: usize,
    /// Units of the format along K.
    pub(crate) units: usize,
    /// `rows` rows of activations, `x_stride` bytes apart.
    pub(crate) x: *const u8,
    pub(crate) x_stride: usize,
    pub(crate) rows: usize,
    /// Row `m`, column `c` goes to `out + m * out_stride + c`.
    pub(crate) out: *mut f32,
    pub(crate) out_stride: usize,
    /// Columns that exist: the last panel may have fewer than sixteen.
    pub(crate) cols: usize,
}

/// How a format's panel is multiplied.
pub(crate) trait Weight {
    /// Adds up `MR` rows of activations, `x_stride` bytes apart, against one panel.
    ///
    /// # Safety
    /// `panel` has `units` units of the format, each row of `x` as many of its activation form;
    /// the CPU has the instruction set of `s`.
    unsafe fn panel<S: Simd, const MR: usize, const FUSED: bool>(
        s: S,
        panel: *const u8,
        units: usize,
        x: *const u8,
        x_stride: usize,
    ) -> [S::F; MR];
}

/// A format whose units can be unpacked beforehand, for many rows.
pub(crate) trait Unpack: Weight {
    /// A unit ready for the dot products: larger than the panel's, and decoded once for all rows.
    type Unit<S: Simd>: Copy;
    /// Units that are unpacked at a time; together about 10 KB, so that they stay in the
    /// first-level cache beside the activations.
    const UNITS: usize;
    /// Bytes of a unit in the panel.
    const UNIT_BYTES: usize;
    /// Bytes of the activations of a unit.
    const RECORD: usize;

    /// Writes all of `out`. (Returned by value, a unit of a K-quant was cleared and copied.)
    ///
    /// # Safety
    /// `unit` is valid for a unit, `out` for writes; the CPU has the instruction set of `s`.
    unsafe fn unpack<S: Simd>(s: S, unit: *const u8, out: *mut Self::Unit<S>);

    /// Adds one unit's part of `MR` rows, to the bits that [`Weight::panel`] gives.
    ///
    /// # Safety
    /// `x` has a record in each of `MR` rows; the CPU has the instruction set of `s`.
    unsafe fn add<S: Simd, const MR: usize>(
        s: S,
        unit: &Self::Unit<S>,
        x: *const u8,
        x_stride: usize,
        acc: &mut [S::F; MR],
    );
}

/// As [`matmul`], for the quantised formats, whose arithmetic is never fused.
///
/// # Safety
/// As [`matmul`].
#[inline(always)]
pub(crate) unsafe fn matmul_direct<S: Simd, W: Weight, const MAX: usize>(s: S, a: &Args) {
    matmul::<S, W, MAX, false>(s, a);
}

/// As [`matmul`], for the instruction sets where unpacking is dear beside the dot products: more
/// than one row is multiplied with codes that were unpacked beforehand, part by part.
///
/// # Safety
/// As [`matmul`].
#[inline(always)]
pub(crate) unsafe fn matmul_unpacked<S: Simd, W: Unpack, const MAX: usize>(s: S, a: &Args) {
    if a.rows == 1 {
        return matmul::<S, W, 1, false>(s, a);
    }
    let mut p = 0;
    while p < a.n_panels {
        let panel = a.panels.add(p * a.panel_bytes);
        let out = a.out.add(p * LANES);
        let cols = a.cols - p * LANES;
        let mut from = 0;
        while from < a.units {
            let units = if a.units - from < W::UNITS { a.units - from } else { W::UNITS };
            // At most eight units, whatever the format.
            let mut unpacked: [MaybeUninit<W::Unit<S>>; 8] = [const { MaybeUninit::uninit() }; 8];
            let mut u = 0;
            while u < units {
                W::unpack(s, panel.add((from + u) * W::UNIT_BYTES), unpacked[u].as_mut_ptr());
                u += 1;
            }
            let unpacked = unpacked.as_ptr().cast::<W::Unit<S>>();
            let x = a.x.add(from * W::RECORD);
            let mut m = 0;
            while m + MAX <= a.rows {
                part::<S, W, MAX>(s, a, unpacked, units, x, out, m, cols, from == 0);
                m += MAX;
            }
            while m < a.rows {
                part::<S, W, 1>(s, a, unpacked, units, x, out, m, cols, from == 0);
                m += 1;
            }
            from += units;
        }
        p += 1;
    }
}

/// Adds some units to `MR` rows of the result, or begins them.
///
/// # Safety
/// As [`matmul`]; rows `m .. m + MR` exist.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the loop variables of its only caller")]
unsafe fn part<S: Simd, W: Unpack, const MR: usize>(
    s: S,
    a: &Args,
    unpacked: *const W::Unit<S>,
    units: usize,
    x: *const u8,
    out: *mut f32,
    m: usize,
    cols: usize,
    first: bool,
) {
    let x = x.add(m * a.x_stride);
    let out = out.add(m * a.out_stride);
    let mut acc = [s.f_splat(0.0); MR];
    if !first {
        each!(r < MR => { acc[r] = read(s, out.add(r * a.out_stride), cols); });
    }
    let mut u = 0;
    while u < units {
        W::add(s, &*unpacked.add(u), x.add(u * W::RECORD), a.x_stride, &mut acc);
        u += 1;
    }
    each!(r < MR => { write(s, out.add(r * a.out_stride), cols, acc[r]); });
}

/// Sixteen floats at `p`, of which only `cols` exist.
#[inline(always)]
unsafe fn read<S: Simd>(s: S, p: *const f32, cols: usize) -> S::F {
    if cols >= LANES {
        return s.f_load(p);
    }
    let mut lanes = [0.0f32; LANES];
    ops::copy_tail(p, lanes.as_mut_ptr(), cols);
    s.f_load(lanes.as_ptr())
}

/// Writes the first `cols` of sixteen floats.
#[inline(always)]
unsafe fn write<S: Simd>(s: S, p: *mut f32, cols: usize, v: S::F) {
    if cols >= LANES {
        return s.f_store(p, v);
    }
    let mut lanes = [0.0f32; LANES];
    s.f_store(lanes.as_mut_ptr(), v);
    ops::copy_tail(lanes.as_ptr(), p, cols);
}

/// Runs a product, at most `MAX` (1, 2, 4, 8 or 12) rows in registers at a time. A row gets the
/// same bits whatever rows are beside it.
///
/// # Safety
/// The fields of `a` describe memory that is valid for them, of this format, and the CPU has the
/// instruction set of `s`.
#[inline(always)]
pub(crate) unsafe fn matmul<S: Simd, W: Weight, const MAX: usize, const FUSED: bool>(
    s: S,
    a: &Args,
) {
    let mut p = 0;
    while p < a.n_panels {
        let mut m = 0;
        while m + MAX <= a.rows {
            tile::<S, W, MAX, FUSED>(s, a, p, m);
            m += MAX;
        }
        // Four at a time, then one: more sizes cost compile time and code, and a panel that was
        // just read is in the cache.
        while MAX > 4 && m + 4 <= a.rows {
            tile::<S, W, 4, FUSED>(s, a, p, m);
            m += 4;
        }
        while MAX > 1 && m < a.rows {
            tile::<S, W, 1, FUSED>(s, a, p, m);
            m += 1;
        }
        p += 1;
    }
}

/// # Safety
/// As [`matmul`]; panel `p` and rows `m .. m + MR` exist.
#[inline(always)]
unsafe fn tile<S: Simd, W: Weight, const MR: usize, const FUSED: bool>(
    s: S,
    a: &Args,
    p: usize,
    m: usize,
) {
    let panel = a.panels.add(p * a.panel_bytes);
    let sums = W::panel::<S, MR, FUSED>(s, panel, a.units, a.x.add(m * a.x_stride), a.x_stride);
    let out = a.out.add(m * a.out_stride + p * LANES);
    let cols = a.cols - p * LANES;
    each!(r < MR => { write(s, out.add(r * a.out_stride), cols, sums[r]); });
}
