//! Panels: what they are made of, packing rows into them, and reading a row back.
//!
//! A panel is sixteen rows, a sequence of units along K, each the codes of sixteen rows and what
//! belongs to them; every format's family draws its own. Codes are 64-byte vectors: four
//! consecutive k of one row side by side, sixteen rows. A vector of nibbles holds group j (k = 4 j
//! .. 4 j + 3) of a block of 32 in its low halves and group j + 4 in its high ones. Bits above the
//! nibbles are vectors after them ([`high_bits`]).

use half::f16;

use crate::PANEL_ROWS;
use crate::format::Format;

/// Values in half of a simple unit, and in a block of a K-quant.
pub(crate) const BLOCK: usize = 32;
/// Bytes of a vector.
pub(crate) const VECTOR: usize = 64;
/// Bytes of sixteen half floats.
pub(crate) const HALVES: usize = 32;
/// Bytes of the four vectors of nibbles of a block.
pub(crate) const NIBBLES: usize = 4 * VECTOR;

/// Packs up to sixteen rows of `k` values, one after another in the file's layout, into a panel.
///
/// Rows that are missing, and what pads K, multiply to zero.
///
/// # Panics
/// If `rows` is not 1 to 16 rows of [`Format::row_bytes`], or `panel` not
/// [`Format::panel_bytes`] long.
pub fn pack_panel(format: Format, k: usize, rows: &[u8], panel: &mut [u8]) {
    let row_bytes = format.row_bytes(k).unwrap_or(0);
    assert!(row_bytes > 0, "K = {k} is no row of {format}");
    let n = rows.len() / row_bytes;
    assert!(
        rows.len() == n * row_bytes && (1..=PANEL_ROWS).contains(&n),
        "{} bytes are not 1 to {PANEL_ROWS} rows of {row_bytes}",
        rows.len()
    );
    assert_eq!(panel.len(), format.panel_bytes(k), "bytes of a panel");
    (format.entry().pack)(&Stack { rows, row_bytes }, panel);
}

/// Writes row `lane` of a panel as floats: what [`Format::dequantize`] gives for the row that was
/// packed there.
///
/// # Panics
/// If `panel` is not [`Format::panel_bytes`] of `out.len()` values, or `lane` not below sixteen.
pub fn unpack_row(format: Format, panel: &[u8], lane: usize, out: &mut [f32]) {
    assert!(lane < PANEL_ROWS, "lane {lane}");
    assert_eq!(panel.len(), format.panel_bytes(out.len()), "bytes of a panel");
    (format.entry().unpack)(panel, lane, out);
}

/// Up to sixteen rows on their way into a panel.
pub(crate) struct Stack<'a> {
    rows: &'a [u8],
    row_bytes: usize,
}

/// Stands for rows and blocks that do not exist: their scales are zero, so that they multiply to
/// zero whatever the codes stand for.
static NOTHING: [u8; 64] = [0; 64];

impl<'a> Stack<'a> {
    /// Bytes of a row.
    pub(crate) fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// `N` bytes from `at` on of row `lane`.
    #[inline]
    pub(crate) fn bytes<const N: usize>(&self, lane: usize, at: usize) -> &'a [u8; N] {
        let from = lane * self.row_bytes + at;
        let found = if at + N <= self.row_bytes { self.rows.get(from..) } else { None };
        let found = found.and_then(|rows| rows.first_chunk());
        found.unwrap_or_else(|| NOTHING.first_chunk().expect("at most 64 bytes at a time"))
    }

    /// The `len` bytes from `at` on of row `lane`, if there are any.
    pub(crate) fn block(&self, lane: usize, at: usize, len: usize) -> Option<&'a [u8]> {
        let row = self.rows.get(lane * self.row_bytes..)?.get(..self.row_bytes)?;
        row.get(at..at + len)
    }
}

/// Spreads sixteen bytes of each row over four vectors, four bytes a lane.
#[inline]
pub(crate) fn spread(row: impl Fn(usize) -> [u8; 16], out: &mut [u8; NIBBLES]) {
    for first in (0..PANEL_ROWS).step_by(4) {
        let four = transposed([row(first), row(first + 1), row(first + 2), row(first + 3)]);
        for (vector, lanes) in out.as_chunks_mut::<VECTOR>().0.iter_mut().zip(four) {
            vector[4 * first..][..16].copy_from_slice(&lanes);
        }
    }
}

