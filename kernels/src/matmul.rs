//! Products of packed panels with rows of activations.
//!
//! A kernel is a format's decode times an instruction set's dot product: the formats are here,
//! each once, the instruction sets in [`crate::simd`], each once.
#![allow(unsafe_op_in_unsafe_fn, reason = "the contract of every kernel is `Args`'")]

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

pub(crate) use each;

pub(crate) mod affine;
pub(crate) mod ahead;
pub(crate) mod centred;
pub(crate) mod decoded;
pub(crate) mod float;
pub(crate) mod low_bit;
pub(crate) mod planes;
pub(crate) mod simple;

use std::mem::MaybeUninit;

use crate::format::Definition;
use crate::ops;
use crate::simd::{LANES, Simd};

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
    /// How many of them all panels go through before the next: the rows' activations for these
    /// stay in a second-level cache.
    pub(crate) chunk: usize,
    /// `rows` rows of activations of `x_stride` bytes each.
    pub(crate) x: *const u8,
    pub(crate) x_stride: usize,
    pub(crate) rows: usize,
    /// Row `m`, column `c` goes to `out + m * out_stride + c`.
    pub(crate) out: *mut f32,
    pub(crate) out_stride: usize,
    /// Columns that exist: the last panel may have fewer than sixteen.
    pub(crate) cols: usize,
}

/// An entry point of a product.
pub(crate) type MatmulFn = unsafe fn(&Args);

/// How a format's panel is multiplied.
///
/// # Safety
/// The safe methods of the table rely on it: [`panel`](Self::panel) reads no more than `units`
/// times [`Definition::UNIT`] of the panel, and of each row as many records of
/// [`Definition::ACTIVATION`].
pub(crate) unsafe trait Weight: Definition {
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

/// A format of codes. Its inner loop reads them from the panel, or from a unit unpacked beforehand
/// for many rows; a row gets the same bits either way.
///
/// # Safety
/// The safe methods of the table rely on it: of a unit no more is read than
/// [`UNIT_BYTES`](Self::UNIT_BYTES), of its activations than [`RECORD`](Self::RECORD), both of
/// which stay as they are given here; and [`decode`](Self::decode) writes all of a unit.
pub(crate) unsafe trait Quantized: Definition {
    /// A unit ready for the dot products: larger than the panel's, and decoded once for all rows.
    type Unit<S: Simd>: Copy;
    /// Bytes of a unit in the panel.
    const UNIT_BYTES: usize = Self::UNIT.1;
    /// Bytes of the activations of a unit.
    const RECORD: usize = Self::ACTIVATION.record_bytes();

    /// Writes all of `out`. (Returned by value, a unit of a K-quant was cleared and copied.)
    ///
    /// # Safety
    /// `unit` is valid for a unit, `out` for writes; the CPU has the instruction set of `s`.
    unsafe fn decode<S: Simd>(s: S, unit: *const u8, out: *mut Self::Unit<S>);

    /// Adds one unit's part of `MR` rows, whose records lie side by side.
    ///
    /// # Safety
    /// `x` is valid for `MR` records; the CPU has the instruction set of `s`.
    unsafe fn add<S: Simd, const MR: usize>(
        s: S,
        unit: &Self::Unit<S>,
        x: *const u8,
        acc: &mut [S::F; MR],
    );

