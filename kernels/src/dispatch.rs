//! The table of entry points of each instruction set, and the safe interface over it.

use std::marker::PhantomData;

use crate::PANEL_ROWS;
use crate::activation::{self, Activation, Rows};
use crate::format::Format;
use crate::isa::Isa;
use crate::matmul::{self, Args, layout};
use crate::simd::portable::Portable;

/// Where a product goes: `rows` rows of `cols` floats, `stride` floats apart.
#[derive(Debug)]
pub struct Tile<'a> {
    out: *mut f32,
    stride: usize,
    rows: usize,
    cols: usize,
    memory: PhantomData<&'a mut [f32]>,
}

impl<'a> Tile<'a> {
    /// A tile at the start of `out`.
    ///
    /// # Panics
    /// If the rows overlap or `out` is too short for them.
    pub fn new(out: &'a mut [f32], stride: usize, rows: usize, cols: usize) -> Self {
        assert!(rows <= 1 || stride >= cols, "rows of {cols} floats every {stride}");
        assert!(rows == 0 || out.len() >= (rows - 1) * stride + cols, "a tile of {rows} rows");
        Self { out: out.as_mut_ptr(), stride, rows, cols, memory: PhantomData }
    }

    /// A tile of a larger matrix, part of which other threads write.
    ///
    /// # Safety
    /// For `'a`, the first `cols` floats of each of `rows` rows, `stride` floats apart from `out`
    /// on, are valid for writes and nobody else reads or writes them.
    pub unsafe fn from_raw_parts(
        out: *mut f32,
        stride: usize,
        rows: usize,
        cols: usize,
    ) -> Self {
        Self { out, stride, rows, cols, memory: PhantomData }
    }
}

type MatmulFn = unsafe fn(&Args);

/// One instruction set's entry points.
#[derive(Debug)]
pub struct Kernels {
    isa: Isa,
    fused: bool,
    quantize_row: unsafe fn(Activation, &[f32], &mut [u8]),
    matmul: [MatmulFn; Format::ALL.len()],
}

