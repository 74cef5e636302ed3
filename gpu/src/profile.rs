//! How long a device is at each step of its plans.

use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};

use crate::adapters::Device;
use crate::error::{Error, Result};
use crate::memory::buffer;

/// Times of a pass: two for a step.
const TIMES: u32 = 4096;

/// All times that steps of one kind took.
#[derive(Debug, Clone, PartialEq)]
pub struct Timing {
    /// What they do.
    pub step: String,
    /// How many were timed.
    pub count: usize,
    /// What they took together.
    pub seconds: f64,
}

/// What is being timed.
pub(crate) struct Profile {
    set: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    staging: wgpu::Buffer,
    /// The steps of the pass at hand, in the order of their times.
    steps: Vec<String>,
    sums: BTreeMap<String, (usize, f64)>,
}

impl Profile {
    fn new(device: &Device) -> Result<Self> {
        let set = device.raw().create_query_set(&wgpu::QuerySetDescriptor {
            label: None,
            ty: wgpu::QueryType::Timestamp,
            count: TIMES,
        });
        let bytes = 8 * u64::from(TIMES);
        let usage = wgpu::BufferUsages::COPY_DST;
        Ok(Self {
            set,
            resolved: buffer(
                device,
                bytes,
                wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
            )?,
            staging: buffer(device, bytes, usage | wgpu::BufferUsages::MAP_READ)?,
            steps: Vec::new(),
            sums: BTreeMap::new(),
        })
    }

    /// Where the times of a step go; steps that a pass has too many of are not timed.
    pub(crate) fn step(&mut self, name: &str) -> Option<wgpu::ComputePassTimestampWrites<'_>> {
        let at = 2 * self.steps.len() as u32;
        if at + 1 >= TIMES {
            return None;
        }
        self.steps.push(name.to_owned());
        Some(wgpu::ComputePassTimestampWrites {
            query_set: &self.set,
            beginning_of_pass_write_index: Some(at),
            end_of_pass_write_index: Some(at + 1),
        })
    }

    /// Adds up the times of a pass that has ended.
    pub(crate) fn collect(&mut self, device: &Device) -> Result<()> {
        let steps = std::mem::take(&mut self.steps);
        if steps.is_empty() {
            return Ok(());
        }
        let mut encoder = device.raw().create_command_encoder(&Default::default());
        let times = 2 * steps.len() as u32;
        encoder.resolve_query_set(&self.set, 0..times, &self.resolved, 0);
        let bytes = 8 * u64::from(times);
        encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.staging, 0, bytes);
        device.queue().submit([encoder.finish()]);
        let slice = self.staging.slice(..bytes);
        slice.map_async(wgpu::MapMode::Read, |_| ());
        device.wait()?;
        let view = slice.get_mapped_range().map_err(|error| device.lost(error))?;
        let period = f64::from(device.queue().get_timestamp_period()) * 1e-9;
        let ticks: Vec<_> =
            view.as_chunks::<8>().0.iter().map(|t| u64::from_le_bytes(*t)).collect();
        for (step, times) in steps.into_iter().zip(ticks.as_chunks::<2>().0) {
            let (count, seconds) = self.sums.entry(step).or_default();
            *count += 1;
            *seconds += times[1].saturating_sub(times[0]) as f64 * period;
        }
        drop(view);
        self.staging.unmap();
        Ok(())
    }
}

impl Device {
    pub(crate) fn profile(&self) -> MutexGuard<'_, Option<Profile>> {
        self.being_timed().lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Times every step of the passes that follow, each alone: what overlapped no longer does, so that
    /// passes take longer.
    ///
    /// # Errors
    /// [`Error::Refused`] where the driver has no clock.
    pub fn start_timing(&self) -> Result<()> {
        if !self.info().clock {
            return Err(Error::Refused("this device has no clock".to_owned()));
        }
        *self.profile() = Some(Profile::new(self)?);
        Ok(())
    }

    /// Ends that; gives what took the longest first.
    pub fn end_timing(&self) -> Vec<Timing> {
        let sums = self.profile().take().map(|profile| profile.sums).unwrap_or_default();
        let timing = |(step, (count, seconds))| Timing { step, count, seconds };
        let mut all: Vec<_> = sums.into_iter().map(timing).collect();
        all.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        all
    }
}
