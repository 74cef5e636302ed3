//! 128-bit tiers: SSE2, and SSSE3 with SSE4.1. The AVX tier is the latter in VEX encoding.

use std::arch::x86_64::*;

use half::f16;

use super::{
    MAGIC, Reg, THIRDS, common, compared_digits, integer_sums, lift, madd_pairs, narrow_dot,
    plain_factor, shifted_fields, wide_sums,
};

/// Half to single without F16C, exact for every input, with no denormal operand or result on the
/// way: those cost a microcode assist each, and small scales are denormal half floats.
#[inline(always)]
unsafe fn widen_f16(h: __m128i) -> __m128 {
    let sign = _mm_slli_epi32::<16>(_mm_and_si128(h, _mm_set1_epi32(0x8000)));
    let magnitude = _mm_and_si128(h, _mm_set1_epi32(0x7fff));
    let shifted = _mm_slli_epi32::<13>(magnitude);
    let rebias = _mm_set1_epi32(112 << 23);
    // Infinity and NaN need the greatest exponent: rebias them twice.
    let special = _mm_cmpgt_epi32(magnitude, _mm_set1_epi32(0x7bff));
    let bits = _mm_add_epi32(_mm_add_epi32(shifted, rebias), _mm_and_si128(special, rebias));
    // A denormal half m is m * 2^-24 = (1 + m / 1024) * 2^-14 - 2^-14.
    let denormal = _mm_cmplt_epi32(magnitude, _mm_set1_epi32(0x0400));
    let one = _mm_set1_epi32(113 << 23);
    let exact = _mm_sub_ps(_mm_castsi128_ps(_mm_add_epi32(shifted, one)), _mm_castsi128_ps(one));
    let exact = _mm_and_si128(denormal, _mm_castps_si128(exact));
    let bits = _mm_or_si128(_mm_andnot_si128(denormal, bits), exact);
    _mm_castsi128_ps(_mm_or_si128(bits, sign))
}

/// Whether sixteen half floats are all normal numbers: scales hardly ever are anything else.
#[inline(always)]
unsafe fn all_normal(a: __m128i, b: __m128i) -> bool {
    // Twice the number drops the sign; then zeros, denormals, infinities and NaN wrap to below
    // 0x1000, from where 0x8000 more makes them the least signed numbers.
    let bias = _mm_set1_epi16(0x8800_u16 as i16);
    let a = _mm_add_epi16(_mm_add_epi16(a, a), bias);
    let b = _mm_add_epi16(_mm_add_epi16(b, b), bias);
    let special = _mm_cmpgt_epi16(_mm_set1_epi16(0x9000_u16 as i16), _mm_min_epi16(a, b));
    _mm_movemask_epi8(special) == 0
}

/// Sixteen half floats, if they are all normal numbers.
#[inline(always)]
unsafe fn load_normal<const N: usize>(p: *const u16) -> Option<[__m128; N]> {
    let (low, high) = (_mm_loadu_si128(p.cast()), _mm_loadu_si128(p.add(8).cast()));
    if !all_normal(low, high) {
        return None;
    }
    let zero = _mm_setzero_si128();
    let mut out = [_mm_setzero_ps(); N];
    out[0] = widen_normal(_mm_unpacklo_epi16(zero, low));
    out[1] = widen_normal(_mm_unpackhi_epi16(zero, low));
    out[2] = widen_normal(_mm_unpacklo_epi16(zero, high));
    out[3] = widen_normal(_mm_unpackhi_epi16(zero, high));
    Some(out)
}

/// [`widen_f16`] of normal numbers, which lie in the high halves.
#[inline(always)]
unsafe fn widen_normal(high: __m128i) -> __m128 {
    // Three more copies of the sign come down before the exponent, and go.
    let bits = _mm_and_si128(_mm_srai_epi32::<3>(high), _mm_set1_epi32(0x8fff_ffff_u32 as i32));
    _mm_castsi128_ps(_mm_add_epi32(bits, _mm_set1_epi32(112 << 23)))
}

