//! The worker team of a forward pass.
//!
//! All workers walk the same graph. A step's tasks are claimed from one counter, so that a slow
//! core does not hold the rest, and a barrier ends the step. Between barriers a buffer is either
//! read by all or written in disjoint blocks ([`Shared`]), which is checked when a step begins.
#![allow(unsafe_code)]

mod barrier;
mod claims;
mod cores;
#[cfg(test)]
pub(crate) mod fault;
mod gate;
mod scattered;
mod shared;
mod stamp;
mod sync;
mod team;

use crate::error::Result;
pub(crate) use barrier::Poisoned;
pub(crate) use cores::choose_threads;
pub(crate) use gate::lock;
pub(crate) use scattered::{ColumnBlock, RowList, Scattered};
pub(crate) use shared::{Block, Grid, Shared};
pub(crate) use team::{Team, Worker};

impl Team {
    /// A team of `size` workers, the caller of [`run`](Self::run) among them.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input) for a size out of range, before any thread is
    /// started; [`ErrorKind::Worker`](crate::ErrorKind::Worker) when one cannot be started, and
    /// those before it have ended.
    pub(crate) fn new(size: usize) -> Result<Self> {
        let size = choose_threads(Some(size))?;
        // Spinning helps only while every worker has a processor of its own.
        let spins = size <= std::thread::available_parallelism().map_or(1, usize::from);
        Self::start(size, spins, |index, life| {
            std::thread::Builder::new().name(format!("goldcrest-{index}")).spawn(life)
        })
    }
}

#[cfg(test)]
mod tests;
