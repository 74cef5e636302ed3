//! Trains the model that goldcrest carries: tokenizer, teacher, student, export, measurement.
//!
//! candle holds the weights and chains the operations; the operations themselves, with their
//! gradients, and the optimiser are this crate's (see `ops`). Everything runs on the CPU.

mod buffer;
mod checkpoint;
pub mod corpus;
mod error;
pub mod evaluate;
pub mod export;
pub mod log;
mod math;
mod matmul;
pub mod model;
mod ops;
mod optimizer;
pub mod plot;
pub mod preset;
mod quantize;
mod random;
pub mod sample;
mod schedule;
pub mod tokenizer;
pub mod trainer;

pub use error::{Error, Result};