macro_rules! sse_common {
    () => {
        type I = __m128i;
        type F = __m128;
        const BYTES: usize = 16;

        plain_factor!();

        common! {
            _mm_loadu_si128 _mm_storeu_si128 _mm_set1_epi8 _mm_set1_epi32
            _mm_and_si128 _mm_or_si128
            _mm_srli_epi16 _mm_slli_epi16 _mm_srli_epi32 _mm_slli_epi32
            _mm_add_epi32 _mm_sub_epi32 _mm_madd_epi16
            _mm_cvtepi32_ps _mm_cvtps_epi32 _mm_castps_si128 _mm_castsi128_ps
            _mm_loadu_ps _mm_storeu_ps _mm_set1_ps
            _mm_add_ps _mm_sub_ps _mm_mul_ps _mm_div_ps _mm_max_ps _mm_min_ps
        }

        #[inline(always)]
        unsafe fn shr16<const N: i32>(a: Self::I) -> Self::I {
            _mm_srli_epi16::<N>(a)
        }
        #[inline(always)]
        unsafe fn shl16<const N: i32>(a: Self::I) -> Self::I {
            _mm_slli_epi16::<N>(a)
        }
        #[inline(always)]
        unsafe fn shl32<const N: i32>(a: Self::I) -> Self::I {
            _mm_slli_epi32::<N>(a)
        }
        #[inline(always)]
        unsafe fn triple8(a: Self::I) -> Self::I {
            _mm_add_epi8(a, _mm_add_epi8(a, a))
        }
        #[inline(always)]
        unsafe fn digits8(a: Self::I) -> Self::I {
            let one = _mm_cmpgt_epi8(a, _mm_set1_epi8(THIRDS.0));
            let two = _mm_cmpgt_epi8(a, _mm_set1_epi8(THIRDS.1));
            _mm_sub_epi8(_mm_setzero_si128(), _mm_add_epi8(one, two))
        }
        shifted_fields!();

        #[inline(always)]
        unsafe fn shr32<const N: i32>(a: Self::I) -> Self::I {
            _mm_srli_epi32::<N>(a)
        }
        #[inline(always)]
        unsafe fn store_i8<const N: usize>(p: *mut i8, a: [Self::I; N]) {
            let low = _mm_packs_epi32(a[0], a[1]);
            _mm_storeu_si128(p.cast(), _mm_packs_epi16(low, _mm_packs_epi32(a[2], a[3])));
        }
        #[inline(always)]
        unsafe fn sum32(a: Self::I) -> i32 {
            let a = _mm_add_epi32(a, _mm_shuffle_epi32::<0b01_00_11_10>(a));
            _mm_cvtsi128_si32(_mm_add_epi32(a, _mm_shuffle_epi32::<0b10_11_00_01>(a)))
        }
        #[inline(always)]
        unsafe fn fmaf(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
            _mm_add_ps(_mm_mul_ps(a, b), c)
        }
        #[inline(always)]
        unsafe fn load_f16(p: *const u16) -> Self::F {
            widen_f16(_mm_unpacklo_epi16(_mm_loadl_epi64(p.cast()), _mm_setzero_si128()))
        }
        #[inline(always)]
        unsafe fn load_f16s<const N: usize>(p: *const u16) -> [Self::F; N] {
            match load_normal(p) {
                Some(normal) => normal,
                None => lift!(r => Self::load_f16(p.add(4 * r))),
            }
        }
        /// Normal numbers are factors as they are.
        #[inline(always)]
        unsafe fn factors<const N: usize>(p: *const u16) -> [Self::Factor; N] {
            match load_normal(p) {
                Some(normal) => normal,
                None => lift!(r => Self::factor(Self::load_f16(p.add(4 * r)))),
            }
        }
        #[inline(always)]
        unsafe fn store_f16(p: *mut u16, a: Self::F) {
            let mut lanes = [0.0f32; 4];
            _mm_storeu_ps(lanes.as_mut_ptr(), a);
            for (i, v) in lanes.into_iter().enumerate() {
                p.add(i).write_unaligned(f16::from_f32_const(v).to_bits());
            }
        }
        #[inline(always)]
        unsafe fn load_bf16(p: *const u16) -> Self::F {
            let wide = _mm_unpacklo_epi16(_mm_setzero_si128(), _mm_loadl_epi64(p.cast()));
            _mm_castsi128_ps(wide)
        }
    };
}

