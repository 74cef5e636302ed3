//! Planes: bits of codes, side by side.
//!
//! A code of 2 to 6 bits is in one plane or two, of 4, 2 or 1 bits, the lowest first. A block of 32
//! codes of sixteen rows has in a plane of 4 bits four vectors ([`spread`]), of 2 bits two, of 1 bit one
//! ([`high_bits`]).

use crate::panel::{NIBBLES, Stack, VECTOR, high_bits, paired_nibbles, spread};
use crate::simd::Simd;

/// Where a block of the file, of 256 codes, has some bits of each.
#[derive(Clone, Copy)]
pub(crate) struct Plane {
    bits: u32,
    at: usize,
    order: Order,
}

#[derive(Clone, Copy, PartialEq)]
enum Order {
    /// A byte has the bits of k, k + 32, k + 64 and so on, as many as it holds.
    InTurn,
    /// A byte has the nibbles of k and k + 64.
    Crossed,
    /// A byte has the nibbles of k and k + 16.
    Paired,
}

impl Plane {
    /// `bits` bits, 32 codes after 32 codes in the same bytes from `at` on, until these are full.
    pub(crate) const fn new(bits: u32, at: usize) -> Self {
        Self { bits, at, order: Order::InTurn }
    }

    /// Nibbles of four times 32 codes: the first and third, and the second and fourth, in the same bytes.
    pub(crate) const fn crossed(at: usize) -> Self {
        Self { bits: 4, at, order: Order::Crossed }
    }

    /// Nibbles, both halves of each 32 codes in the same bytes.
    pub(crate) const fn paired(at: usize) -> Self {
        Self { bits: 4, at, order: Order::Paired }
    }

    /// The byte and the bit of the first of the 32 codes `b`.
    fn place(self, b: usize) -> (usize, u32) {
        let Self { bits, at, order } = self;
        let in_a_byte = 8 / bits as usize;
        match order {
            Order::InTurn => (at + b / in_a_byte * 32, bits * (b % in_a_byte) as u32),
            Order::Crossed => (at + b / 4 * 64 + b % 2 * 32, b as u32 % 4 / 2 * 4),
            Order::Paired => (at + 16 * b, 0),
        }
    }

    /// The byte and the bit of code `i`.
    fn place_of(self, i: usize) -> (usize, u32) {
        let (at, shift) = self.place(i / 32);
        match self.order {
            Order::Paired => (at + i % 16, i as u32 % 32 / 16 * 4),
            _ => (at + i % 32, shift),
        }
    }

    /// Packs the codes `b` of all rows, whose block begins at `block`.
    fn pack(self, rows: &Stack<'_>, block: usize, b: usize, out: &mut [u8]) {
        let (at, shift) = self.place(b);
        let at = block + at;
        match (self.bits, self.order) {
            (4, order) => {
                let out = out.first_chunk_mut().expect("a plane of nibbles");
                if order == Order::Paired {
                    spread(|lane| *rows.bytes(lane, at), out);
                } else {
                    spread(|lane| paired_nibbles(rows.bytes(lane, at), shift == 4), out);
                }
            }
            (2, _) => {
                for (half, out) in out.chunks_exact_mut(VECTOR).enumerate() {
                    let bytes = |lane| rows.bytes::<16>(lane, at + 16 * half);
                    lanes(out, |lane| high_bits::<2>(bytes(lane), shift));
                }
            }
            _ => lanes(out, |lane| high_bits::<1>(rows.bytes::<32>(lane, at), shift)),
        }
    }
}

fn lanes(out: &mut [u8], four: impl Fn(usize) -> [u8; 4]) {
    for (lane, out) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        *out = four(lane);
    }
}

/// Bits of a code.
pub(crate) const fn bits(planes: &[Plane]) -> u32 {
    match planes {
        [one] => one.bits,
        [one, two] => one.bits + two.bits,
        _ => panic!("one plane or two"),
    }
}

/// Packs the codes `b` of all rows, whose block begins at `block`.
pub(crate) fn pack(planes: &[Plane], rows: &Stack<'_>, block: usize, b: usize, mut out: &mut [u8]) {
    for plane in planes {
        let part = out.split_off_mut(..plane.bits as usize * VECTOR).expect("room for each plane");
        plane.pack(rows, block, b, part);
    }
}

/// Code `i` of a block of the file.
pub(crate) fn code_in_file(planes: &[Plane], block: &[u8], i: usize) -> u8 {
    let (mut code, mut below) = (0, 0);
    for plane in planes {
        let (at, shift) = plane.place_of(i);
        code |= (block[at] >> shift & ((1 << plane.bits) - 1)) << below;
        below += plane.bits;
    }
    code
}

/// Writes the codes of a block of the file, whose bits are zero so far.
pub(crate) fn put_codes(planes: &[Plane], block: &mut [u8], codes: &[u8; 256]) {
    let mut below = 0;
    for plane in planes {
        for (i, code) in codes.iter().enumerate() {
            let (at, shift) = plane.place_of(i);
            block[at] |= (code >> below & ((1 << plane.bits) - 1)) << shift;
        }
        below += plane.bits;
    }
}

/// Group `j` (values `4 j .. 4 j + 4`) of a packed block of codes of `bits` bits.
///
/// # Safety
/// `block` is valid for [`code_bytes`](crate::panel::code_bytes) of `bits`, and `j` below 8; else as the
/// methods of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn group<S: Simd>(s: S, bits: u32, block: *const u8, j: usize) -> S::B {
    match bits {
        2 => two(s, block, j, 0),
        3 => s.b_or(two(s, block, j, 0), one(s, block.add(2 * VECTOR), j, 2)),
        4 => nibbles(s, block, j),
        5 => s.b_or(nibbles(s, block, j), one(s, block.add(NIBBLES), j, 4)),
        _ => s.b_or(nibbles(s, block, j), two(s, block.add(NIBBLES), j, 4)),
    }
}

/// The nibbles of group `j`.
#[inline(always)]
unsafe fn nibbles<S: Simd>(s: S, plane: *const u8, j: usize) -> S::B {
    let both = s.b_load(plane.add(j % 4 * VECTOR));
    s.b_and(if j < 4 { both } else { s.b_shr::<4>(both) }, s.b_splat(15))
}

/// Two bits of each code of group `j`, moved to bit `to`.
#[inline(always)]
unsafe fn two<S: Simd>(s: S, plane: *const u8, j: usize, to: i32) -> S::B {
    let bits = s.b_load(plane.add(j / 4 * VECTOR));
    s.b_and(moved(s, bits, to - 2 * (j % 4) as i32), s.b_splat(3 << to))
}

/// One bit of each code of group `j`, moved to bit `to`.
#[inline(always)]
unsafe fn one<S: Simd>(s: S, plane: *const u8, j: usize, to: i32) -> S::B {
    s.b_and(moved(s, s.b_load(plane), to - j as i32), s.b_splat(1 << to))
}

/// Shifts left, or right where `by` is negative; bits cross bytes, the caller masks.
#[inline(always)]
unsafe fn moved<S: Simd>(s: S, bits: S::B, by: i32) -> S::B {
    match by {
        4 => s.b_shl::<4>(bits),
        3 => s.b_shl::<3>(bits),
        2 => s.b_shl::<2>(bits),
        1 => s.b_shl::<1>(bits),
        0 => bits,
        -1 => s.b_shr::<1>(bits),
        -2 => s.b_shr::<2>(bits),
        -3 => s.b_shr::<3>(bits),
        -4 => s.b_shr::<4>(bits),
        -5 => s.b_shr::<5>(bits),
        _ => s.b_shr::<6>(bits),
    }
}
