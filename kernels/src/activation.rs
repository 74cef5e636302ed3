//! Activations as the products take them.

use crate::extent::{extent, holds, whole_lines};
use crate::simd::{LANES, MAGIC, Simd};

/// The form that a row of activations takes; it belongs to the weights' [`Format`](crate::Format).
///
/// A quantised row is a sequence of records, each a unit of codes and what belongs to them:
///
/// ```text
/// Q8, 104 bytes per 64 values:   64 x i8 | scale x2 | scale * sum x2 | M - 8 sum x2 | M - 16 sum x2 | M - 128 sum x2
/// Q8K, 320 bytes per 256 values: 256 x i8 | 16 sums of 16, i16 | 8 sums of 32, i16 | scale f32 | 4 sums of 64, i16 | 4 bytes
/// ```
///
/// Rows come in groups of [`Kernels::group`](crate::Kernels::group), the last one smaller: the
/// first record of each row of the group, then the second of each, so that a kernel that takes
/// the whole group reads straight on. Rows of floats lie one after another.
///
/// Sums of codes serve offsets and minima: they are known before any weight is read. M is the bits
/// of 1.5 * 2^23, see `simd::MAGIC`. The eight
/// sums of 32 lie in the order 0 2 1 3 4 6 5 7, as the minima of a panel do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// Single precision, as it is.
    F32,
    /// 8 bits with a scale per 32 values.
    Q8,
    /// 8 bits with a scale per 256 values.
    Q8K,
}

/// Bytes of a Q8 record.
pub(crate) const Q8_RECORD: usize = 104;
/// Values in a Q8 record.
pub(crate) const Q8_UNIT: usize = 64;
/// Bytes of a Q8K record.
pub(crate) const Q8K_RECORD: usize = 320;
/// Values in a Q8K record.
pub(crate) const Q8K_UNIT: usize = 256;

/// Where a Q8 record keeps what follows the codes; each is one number per 32 values.
pub(crate) mod q8 {
    pub(crate) const SCALE: usize = 64;
    pub(crate) const SCALED_SUM: usize = 72;
    pub(crate) const MINUS_8: usize = 80;
    pub(crate) const MINUS_16: usize = 88;
    pub(crate) const MINUS_128: usize = 96;
}

/// Where a Q8K record keeps what follows the codes.
pub(crate) mod q8k {
    pub(crate) const SUMS_16: usize = 256;
    pub(crate) const SUMS_32: usize = 288;
    pub(crate) const SCALE: usize = 304;
    pub(crate) const SUMS_64: usize = 308;
}

impl Activation {
    /// Every form.
    pub const ALL: &'static [Self] = &[Self::F32, Self::Q8, Self::Q8K];

    /// Bytes that go with one unit of the weights.
    pub(crate) const fn record_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Q8 => Q8_RECORD,
            Self::Q8K => Q8K_RECORD,
        }
    }

    /// Values that go with one unit of the weights.
    const fn unit(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::Q8 => Q8_UNIT,
            Self::Q8K => Q8K_UNIT,
        }
    }

    /// Bytes of a row of `k` values; a multiple of 64.
    ///
    /// # Panics
    /// If the row does not fit in memory.
    #[inline(always)]
    #[track_caller]
    pub const fn row_bytes(self, k: usize) -> usize {
        whole_lines(k.div_ceil(self.unit()), self.record_bytes())
    }
}

/// Rows of activations, all of one form, in groups.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    pub(crate) kind: Activation,
    pub(crate) data: &'a [u8],
    pub(crate) stride: usize,
    pub(crate) rows: usize,
    pub(crate) group: usize,
}

impl<'a> Rows<'a> {
    /// The first `rows` rows of `k` values in `data`, each of [`Activation::row_bytes`], in
    /// groups of `group`.
    ///
    /// # Panics
    /// If `data` is too short.
    #[track_caller]
    pub fn new(kind: Activation, k: usize, data: &'a [u8], rows: usize, group: usize) -> Self {
        let stride = kind.row_bytes(k);
        let fits = holds(data.len(), rows, stride, stride);
        assert!(fits, "{rows} rows of {stride} bytes in {}", data.len());
        Self { kind, data, stride, rows, group }
    }
}

/// A row's place in a group.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Rows of the group.
    pub rows: usize,
    /// Which of them.
    pub row: usize,
}

impl Place {
    /// A row that is a group of its own.
    pub const ALONE: Self = Self { rows: 1, row: 0 };
}

/// Writes one row of a group: `out` has [`Activation::row_bytes`] for each of its rows.
///
/// # Safety
/// The CPU has the instruction set of `s`.
#[inline(always)]
pub(crate) unsafe fn quantize_row<S: Simd>(
    s: S,
    kind: Activation,
    x: &[f32],
    out: &mut [u8],
    place: Place,
) {
    let stride = kind.row_bytes(x.len());
    let fits = place.row < place.rows && extent(place.rows, stride, stride) == Some(out.len());
    assert!(fits, "{place:?} of a group");
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        match kind {
            Activation::F32 => {
                let out = &mut out[place.row * stride..];
                for (out, v) in out.chunks_exact_mut(4).zip(x) {
                    out.copy_from_slice(&v.to_le_bytes());
                }
            }
            Activation::Q8 => records::<S, Q8_UNIT, Q8_RECORD>(s, x, out, place),
            Activation::Q8K => records::<S, Q8K_UNIT, Q8K_RECORD>(s, x, out, place),
        }
    }
}