/// Every x86-64.
#[derive(Clone, Copy)]
pub(crate) struct Sse2;

// SAFETY: each method is one intrinsic of SSE2, or a short sequence of them.
unsafe impl Reg for Sse2 {
    sse_common!();
    integer_sums!();
    madd_pairs!();
    wide_sums!();

    /// No digit is ever found: with `F(n)` the whole part of `3^n` times the fraction, digit n is
    /// `F(n + 1) - 3 F(n)`, so that digits times x are `F(n + 1)` times `x(n) - 3 x(n + 1)`. One
    /// `pmulhuw` makes `F` of eight fractions. (With SSSE3 this is no faster than comparisons.)
    #[inline(always)]
    unsafe fn dot_digits<const D: usize>(
        mut sums: Self::Sums,
        fractions: Self::I,
        x: [Self::X; D],
    ) -> Self::Sums {
        let bytes = _mm_xor_si128(fractions, _mm_set1_epi8(-128));
        let (even, odd) = (_mm_slli_epi16::<8>(bytes), _mm_and_si128(bytes, _mm_set1_epi16(-256)));
        let less_three =
            |a: __m128i, b: __m128i| _mm_sub_epi16(a, _mm_add_epi16(b, _mm_add_epi16(b, b)));
        let mut power = 1;
        for n in 0..D {
            power *= 3;
            let mut x_n = x[n];
            if n + 1 < D {
                x_n = (less_three(x_n.0, x[n + 1].0), less_three(x_n.1, x[n + 1].1));
            }
            let whole = |fractions| _mm_mulhi_epu16(fractions, _mm_set1_epi16(power));
            sums[n % 2] = Self::dot_s(sums[n % 2], (whole(even), whole(odd)), x_n);
        }
        sums
    }
    #[inline(always)]
    unsafe fn digits_sum(sums: Self::Sums) -> Self::I {
        Self::fields_sum::<4>(sums)
    }

    /// Activations 0 and 2, and 1 and 3, as pairs of `i16`.
    type X = (__m128i, __m128i);
    type Acc = __m128i;
    /// Codes 0 and 2, and 1 and 3, of each row as pairs of `i16`.
    type U8 = (__m128i, __m128i);
    type S8 = (__m128i, __m128i);
    type Table = [u8; 16];
    const S8_BIAS: i32 = 0;
    const WIDE: bool = true;

