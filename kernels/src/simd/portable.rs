//! No SIMD at all: the tier of every other processor, and the yardstick of the tests.
//!
//! The longer methods are calls: written out in every kernel, this tier was 40% of the crate's
//! code and of its compile time.
#![allow(unsafe_op_in_unsafe_fn, reason = "the contract of every method is the trait's")]

use half::{bf16, f16};

use super::{LANES, MAGIC, Simd};

/// The token of the portable tier.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

macro_rules! lanes {
    ($i:ident => $e:expr) => {{
        let mut out = [Default::default(); LANES];
        let mut $i = 0;
        while $i < LANES {
            out[$i] = $e;
            $i += 1;
        }
        out
    }};
}

macro_rules! bytes {
    ($i:ident => $e:expr) => {{
        let mut out = [0u8; 64];
        let mut $i = 0;
        while $i < 64 {
            out[$i] = $e;
            $i += 1;
        }
        out
    }};
}

#[inline(always)]
fn halves(a: [u8; 64], f: impl Fn(u16) -> u16) -> [u8; 64] {
    let mut out = [0u8; 64];
    for (o, i) in out.chunks_exact_mut(2).zip(a.chunks_exact(2)) {
        o.copy_from_slice(&f(u16::from_le_bytes([i[0], i[1]])).to_le_bytes());
    }
    out
}

// SAFETY: plain Rust; nothing here needs an instruction set.
unsafe impl Simd for Portable {
    type B = [u8; 64];
    type I = [i32; LANES];
    type F = [f32; LANES];
    type X = [i8; 4];
    type Acc = [i32; LANES];
    type U8 = [u8; 64];
    type S8 = [u8; 64];
    type Factor = [f32; LANES];
    type Scale24 = [i32; LANES];
    type Sum24 = [i32; LANES];
    type Table = [u8; 16];
    type Sums = [i32; LANES];

    const S8_BIAS: i32 = 0;
    const WIDE: bool = true;

