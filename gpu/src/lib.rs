//! Kernels of goldcrest for GPUs: products of quantised weights and attention, in WGSL on `wgpu`.
//!
//! As `goldcrest-kernels` is to the CPU: it turns numbers into numbers and knows nothing of files,
//! models or texts. Weights are the panels of that crate, byte for byte. A [`Plan`] is a list of
//! dispatches that is made once and run for every pass; its bits are the same each time on one device
//! and driver, since all sums have a fixed order.
//!
//! Drivers are loaded at run time (Vulkan, Metal, Direct3D 12): nothing is linked.

mod adapters;
mod attention;
mod bandwidth;
mod cache;
mod error;
mod experts;
mod memory;
mod norm;
mod pipelines;
mod plan;
mod product;
mod profile;
mod quantise;
mod run;
mod shaders;

pub use adapters::{Device, DeviceInfo, DeviceKind, devices};
pub use attention::{Attention, HeadNorm};
pub use bandwidth::Bandwidth;
pub use cache::{Cache, CacheLayout, KvFormat};
pub use error::{Error, Result};
pub use experts::{Choose, Experts, Gating};
pub use memory::{Floats, Matrix, Vectors, Weights};
pub use norm::{Norm, NormStep};
pub use plan::{Builder, Class, Count, Plan, Tiles};
pub use product::{Kind, Part, Pending, Product};
pub use profile::Timing;
pub use run::{Io, Pass, RunAt};
pub use shaders::supports;

/// Chunks of attention of a pass at most, and floats of one for a head of so many numbers.
pub const fn partials(heads: usize, head_dim: usize) -> usize {
    2 * run::CHUNKS * heads * (head_dim + 2)
}

/// Experts of a layer at most: what a workgroup keeps of each in shared memory.
pub const EXPERTS: usize = 512;

/// Rows of a pass at most: pieces of prompts, and single rows of other texts beside them.
pub const ROWS: usize = 576;
