//! Products of packed panels with rows of activations.
//!
//! A kernel is a format's decode times an instruction set's dot product: the formats are here,
//! each once, the instruction sets in [`crate::simd`], each once.
#![allow(unsafe_op_in_unsafe_fn, reason = "the contract of every kernel is `Args`'")]

pub(crate) mod layout;

mod float;
mod k_quant;
mod simple;

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

/// Runs a product, at most `MAX` (2, 4, 8 or 12) rows in registers at a time. A row gets the
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
    let mut r = 0;
    while r < MR {
        if cols >= LANES {
            s.f_store(out.add(r * a.out_stride), sums[r]);
        } else {
            let mut lanes = [0.0f32; LANES];
            s.f_store(lanes.as_mut_ptr(), sums[r]);
            crate::ops::copy_tail(lanes.as_ptr(), out.add(r * a.out_stride), cols);
        }
        r += 1;
    }
}

/// `each!(i < n => body)`: the body for i = 0, 1, ..., n - 1. With a literal it is written out
/// here; else it is a loop short enough for the compiler to unroll, so that arrays of vectors
/// indexed by `i` live in registers. (Writing the rows out as well made the crate take ten
/// minutes to compile.)
macro_rules! each {
    ($i:ident < 2 => $body:block) => { $crate::matmul::each!(@ $i, $body, 0 1) };
    ($i:ident < 4 => $body:block) => { $crate::matmul::each!(@ $i, $body, 0 1 2 3) };
    ($i:ident < 8 => $body:block) => { $crate::matmul::each!(@ $i, $body, 0 1 2 3 4 5 6 7) };
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
pub(crate) use each;