    /// As [`add`](Self::add), from the panel.
    ///
    /// # Safety
    /// `unit` is valid for a unit; else as [`add`](Self::add).
    unsafe fn add_packed<S: Simd, const MR: usize>(
        s: S,
        unit: *const u8,
        x: *const u8,
        acc: &mut [S::F; MR],
    );
}

/// As [`matmul`], for the quantised formats, whose arithmetic is the same with and without fused
/// instructions, and whose rows come in groups of `MAX`. From `FROM` rows on, codes are unpacked
/// beforehand, part by part.
///
/// # Safety
/// As [`matmul`].
#[inline(always)]
pub(crate) unsafe fn matmul_codes<S: Simd, W: Quantized, const MAX: usize, const FROM: usize>(
    s: S,
    a: &Args,
) {
    const { assert!(FROM <= MAX, "few rows are one group") };
    let mut p = 0;
    while a.rows < FROM && p < a.n_panels {
        let mut m = 0;
        while FROM > 4 && m + 4 <= a.rows {
            direct::<S, W, 4>(s, a, p, m);
            m += 4;
        }
        while m < a.rows {
            direct::<S, W, 1>(s, a, p, m);
            m += 1;
        }
        p += 1;
    }
    let mut at = Position { panel: 0, unit: 0, start: 0, end: a.units.min(a.chunk) };
    while a.rows >= FROM && at.unit < a.units {
        let units = (at.end - at.unit).min(units_at_once::<W::Unit<S>>());
        let next = at.after(units, a);
        unpacked::<S, W, MAX>(s, a, at, units, next);
        at = next;
    }
}

/// Room for unpacked units: it stays in the first-level cache beside the activations of a group.
/// (10 KB instead cost 3% with AVX-512.)
#[repr(align(64))]
struct Room(MaybeUninit<[u8; 24 << 10]>);

/// Units that are unpacked at a time: a power of two, which divides a chunk or is the larger.
const fn units_at_once<U>() -> usize {
    let fit = size_of::<Room>() / size_of::<U>();
    assert!(fit > 0 && align_of::<U>() <= align_of::<Room>());
    1 << fit.ilog2()
}

/// Where a product of many rows is: chunk by chunk, panel by panel, part by part.
#[derive(Clone, Copy)]
struct Position {
    panel: usize,
    unit: usize,
    /// The chunk that `unit` is in.
    start: usize,
    end: usize,
}

impl Position {
    /// After `units` more units.
    #[inline(always)]
    fn after(self, units: usize, a: &Args) -> Self {
        let unit = self.unit + units;
        if unit < self.end {
            return Self { unit, ..self };
        }
        if self.panel + 1 < a.n_panels {
            return Self { panel: self.panel + 1, unit: self.start, ..self };
        }
        Self { panel: 0, unit, start: unit, end: a.units.min(unit.saturating_add(a.chunk)) }
    }
}

/// Multiplies panel `p` as it lies with rows `m .. m + MR` of the only group.
///
/// # Safety
/// As [`matmul`]; the rows exist.
#[inline(always)]
unsafe fn direct<S: Simd, W: Quantized, const MR: usize>(s: S, a: &Args, p: usize, m: usize) {
    let panel = a.panels.add(p * a.panel_bytes);
    let x = a.x.add(m * W::RECORD);
    let mut acc = [s.f_splat(0.0); MR];
    let mut u = 0;
    while u < a.units {
        let x = x.add(u * a.rows * W::RECORD);
        W::add_packed(s, panel.add(u * W::UNIT_BYTES), x, &mut acc);
        u += 1;
    }
    let out = a.out.add(m * a.out_stride + p * LANES);
    let cols = a.cols - p * LANES;
    each!(r < MR => { write(s, out.add(r * a.out_stride), cols, acc[r]); });
}

/// Adds `units` units from `at` on to every row of the result, and meanwhile fetches those from
/// `next` on into the second-level cache.
///
/// # Safety
/// As [`matmul`]; there are at most [`units_at_once`] units.
#[inline(always)]
unsafe fn unpacked<S: Simd, W: Quantized, const MAX: usize>(
    s: S,
    a: &Args,
    at: Position,
    units: usize,
    next: Position,
) {
    let packed =
        |at: Position| a.panels.wrapping_add(at.panel * a.panel_bytes + at.unit * W::UNIT_BYTES);
    let mut room = Room(MaybeUninit::uninit());
    let codes = room.0.as_mut_ptr().cast::<W::Unit<S>>();
    let mut u = 0;
    while u < units {
        W::decode(s, packed(at).add(u * W::UNIT_BYTES), codes.add(u));
        u += 1;
    }
    // Spread over the rows, so that it takes nothing from them: over the units of each group where
    // there are few groups, which memory would hold up; else a part before each group.
    let lines = (units * W::UNIT_BYTES).div_ceil(64);
    let groups = a.rows.div_ceil(MAX);
    let (burst, per_unit) = if groups <= FEW_GROUPS {
        (0, W::UNIT_BYTES.div_ceil(64 * groups))
    } else {
        (lines.div_ceil(groups), 0)
    };
    let mut part = Part {
        units: codes.cast_const(),
        n: units,
        first: at.unit == 0,
        out: a.out.add(at.panel * LANES),
        out_stride: a.out_stride,
        cols: a.cols - at.panel * LANES,
        coming: packed(next),
        per_unit,
    };
    let mut m = 0;
    while m + MAX <= a.rows {
        part.fetch(s, burst);
        let x = a.x.add(m * a.x_stride + at.unit * MAX * W::RECORD);
        part.add::<S, W, MAX>(s, x, MAX, m);
        m += MAX;
    }
    let group = a.rows - m;
    let x = a.x.add(m * a.x_stride + at.unit * group * W::RECORD);
    let mut i = 0;
    while MAX > 4 && i + 4 <= group {
        part.add::<S, W, 4>(s, x.add(i * W::RECORD), group, m + i);
        part.per_unit = 0;
        i += 4;
    }
    while i < group {
        part.add::<S, W, 1>(s, x.add(i * W::RECORD), group, m + i);
        part.per_unit = 0;
        i += 1;
    }
}

/// Groups of rows up to which what comes next is fetched unit by unit. (In one go before each group it
/// came too late for few rows: 16 rows of 1 B Q4_0 took 4/3 of the time with AVX-512 VNNI, 4 rows with
/// AVX2 3/2 of it, 16 rows 8/7.)
const FEW_GROUPS: usize = 6;

/// Some unpacked units of a panel, and where their products go.
struct Part<U> {
    units: *const U,
    n: usize,
    /// Whether they are the panel's first.
    first: bool,
    out: *mut f32,
    out_stride: usize,
    cols: usize,
    /// What is to be fetched next, and how many lines of it with every unit of a group.
    coming: *const u8,
    per_unit: usize,
}

impl<U> Part<U> {
    /// Fetches the next `lines` lines into the second-level cache.
    ///
    /// # Safety
    /// As for every method of [`Simd`].
    #[inline(always)]
    unsafe fn fetch<S: Simd>(&mut self, s: S, lines: usize) {
        let mut line = 0;
        while line < lines {
            s.prefetch_far(self.coming);
            self.coming = self.coming.wrapping_add(64);
            line += 1;
        }
    }