/// # Safety
/// The CPU has the instruction set of `s`.
#[inline(always)]
unsafe fn records<S: Simd, const UNIT: usize, const RECORD: usize>(
    s: S,
    x: &[f32],
    out: &mut [u8],
    place: Place,
) {
    let mut padded = [0.0f32; UNIT];
    let out = out.chunks_exact_mut(RECORD).skip(place.row).step_by(place.rows);
    for (x, out) in x.chunks(UNIT).zip(out) {
        let x: &[f32] = if x.len() == UNIT {
            x
        } else {
            padded[..x.len()].copy_from_slice(x);
            padded[x.len()..].fill(0.0);
            &padded
        };
        // SAFETY: `x` has UNIT values and `out` RECORD bytes.
        unsafe {
            if UNIT == Q8_UNIT {
                q8_record(s, x.as_ptr(), out.as_mut_ptr());
            } else {
                q8k_record(s, x.as_ptr(), out.as_mut_ptr());
            }
        }
    }
}

/// # Safety
/// As [`quantize_row`]; `x` has `16 * N` values and `out` as many bytes. Returns the scale; the
/// sums of each 16 codes go to `sums`.
#[inline(always)]
unsafe fn codes<S: Simd, const N: usize>(
    s: S,
    x: *const f32,
    out: *mut u8,
    sums: &mut [i32; N],
) -> f32 {
    // SAFETY: the pointers have the lengths that the caller states.
    unsafe {
        let mut greatest = s.f_splat(0.0);
        let mut i = 0;
        while i < N {
            greatest = s.f_max(greatest, s.f_abs(s.f_load(x.add(i * LANES))));
            i += 1;
        }
        let scale = s.f_greatest(greatest) / 127.0;
        let inverse = s.f_splat(if scale == 0.0 { 0.0 } else { 1.0 / scale });
        let (low, high) = (s.f_splat(-127.0), s.f_splat(127.0));
        let mut i = 0;
        while i < N {
            let v = s.f_mul(s.f_load(x.add(i * LANES)), inverse);
            // The order of the operands turns NaN into 127 on every instruction set.
            let v = s.f_to_i(s.f_max(s.f_min(v, high), low));
            s.i_store_i8(out.add(i * LANES).cast(), v);
            sums[i] = s.i_sum(v);
            i += 1;
        }
        scale
    }
}

/// # Safety
/// As [`quantize_row`]; `x` has 64 values and `out` [`Q8_RECORD`] bytes.
#[inline(always)]
unsafe fn q8_record<S: Simd>(s: S, x: *const f32, out: *mut u8) {
    let mut b = 0;
    while b < 2 {
        let mut sums = [0; 2];
        // SAFETY: half the record's values and codes.
        let scale = unsafe { codes::<S, 2>(s, x.add(b * 32), out.add(b * 32), &mut sums) };
        let sum = sums[0] + sums[1];
        let numbers = [
            (q8::SCALE, scale.to_bits()),
            (q8::SCALED_SUM, (scale * sum as f32).to_bits()),
            (q8::MINUS_8, (MAGIC - 8 * sum) as u32),
            (q8::MINUS_16, (MAGIC - 16 * sum) as u32),
            (q8::MINUS_128, (MAGIC - 128 * sum) as u32),
        ];
        for (at, v) in numbers {
            // SAFETY: inside the record.
            unsafe { out.add(at + b * 4).cast::<u32>().write_unaligned(v) };
        }
        b += 1;
    }
}

/// # Safety
/// As [`quantize_row`]; `x` has 256 values and `out` [`Q8K_RECORD`] bytes.
#[inline(always)]
unsafe fn q8k_record<S: Simd>(s: S, x: *const f32, out: *mut u8) {
    let mut sums = [0; 16];
    // SAFETY: the record's values and codes, then fields inside the record.
    unsafe {
        let scale = codes::<S, 16>(s, x, out, &mut sums);
        out.add(q8k::SCALE).cast::<u32>().write_unaligned(scale.to_bits());
        for (i, sum) in sums.into_iter().enumerate() {
            out.add(q8k::SUMS_16 + 2 * i).cast::<i16>().write_unaligned(sum as i16);
        }
        for (i, j) in [0, 2, 1, 3, 4, 6, 5, 7].into_iter().enumerate() {
            let sum = (sums[2 * j] + sums[2 * j + 1]) as i16;
            out.add(q8k::SUMS_32 + 2 * i).cast::<i16>().write_unaligned(sum);
        }
        for (i, four) in sums.as_chunks::<4>().0.iter().enumerate() {
            let sum = four.iter().sum::<i32>() as i16;
            out.add(q8k::SUMS_64 + 2 * i).cast::<i16>().write_unaligned(sum);
        }
    }
}