    #[inline(always)]
    unsafe fn widen_i8(p: *const i8) -> Self::I {
        let v = _mm_cvtsi32_si128(p.cast::<i32>().read_unaligned());
        let v = _mm_unpacklo_epi8(v, v);
        _mm_srai_epi32::<24>(_mm_unpacklo_epi16(v, v))
    }
    #[inline(always)]
    unsafe fn widen_u8(p: *const u8) -> Self::I {
        let v = _mm_cvtsi32_si128(p.cast::<i32>().read_unaligned());
        let zero = _mm_setzero_si128();
        _mm_unpacklo_epi16(_mm_unpacklo_epi8(v, zero), zero)
    }
    #[inline(always)]
    unsafe fn x_load(p: *const i8) -> Self::X {
        Self::prep_s(_mm_set1_epi32(p.cast::<i32>().read_unaligned()))
    }
    #[inline(always)]
    unsafe fn acc_zero() -> Self::Acc {
        _mm_setzero_si128()
    }
    #[inline(always)]
    unsafe fn acc_start(start: *const i32) -> Self::Acc {
        _mm_set1_epi32(start.read_unaligned())
    }
    #[inline(always)]
    unsafe fn prep_u(w: Self::I) -> Self::U8 {
        (_mm_and_si128(w, _mm_set1_epi16(0xff)), _mm_srli_epi16::<8>(w))
    }
    #[inline(always)]
    unsafe fn dot_u(acc: Self::Acc, w: Self::U8, x: Self::X) -> Self::Acc {
        Self::dot_s(acc, w, x)
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
    /// The product of an 18-bit sum and an 8-bit factor, by halves: SSE2 multiplies 16 bits.
    #[inline(always)]
    unsafe fn scale_add(total: Self::I, acc: Self::Acc, scale: Self::I) -> Self::I {
        let even = _mm_mul_epu32(acc, scale);
        let odd = _mm_mul_epu32(_mm_srli_epi64::<32>(acc), _mm_srli_epi64::<32>(scale));
        let even = _mm_shuffle_epi32::<0b00_00_10_00>(even);
        let odd = _mm_shuffle_epi32::<0b00_00_10_00>(odd);
        // The low 32 bits of a product do not depend on the signs.
        _mm_add_epi32(total, _mm_unpacklo_epi32(even, odd))
    }
    #[inline(always)]
    unsafe fn prep_s(w: Self::I) -> Self::S8 {
        (_mm_srai_epi16::<8>(_mm_slli_epi16::<8>(w)), _mm_srai_epi16::<8>(w))
    }
    #[inline(always)]
    unsafe fn dot_s(acc: Self::I, w: Self::S8, x: Self::X) -> Self::I {
        let acc = _mm_add_epi32(acc, _mm_madd_epi16(w.0, x.0));
        _mm_add_epi32(acc, _mm_madd_epi16(w.1, x.1))
    }
    #[inline(always)]
    unsafe fn prep_biased(w: Self::I) -> Self::S8 {
        Self::prep_s(w)
    }
    #[inline(always)]
    unsafe fn table(bytes: &[u8; 16]) -> Self::Table {
        *bytes
    }
    /// Halves the table by each bit of the index: there is no `pshufb`.
    #[inline(always)]
    unsafe fn lookup(table: Self::Table, index: Self::I) -> Self::I {
        let mut left = [_mm_setzero_si128(); 16];
        let mut i = 0;
        while i < 16 {
            left[i] = Self::splat8(table[i]);
            i += 1;
        }
        let (mut n, mut bit) = (8, 1);
        while n > 0 {
            let set = _mm_cmpeq_epi8(_mm_and_si128(index, Self::splat8(bit)), Self::splat8(bit));
            let mut i = 0;
            while i < n {
                let (zero, one) = (left[2 * i], left[2 * i + 1]);
                left[i] = _mm_xor_si128(zero, _mm_and_si128(set, _mm_xor_si128(zero, one)));
                i += 1;
            }
            (n, bit) = (n / 2, bit << 1);
        }
        left[0]
    }
}

/// SSSE3 and SSE4.1.
#[derive(Clone, Copy)]
pub(crate) struct Ssse3;

// SAFETY: each method is one intrinsic of SSSE3 or SSE4.1, or a short sequence of them.
unsafe impl Reg for Ssse3 {
    sse_common!();
    narrow_dot!(_mm_maddubs_epi16 _mm_add_epi16);
    compared_digits!();

    type X = __m128i;
    /// The codes' magnitudes beside the codes, whose signs go to the activations.
    type S8 = (__m128i, __m128i);
    type Table = __m128i;
    const S8_BIAS: i32 = 0;

    #[inline(always)]
    unsafe fn widen_i8(p: *const i8) -> Self::I {
        _mm_cvtepi8_epi32(_mm_cvtsi32_si128(p.cast::<i32>().read_unaligned()))
    }
    #[inline(always)]
    unsafe fn widen_u8(p: *const u8) -> Self::I {
        _mm_cvtepu8_epi32(_mm_cvtsi32_si128(p.cast::<i32>().read_unaligned()))
    }
    #[inline(always)]
    unsafe fn x_load(p: *const i8) -> Self::X {
        _mm_set1_epi32(p.cast::<i32>().read_unaligned())
    }
    #[inline(always)]
    unsafe fn prep_s(w: Self::I) -> Self::S8 {
        (_mm_abs_epi8(w), w)
    }
    #[inline(always)]
    unsafe fn table(bytes: &[u8; 16]) -> Self::Table {
        Self::load(bytes.as_ptr())
    }
    #[inline(always)]
    unsafe fn lookup(table: Self::Table, index: Self::I) -> Self::I {
        _mm_shuffle_epi8(table, index)
    }
}

impl Ssse3 {
    /// Products of signed codes in pairs of `i16`.
    #[inline(always)]
    unsafe fn signed_pairs((magnitude, sign): (__m128i, __m128i), x: __m128i) -> __m128i {
        _mm_maddubs_epi16(magnitude, _mm_sign_epi8(x, sign))
    }
}
