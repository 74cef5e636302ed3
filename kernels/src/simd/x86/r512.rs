//! 512-bit tiers: AVX-512 with BW, DQ and VL, and with VNNI.

use std::arch::x86_64::*;

use super::{
    MAGIC, Reg, THIRDS, common, compared_digits, fused_factor, integer_sums, madd_pairs,
    narrow_dot, shifted_fields, vnni_dot, wide_sums,
};

macro_rules! avx512_common {
    () => {
        type I = __m512i;
        type F = __m512;
        type X = __m512i;
        type Table = __m512i;
        const BYTES: usize = 64;

        fused_factor!(_mm512_fmsub_ps);

        common! {
            _mm512_loadu_si512 _mm512_storeu_si512 _mm512_set1_epi8 _mm512_set1_epi32
            _mm512_and_si512 _mm512_or_si512
            _mm512_srli_epi16 _mm512_slli_epi16 _mm512_srli_epi32 _mm512_slli_epi32
            _mm512_add_epi32 _mm512_sub_epi32 _mm512_madd_epi16
            _mm512_cvtepi32_ps _mm512_cvtps_epi32 _mm512_castps_si512 _mm512_castsi512_ps
            _mm512_loadu_ps _mm512_storeu_ps _mm512_set1_ps
            _mm512_add_ps _mm512_sub_ps _mm512_mul_ps _mm512_div_ps _mm512_max_ps _mm512_min_ps
        }

        #[inline(always)]
        unsafe fn shr16<const N: i32>(a: Self::I) -> Self::I {
            _mm512_srl_epi16(a, _mm_cvtsi32_si128(N))
        }
        #[inline(always)]
        unsafe fn shl16<const N: i32>(a: Self::I) -> Self::I {
            _mm512_sll_epi16(a, _mm_cvtsi32_si128(N))
        }
        #[inline(always)]
        unsafe fn shl32<const N: i32>(a: Self::I) -> Self::I {
            _mm512_sll_epi32(a, _mm_cvtsi32_si128(N))
        }
        #[inline(always)]
        unsafe fn shr32<const N: i32>(a: Self::I) -> Self::I {
            _mm512_srl_epi32(a, _mm_cvtsi32_si128(N))
        }
        #[inline(always)]
        unsafe fn table(bytes: &[u8; 16]) -> Self::Table {
            _mm512_broadcast_i32x4(_mm_loadu_si128(bytes.as_ptr().cast()))
        }
        #[inline(always)]
        unsafe fn lookup(table: Self::Table, index: Self::I) -> Self::I {
            _mm512_shuffle_epi8(table, index)
        }
        #[inline(always)]
        unsafe fn widen_i8(p: *const i8) -> Self::I {
            _mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))
        }
        #[inline(always)]
        unsafe fn widen_u8(p: *const u8) -> Self::I {
            _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()))
        }
        #[inline(always)]
        unsafe fn triple8(a: Self::I) -> Self::I {
            _mm512_add_epi8(a, _mm512_add_epi8(a, a))
        }
        #[inline(always)]
        unsafe fn digits8(a: Self::I) -> Self::I {
            let one = _mm512_set1_epi8(1);
            let exceeds = _mm512_cmpgt_epi8_mask(a, _mm512_set1_epi8(THIRDS.0));
            let digits = _mm512_maskz_mov_epi8(exceeds, one);
            let exceeds = _mm512_cmpgt_epi8_mask(a, _mm512_set1_epi8(THIRDS.1));
            _mm512_mask_add_epi8(digits, exceeds, digits, one)
        }
        #[inline(always)]
        unsafe fn store_i8<const N: usize>(p: *mut i8, a: [Self::I; N]) {
            _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(a[0]));
        }
        #[inline(always)]
        unsafe fn sum32(a: Self::I) -> i32 {
            _mm512_reduce_add_epi32(a)
        }
        #[inline(always)]
        unsafe fn x_load(p: *const i8) -> Self::X {
            _mm512_set1_epi32(p.cast::<i32>().read_unaligned())
        }
        #[inline(always)]
        unsafe fn fmaf(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
            _mm512_fmadd_ps(a, b, c)
        }
        #[inline(always)]
        unsafe fn load_f16(p: *const u16) -> Self::F {
            _mm512_cvtph_ps(_mm256_loadu_si256(p.cast()))
        }
        #[inline(always)]
        unsafe fn store_f16(p: *mut u16, a: Self::F) {
            _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a));
        }
        #[inline(always)]
        unsafe fn load_bf16(p: *const u16) -> Self::F {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    };
}

/// AVX-512 F, BW, DQ and VL.
#[derive(Clone, Copy)]
pub(crate) struct Avx512;

// SAFETY: each method is one intrinsic of AVX-512 F or BW, or a short sequence of them.
unsafe impl Reg for Avx512 {
    avx512_common!();
    narrow_dot!(_mm512_maddubs_epi16 _mm512_add_epi16);
    shifted_fields!();
    compared_digits!();

    /// The codes' magnitudes beside a mask of the negative ones, whose signs go to the activations.
    type S8 = (__m512i, __mmask64);
    const S8_BIAS: i32 = 0;

    #[inline(always)]
    unsafe fn prep_s(w: Self::I) -> Self::S8 {
        (_mm512_abs_epi8(w), _mm512_movepi8_mask(w))
    }
}

impl Avx512 {
    /// Products of signed codes in pairs of `i16`.
    #[inline(always)]
    unsafe fn signed_pairs((magnitude, negative): (__m512i, __mmask64), x: __m512i) -> __m512i {
        _mm512_maddubs_epi16(
            magnitude,
            _mm512_mask_sub_epi8(x, negative, _mm512_setzero_si512(), x),
        )
    }
}

/// Of the intrinsic the compiler makes a multiplication and an addition, one more instruction on
/// the ports that bound these kernels.
#[inline]
#[target_feature(enable = "avx512vnni")]
unsafe fn dpwssd(mut acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
    std::arch::asm!(
        "vpdpwssd {}, {}, {}",
        inout(zmm_reg) acc, in(zmm_reg) a, in(zmm_reg) b,
        options(pure, nomem, nostack, preserves_flags)
    );
    acc
}

/// AVX-512 with `vpdpbusd`.
#[derive(Clone, Copy)]
pub(crate) struct Avx512Vnni;

// SAFETY: each method is one intrinsic of AVX-512 F, BW or VNNI, or a short sequence of them.
unsafe impl Reg for Avx512Vnni {
    avx512_common!();
    vnni_dot! {
        _mm512_dpbusd_epi32 dpwssd _mm512_mullo_epi32 _mm512_xor_si512 _mm512_srai_epi32
    }
}