/// A matrix of four times four 32-bit words, transposed.
#[cfg(target_arch = "x86_64")]
#[inline]
fn transposed(rows: [[u8; 16]; 4]) -> [[u8; 16]; 4] {
    use std::arch::x86_64::{
        __m128i, _mm_unpackhi_epi32, _mm_unpackhi_epi64, _mm_unpacklo_epi32, _mm_unpacklo_epi64,
    };
    // SAFETY: both are 16 bytes, and any bytes are valid in both. SSE2 is every x86-64's.
    unsafe {
        let [a, b, c, d] = std::mem::transmute::<[[u8; 16]; 4], [__m128i; 4]>(rows);
        let (low, low2) = (_mm_unpacklo_epi32(a, b), _mm_unpacklo_epi32(c, d));
        let (high, high2) = (_mm_unpackhi_epi32(a, b), _mm_unpackhi_epi32(c, d));
        std::mem::transmute::<[__m128i; 4], [[u8; 16]; 4]>([
            _mm_unpacklo_epi64(low, low2),
            _mm_unpackhi_epi64(low, low2),
            _mm_unpacklo_epi64(high, high2),
            _mm_unpackhi_epi64(high, high2),
        ])
    }
}

/// A matrix of four times four 32-bit words, transposed.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn transposed(rows: [[u8; 16]; 4]) -> [[u8; 16]; 4] {
    let mut out = [[0; 16]; 4];
    for (r, row) in rows.iter().enumerate() {
        for (out, word) in out.iter_mut().zip(row.as_chunks::<4>().0) {
            out[4 * r..][..4].copy_from_slice(word);
        }
    }
    out
}

/// The low or the high nibbles of 32 bytes, those of k and k + 16 in one byte.
#[inline]
pub(crate) fn paired_nibbles(bytes: &[u8; 32], high: bool) -> [u8; 16] {
    const LOW: u128 = u128::from_le_bytes([15; 16]);
    let half = |at: usize| {
        let half = bytes[at..].first_chunk().expect("two halves of 16 bytes");
        u128::from_le_bytes(*half)
    };
    let (first, second) = (half(0), half(16));
    let pairs =
        if high { first >> 4 & LOW | second & !LOW } else { first & LOW | (second & LOW) << 4 };
    pairs.to_le_bytes()
}

/// What a row has in the vectors of bits above the nibbles: `BITS` bits from bit `shift` on of each
/// of `bytes`, four bytes (k = 4 j + c, c = 0 .. 3) for as many groups j as fit.
#[inline]
pub(crate) fn high_bits<const BITS: u32>(bytes: &[u8], shift: u32) -> [u8; 4] {
    let mask = u32::from_le_bytes([(1 << BITS) - 1; 4]);
    let words = bytes.as_chunks::<4>().0.iter().zip(0..8 / BITS);
    let bits = words.map(|(word, j)| (u32::from_le_bytes(*word) >> shift & mask) << (BITS * j));
    bits.fold(0, |all, bits| all | bits).to_le_bytes()
}

/// The half float at `at`.
pub(crate) fn half_at(b: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}

/// Code `i` of a packed block of 32 in row `lane`, of 2 to 6 or 8 bits.
pub(crate) fn code(bits: u32, codes: &[u8], lane: usize, i: usize) -> u8 {
    let (j, c) = (i / 4, i % 4);
    let byte = |vector: usize| codes[vector * VECTOR + 4 * lane + c];
    let four = || byte(j % 4) >> (j / 4 * 4) & 15;
    let two = |first: usize| byte(first + j / 4) >> (j % 4 * 2) & 3;
    match bits {
        2 => two(0),
        3 => two(0) | (byte(2) >> j & 1) << 2,
        4 => four(),
        5 => four() | (byte(4) >> j & 1) << 4,
        6 => four() | two(4) << 4,
        _ => byte(j),
    }
}

/// Bytes of a block of 32 codes in sixteen rows.
pub(crate) const fn code_bytes(bits: u32) -> usize {
    bits as usize * VECTOR
}
