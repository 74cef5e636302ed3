//! The vector vocabulary that every kernel is written in, and one implementation of it per
//! instruction set.
//!
//! Vectors have the same shape everywhere: 64 bytes, sixteen `i32`, sixteen `f32`. A narrow
//! instruction set holds each as several registers, so a kernel is written once and gives the
//! same bits on all of them.

mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use portable::Portable;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::*;

/// Lanes of [`Simd::F`] and [`Simd::I`], and rows of a panel.
pub(crate) const LANES: usize = 16;

/// The bits of 1.5 * 2^23: an integer of at most 22 bits added to them is that float plus the
/// integer, exactly. Dot products start here, and [`Simd::scaled`] needs no conversion.
pub(crate) const MAGIC: i32 = 0x4b40_0000;

/// An instruction set: a zero-sized token whose methods are single instructions, or the shortest
/// sequence that does the same.
///
/// Every method may be called only while the CPU has the instruction set, and has to be inlined
/// into a function that enables it: that is what the entry points do. Pointers must be valid for
/// the bytes that a method names, with no alignment; a prefetch may name any address.
///
/// # Safety
/// Kernels rely on it: a load reads no more than the bytes that its method names, a store writes
/// all of them and no other, and what is no load or store touches no memory.
pub(crate) unsafe trait Simd: Copy {
    /// 64 bytes.
    type B: Copy;
    /// Sixteen `i32`.
    type I: Copy;
    /// Sixteen `f32`.
    type F: Copy;
    /// Four activations, repeated for each of the sixteen rows.
    type X: Copy;
    /// Running dot products of sixteen rows of unsigned codes.
    type Acc: Copy;
    /// 64 unsigned codes made ready for [`dot_u`](Self::dot_u).
    type U8: Copy;
    /// 64 signed codes made ready for [`dot_s`](Self::dot_s).
    type S8: Copy;
    /// Sixteen factors for [`scaled`](Self::scaled).
    type Factor: Copy;
    /// Sixteen factors of 8 bits for [`scale_add24`](Self::scale_add24).
    type Scale24: Copy;
    /// Sums of [`scale_add24`](Self::scale_add24).
    type Sum24: Copy;
    /// Sixteen bytes for [`lookup`](Self::lookup).
    type Table: Copy;
    /// Running dot products of codes of one or two bits, or of ternary digits.
    type Sums: Copy;

    /// What [`prep_s`](Self::prep_s) adds to signed codes: 0, or 128 where the dot product wants
    /// them unsigned.
    const S8_BIAS: i32;
    /// Whether [`Acc`](Self::Acc) is 32 bits wide and never needs a [`flush`](Self::flush).
    const WIDE: bool;

    /// Fetches a line into the first-level cache.
    unsafe fn prefetch(self, p: *const u8);
    /// Fetches a line into the second-level cache.
    unsafe fn prefetch_far(self, p: *const u8);

    // 64 bytes
    unsafe fn b_load(self, p: *const u8) -> Self::B;
    unsafe fn b_store(self, p: *mut u8, a: Self::B);
    unsafe fn b_splat(self, v: u8) -> Self::B;
    unsafe fn b_and(self, a: Self::B, b: Self::B) -> Self::B;
    unsafe fn b_or(self, a: Self::B, b: Self::B) -> Self::B;
    /// Shifts 16-bit lanes right: bits cross bytes, the caller masks.
    unsafe fn b_shr<const N: i32>(self, a: Self::B) -> Self::B;
    /// Shifts 16-bit lanes left: bits cross bytes, the caller masks.
    unsafe fn b_shl<const N: i32>(self, a: Self::B) -> Self::B;

    /// Three times each byte, modulo 256.
    unsafe fn b_triple(self, a: Self::B) -> Self::B;
    /// `3 (b ^ 0x80) / 256` of each byte b: the first ternary digit of a fraction of 256 whose top
    /// bit is flipped.
    unsafe fn b_digits(self, a: Self::B) -> Self::B;

    // Codes of few bits, several in a byte. A sum of them holds the products of 64 values of a byte.
    unsafe fn sums_zero(self) -> Self::Sums;
    /// Adds the products of `D` codes of `8 / D` bits, 1 or 2, the lowest first, with activations `x`.
    unsafe fn dot_fields<const D: usize>(
        self,
        sums: Self::Sums,
        bytes: Self::B,
        x: [Self::X; D],
    ) -> Self::Sums;
    /// What [`dot_fields`](Self::dot_fields) of one `D` has added up.
    unsafe fn fields_sum<const D: usize>(self, sums: Self::Sums) -> Self::I;
    /// Adds the products of the first `D` ternary digits, at most 5, of fractions of 256 whose top bit
    /// is flipped.
    unsafe fn dot_digits<const D: usize>(
        self,
        sums: Self::Sums,
        fractions: Self::B,
        x: [Self::X; D],
    ) -> Self::Sums;
    /// What [`dot_digits`](Self::dot_digits) has added up.
    unsafe fn digits_sum(self, sums: Self::Sums) -> Self::I;

