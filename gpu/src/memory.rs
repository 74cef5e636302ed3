//! Memory of a device: weights, vectors, and the buffers of a pass.

use goldcrest_kernels::Format;

use crate::adapters::Device;
use crate::error::{Error, Result};

const STORAGE: wgpu::BufferUsages = wgpu::BufferUsages::STORAGE
    .union(wgpu::BufferUsages::COPY_DST)
    .union(wgpu::BufferUsages::COPY_SRC);

/// Bytes that are copied to the device at a time.
const PIECE: usize = 8 << 20;

pub(crate) fn buffer(
    device: &Device,
    bytes: u64,
    usage: wgpu::BufferUsages,
) -> Result<wgpu::Buffer> {
    let most = device.info().max_buffer;
    if bytes > most {
        let problem = format!("a buffer of {bytes} bytes, where {most} is the most");
        return Err(Error::OutOfMemory(problem));
    }
    let buffer = device.raw().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: bytes.max(16).next_multiple_of(16),
        usage,
        mapped_at_creation: false,
    });
    device.check()?;
    Ok(buffer)
}

/// A small block of parameters.
pub(crate) fn uniform(device: &Device, words: &[u32]) -> Result<wgpu::Buffer> {
    let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
    let bytes = bytes_of(words);
    let made = buffer(device, bytes.len() as u64, usage)?;
    device.queue().write_buffer(&made, 0, &bytes);
    Ok(made)
}

pub(crate) fn bytes_of(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Rows of floats on a device.
#[derive(Debug, Clone)]
pub struct Floats {
    pub(crate) buffer: wgpu::Buffer,
    /// Floats from one row to the next, a multiple of four.
    pub(crate) stride: usize,
}

impl Floats {
    /// Zeros, `rows` of `width`.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new(device: &Device, rows: usize, width: usize) -> Result<Self> {
        let stride = width.next_multiple_of(4);
        let bytes = rows as u64 * stride as u64 * 4;
        if bytes > device.info().max_binding {
            return Err(Error::OutOfMemory(format!("{rows} rows of {width} floats")));
        }
        Ok(Self { buffer: buffer(device, bytes, STORAGE)?, stride })
    }

    /// Whether it is the same memory.
    pub fn is(&self, other: &Self) -> bool {
        self.buffer == other.buffer
    }
}

/// Vectors of a model, side by side in one buffer.
#[derive(Debug, Default)]
pub struct Vectors {
    floats: Vec<f32>,
    ones: Option<(usize, u32)>,
}

impl Vectors {
    /// Where a vector begins.
    pub fn add(&mut self, vector: &[f32]) -> u32 {
        let at = self.floats.len() as u32;
        self.floats.extend_from_slice(vector);
        self.floats.resize(self.floats.len().next_multiple_of(4), 0.0);
        at
    }

    /// Where so many ones begin.
    pub fn ones(&mut self, len: usize) -> u32 {
        match self.ones {
            Some((there, at)) if there >= len => at,
            _ => {
                let at = self.add(&vec![1.0; len]);
                self.ones = Some((len, at));
                at
            }
        }
    }

    /// Copies them to the device.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn upload(&self, device: &Device) -> Result<Floats> {
        let floats = Floats::new(device, 1, self.floats.len().max(4))?;
        let words: Vec<_> = self.floats.iter().map(|float| float.to_bits()).collect();
        device.queue().write_buffer(&floats.buffer, 0, &bytes_of(&words));
        Ok(floats)
    }
}

/// Panels of some matrices in one buffer.
#[derive(Debug, Clone)]
pub struct Weights {
    pub(crate) buffer: wgpu::Buffer,
    bytes: u64,
}

impl Weights {
    /// Copies panels to the device, byte for byte.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], for more than [`DeviceInfo::max_binding`](crate::DeviceInfo) too.
    pub fn upload(device: &Device, panels: &[u8]) -> Result<Self> {
        let bytes = panels.len() as u64;
        if bytes > device.info().max_binding {
            return Err(Error::OutOfMemory(format!("{bytes} bytes of weights in one piece")));
        }
        let buffer = buffer(device, bytes, STORAGE)?;
        for (i, piece) in panels.chunks(PIECE).enumerate() {
            device.queue().write_buffer(&buffer, (i * PIECE) as u64, piece);
            // What is staged is freed only when a submission has ended.
            device.queue().submit([]);
            device.raw().poll(wgpu::PollType::Poll).map_err(|error| device.lost(error))?;
        }
        device.check()?;
        Ok(Self { buffer, bytes })
    }

    /// So many zeros.
    pub(crate) fn zeros(device: &Device, bytes: u64) -> Result<Self> {
        Ok(Self { buffer: buffer(device, bytes, STORAGE)?, bytes })
    }

    /// Bytes of it.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// A matrix in panels.
#[derive(Debug, Clone)]
pub struct Matrix {
    /// Where it is.
    pub weights: Weights,
    /// Format of its codes.
    pub format: Format,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub k: usize,
    /// Bytes before its first panel.
    pub at: usize,
    /// Bytes from one panel to the next.
    pub stride: usize,
    /// On its products.
    pub factor: f32,
}
