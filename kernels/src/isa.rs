//! The instruction sets, and which of them this processor has.

use std::fmt;
use std::str::FromStr;

/// A tier of the CPU, each with everything that the tiers before it have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// No SIMD intrinsics: any processor.
    Portable,
    /// Every x86-64.
    Sse2,
    /// SSSE3 and SSE4.1 (2008).
    Ssse3,
    /// 256-bit floats (2011).
    Avx,
    /// AVX2, FMA and F16C (2013).
    Avx2,
    /// AVX2 with VNNI in 256 bits.
    AvxVnni,
    /// AVX-512 F, BW, DQ and VL (2017).
    Avx512,
    /// AVX-512 with VNNI (2019).
    Avx512Vnni,
}

impl Isa {
    /// Every tier that the engine knows, worst first.
    pub const ALL: &'static [Self] = &[
        Self::Portable,
        Self::Sse2,
        Self::Ssse3,
        Self::Avx,
        Self::Avx2,
        Self::AvxVnni,
        Self::Avx512,
        Self::Avx512Vnni,
    ];

    /// The name that `--isa` and `GOLDCREST_ISA` take.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Sse2 => "sse2",
            Self::Ssse3 => "ssse3",
            Self::Avx => "avx",
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avx-vnni",
            Self::Avx512 => "avx512",
            Self::Avx512Vnni => "avx512-vnni",
        }
    }

    /// Whether this processor and its operating system run the tier.
    #[cfg(target_arch = "x86_64")]
    pub fn is_supported(self) -> bool {
        macro_rules! has {
            ($($feature:tt),*) => { $(std::is_x86_feature_detected!($feature))&&* };
        }
        match self {
            Self::Portable | Self::Sse2 => true,
            Self::Ssse3 => has!("ssse3", "sse4.1"),
            Self::Avx => has!("ssse3", "sse4.1", "avx"),
            Self::Avx2 => has!("avx", "avx2", "fma", "f16c"),
            Self::AvxVnni => has!("avx", "avx2", "fma", "f16c", "avxvnni"),
            Self::Avx512 => {
                has!("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl")
            }
            Self::Avx512Vnni => Self::Avx512.is_supported() && has!("avx512vnni"),
        }
    }

    /// Whether this processor and its operating system run the tier.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn is_supported(self) -> bool {
        self == Self::Portable
    }

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
