//! x86-64: one register's instructions per tier, lifted to the 64-byte vectors of [`Simd`].
#![allow(unsafe_op_in_unsafe_fn, reason = "the contract of every method is the trait's")]

mod r128;
mod r256;
mod r512;

use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};

use super::{MAGIC, Simd};

pub(crate) use r128::{Sse2, Ssse3};
pub(crate) use r256::{Avx2, AvxVnni};
pub(crate) use r512::{Avx512, Avx512Vnni};

/// The same instruction on each register: `lift!(r => e)` is `[e with r = 0, ...]`.
macro_rules! lift {
    ($r:ident => $e:expr) => {{
        let mut out = [{
            let $r = 0;
            $e
        }; N];
        if N > 1 {
            let $r = 1;
            out[$r] = $e;
        }
        if N > 2 {
            {
                let $r = 2;
                out[$r] = $e;
            }
            {
                let $r = 3;
                out[$r] = $e;
            }
        }
        out
    }};
}
use lift;

/// Instructions on one register; the names and contracts are those of [`Simd`], of whose memory each
/// takes a register's part.
///
/// # Safety
/// As for [`Simd`]; and `BYTES` are those of a register of `I` and `F`.
pub(crate) unsafe trait Reg: Copy {
    type I: Copy;
    type F: Copy;
    type X: Copy;
    type Acc: Copy;
    type U8: Copy;
    type S8: Copy;
    type Factor: Copy;
    type Scale24: Copy;
    type Sum24: Copy;
    type Table: Copy;
    type Sums: Copy;
    const BYTES: usize;
    const S8_BIAS: i32;
    const WIDE: bool;