/// The entry points of an instruction set: one function per op and format, each with the
/// features enabled and everything else inlined into it.
macro_rules! tier {
    ($module:ident, $isa:ident, [$($feature:literal),*], $token:expr, rows $max:literal) => {
        mod $module {
            use super::*;

            #[inline]
            $(#[target_feature(enable = $feature)])*
            unsafe fn quantize_row(kind: Activation, x: &[f32], out: &mut [u8]) {
                // SAFETY: the table is handed out on a CPU that has these features.
                unsafe { activation::quantize_row($token, kind, x, out) }
            }

            tier!(@products [$($feature),*], $token, $max:
                f32 F32 true, f16 F16 true, bf16 BF16 true,
                f32_unfused F32 false, f16_unfused F16 false, bf16_unfused BF16 false,
                q8_0 Q8_0 false, q4_0 Q4_0 false, q4_1 Q4_1 false, q5_0 Q5_0 false,
                q5_1 Q5_1 false, q4_k Q4_K false, q5_k Q5_K false, q6_k Q6_K false
            );

            pub(super) static FUSED: Kernels = Kernels {
                isa: Isa::$isa,
                fused: true,
                quantize_row,
                matmul: [f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q4_k, q5_k, q6_k],
            };
            pub(super) static UNFUSED: Kernels = Kernels {
                isa: Isa::$isa,
                fused: false,
                quantize_row,
                matmul: [
                    f32_unfused, f16_unfused, bf16_unfused,
                    q8_0, q4_0, q4_1, q5_0, q5_1, q4_k, q5_k, q6_k,
                ],
            };
        }
    };
    (@products $features:tt, $token:expr, $max:literal:
        $($name:ident $format:ident $fused:literal),*) => { $(
        tier!(@product $features, $token, $max, $name $format $fused);
    )* };
    (@product [$($feature:literal),*], $token:expr, $max:literal,
        $name:ident $format:ident $fused:literal) => {
        $(#[target_feature(enable = $feature)])*
        unsafe fn $name(a: &Args) {
            // SAFETY: the arguments are checked; the table is handed out on a CPU that has
            // these features.
            unsafe { matmul::matmul::<_, matmul::$format, $max, $fused>($token, a) }
        }
    };
}

tier!(portable, Portable, [], Portable, rows 4);
#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::*;
    use crate::simd::x86::{Avx2, Avx512, Avx512Vnni, AvxVnni, Sse2, Ssse3, Wide};

    tier!(sse2, Sse2, ["sse2"], Wide::<_, 4>::new(Sse2), rows 2);
    tier!(ssse3, Ssse3, ["ssse3", "sse4.1"], Wide::<_, 4>::new(Ssse3), rows 2);
    tier!(avx, Avx, ["avx"], Wide::<_, 4>::new(Ssse3), rows 2);
    tier!(avx2, Avx2, ["avx2", "fma", "f16c"], Wide::<_, 2>::new(Avx2), rows 4);
    tier!(avx_vnni, AvxVnni, ["avx2", "fma", "f16c", "avxvnni"], Wide::<_, 2>::new(AvxVnni), rows 4);
    tier!(avx512, Avx512, ["avx512f", "avx512bw", "avx512dq", "avx512vl", "fma", "f16c"],
        Wide::<_, 1>::new(Avx512), rows 8);
    tier!(avx512_vnni, Avx512Vnni,
        ["avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni", "fma", "f16c"],
        Wide::<_, 1>::new(Avx512Vnni), rows 12);

    pub(super) fn table(isa: Isa) -> Option<[&'static Kernels; 2]> {
        Some(match isa {
            Isa::Sse2 => [&sse2::UNFUSED, &sse2::FUSED],
            Isa::Ssse3 => [&ssse3::UNFUSED, &ssse3::FUSED],
            Isa::Avx => [&avx::UNFUSED, &avx::FUSED],
            Isa::Avx2 => [&avx2::UNFUSED, &avx2::FUSED],
            Isa::AvxVnni => [&avx_vnni::UNFUSED, &avx_vnni::FUSED],
            Isa::Avx512 => [&avx512::UNFUSED, &avx512::FUSED],
            Isa::Avx512Vnni => [&avx512_vnni::UNFUSED, &avx512_vnni::FUSED],
            _ => return None,
        })
    }
}

fn table(isa: Isa) -> Option<[&'static Kernels; 2]> {
    match isa {
        Isa::Portable => Some([&portable::UNFUSED, &portable::FUSED]),
        #[cfg(target_arch = "x86_64")]
        isa => x86::table(isa),
        #[cfg(not(target_arch = "x86_64"))]
        _ => None,
    }
}

impl Kernels {
    /// The kernels of `isa`; `None` if this processor does not run it.
    ///
    /// F32, F16 and BF16 products use fused multiply-add where the instruction set has it; the
    /// bits of everything else are the same on every instruction set.
    pub fn for_isa(isa: Isa) -> Option<&'static Self> {
        table(isa).filter(|_| isa.is_supported()).map(|[_, fused]| fused)
    }

    /// The kernels of `isa` whose bits are all the same on every instruction set.
    pub fn deterministic(isa: Isa) -> Option<&'static Self> {
        table(isa).filter(|_| isa.is_supported()).map(|[unfused, _]| unfused)
    }

    /// The kernels of the best instruction set that this processor runs.
    pub fn best() -> &'static Self {
        Self::for_isa(Isa::best()).unwrap_or(&portable::FUSED)
    }

    /// The instruction set.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Whether products of floats may be fused.
    pub fn is_fused(&self) -> bool {
        self.fused
    }

    /// Writes a row of activations in the form `kind`.
    ///
    /// # Panics
    /// If `out` is not [`Activation::row_bytes`] of `x.len()` long.
    pub fn quantize_row(&self, kind: Activation, x: &[f32], out: &mut [u8]) {
        // SAFETY: `self` is handed out only where the CPU has its instruction set.
        unsafe { (self.quantize_row)(kind, x, out) }
    }

    /// Multiplies panels of `format` with rows of activations, all of `k` values:
    /// `out[m][16 p + r] = sum over k of panel[p][r][k] * x[m][k]`.
    ///
    /// Columns of the last panel beyond the tile's are not written.
    ///
    /// # Panics
    /// If `panels` is no whole number of panels, or the form or number of the rows does not fit
    /// the format or the tile.
    pub fn matmul(&self, format: Format, k: usize, panels: &[u8], x: Rows<'_>, out: Tile<'_>) {
        let panel_bytes = format.panel_bytes(k);
        assert!(k > 0 && panels.len().is_multiple_of(panel_bytes), "whole panels of {format}");
        let n_panels = panels.len() / panel_bytes;
        assert!(out.cols.div_ceil(PANEL_ROWS) == n_panels, "{} columns", out.cols);
        assert!(x.kind == format.activation() && x.stride == x.kind.row_bytes(k), "{x:?}");
        assert!(x.rows == out.rows, "{} rows to {}", x.rows, out.rows);
        let args = Args {
            panels: panels.as_ptr(),
            n_panels,
            panel_bytes,
            units: k.div_ceil(layout::unit(format).0),
            x: x.data.as_ptr(),
            x_stride: x.stride,
            rows: x.rows,
            out: out.out,
            out_stride: out.stride,
            cols: out.cols,
        };
        // SAFETY: the lengths are checked above; `self` is handed out only where the CPU has
        // its instruction set.
        unsafe { (self.matmul[format as usize])(&args) }
    }
}