    // Dot products: row r takes bytes 4 r .. 4 r + 4 of a vector against the same 4 activations.
    /// Reads 4 activations.
    unsafe fn x_load(self, p: *const i8) -> Self::X;
    unsafe fn prep_u(self, w: Self::B) -> Self::U8;
    unsafe fn acc_zero(self) -> Self::Acc;
    /// Starts every row at the `i32` at `start`, or at zero where that costs an instruction:
    /// [`finish`](Self::finish) of the same `start` completes it.
    unsafe fn acc_start(self, start: *const i32) -> Self::Acc;
    /// Adds the products of unsigned codes. Between two [`flush`](Self::flush)es, or
    /// [`scale_add`](Self::scale_add)s of a fresh accumulator, at most 32 calls with 2-bit codes, 8
    /// with 4-bit ones, 4 with 5-bit ones, 2 with 6-bit ones.
    unsafe fn dot_u(self, acc: Self::Acc, w: Self::U8, x: Self::X) -> Self::Acc;
    /// Widens what narrow accumulators hold.
    unsafe fn flush(self, acc: Self::Acc) -> Self::Acc;
    /// The dot products of an accumulator that [`acc_start`](Self::acc_start) began at `start`.
    unsafe fn finish(self, acc: Self::Acc, start: *const i32) -> Self::I;
    /// Makes sixteen factors of 8 bits ready for [`scale_add`](Self::scale_add).
    unsafe fn prep_scale(self, scale: Self::I) -> Self::I;
    /// `total + scale * acc` for an accumulator of [`acc_zero`](Self::acc_zero), never flushed.
    unsafe fn scale_add(self, total: Self::I, acc: Self::Acc, scale: Self::I) -> Self::I;
    /// As [`prep_scale`](Self::prep_scale), for sums whose magnitude stays below 2^24 whatever
    /// the operands.
    unsafe fn prep_scale24(self, scale: Self::I) -> Self::Scale24;
    unsafe fn sum24_zero(self) -> Self::Sum24;
    /// As [`scale_add`](Self::scale_add).
    unsafe fn scale_add24(
        self,
        sum: Self::Sum24,
        acc: Self::Acc,
        scale: Self::Scale24,
    ) -> Self::Sum24;
    /// `a + b` as floats, rounded once.
    unsafe fn sum24_join(self, a: Self::Sum24, b: Self::Sum24) -> Self::F;
    unsafe fn prep_s(self, w: Self::B) -> Self::S8;
    /// Adds the products of signed codes; activations are never -128.
    unsafe fn dot_s(self, acc: Self::I, w: Self::S8, x: Self::X) -> Self::I;
    /// Adds products of sixteen pairs of `i16` (`a` holds them as `i32` lanes).
    unsafe fn dot_pairs(self, acc: Self::I, a: Self::I, b: Self::I) -> Self::I;

    // Codebooks, and sums of few bits
    unsafe fn table(self, bytes: &[u8; 16]) -> Self::Table;
    /// The byte of the table at each of 64 indices below 16.
    unsafe fn lookup(self, table: Self::Table, index: Self::B) -> Self::B;
    /// As [`prep_s`](Self::prep_s), of codes that [`S8_BIAS`](Self::S8_BIAS) is in already.
    unsafe fn prep_biased(self, w: Self::B) -> Self::S8;
    /// As [`dot_u`](Self::dot_u), of biased codes of 8 bits: one call, or eight where accumulators are
    /// [`WIDE`](Self::WIDE).
    unsafe fn dot_biased(self, acc: Self::Acc, w: Self::S8, x: Self::X) -> Self::Acc;
    /// As [`prep_scale`](Self::prep_scale), for dot products that fit `i16`.
    unsafe fn prep_scale16(self, scale: Self::I) -> Self::I;
    /// As [`scale_add`](Self::scale_add), for dot products that fit `i16`.
    unsafe fn scale_add16(self, total: Self::I, acc: Self::Acc, scale: Self::I) -> Self::I;

