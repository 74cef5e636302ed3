//! 256-bit tiers: AVX2 with FMA and F16C, and AVX-VNNI.

use std::arch::x86_64::*;

use super::{
    MAGIC, Reg, THIRDS, common, compared_digits, fused_factor, integer_sums, madd_pairs,
    narrow_dot, shifted_fields, vnni_dot, wide_sums,
};

macro_rules! avx2_common {
    () => {
        type I = __m256i;
        type F = __m256;
        type X = __m256i;
        type Table = __m256i;
        const BYTES: usize = 32;

        fused_factor!(_mm256_fmsub_ps);

        common! {
            _mm256_loadu_si256 _mm256_storeu_si256 _mm256_set1_epi8 _mm256_set1_epi32
            _mm256_and_si256 _mm256_or_si256
            _mm256_srli_epi16 _mm256_slli_epi16 _mm256_srli_epi32 _mm256_slli_epi32
            _mm256_add_epi32 _mm256_sub_epi32 _mm256_madd_epi16
            _mm256_cvtepi32_ps _mm256_cvtps_epi32 _mm256_castps_si256 _mm256_castsi256_ps
            _mm256_loadu_ps _mm256_storeu_ps _mm256_set1_ps
            _mm256_add_ps _mm256_sub_ps _mm256_mul_ps _mm256_div_ps _mm256_max_ps _mm256_min_ps
        }

        #[inline(always)]
        unsafe fn shr16<const N: i32>(a: Self::I) -> Self::I {
            _mm256_srli_epi16::<N>(a)
        }
        #[inline(always)]
        unsafe fn shl16<const N: i32>(a: Self::I) -> Self::I {
            _mm256_slli_epi16::<N>(a)
        }
        #[inline(always)]
        unsafe fn shl32<const N: i32>(a: Self::I) -> Self::I {
            _mm256_slli_epi32::<N>(a)
        }
        #[inline(always)]
        unsafe fn shr32<const N: i32>(a: Self::I) -> Self::I {
            _mm256_srli_epi32::<N>(a)
        }
        #[inline(always)]
        unsafe fn table(bytes: &[u8; 16]) -> Self::Table {
            _mm256_broadcastsi128_si256(_mm_loadu_si128(bytes.as_ptr().cast()))
        }
        #[inline(always)]
        unsafe fn lookup(table: Self::Table, index: Self::I) -> Self::I {
            _mm256_shuffle_epi8(table, index)
        }
        #[inline(always)]
        unsafe fn widen_i8(p: *const i8) -> Self::I {
            _mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast()))
        }
        #[inline(always)]
        unsafe fn widen_u8(p: *const u8) -> Self::I {
            _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast()))
        }
        #[inline(always)]
        unsafe fn triple8(a: Self::I) -> Self::I {
            _mm256_add_epi8(a, _mm256_add_epi8(a, a))
        }
        #[inline(always)]
        unsafe fn digits8(a: Self::I) -> Self::I {
            let one = _mm256_cmpgt_epi8(a, _mm256_set1_epi8(THIRDS.0));
            let two = _mm256_cmpgt_epi8(a, _mm256_set1_epi8(THIRDS.1));
            _mm256_sub_epi8(_mm256_setzero_si256(), _mm256_add_epi8(one, two))
        }
        #[inline(always)]
        unsafe fn store_i8<const N: usize>(p: *mut i8, a: [Self::I; N]) {
            // Packing goes by halves of the registers: 0 2 1 3 in quarters of eight bytes.
            let pairs = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(a[0], a[1]));
            let (low, high) = (_mm256_castsi256_si128(pairs), _mm256_extracti128_si256::<1>(pairs));
            _mm_storeu_si128(p.cast(), _mm_packs_epi16(low, high));
        }
        #[inline(always)]
        unsafe fn sum32(a: Self::I) -> i32 {
            let a = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256::<1>(a));
            let a = _mm_add_epi32(a, _mm_shuffle_epi32::<0b01_00_11_10>(a));
            _mm_cvtsi128_si32(_mm_add_epi32(a, _mm_shuffle_epi32::<0b10_11_00_01>(a)))
        }
        #[inline(always)]
        unsafe fn x_load(p: *const i8) -> Self::X {
            _mm256_set1_epi32(p.cast::<i32>().read_unaligned())
        }
        #[inline(always)]
        unsafe fn fmaf(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
            _mm256_fmadd_ps(a, b, c)
        }
        #[inline(always)]
        unsafe fn load_f16(p: *const u16) -> Self::F {
            _mm256_cvtph_ps(_mm_loadu_si128(p.cast()))
        }
        #[inline(always)]
        unsafe fn store_f16(p: *mut u16, a: Self::F) {
            _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a));
        }
        #[inline(always)]
        unsafe fn load_bf16(p: *const u16) -> Self::F {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
    };
}

/// AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2;

// SAFETY: each method is one intrinsic of AVX2, FMA or F16C, or a short sequence of them.
unsafe impl Reg for Avx2 {
    avx2_common!();
    narrow_dot!(_mm256_maddubs_epi16 _mm256_add_epi16);
    shifted_fields!();
    compared_digits!();

    /// The codes' magnitudes beside the codes, whose signs go to the activations.
    type S8 = (__m256i, __m256i);
    const S8_BIAS: i32 = 0;

    #[inline(always)]
    unsafe fn prep_s(w: Self::I) -> Self::S8 {
        (_mm256_abs_epi8(w), w)
    }
}

impl Avx2 {
    /// Products of signed codes in pairs of `i16`.
    #[inline(always)]
    unsafe fn signed_pairs((magnitude, sign): (__m256i, __m256i), x: __m256i) -> __m256i {
        _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(x, sign))
    }
}

/// As in the 512-bit tier: the compiler makes two instructions of the intrinsic.
#[inline]
#[target_feature(enable = "avxvnni")]
unsafe fn dpwssd(mut acc: __m256i, a: __m256i, b: __m256i) -> __m256i {
    std::arch::asm!(
        "{{vex}} vpdpwssd {}, {}, {}",
        inout(ymm_reg) acc, in(ymm_reg) a, in(ymm_reg) b,
        options(pure, nomem, nostack, preserves_flags)
    );
    acc
}

/// AVX2 with `vpdpbusd` in its VEX encoding.
#[derive(Clone, Copy)]
pub(crate) struct AvxVnni;

// SAFETY: each method is one intrinsic of AVX2, FMA, F16C or AVX-VNNI, or a short sequence of them.
unsafe impl Reg for AvxVnni {
    avx2_common!();
    vnni_dot! {
        _mm256_dpbusd_avx_epi32 dpwssd _mm256_mullo_epi32 _mm256_xor_si256 _mm256_srai_epi32
    }
}