    unsafe fn load(p: *const u8) -> Self::I;
    unsafe fn store(p: *mut u8, a: Self::I);
    unsafe fn splat8(v: u8) -> Self::I;
    unsafe fn splat32(v: i32) -> Self::I;
    unsafe fn and(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn or(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn shr16<const N: i32>(a: Self::I) -> Self::I;
    unsafe fn shl16<const N: i32>(a: Self::I) -> Self::I;
    unsafe fn shl32<const N: i32>(a: Self::I) -> Self::I;
    unsafe fn triple8(a: Self::I) -> Self::I;
    unsafe fn digits8(a: Self::I) -> Self::I;
    unsafe fn shr32<const N: i32>(a: Self::I) -> Self::I;
    unsafe fn add32(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn sub32(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn madd16(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn widen_i8(p: *const i8) -> Self::I;
    unsafe fn widen_u8(p: *const u8) -> Self::I;
    /// Sixteen lanes, which fit in `i8`, as bytes.
    unsafe fn store_i8<const N: usize>(p: *mut i8, a: [Self::I; N]);
    /// Sum of the lanes.
    unsafe fn sum32(a: Self::I) -> i32;

    unsafe fn sums_zero() -> Self::Sums;
    unsafe fn dot_fields<const D: usize>(
        sums: Self::Sums,
        bytes: Self::I,
        x: [Self::X; D],
    ) -> Self::Sums;
    unsafe fn fields_sum<const D: usize>(sums: Self::Sums) -> Self::I;
    unsafe fn dot_digits<const D: usize>(
        sums: Self::Sums,
        fractions: Self::I,
        x: [Self::X; D],
    ) -> Self::Sums;
    unsafe fn digits_sum(sums: Self::Sums) -> Self::I;
    unsafe fn x_load(p: *const i8) -> Self::X;
    unsafe fn acc_zero() -> Self::Acc;
    unsafe fn acc_start(start: *const i32) -> Self::Acc;
    unsafe fn prep_u(w: Self::I) -> Self::U8;
    unsafe fn dot_u(acc: Self::Acc, w: Self::U8, x: Self::X) -> Self::Acc;
    unsafe fn flush(acc: Self::Acc) -> Self::Acc;
    unsafe fn finish(acc: Self::Acc, start: *const i32) -> Self::I;
    unsafe fn prep_scale(scale: Self::I) -> Self::I;
    unsafe fn scale_add(total: Self::I, acc: Self::Acc, scale: Self::I) -> Self::I;
    unsafe fn prep_scale24(scale: Self::I) -> Self::Scale24;
    unsafe fn sum24_zero() -> Self::Sum24;
    unsafe fn scale_add24(sum: Self::Sum24, acc: Self::Acc, scale: Self::Scale24) -> Self::Sum24;
    unsafe fn sum24_join(a: Self::Sum24, b: Self::Sum24) -> Self::F;
    unsafe fn prep_s(w: Self::I) -> Self::S8;
    unsafe fn dot_s(acc: Self::I, w: Self::S8, x: Self::X) -> Self::I;
    unsafe fn dot_pairs(acc: Self::I, a: Self::I, b: Self::I) -> Self::I;
    unsafe fn table(bytes: &[u8; 16]) -> Self::Table;
    unsafe fn lookup(table: Self::Table, index: Self::I) -> Self::I;
    unsafe fn prep_biased(w: Self::I) -> Self::S8;
    unsafe fn dot_biased(acc: Self::Acc, w: Self::S8, x: Self::X) -> Self::Acc;
    unsafe fn prep_scale16(scale: Self::I) -> Self::I;
    unsafe fn scale_add16(total: Self::I, acc: Self::Acc, scale: Self::I) -> Self::I;
    unsafe fn factor(w: Self::F) -> Self::Factor;
    unsafe fn scaled(dots: Self::I, factor: Self::Factor) -> Self::F;

    unsafe fn to_f(a: Self::I) -> Self::F;
    unsafe fn to_i(a: Self::F) -> Self::I;
    unsafe fn bits_i(a: Self::F) -> Self::I;
    unsafe fn bits_f(a: Self::I) -> Self::F;
    unsafe fn loadf(p: *const f32) -> Self::F;
    unsafe fn storef(p: *mut f32, a: Self::F);
    unsafe fn splatf(v: f32) -> Self::F;
    unsafe fn addf(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn subf(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mulf(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn divf(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn maxf(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn minf(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn fmaf(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    unsafe fn load_f16(p: *const u16) -> Self::F;
    /// Sixteen half floats.
    #[inline(always)]
    unsafe fn load_f16s<const N: usize>(p: *const u16) -> [Self::F; N] {
        lift!(r => Self::load_f16(p.add(r * Self::BYTES / 4)))
    }
    /// Sixteen half floats as factors.
    #[inline(always)]
    unsafe fn factors<const N: usize>(p: *const u16) -> [Self::Factor; N] {
        let w = Self::load_f16s::<N>(p);
        lift!(r => Self::factor(w[r]))
    }
    unsafe fn store_f16(p: *mut u16, a: Self::F);
    unsafe fn load_bf16(p: *const u16) -> Self::F;
}

/// `N` registers of `R` as one vector of 64 bytes.
#[derive(Clone, Copy)]
pub(crate) struct Wide<R, const N: usize>(R);

impl<R: Reg, const N: usize> Wide<R, N> {
    pub(crate) const fn new(reg: R) -> Self {
        assert!(N * R::BYTES == 64, "a vector has 64 bytes");
        Self(reg)
    }
}

macro_rules! lifted {
    ($($name:ident ($($arg:ident : $ty:ident),*) -> $out:ident = $op:ident;)*) => { $(
        #[inline(always)]
        unsafe fn $name(self $(, $arg: Self::$ty)*) -> Self::$out {
            lift!(r => R::$op($($arg[r]),*))
        }
    )* };
}

macro_rules! lifted_shift {
    ($($name:ident ($ty:ident) = $op:ident;)*) => { $(
        #[inline(always)]
        unsafe fn $name<const S: i32>(self, a: Self::$ty) -> Self::$ty {
            lift!(r => R::$op::<S>(a[r]))
        }
    )* };
}

// SAFETY: every method is its register's, on each part of the vector.
#[allow(unused_variables, reason = "constants are the same in every register")]
unsafe impl<R: Reg, const N: usize> Simd for Wide<R, N> {
    type B = [R::I; N];
    type I = [R::I; N];
    type F = [R::F; N];
    type X = R::X;
    type Acc = [R::Acc; N];
    type U8 = [R::U8; N];
    type S8 = [R::S8; N];
    type Factor = [R::Factor; N];
    type Scale24 = [R::Scale24; N];
    type Sum24 = [R::Sum24; N];
    type Table = R::Table;
    type Sums = [R::Sums; N];
    const S8_BIAS: i32 = R::S8_BIAS;
    const WIDE: bool = R::WIDE;

    lifted! {
        b_and(a: B, b: B) -> B = and;
        b_or(a: B, b: B) -> B = or;
        b_triple(a: B) -> B = triple8;
        b_digits(a: B) -> B = digits8;
        sums_zero() -> Sums = sums_zero;
        digits_sum(sums: Sums) -> I = digits_sum;
        prep_u(w: B) -> U8 = prep_u;
        acc_zero() -> Acc = acc_zero;
        flush(acc: Acc) -> Acc = flush;
        prep_scale(scale: I) -> I = prep_scale;
        scale_add(total: I, acc: Acc, scale: I) -> I = scale_add;
        prep_scale24(scale: I) -> Scale24 = prep_scale24;
        sum24_zero() -> Sum24 = sum24_zero;
        scale_add24(sum: Sum24, acc: Acc, scale: Scale24) -> Sum24 = scale_add24;
        sum24_join(a: Sum24, b: Sum24) -> F = sum24_join;
        prep_s(w: B) -> S8 = prep_s;
        prep_biased(w: B) -> S8 = prep_biased;
        prep_scale16(scale: I) -> I = prep_scale16;
        scale_add16(total: I, acc: Acc, scale: I) -> I = scale_add16;
        dot_pairs(acc: I, a: I, b: I) -> I = dot_pairs;
        scaled(dots: I, factor: Factor) -> F = scaled;
        i_add(a: I, b: I) -> I = add32;
        i_sub(a: I, b: I) -> I = sub32;
        i_and(a: I, b: I) -> I = and;
        i_to_f(a: I) -> F = to_f;
        f_to_i(a: F) -> I = to_i;
        f_from_bits(a: I) -> F = bits_f;
        f_add(a: F, b: F) -> F = addf;
        f_sub(a: F, b: F) -> F = subf;
        f_mul(a: F, b: F) -> F = mulf;
        f_div(a: F, b: F) -> F = divf;
        f_max(a: F, b: F) -> F = maxf;
        f_min(a: F, b: F) -> F = minf;
        f_fma(a: F, b: F, c: F) -> F = fmaf;
    }
    lifted_shift! {
        b_shr(B) = shr16;
        b_shl(B) = shl16;
        i_shl(I) = shl32;
        i_shr(I) = shr32;
    }

    #[inline(always)]
    unsafe fn prefetch(self, p: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(p.cast());
    }
    #[inline(always)]
    unsafe fn prefetch_far(self, p: *const u8) {
        _mm_prefetch::<_MM_HINT_T1>(p.cast());
    }
    #[inline(always)]
    unsafe fn b_load(self, p: *const u8) -> Self::B {
        lift!(r => R::load(p.add(r * R::BYTES)))
    }
    #[inline(always)]
    unsafe fn b_store(self, p: *mut u8, a: Self::B) {
        for (r, &part) in a.iter().enumerate() {
            R::store(p.add(r * R::BYTES), part);
        }
    }
    #[inline(always)]
    unsafe fn table(self, bytes: &[u8; 16]) -> Self::Table {
        R::table(bytes)
    }
    #[inline(always)]
    unsafe fn lookup(self, table: Self::Table, index: Self::B) -> Self::B {
        lift!(r => R::lookup(table, index[r]))
    }
    #[inline(always)]
    unsafe fn dot_biased(self, acc: Self::Acc, w: Self::S8, x: Self::X) -> Self::Acc {
        lift!(r => R::dot_biased(acc[r], w[r], x))
    }
    #[inline(always)]
    unsafe fn dot_fields<const D: usize>(
        self,
        sums: Self::Sums,
        bytes: Self::B,
        x: [Self::X; D],
    ) -> Self::Sums {
        lift!(r => R::dot_fields::<D>(sums[r], bytes[r], x))
    }
    #[inline(always)]
    unsafe fn fields_sum<const D: usize>(self, sums: Self::Sums) -> Self::I {
        lift!(r => R::fields_sum::<D>(sums[r]))
    }
    #[inline(always)]
    unsafe fn dot_digits<const D: usize>(
        self,
        sums: Self::Sums,
        fractions: Self::B,
        x: [Self::X; D],
    ) -> Self::Sums {
        lift!(r => R::dot_digits::<D>(sums[r], fractions[r], x))
    }
    #[inline(always)]
    unsafe fn b_splat(self, v: u8) -> Self::B {
        [R::splat8(v); N]
    }
    #[inline(always)]
    unsafe fn x_load(self, p: *const i8) -> Self::X {
        R::x_load(p)
    }
    #[inline(always)]
    unsafe fn acc_start(self, start: *const i32) -> Self::Acc {
        [R::acc_start(start); N]
    }
    #[inline(always)]
    unsafe fn dot_u(self, acc: Self::Acc, w: Self::U8, x: Self::X) -> Self::Acc {
        lift!(r => R::dot_u(acc[r], w[r], x))
    }
    #[inline(always)]
    unsafe fn finish(self, acc: Self::Acc, start: *const i32) -> Self::I {
        lift!(r => R::finish(acc[r], start))
    }
    #[inline(always)]
    unsafe fn dot_s(self, acc: Self::I, w: Self::S8, x: Self::X) -> Self::I {
        lift!(r => R::dot_s(acc[r], w[r], x))
    }
    #[inline(always)]
    unsafe fn i_splat_at(self, p: *const i32) -> Self::I {
        [R::splat32(p.read_unaligned()); N]
    }
    #[inline(always)]
    unsafe fn i_splat(self, v: i32) -> Self::I {
        [R::splat32(v); N]
    }
    #[inline(always)]
    unsafe fn i_load_i8(self, p: *const i8) -> Self::I {
        lift!(r => R::widen_i8(p.add(r * R::BYTES / 4)))
    }
    #[inline(always)]
    unsafe fn i_load_u8(self, p: *const u8) -> Self::I {
        lift!(r => R::widen_u8(p.add(r * R::BYTES / 4)))
    }
    #[inline(always)]
    unsafe fn i_store(self, p: *mut i32, a: Self::I) {
        self.b_store(p.cast(), a);
    }
    #[inline(always)]
    unsafe fn i_store_i8(self, p: *mut i8, a: Self::I) {
        R::store_i8(p, a);
    }
    #[inline(always)]
    unsafe fn i_sum(self, a: Self::I) -> i32 {
        let mut sum = a[0];
        let mut r = 1;
        while r < N {
            sum = R::add32(sum, a[r]);
            r += 1;
        }
        R::sum32(sum)
    }
    #[inline(always)]
    unsafe fn i_from_b(self, a: Self::B) -> Self::I {
        a
    }
    #[inline(always)]
    unsafe fn f_load(self, p: *const f32) -> Self::F {
        lift!(r => R::loadf(p.add(r * R::BYTES / 4)))
    }
    #[inline(always)]
    unsafe fn f_store(self, p: *mut f32, a: Self::F) {
        for (r, &part) in a.iter().enumerate() {
            R::storef(p.add(r * R::BYTES / 4), part);
        }
    }
    #[inline(always)]
    unsafe fn f_splat(self, v: f32) -> Self::F {
        [R::splatf(v); N]
    }
    #[inline(always)]
    unsafe fn f_splat_at(self, p: *const f32) -> Self::F {
        [R::splatf(p.read_unaligned()); N]
    }
    #[inline(always)]
    unsafe fn f_abs(self, a: Self::F) -> Self::F {
        let mask = R::splat32(0x7fff_ffff);
        lift!(r => R::bits_f(R::and(R::bits_i(a[r]), mask)))
    }
    #[inline(always)]
    unsafe fn f_load_f16(self, p: *const u16) -> Self::F {
        R::load_f16s(p)
    }
    #[inline(always)]
    unsafe fn factors(self, p: *const u16) -> Self::Factor {
        R::factors(p)
    }
    #[inline(always)]
    unsafe fn f_store_f16(self, p: *mut u16, a: Self::F) {
        for (r, &part) in a.iter().enumerate() {
            R::store_f16(p.add(r * R::BYTES / 4), part);
        }
    }
    #[inline(always)]
    unsafe fn f_load_bf16(self, p: *const u16) -> Self::F {
        lift!(r => R::load_bf16(p.add(r * R::BYTES / 4)))
    }
}

/// What the tiers of one register width share: their intrinsics differ by name alone.
macro_rules! common {
    ($load:ident $store:ident $splat8:ident $splat32:ident $and:ident $or:ident
     $shr16:ident $shl16:ident $shr32:ident $shl32:ident $add32:ident $sub32:ident $madd:ident
     $to_f:ident $to_i:ident $bits_i:ident $bits_f:ident
     $loadf:ident $storef:ident $splatf:ident $addf:ident $subf:ident $mulf:ident $divf:ident
     $maxf:ident $minf:ident) => {
        #[inline(always)]
        unsafe fn load(p: *const u8) -> Self::I {
            $load(p.cast())
        }
        #[inline(always)]
        unsafe fn store(p: *mut u8, a: Self::I) {
            $store(p.cast(), a)
        }
        #[inline(always)]
        unsafe fn splat8(v: u8) -> Self::I {
            $splat8(v as i8)
        }
        #[inline(always)]
        unsafe fn splat32(v: i32) -> Self::I {
            $splat32(v)
        }
        #[inline(always)]
        unsafe fn and(a: Self::I, b: Self::I) -> Self::I {
            $and(a, b)
        }
        #[inline(always)]
        unsafe fn or(a: Self::I, b: Self::I) -> Self::I {
            $or(a, b)
        }
        #[inline(always)]
        unsafe fn add32(a: Self::I, b: Self::I) -> Self::I {
            $add32(a, b)
        }
        #[inline(always)]
        unsafe fn sub32(a: Self::I, b: Self::I) -> Self::I {
            $sub32(a, b)
        }
        #[inline(always)]
        unsafe fn madd16(a: Self::I, b: Self::I) -> Self::I {
            $madd(a, b)
        }
        #[inline(always)]
        unsafe fn to_f(a: Self::I) -> Self::F {
            $to_f(a)
        }
        #[inline(always)]
        unsafe fn to_i(a: Self::F) -> Self::I {
            $to_i(a)
        }
        #[inline(always)]
        unsafe fn bits_i(a: Self::F) -> Self::I {
            $bits_i(a)
        }
        #[inline(always)]
        unsafe fn bits_f(a: Self::I) -> Self::F {
            $bits_f(a)
        }
        #[inline(always)]
        unsafe fn loadf(p: *const f32) -> Self::F {
            $loadf(p)
        }
        #[inline(always)]
        unsafe fn storef(p: *mut f32, a: Self::F) {
            $storef(p, a)
        }
        #[inline(always)]
        unsafe fn splatf(v: f32) -> Self::F {
            $splatf(v)
        }
        #[inline(always)]
        unsafe fn addf(a: Self::F, b: Self::F) -> Self::F {
            $addf(a, b)
        }
        #[inline(always)]
        unsafe fn subf(a: Self::F, b: Self::F) -> Self::F {
            $subf(a, b)
        }
        #[inline(always)]
        unsafe fn mulf(a: Self::F, b: Self::F) -> Self::F {
            $mulf(a, b)
        }
        #[inline(always)]
        unsafe fn divf(a: Self::F, b: Self::F) -> Self::F {
            $divf(a, b)
        }
        #[inline(always)]
        unsafe fn maxf(a: Self::F, b: Self::F) -> Self::F {
            $maxf(a, b)
        }
        #[inline(always)]
        unsafe fn minf(a: Self::F, b: Self::F) -> Self::F {
            $minf(a, b)
        }
    };
}
use common;

/// 85 and 170 with their top bits flipped: how many of these a byte exceeds, as signed bytes, is its digit.
const THIRDS: (i8, i8) = (-43, 42);

/// Factors where a multiplication and an addition round apart.
macro_rules! plain_factor {
    () => {
        type Factor = Self::F;

        #[inline(always)]
        unsafe fn factor(w: Self::F) -> Self::Factor {
            Self::addf(w, Self::subf(w, w))
        }
        #[inline(always)]
        unsafe fn scaled(dots: Self::I, factor: Self::Factor) -> Self::F {
            let magic = Self::bits_f(Self::splat32(MAGIC));
            Self::mulf(Self::subf(Self::bits_f(dots), magic), factor)
        }
    };
}
use plain_factor;

/// Factors beside themselves times 1.5 * 2^23.
macro_rules! fused_factor {
    ($fmsub:ident) => {
        type Factor = (Self::F, Self::F);

        #[inline(always)]
        unsafe fn factor(w: Self::F) -> Self::Factor {
            (w, Self::mulf(w, Self::bits_f(Self::splat32(MAGIC))))
        }
        #[inline(always)]
        unsafe fn scaled(dots: Self::I, factor: Self::Factor) -> Self::F {
            $fmsub(Self::bits_f(dots), factor.0, factor.1)
        }
    };
}
use fused_factor;

/// Sums of fewer than 24 bits as integers.
macro_rules! integer_sums {
    () => {
        type Scale24 = Self::I;
        type Sum24 = Self::I;

        #[inline(always)]
        unsafe fn prep_scale24(scale: Self::I) -> Self::Scale24 {
            Self::prep_scale(scale)
        }
        #[inline(always)]
        unsafe fn sum24_zero() -> Self::Sum24 {
            Self::splat32(0)
        }
        #[inline(always)]
        unsafe fn scale_add24(
            sum: Self::Sum24,
            acc: Self::Acc,
            scale: Self::Scale24,
        ) -> Self::Sum24 {
            Self::scale_add(sum, acc, scale)
        }
        #[inline(always)]
        unsafe fn sum24_join(a: Self::Sum24, b: Self::Sum24) -> Self::F {
            Self::to_f(Self::add32(a, b))
        }
    };
}
use integer_sums;

/// Pairs of `i16` without `vpdpwssd`.
macro_rules! madd_pairs {
    () => {
        #[inline(always)]
        unsafe fn dot_pairs(acc: Self::I, a: Self::I, b: Self::I) -> Self::I {
            Self::add32(acc, Self::madd16(a, b))
        }
    };
}
use madd_pairs;

/// Codes of one or two bits, each shifted down: two sums, so that a product need not wait for the one
/// before it.
macro_rules! shifted_fields {
    () => {
        type Sums = [Self::Acc; 2];

        #[inline(always)]
        unsafe fn sums_zero() -> Self::Sums {
            [Self::acc_zero(); 2]
        }
        #[inline(always)]
        unsafe fn dot_fields<const D: usize>(
            mut sums: Self::Sums,
            mut bytes: Self::I,
            x: [Self::X; D],
        ) -> Self::Sums {
            let mask = Self::splat8((1 << (8 / D)) - 1);
            for (n, x) in x.into_iter().enumerate() {
                let codes = Self::prep_u(Self::and(bytes, mask));
                sums[n % 2] = Self::dot_u(sums[n % 2], codes, x);
                bytes = match D {
                    8 => Self::shr16::<1>(bytes),
                    _ => Self::shr16::<2>(bytes),
                };
            }
            sums
        }
        #[inline(always)]
        unsafe fn fields_sum<const D: usize>([even, odd]: Self::Sums) -> Self::I {
            Self::add32(Self::finish(even, &0), Self::finish(odd, &0))
        }
    };
}
use shifted_fields;

/// Ternary digits that are found one by one.
macro_rules! compared_digits {
    () => {
        #[inline(always)]
        unsafe fn dot_digits<const D: usize>(
            mut sums: Self::Sums,
            mut fractions: Self::I,
            x: [Self::X; D],
        ) -> Self::Sums {
            for (n, x) in x.into_iter().enumerate() {
                sums[n % 2] = Self::dot_u(sums[n % 2], Self::digits8(fractions), x);
                fractions = Self::triple8(fractions);
            }
            sums
        }
        #[inline(always)]
        unsafe fn digits_sum(sums: Self::Sums) -> Self::I {
            Self::fields_sum::<4>(sums)
        }
    };
}
use compared_digits;

/// Unsigned times signed bytes where pairs of products are summed in `i16` (`pmaddubsw`).
///
/// An accumulator is sixteen-bit sums beside the thirty-two-bit ones that [`Reg::flush`] moves
/// them into.
macro_rules! narrow_dot {
    ($maddubs:ident $add16:ident) => {
        integer_sums!();
        madd_pairs!();

        type Acc = (Self::I, Self::I);
        type U8 = Self::I;
        const WIDE: bool = false;

        #[inline(always)]
        unsafe fn acc_zero() -> Self::Acc {
            (Self::splat32(0), Self::splat32(0))
        }
        #[inline(always)]
        unsafe fn acc_start(_start: *const i32) -> Self::Acc {
            Self::acc_zero()
        }
        #[inline(always)]
        unsafe fn prep_u(w: Self::I) -> Self::U8 {
            w
        }
        #[inline(always)]
        unsafe fn dot_u((narrow, wide): Self::Acc, w: Self::U8, x: Self::X) -> Self::Acc {
            ($add16(narrow, $maddubs(w, x)), wide)
        }
        #[inline(always)]
        unsafe fn dot_s(acc: Self::I, w: Self::S8, x: Self::X) -> Self::I {
            let ones = Self::splat32(0x0001_0001);
            Self::add32(acc, Self::madd16(Self::signed_pairs(w, x), ones))
        }
        #[inline(always)]
        unsafe fn prep_biased(w: Self::I) -> Self::S8 {
            Self::prep_s(w)
        }
        #[inline(always)]
        unsafe fn dot_biased((narrow, wide): Self::Acc, w: Self::S8, x: Self::X) -> Self::Acc {
            ($add16(narrow, Self::signed_pairs(w, x)), wide)
        }
        #[inline(always)]
        unsafe fn prep_scale16(scale: Self::I) -> Self::I {
            Self::prep_scale(scale)
        }
        #[inline(always)]
        unsafe fn scale_add16(total: Self::I, acc: Self::Acc, scale: Self::I) -> Self::I {
            Self::scale_add(total, acc, scale)
        }
        #[inline(always)]
        unsafe fn flush((narrow, wide): Self::Acc) -> Self::Acc {
            let ones = Self::splat32(0x0001_0001);
            (Self::splat32(0), Self::add32(wide, Self::madd16(narrow, ones)))
        }
        #[inline(always)]
        unsafe fn finish(acc: Self::Acc, start: *const i32) -> Self::I {
            Self::add32(Self::flush(acc).1, Self::splat32(start.read_unaligned()))
        }
        /// A factor per pair of sixteen-bit sums: it multiplies in the widening itself.
        #[inline(always)]
        unsafe fn prep_scale(scale: Self::I) -> Self::I {
            let low = Self::and(scale, Self::splat32(0xffff));
            Self::or(low, Self::shl32::<16>(scale))
        }
        #[inline(always)]
        unsafe fn scale_add(total: Self::I, acc: Self::Acc, scale: Self::I) -> Self::I {
            Self::add32(total, Self::madd16(acc.0, scale))
        }
    };
}
use narrow_dot;

/// Unsigned times signed bytes summed by fours in `i32` (`vpdpbusd`). Sums below 2^24 are floats:
/// a conversion and a fused multiply-add are cheaper than `vpmulld` and an addition.
macro_rules! vnni_dot {
    ($dpbusd:ident $dpwssd:ident $mullo32:ident $xor:ident $sra32:ident) => {
        type Sums = [Self::I; 4];
        type Scale24 = Self::F;
        type Sum24 = Self::F;
        type Acc = Self::I;
        type S8 = Self::I;
        type U8 = Self::I;
        const WIDE: bool = true;
        const S8_BIAS: i32 = 128;

        #[inline(always)]
        unsafe fn acc_zero() -> Self::Acc {
            Self::splat32(0)
        }
        #[inline(always)]
        unsafe fn acc_start(start: *const i32) -> Self::Acc {
            Self::splat32(start.read_unaligned())
        }
        #[inline(always)]
        unsafe fn prep_u(w: Self::I) -> Self::U8 {
            w
        }
        #[inline(always)]
        unsafe fn dot_u(acc: Self::Acc, w: Self::U8, x: Self::X) -> Self::Acc {
            $dpbusd(acc, w, x)
        }
        #[inline(always)]
        unsafe fn flush(acc: Self::Acc) -> Self::Acc {
            acc
        }
        #[inline(always)]
        unsafe fn finish(acc: Self::Acc, _start: *const i32) -> Self::I {
            acc
        }
        #[inline(always)]
        unsafe fn prep_scale(scale: Self::I) -> Self::I {
            scale
        }
        #[inline(always)]
        unsafe fn scale_add(total: Self::I, acc: Self::Acc, scale: Self::I) -> Self::I {
            Self::add32(total, $mullo32(acc, scale))
        }
        #[inline(always)]
        unsafe fn prep_scale24(scale: Self::I) -> Self::Scale24 {
            Self::to_f(scale)
        }
        #[inline(always)]
        unsafe fn sum24_zero() -> Self::Sum24 {
            Self::splatf(0.0)
        }
        #[inline(always)]
        unsafe fn scale_add24(
            sum: Self::Sum24,
            acc: Self::Acc,
            scale: Self::Scale24,
        ) -> Self::Sum24 {
            Self::fmaf(Self::to_f(acc), scale, sum)
        }
        #[inline(always)]
        unsafe fn sum24_join(a: Self::Sum24, b: Self::Sum24) -> Self::F {
            Self::addf(a, b)
        }
        #[inline(always)]
        unsafe fn dot_pairs(acc: Self::I, a: Self::I, b: Self::I) -> Self::I {
            $dpwssd(acc, a, b)
        }
        #[inline(always)]
        unsafe fn prep_s(w: Self::I) -> Self::S8 {
            $xor(w, Self::splat8(0x80))
        }
        #[inline(always)]
        unsafe fn dot_s(acc: Self::I, w: Self::S8, x: Self::X) -> Self::I {
            $dpbusd(acc, w, x)
        }
        #[inline(always)]
        unsafe fn prep_biased(w: Self::I) -> Self::S8 {
            w
        }
        #[inline(always)]
        unsafe fn sums_zero() -> Self::Sums {
            [Self::splat32(0); 4]
        }
        /// Codes stay where they are in half a byte: sum i has products of codes times `2^i`.
        #[inline(always)]
        unsafe fn dot_fields<const D: usize>(
            mut sums: Self::Sums,
            bytes: Self::I,
            x: [Self::X; D],
        ) -> Self::Sums {
            let (bits, mask) = (8 / D, (1 << (8 / D)) - 1);
            let halves = [bytes, Self::shr16::<4>(bytes)];
            for (n, x) in x.into_iter().enumerate() {
                let at = n % (D / 2) * bits;
                let codes = Self::and(halves[n / (D / 2)], Self::splat8(mask << at));
                sums[at] = $dpbusd(sums[at], codes, x);
            }
            sums
        }
        #[inline(always)]
        unsafe fn fields_sum<const D: usize>(sums: Self::Sums) -> Self::I {
            let pairs = Self::add32(sums[0], $sra32::<2>(sums[2]));
            match D {
                8 => Self::add32(pairs, $sra32::<1>(Self::add32(sums[1], $sra32::<2>(sums[3])))),
                _ => pairs,
            }
        }
        /// No digit is ever found: of what is left before it, r, and after it, `3 r` modulo 256, it is
        /// `(3 r - (3 r modulo 256)) / 256`. Two sums are of what is before, two of what is after.
        #[inline(always)]
        unsafe fn dot_digits<const D: usize>(
            mut sums: Self::Sums,
            fractions: Self::I,
            x: [Self::X; D],
        ) -> Self::Sums {
            let mut left = $xor(fractions, Self::splat8(0x80));
            for (n, x) in x.into_iter().enumerate() {
                sums[n % 2] = $dpbusd(sums[n % 2], left, x);
                left = Self::triple8(left);
                sums[2 + n % 2] = $dpbusd(sums[2 + n % 2], left, x);
            }
            sums
        }
        #[inline(always)]
        unsafe fn digits_sum(sums: Self::Sums) -> Self::I {
            let before = Self::add32(sums[0], sums[1]);
            let after = Self::add32(sums[2], sums[3]);
            let three = Self::add32(before, Self::add32(before, before));
            $sra32::<8>(Self::sub32(three, after))
        }
        wide_sums!();
    };
}
use vnni_dot;

/// Accumulators of 32 bits, from signed and unsigned codes alike.
macro_rules! wide_sums {
    () => {
        #[inline(always)]
        unsafe fn dot_biased(acc: Self::Acc, w: Self::S8, x: Self::X) -> Self::Acc {
            Self::dot_s(acc, w, x)
        }
        /// The other half of a dot product, its sign, is multiplied by nothing.
        #[inline(always)]
        unsafe fn prep_scale16(scale: Self::I) -> Self::I {
            Self::and(scale, Self::splat32(0xffff))
        }
        #[inline(always)]
        unsafe fn scale_add16(total: Self::I, acc: Self::Acc, scale: Self::I) -> Self::I {
            Self::dot_pairs(total, acc, scale)
        }
    };
}
use wide_sums;
