//! Kernels of the engine: block formats, packed panels, SIMD products and the ops beside them,
//! chosen at run time.
//!
//! Weights are packed in panels of [`PANEL_ROWS`] output rows ([`pack_panel`]); activations are
//! quantised ([`Kernels::quantize_rows`]); [`Kernels::matmul`] multiplies the two. The
//! crate knows nothing of files, tensors or threads, and allocates nothing.
//!
//! ```
//! use goldcrest_kernels::{Activation, Format, Kernels, Rows, Tile, pack_panel};
//!
//! let kernels = Kernels::best();
//! let k = 64;
//! // Sixteen rows of ones, as F32.
//! let weights: Vec<u8> = (0..16 * k).flat_map(|_| 1.0f32.to_le_bytes()).collect();
//! let mut panel = vec![0u8; Format::F32.panel_bytes(k)];
//! pack_panel(Format::F32, k, &weights, &mut panel);
//!
//! let mut row = vec![0u8; Activation::F32.row_bytes(k)];
//! kernels.quantize_rows(Activation::F32, k, &[0.5; 64], &mut row);
//! let mut out = [0.0f32; 16];
//! kernels.matmul(
//!     Format::F32,
//!     k,
//!     &panel,
//!     Rows::new(Activation::F32, k, &row, 1, kernels.group()),
//!     Tile::new(&mut out, 16, 1, 16),
//! );
//! assert_eq!(out, [32.0; 16]);
//! ```

#![allow(unsafe_code, reason = "kernels are where unsafe code lives: intrinsics and raw panels")]

#[cfg(target_endian = "big")]
compile_error!("files, panels and activations are little-endian: kernels load them as they lie");

mod activation;
mod attention;
mod dispatch;
mod extent;
mod format;
mod isa;
mod kv;
mod math;
mod matmul;
mod ops;
mod panel;
mod recurrent;
mod rotation;
mod simd;
mod statistics;

pub use activation::{Activation, Place, Rows};
pub use attention::{Attend, AttendOut, CHUNK, HeadRowsMut, Merge, Span, partial_len, scratch_len};
pub use dispatch::{Kernels, Tile};
pub use format::{Format, NoQuantizer};
pub use isa::{Isa, UnknownIsa};
pub use kv::{KvLayout, KvType};
pub use ops::{Nonlinearity, RopeStyle};
pub use panel::{pack_panel, unpack_row};
pub use recurrent::{Delta, GateOrder, Scan, TokenRows, state_len};

/// Output rows in a panel.
pub const PANEL_ROWS: usize = simd::LANES;
