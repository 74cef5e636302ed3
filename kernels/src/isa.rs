//! The instruction sets, and which of them this processor has.

use std::fmt;
#[cfg(target_arch = "x86_64")]
use std::is_x86_feature_detected as detected;
use std::str::FromStr;

/// The instruction sets, worst first, a row each: name, the name that users type, the module of its
/// entry points, where it exists, the features that it needs, and how its kernels are made: the
/// token of its `Simd`, the `rows` of activations that a product keeps in registers (2, 4, 8 or 12),
/// from how many rows on codes are unpacked beforehand, the rows of queries in a `tile` of attention,
/// and whether there is a fused multiply-add. Everything else follows from the row.
macro_rules! instruction_sets {
    ($then:ident) => {
        $then! {
            /// No SIMD intrinsics: any processor.
            Portable "portable" portable (all()) []
                { Portable, rows 2, unpack 2, tile 2, fused false };
            /// Every x86-64.
            Sse2 "sse2" sse2 (target_arch = "x86_64") ["sse2"]
                { Wide::<_, 4>::new(Sse2), rows 2, unpack 2, tile 1, fused false };
            /// SSSE3 and SSE4.1 (2008).
            Ssse3 "ssse3" ssse3 (target_arch = "x86_64") ["ssse3", "sse4.1"]
                { Wide::<_, 4>::new(Ssse3), rows 2, unpack 2, tile 1, fused false };
            /// 256-bit floats (2011).
            Avx "avx" avx (target_arch = "x86_64") ["ssse3", "sse4.1", "avx"]
                { Wide::<_, 4>::new(Ssse3), rows 2, unpack 2, tile 1, fused false };
            /// AVX2, FMA and F16C (2013).
            Avx2 "avx2" avx2 (target_arch = "x86_64") ["avx", "avx2", "fma", "f16c"]
                { Wide::<_, 2>::new(Avx2), rows 4, unpack 2, tile 2, fused true };
            /// AVX2 with VNNI in 256 bits.
            AvxVnni "avx-vnni" avx_vnni (target_arch = "x86_64")
                ["avx", "avx2", "fma", "f16c", "avxvnni"]
                { Wide::<_, 2>::new(AvxVnni), rows 4, unpack 4, tile 2, fused true };
            /// AVX-512 F, BW, DQ and VL (2017).
            Avx512 "avx512" avx512 (target_arch = "x86_64")
                ["avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl"]
                { Wide::<_, 1>::new(Avx512), rows 8, unpack 2, tile 8, fused true };
            /// AVX-512 with VNNI (2019).
            Avx512Vnni "avx512-vnni" avx512_vnni (target_arch = "x86_64")
                ["avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni"]
                { Wide::<_, 1>::new(Avx512Vnni), rows 12, unpack 12, tile 8, fused true };
        }
    };
}
pub(crate) use instruction_sets;

macro_rules! isa_type {
    ($($(#[$doc:meta])* $isa:ident $name:literal $module:ident ($cfg:meta)
       [$($feature:tt),*] $kernels:tt;)*) => {
        /// A tier of the CPU, each with everything that the tiers before it have.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Isa {
            $($(#[$doc])* $isa,)*
        }

        impl Isa {
            /// Every tier that the engine knows, worst first.
            pub const ALL: &'static [Self] = &[$(Self::$isa,)*];

            /// The name that `--isa` and `GOLDCREST_ISA` take.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$isa => $name,)*
                }
            }

            /// Whether this processor and its operating system run the tier.
            pub fn is_supported(self) -> bool {
                match self {
                    $(
                        #[cfg($cfg)]
                        Self::$isa => true $(&& detected!($feature))*,
                        #[cfg(not($cfg))]
                        Self::$isa => false,
                    )*
                }
            }
        }
    };
}

instruction_sets!(isa_type);

impl Isa {
    /// The tiers that this processor runs, worst first.
    pub fn supported() -> impl Iterator<Item = Self> {
        Self::ALL.iter().copied().filter(|isa| isa.is_supported())
    }

    /// The last of [`supported`](Self::supported).
    pub fn best() -> Self {
        Self::supported().last().unwrap_or(Self::Portable)
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is no tier's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownIsa(String);

impl fmt::Display for UnknownIsa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown instruction set \"{}\" (known:", self.0)?;
        for isa in Isa::ALL {
            write!(f, " {isa}")?;
        }
        f.write_str(")")
    }
}

impl std::error::Error for UnknownIsa {}

impl FromStr for Isa {
    type Err = UnknownIsa;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .iter()
            .copied()
            .find(|isa| isa.name().eq_ignore_ascii_case(name))
            .ok_or_else(|| UnknownIsa(name.to_owned()))
    }
}
