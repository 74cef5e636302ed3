//! goldcrest: a compact transformer inference engine.
//!
//! Loads GGUF files and Hugging Face folders and runs them on the CPU, quantised or not, with
//! SIMD kernels that are chosen at run time.
//!
//! ```no_run
//! use goldcrest::{Model, SamplingParams};
//!
//! let model = Model::open("model.gguf")?; // what the file is, is told from its content
//! let mut session = model.session()?; // owns its keys and values; the model is shared
//! session.push(&model.tokenizer()?.encode("Once upon a time")?)?;
//! let params = SamplingParams::default().temperature(0.7).seed(1);
//! for token in session.generate(params)? {
//!     print!("{}", token?.text); // never splits a character
//! }
//! println!("\n{}", session.stats());
//! # Ok::<(), goldcrest::Error>(())
//! ```

mod arch;
#[cfg(feature = "chat")]
pub mod chat;
mod config;
#[cfg(feature = "embedded-model")]
mod embedded;
mod error;
pub mod load;
mod model;
mod sample;
mod session;
mod spec;
mod state;
pub mod synthetic;
mod threads;
pub mod tokenizer;

pub use arch::architectures;
pub use config::{Config, Experts, Rope, RopeScaling, RopeStyle};
pub use error::{Error, ErrorKind, Result};
#[cfg(feature = "gpu")]
pub use goldcrest_gpu::{
    Bandwidth as GpuBandwidth, DeviceInfo as GpuDevice, DeviceKind as GpuKind, Timing as GpuTiming,
    devices as gpu_devices,
};
pub use goldcrest_kernels::{Format, Isa, KvType};
#[cfg(feature = "gpu")]
pub use model::device::{GpuLayers, Offload, OffloadedBlock};
pub use model::{Loader, Model};
pub use sample::{Choice, LogitsProcessor, Sampler, SamplingParams};
pub use session::{
    CancelToken, GenerationParams, Generator, IntoGeneratorError, Session, SessionOptions, Stats,
    StopReason, Token,
};
pub use tokenizer::{Decoder, EncodeOptions, Tokenizer};

/// What may be sent to other threads and used by several at once is part of the interface: a field
/// that takes it away fails here.
const _: () = {
    const fn sent<T: Send>() {}
    const fn shared<T: Send + Sync>() {}
    shared::<Model>();
    shared::<Tokenizer>();
    shared::<CancelToken>();
    shared::<Config>();
    shared::<Error>();
    shared::<load::Checkpoint>();
    shared::<Token>();
    sent::<Loader>();
    sent::<Session>();
    sent::<Generator<Session>>();
    sent::<Sampler>();
    sent::<Decoder>();
};
