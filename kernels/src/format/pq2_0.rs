//! PQ2_0: Q2_0 with a scale per 128. Files from before the type had a number of its own call it Q2_0.

use super::q2_0::Codes;
use crate::matmul::low_bit::LowBits;

/// The format.
#[allow(non_camel_case_types, reason = "formats keep the GGUF spelling")]
pub(crate) type PQ2_0 = LowBits<Codes<128>>;