    #[inline(always)]
    unsafe fn prefetch(self, _p: *const u8) {}
    #[inline(always)]
    unsafe fn prefetch_far(self, _p: *const u8) {}
    #[inline(always)]
    unsafe fn b_load(self, p: *const u8) -> Self::B {
        p.cast::<[u8; 64]>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn b_store(self, p: *mut u8, a: Self::B) {
        p.cast::<[u8; 64]>().write_unaligned(a);
    }
    #[inline(always)]
    unsafe fn b_splat(self, v: u8) -> Self::B {
        [v; 64]
    }
    #[inline(always)]
    unsafe fn b_and(self, a: Self::B, b: Self::B) -> Self::B {
        bytes!(i => a[i] & b[i])
    }
    #[inline(always)]
    unsafe fn b_or(self, a: Self::B, b: Self::B) -> Self::B {
        bytes!(i => a[i] | b[i])
    }
    #[inline(never)]
    unsafe fn b_shr<const N: i32>(self, a: Self::B) -> Self::B {
        halves(a, |v| v >> N)
    }
    #[inline(never)]
    unsafe fn b_shl<const N: i32>(self, a: Self::B) -> Self::B {
        halves(a, |v| v << N)
    }
    #[inline(always)]
    unsafe fn b_triple(self, a: Self::B) -> Self::B {
        bytes!(i => a[i].wrapping_mul(3))
    }
    #[inline(always)]
    unsafe fn b_digits(self, a: Self::B) -> Self::B {
        bytes!(i => ((u16::from(a[i] ^ 0x80) * 3) >> 8) as u8)
    }
    #[inline(always)]
    unsafe fn sums_zero(self) -> Self::Sums {
        [0; LANES]
    }
    #[inline(always)]
    unsafe fn dot_fields<const D: usize>(
        self,
        mut sums: Self::Sums,
        bytes: Self::B,
        x: [Self::X; D],
    ) -> Self::Sums {
        let bits = 8 / D;
        for (n, x) in x.into_iter().enumerate() {
            sums = self.dot_u(sums, bytes!(i => bytes[i] >> (n * bits) & ((1 << bits) - 1)), x);
        }
        sums
    }
    #[inline(always)]
    unsafe fn fields_sum<const D: usize>(self, sums: Self::Sums) -> Self::I {
        sums
    }
    #[inline(always)]
    unsafe fn dot_digits<const D: usize>(
        self,
        mut sums: Self::Sums,
        mut fractions: Self::B,
        x: [Self::X; D],
    ) -> Self::Sums {
        for x in x {
            sums = self.dot_u(sums, self.b_digits(fractions), x);
            fractions = self.b_triple(fractions);
        }
        sums
    }
    #[inline(always)]
    unsafe fn digits_sum(self, sums: Self::Sums) -> Self::I {
        sums
    }
    #[inline(always)]
    unsafe fn x_load(self, p: *const i8) -> Self::X {
        p.cast::<[i8; 4]>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn acc_start(self, start: *const i32) -> Self::Acc {
        [start.read_unaligned(); LANES]
    }
    #[inline(always)]
    unsafe fn acc_zero(self) -> Self::Acc {
        [0; LANES]
    }
    #[inline(always)]
    unsafe fn prep_u(self, w: Self::B) -> Self::U8 {
        w
    }
    #[inline(never)]
    unsafe fn dot_u(self, mut acc: Self::Acc, w: Self::U8, x: Self::X) -> Self::Acc {
        for r in 0..LANES {
            for c in 0..4 {
                acc[r] += i32::from(w[4 * r + c]) * i32::from(x[c]);
            }
        }
        acc
    }
    #[inline(always)]
    unsafe fn flush(self, acc: Self::Acc) -> Self::Acc {
        acc
    }
    #[inline(always)]
    unsafe fn finish(self, acc: Self::Acc, _start: *const i32) -> Self::I {
        acc
    }
    #[inline(always)]
    unsafe fn prep_scale(self, scale: Self::I) -> Self::I {
        scale
    }
    #[inline(never)]
    unsafe fn scale_add(self, total: Self::I, acc: Self::Acc, scale: Self::I) -> Self::I {
        lanes!(i => total[i] + acc[i] * scale[i])
    }
    #[inline(always)]
    unsafe fn prep_scale24(self, scale: Self::I) -> Self::Scale24 {
        scale
    }
    #[inline(always)]
    unsafe fn sum24_zero(self) -> Self::Sum24 {
        [0; LANES]
    }
    #[inline(always)]
    unsafe fn scale_add24(
        self,
        sum: Self::Sum24,
        acc: Self::Acc,
        scale: Self::Scale24,
    ) -> Self::Sum24 {
        self.scale_add(sum, acc, scale)
    }
    #[inline(always)]
    unsafe fn sum24_join(self, a: Self::Sum24, b: Self::Sum24) -> Self::F {
        self.i_to_f(self.i_add(a, b))
    }
    #[inline(always)]
    unsafe fn factors(self, p: *const u16) -> Self::Factor {
        let w = self.f_load_f16(p);
        // Of an infinity NaN, of any other number itself.
        lanes!(i => if w[i].is_finite() { w[i] } else { f32::NAN })
    }
    #[inline(never)]
    unsafe fn scaled(self, dots: Self::I, factor: Self::Factor) -> Self::F {
        lanes!(i => (f32::from_bits(dots[i] as u32) - f32::from_bits(MAGIC as u32)) * factor[i])
    }
    #[inline(always)]
    unsafe fn prep_s(self, w: Self::B) -> Self::S8 {
        w
    }
    #[inline(never)]
    unsafe fn dot_s(self, mut acc: Self::I, w: Self::S8, x: Self::X) -> Self::I {
        for r in 0..LANES {
            for c in 0..4 {
                acc[r] += i32::from(w[4 * r + c] as i8) * i32::from(x[c]);
            }
        }
        acc
    }
    #[inline(never)]
    unsafe fn dot_pairs(self, acc: Self::I, a: Self::I, b: Self::I) -> Self::I {
        lanes!(i => acc[i]
            + i32::from(a[i] as i16) * i32::from(b[i] as i16)
            + (a[i] >> 16) * (b[i] >> 16))
    }
    #[inline(always)]
    unsafe fn table(self, bytes: &[u8; 16]) -> Self::Table {
        *bytes
    }
    #[inline(never)]
    unsafe fn lookup(self, table: Self::Table, index: Self::B) -> Self::B {
        bytes!(i => table[usize::from(index[i] & 15)])
    }
    #[inline(always)]
    unsafe fn prep_biased(self, w: Self::B) -> Self::S8 {
        w
    }
    #[inline(always)]
    unsafe fn dot_biased(self, acc: Self::Acc, w: Self::S8, x: Self::X) -> Self::Acc {
        self.dot_s(acc, w, x)
    }
    #[inline(always)]
    unsafe fn prep_scale16(self, scale: Self::I) -> Self::I {
        scale
    }
    #[inline(always)]
    unsafe fn scale_add16(self, total: Self::I, acc: Self::Acc, scale: Self::I) -> Self::I {
        self.scale_add(total, acc, scale)
    }
    #[inline(always)]
    unsafe fn i_splat_at(self, p: *const i32) -> Self::I {
        [p.read_unaligned(); LANES]
    }
    #[inline(always)]
    unsafe fn i_splat(self, v: i32) -> Self::I {
        [v; LANES]
    }
    #[inline(always)]
    unsafe fn i_add(self, a: Self::I, b: Self::I) -> Self::I {
        lanes!(i => a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    unsafe fn i_sub(self, a: Self::I, b: Self::I) -> Self::I {
        lanes!(i => a[i].wrapping_sub(b[i]))
    }
    #[inline(always)]
    unsafe fn i_and(self, a: Self::I, b: Self::I) -> Self::I {
        lanes!(i => a[i] & b[i])
    }
    #[inline(always)]
    unsafe fn i_shl<const N: i32>(self, a: Self::I) -> Self::I {
        lanes!(i => a[i] << N)
    }
    #[inline(always)]
    unsafe fn i_shr<const N: i32>(self, a: Self::I) -> Self::I {
        lanes!(i => (a[i] as u32 >> N) as i32)
    }
    #[inline(always)]
    unsafe fn i_load_i8(self, p: *const i8) -> Self::I {
        lanes!(i => i32::from(p.add(i).read()))
    }
    #[inline(always)]
    unsafe fn i_load_u8(self, p: *const u8) -> Self::I {
        lanes!(i => i32::from(p.add(i).read()))
    }
    #[inline(always)]
    unsafe fn i_to_f(self, a: Self::I) -> Self::F {
        lanes!(i => a[i] as f32)
    }
    #[inline(never)]
    unsafe fn f_to_i(self, a: Self::F) -> Self::I {
        lanes!(i => a[i].round_ties_even() as i32)
    }
    #[inline(always)]
    unsafe fn i_store(self, p: *mut i32, a: Self::I) {
        p.cast::<[i32; LANES]>().write_unaligned(a);
    }
    #[inline(always)]
    unsafe fn i_store_i8(self, p: *mut i8, a: Self::I) {
        for (i, v) in a.into_iter().enumerate() {
            p.add(i).write(v as i8);
        }
    }
    #[inline(always)]
    unsafe fn i_sum(self, a: Self::I) -> i32 {
        a.iter().fold(0, |sum: i32, v| sum.wrapping_add(*v))
    }
    #[inline(never)]
    unsafe fn i_from_b(self, a: Self::B) -> Self::I {
        lanes!(i => i32::from_le_bytes([a[4 * i], a[4 * i + 1], a[4 * i + 2], a[4 * i + 3]]))
    }
    #[inline(always)]
    unsafe fn f_from_bits(self, a: Self::I) -> Self::F {
        lanes!(i => f32::from_bits(a[i] as u32))
    }
    #[inline(always)]
    unsafe fn f_load(self, p: *const f32) -> Self::F {
        p.cast::<[f32; LANES]>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn f_store(self, p: *mut f32, a: Self::F) {
        p.cast::<[f32; LANES]>().write_unaligned(a);
    }
    #[inline(always)]
    unsafe fn f_splat(self, v: f32) -> Self::F {
        [v; LANES]
    }
    #[inline(always)]
    unsafe fn f_splat_at(self, p: *const f32) -> Self::F {
        [p.read_unaligned(); LANES]
    }
    #[inline(always)]
    unsafe fn f_add(self, a: Self::F, b: Self::F) -> Self::F {
        lanes!(i => a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn f_sub(self, a: Self::F, b: Self::F) -> Self::F {
        lanes!(i => a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn f_mul(self, a: Self::F, b: Self::F) -> Self::F {
        lanes!(i => a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn f_div(self, a: Self::F, b: Self::F) -> Self::F {
        lanes!(i => a[i] / b[i])
    }
    #[inline(always)]
    unsafe fn f_max(self, a: Self::F, b: Self::F) -> Self::F {
        lanes!(i => if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn f_min(self, a: Self::F, b: Self::F) -> Self::F {
        lanes!(i => if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn f_abs(self, a: Self::F) -> Self::F {
        lanes!(i => f32::from_bits(a[i].to_bits() & 0x7fff_ffff))
    }
    #[inline(always)]
    unsafe fn f_fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        lanes!(i => a[i] * b[i] + c[i])
    }
    #[inline(never)]
    unsafe fn f_load_f16(self, p: *const u16) -> Self::F {
        lanes!(i => f16::from_bits(p.add(i).read_unaligned()).to_f32_const())
    }
    #[inline(never)]
    unsafe fn f_store_f16(self, p: *mut u16, a: Self::F) {
        for (i, v) in a.into_iter().enumerate() {
            p.add(i).write_unaligned(f16::from_f32_const(v).to_bits());
        }
    }
    #[inline(never)]
    unsafe fn f_load_bf16(self, p: *const u16) -> Self::F {
        lanes!(i => bf16::from_bits(p.add(i).read_unaligned()).to_f32_const())
    }
}
