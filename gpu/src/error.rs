//! What can go wrong on a device.

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a device cannot do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No adapter of that name or number.
    #[error("no GPU \"{0}\": {1}")]
    Unknown(String, String),
    /// The device has less than is needed of something.
    #[error("the GPU {name} is below what is needed: {problem}")]
    Below {
        /// Its name.
        name: String,
        /// What is missing.
        problem: String,
    },
    /// The driver gave no device.
    #[error("the driver of {name} gives no device: {problem}")]
    Driver {
        /// Its name.
        name: String,
        /// What the driver says.
        problem: String,
    },
    /// There is not enough memory on the device.
    #[error("the memory of the GPU is full: {0}")]
    OutOfMemory(String),
    /// The device is gone: reset, removed, or given up by a watchdog.
    #[error("the GPU is lost: {0}")]
    Lost(String),
    /// A call that this crate should not have made, or a bug of a driver.
    #[error("the GPU refused a command: {0}")]
    Refused(String),
    /// What the device computes is not what the CPU computes.
    #[error("the GPU {name} computes wrong numbers: {problem}")]
    Wrong {
        /// Its name.
        name: String,
        /// Which ones.
        problem: String,
    },
}