    /// Sixteen half floats as factors. An infinite one makes every product NaN.
    unsafe fn factors(self, p: *const u16) -> Self::Factor;
    /// `(dots - MAGIC) * factor`, rounded once; the dot products have at most 22 bits.
    ///
    /// With a fused multiply-add that is one instruction: `1.5 * 2^23 * w` is exact, so
    /// `(1.5 * 2^23 + dot) * w - 1.5 * 2^23 * w` rounds `dot * w` alone.
    unsafe fn scaled(self, dots: Self::I, factor: Self::Factor) -> Self::F;

    // Sixteen i32
    /// Every lane the `i32` at `p`.
    unsafe fn i_splat_at(self, p: *const i32) -> Self::I;
    unsafe fn i_splat(self, v: i32) -> Self::I;
    unsafe fn i_add(self, a: Self::I, b: Self::I) -> Self::I;
    unsafe fn i_sub(self, a: Self::I, b: Self::I) -> Self::I;
    unsafe fn i_and(self, a: Self::I, b: Self::I) -> Self::I;
    unsafe fn i_shl<const N: i32>(self, a: Self::I) -> Self::I;
    /// Shifts zeros in.
    unsafe fn i_shr<const N: i32>(self, a: Self::I) -> Self::I;
    /// Sixteen signed bytes, widened.
    unsafe fn i_load_i8(self, p: *const i8) -> Self::I;
    /// Sixteen unsigned bytes, widened.
    unsafe fn i_load_u8(self, p: *const u8) -> Self::I;
    unsafe fn i_to_f(self, a: Self::I) -> Self::F;
    /// Rounds to the nearest, ties to even; the values fit in `i32`.
    unsafe fn f_to_i(self, a: Self::F) -> Self::I;
    unsafe fn i_store(self, p: *mut i32, a: Self::I);
    /// Stores the low byte of each lane: 16 bytes. The values fit in `i8`.
    unsafe fn i_store_i8(self, p: *mut i8, a: Self::I);
    /// Sum of the lanes.
    unsafe fn i_sum(self, a: Self::I) -> i32;
    /// The same 64 bytes.
    unsafe fn i_from_b(self, a: Self::B) -> Self::I;
    unsafe fn f_from_bits(self, a: Self::I) -> Self::F;

    // Sixteen f32
    unsafe fn f_load(self, p: *const f32) -> Self::F;
    unsafe fn f_store(self, p: *mut f32, a: Self::F);
    unsafe fn f_splat(self, v: f32) -> Self::F;
    /// Every lane the `f32` at `p`.
    unsafe fn f_splat_at(self, p: *const f32) -> Self::F;
    unsafe fn f_add(self, a: Self::F, b: Self::F) -> Self::F;
    unsafe fn f_sub(self, a: Self::F, b: Self::F) -> Self::F;
    unsafe fn f_mul(self, a: Self::F, b: Self::F) -> Self::F;
    unsafe fn f_div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `if a > b { a } else { b }`, lane by lane, which fixes NaN and signed zero.
    unsafe fn f_max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `if a < b { a } else { b }`.
    unsafe fn f_min(self, a: Self::F, b: Self::F) -> Self::F;
    /// Clears the sign.
    unsafe fn f_abs(self, a: Self::F) -> Self::F;
    /// `a * b + c`, fused where the instruction set has it, else rounded twice.
    unsafe fn f_fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// Sixteen half floats; exact, subnormals, infinities and NaN included.
    unsafe fn f_load_f16(self, p: *const u16) -> Self::F;
    /// Stores sixteen half floats, rounded to nearest even.
    unsafe fn f_store_f16(self, p: *mut u16, a: Self::F);
    /// Sixteen bfloat16; exact.
    unsafe fn f_load_bf16(self, p: *const u16) -> Self::F;

    /// Sum of the lanes, in one order on every instruction set.
    #[inline(always)]
    unsafe fn f_sum(self, a: Self::F) -> f32 {
        let mut v = [0.0f32; LANES];
        // SAFETY: `v` has sixteen lanes; the caller vouches for the instruction set.
        unsafe { self.f_store(v.as_mut_ptr(), a) };
        let mut width = LANES / 2;
        while width > 0 {
            for i in 0..width {
                v[i] += v[i + width];
            }
            width /= 2;
        }
        v[0]
    }

    /// Greatest lane, as [`f_max`](Self::f_max) compares, by halves.
    #[inline(always)]
    unsafe fn f_greatest(self, a: Self::F) -> f32 {
        let mut v = [0.0f32; LANES];
        // SAFETY: `v` has sixteen lanes; the caller vouches for the instruction set.
        unsafe { self.f_store(v.as_mut_ptr(), a) };
        let mut width = LANES / 2;
        while width > 0 {
            for i in 0..width {
                v[i] = if v[i] > v[i + width] { v[i] } else { v[i + width] };
            }
            width /= 2;
        }
        v[0]
    }
}
