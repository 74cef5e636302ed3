//! Lengths of what kernels read and write. Whatever checks a length against memory computes it
//! here: elsewhere arithmetic wraps in the release profile, and a product that has wrapped fits
//! anything.

/// Elements from the first of `rows` rows to the end of the last, each of `width` elements and
/// `stride` after the one before; `None` if `usize` cannot say.
#[inline(always)]
pub(crate) const fn extent(rows: usize, stride: usize, width: usize) -> Option<usize> {
    let Some(last) = rows.checked_sub(1) else { return Some(0) };
    let Some(start) = last.checked_mul(stride) else { return None };
    start.checked_add(width)
}

/// Whether `len` elements hold such rows.
#[inline(always)]
pub(crate) const fn holds(len: usize, rows: usize, stride: usize, width: usize) -> bool {
    matches!(extent(rows, stride, width), Some(need) if need <= len)
}

/// Bytes of `n` units of `bytes` each, rounded up to a cache line.
///
/// # Panics
/// If they do not fit in memory.
#[inline(always)]
#[track_caller]
pub(crate) const fn whole_lines(n: usize, bytes: usize) -> usize {
    if let Some(all) = extent(n, bytes, bytes)
        && let Some(all) = all.checked_next_multiple_of(64)
    {
        return all;
    }
    panic!("a row or panel of this length does not fit in memory")
}
