//! How fast a device reads its memory.

use std::time::Instant;

use crate::adapters::Device;
use crate::error::Result;
use crate::memory::{Floats, Weights};
use crate::plan::{Binding, Builder, Class, Grid};
use crate::run::{Io, Pass};
use crate::shaders::{BANDWIDTH, Names};

/// Bytes that are read, where a dispatch sees as many: far more than a cache.
const BYTES: u64 = 1 << 30;
/// Workgroups of a dispatch.
const GROUPS: u32 = 4096;
/// Reads of a submission.
const READS: usize = 8;

/// Reads a large buffer of a device, as often as it is asked to.
pub struct Bandwidth {
    device: Device,
    io: Io,
    plan: crate::Plan,
    out: Floats,
    bytes: u64,
}

impl Bandwidth {
    /// Of a buffer of a gibibyte, or as much as one dispatch sees, or as there is room for.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory), and what the driver says.
    pub fn new(device: &Device) -> Result<Self> {
        let mut bytes = BYTES.min(device.info().max_binding) / 4096 * 4096;
        let buffer = loop {
            match Weights::zeros(device, bytes) {
                Ok(buffer) => break buffer,
                Err(_) if bytes > 16 << 20 => bytes /= 2,
                Err(error) => return Err(error),
            }
        };
        let io = Io::new(device)?;
        let out = Floats::new(device, 1, 4)?;
        let mut builder = Builder::new(device, &io, Class::One);
        let words = [(bytes / 16) as u32, GROUPS * 256, 0, 0];
        let bindings = [Binding::read(1, &buffer.buffer), Binding::write(2, &out.buffer)];
        let count = crate::Count::Pass;
        let grid = Grid::Rows { x: GROUPS, per: 1, times: 1, count };
        for _ in 0..READS {
            let of = ("a read".to_owned(), grid, None, 0);
            builder.step((&[BANDWIDTH], &Names::default()), &words, &bindings, of)?;
        }
        let plan = builder.finish()?;
        Ok(Self { device: device.clone(), io, plan, out, bytes })
    }

    /// Gigabytes per second.
    ///
    /// # Errors
    /// What the driver says.
    pub fn round(&self) -> Result<f64> {
        let pass = Pass { rows: 1, wanted: &[], runs: &[] };
        let start = Instant::now();
        self.device.run(&self.io, &[&self.plan], &pass, (&self.out, 1, 1), |_, _| ())?;
        Ok((READS as u64 * self.bytes) as f64 * 1e-9 / start.elapsed().as_secs_f64())
    }
}