    /// Adds the units to rows `m .. m + MR` of the result, or begins them. `x` is the record of
    /// the first of the rows in a group of `group`.
    ///
    /// # Safety
    /// As [`matmul`]; the rows exist.
    #[inline(always)]
    unsafe fn add<S: Simd, W: Quantized<Unit<S> = U>, const MR: usize>(
        &mut self,
        s: S,
        x: *const u8,
        group: usize,
        m: usize,
    ) {
        let out = self.out.add(m * self.out_stride);
        let mut acc = [s.f_splat(0.0); MR];
        if !self.first {
            each!(r < MR => { acc[r] = read(s, out.add(r * self.out_stride), self.cols); });
        }
        // Pointers that move: a counter would make every operand of the loop an indexed one,
        // which the front end splits in two.
        let mut unit = self.units;
        let mut x = x;
        let end = self.units.add(self.n);
        while unit < end {
            self.fetch(s, self.per_unit);
            W::add(s, &*unit, x, &mut acc);
            unit = unit.add(1);
            x = x.add(group * W::RECORD);
        }
        each!(r < MR => { write(s, out.add(r * self.out_stride), self.cols, acc[r]); });
    }
}

/// Fetches, some way ahead, the lines that part `part` of `parts` of a unit of `bytes` stands for.
///
/// The parts in turn fetch every line of the panel once, in ascending order: a line fetched twice, or
/// one behind the last, costs a tenth of the bandwidth, since the second-level cache fetches by itself
/// only what follows an unbroken run.
#[inline(always)]
pub(crate) unsafe fn fetch_part<S: Simd>(
    s: S,
    unit: *const u8,
    bytes: usize,
    part: usize,
    parts: usize,
) {
    let lines = bytes.div_ceil(64);
    let mut line = part * lines / parts;
    while line < (part + 1) * lines / parts {
        fetch_line(s, unit.wrapping_add(64 * line));
        line += 1;
    }
}

/// Fetches the line that `at` stands for. It may lie past the panel: a prefetch never faults.
#[inline(always)]
unsafe fn fetch_line<S: Simd>(s: S, at: *const u8) {
    let (near, far) = ahead::distances();
    s.prefetch(at.wrapping_add(near));
    s.prefetch_far(at.wrapping_add(far));
}

/// Where the codes of a unit of 256 values come from; what else it has is the format's.
///
/// Methods may be called on a unit that is there, for `b` and `j` below 8, and as those of [`Simd`].
pub(crate) trait Codes<S: Simd>: Copy {
    /// Fetches what blocks some way after `b` will need.
    unsafe fn fetch(self, s: S, b: usize);
    /// Group `j` of block `b`.
    unsafe fn codes(self, s: S, b: usize, j: usize) -> S::U8;
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
