//! Q3_K: `d * (scale - 32) * (code - 4)`, three bits a code, six bits a scale per 16.
//!
//! Scales are in twelve bytes, in the file and in panels: byte g of the first eight has the low nibbles of
//! groups g and g + 8, byte g of the last four two bits above those of groups g, g + 4, g + 8 and g + 12.

use super::{Quantize, quantize};
use crate::matmul::centred::{Blocks256, Centred};
use crate::matmul::planes::{Plane, put_codes};
use crate::panel::VECTOR;
use crate::simd::{LANES, Simd};

/// The format.
#[allow(non_camel_case_types, reason = "formats keep the GGUF spelling")]
pub(crate) type Q3_K = Centred<Codes>;

/// Its codes. Of 16 products the sum is at most `16 * 7 * 127 < 2^15`.
pub(crate) struct Codes;

// SAFETY: twelve bytes of a row are three vectors; `expand` writes four.
unsafe impl Blocks256 for Codes {
    const PLANES: &'static [Plane] = &[Plane::new(2, 32), Plane::new(1, 0)];
    const GROUP: usize = 16;
    const BYTES: usize = 110;
    const SUPER: usize = 108;
    const HEAD: usize = 94;
    const SCALE_BYTES: usize = 12;
    const RUN: (usize, usize) = (4, 4);
    const SUM16: bool = true;
    const QUANTIZE: Option<Quantize> = Some(quantize);
    type Codes<S: Simd> = S::U8;

    fn value(code: u8) -> i32 {
        i32::from(code) - 4
    }
    fn scale_bytes(head: &[u8; 16]) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..12].copy_from_slice(&head[2..14]);
        bytes
    }
    fn scale_of(bytes: &[u8; 16], g: usize) -> i32 {
        let low = bytes[g % 8] >> (g / 8 * 4) & 15;
        let high = bytes[8 + g % 4] >> (g / 4 * 2) & 3;
        i32::from(low | high << 4) - 32
    }

    fn offset<S: Simd>() -> i32 {
        4
    }
    #[inline(always)]
    unsafe fn codes<S: Simd>(s: S, codes: S::B) -> S::U8 {
        s.prep_u(codes)
    }
    #[inline(always)]
    unsafe fn dot<S: Simd>(s: S, dots: S::Acc, w: S::U8, x: S::X) -> S::Acc {
        s.dot_u(dots, w, x)
    }
    /// Scales above -32, four groups of sixteen rows a vector.
    #[inline(always)]
    unsafe fn expand<S: Simd>(s: S, packed: *const u8, room: *mut u8) -> *const u8 {
        let [first, second, high] = [0, 1, 2].map(|v| s.b_load(packed.add(v * VECTOR)));
        let (low_mask, high_mask) = (s.b_splat(15), s.b_splat(0x30));
        let store = |v: usize, low: S::B, high: S::B| {
            let scales = s.b_or(s.b_and(low, low_mask), s.b_and(high, high_mask));
            s.b_store(room.add(v * VECTOR), scales);
        };
        store(0, first, s.b_shl::<4>(high));
        store(1, second, s.b_shl::<2>(high));
        store(2, s.b_shr::<4>(first), high);
        store(3, s.b_shr::<4>(second), s.b_shr::<2>(high));
        room
    }
    #[inline(always)]
    unsafe fn scale<S: Simd>(s: S, expanded: *const u8, g: usize) -> S::I {
        s.i_sub(s.i_load_u8(expanded.add(g * LANES)), s.i_splat(32))
    }
}

fn quantize(x: &[f32], b: &mut [u8]) {
    b.fill(0);
    let block = quantize::centred(x, 4, 32, quantize::of_moved_codes);
    put_codes(Codes::PLANES, b, &block.codes);
    for (g, scale) in block.scales.iter().flatten().enumerate() {
        let scale = (scale + 32) as u8;
        b[96 + g % 8] |= (scale & 15) << (g / 8 * 4);
        b[104 + g % 4] |= (scale >> 4) << (g / 4 * 2);
    }
    b[108..].copy_from_slice(&block.d.to_le_bytes());
}
