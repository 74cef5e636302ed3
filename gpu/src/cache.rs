//! Keys and values of a text on a device.

use crate::adapters::Device;
use crate::error::Result;
use crate::memory::buffer;
use crate::pipelines::{Layout, Use, group_layout};

/// What keys and values are kept as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KvFormat {
    /// Half floats.
    F16,
    /// Single precision.
    F32,
}

impl KvFormat {
    /// Bytes of two numbers.
    pub(crate) fn cell(self) -> u64 {
        match self {
            Self::F16 => 4,
            Self::F32 => 8,
        }
    }
}

/// What a block keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheLayout {
    /// Heads of keys and values.
    pub heads: usize,
    /// Width of one, even.
    pub head_dim: usize,
    /// What numbers are kept as.
    pub format: KvFormat,
}

impl CacheLayout {
    /// Bytes of the keys and values of so many positions.
    pub fn bytes(&self, positions: usize) -> u64 {
        2 * self.half(positions)
    }

    /// Of keys or values alone: whole tiles of 32 positions.
    fn half(&self, positions: usize) -> u64 {
        let cells = self.heads * positions.next_multiple_of(32) * self.head_dim / 2;
        cells as u64 * self.format.cell()
    }
}

/// The bindings that belong to a text: where its rows are in the pass, its keys, its values.
pub(crate) fn layout() -> Layout {
    vec![(0, Use::Moving), (1, Use::Write), (2, Use::Write)]
}

/// Bytes from one run's parameters to the next.
pub(crate) const RUN: u64 = 256;

/// Keys and values of one text, block by block.
#[derive(Debug)]
pub struct Cache {
    blocks: Vec<wgpu::BindGroup>,
    pub(crate) positions: usize,
    pub(crate) id: u64,
}

impl Cache {
    /// Room for the keys and values of `blocks` at so many positions. `io` is that of the passes that
    /// it will be used in.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub fn new(
        device: &Device,
        io: &crate::Io,
        blocks: &[CacheLayout],
        positions: usize,
    ) -> Result<Self> {
        let usage = wgpu::BufferUsages::STORAGE;
        let group = group_layout(device, &layout());
        let make = |block: &CacheLayout| {
            let bytes = block.half(positions);
            if bytes > device.info().max_binding {
                let problem = format!("{bytes} bytes of keys in one piece");
                return Err(crate::Error::OutOfMemory(problem));
            }
            let [keys, values] = [buffer(device, bytes, usage)?, buffer(device, bytes, usage)?];
            let run = wgpu::BufferBinding {
                buffer: &io.runs,
                offset: 0,
                size: wgpu::BufferSize::new(32),
            };
            Ok(device.raw().create_bind_group(&wgpu::BindGroupDescriptor {
                label: None,
                layout: &group,
                entries: &[
                    wgpu::BindGroupEntry {
                        binding: 0,
                        resource: wgpu::BindingResource::Buffer(run),
                    },
                    wgpu::BindGroupEntry { binding: 1, resource: keys.as_entire_binding() },
                    wgpu::BindGroupEntry { binding: 2, resource: values.as_entire_binding() },
                ],
            }))
        };
        let positions = positions.next_multiple_of(32);
        let blocks = blocks.iter().map(make).collect::<Result<_>>()?;
        Ok(Self { blocks, positions, id: crate::run::number() })
    }

    pub(crate) fn group(&self, block: usize) -> &wgpu::BindGroup {
        &self.blocks[block]
    }
}
