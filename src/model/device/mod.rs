//! Spans of blocks on a GPU: what may run there, its weights, and its plans.
//!
//! Only rows of the residual stream cross between the CPU and the device, and at the end the logits.
//! Keys and values of a span's attention stay on the device.

mod body;
mod buffers;
mod mixers;
mod place;
mod self_test;
mod upload;

use std::ops::Range;
use std::sync::Arc;

use goldcrest_gpu::{Cache, CacheLayout, Device, Io, KvFormat};
use goldcrest_kernels::KvType;

pub(crate) use body::{Body, Rows};
pub use place::{GpuLayers, Offload, OffloadedBlock};
use place::{Placement, place};
use self_test::self_test;

use super::pass::{Angles, Graph, Span};
use super::weights::{Loaded, Weights};
use crate::error::{Error, ErrorKind, Result, input_error};
use crate::spec::{Mixer, Spec};

/// A device that is open, and what all spans on it share.
pub(crate) struct Shared {
    device: Device,
    io: Io,
    /// How each block that keeps keys there keeps them, and its place among all that do.
    kept: Vec<(usize, CacheLayout)>,
}

impl Shared {
    /// Room for a session's keys and values on the device.
    pub(crate) fn cache(&self, positions: usize) -> Result<Arc<Cache>> {
        let layouts: Vec<_> = self.kept.iter().map(|(_, layout)| *layout).collect();
        Ok(Arc::new(Cache::new(&self.device, &self.io, &layouts, positions)?))
    }

    /// Whether the block that keeps keys in this place does so on the device.
    pub(crate) fn keeps(&self, kept: usize) -> bool {
        self.kept.iter().any(|(there, _)| *there == kept)
    }

    pub(crate) fn bandwidth(&self) -> Result<goldcrest_gpu::Bandwidth> {
        Ok(goldcrest_gpu::Bandwidth::new(&self.device)?)
    }

    pub(crate) fn start_timing(&self) -> Result<()> {
        Ok(self.device.start_timing()?)
    }

    pub(crate) fn end_timing(&self) -> Vec<goldcrest_gpu::Timing> {
        self.device.end_timing()
    }

    fn cache_of(&self, kept: usize) -> Option<(usize, CacheLayout)> {
        let at = self.kept.iter().position(|(there, _)| *there == kept)?;
        Some((at, self.kept[at].1))
    }
}

/// A device that a model is to use.
pub(crate) struct Request {
    device: Device,
    layers: GpuLayers,
    format: KvFormat,
    placement: Option<Placement>,
}

impl Request {
    /// # Errors
    /// [`ErrorKind::Input`] where there is no such device, and for keys and values of a type that it does
    /// not keep; [`ErrorKind::Device`].
    pub(crate) fn open(which: Option<&str>, layers: GpuLayers, kv: KvType) -> Result<Self> {
        let format = kv_format(kv)?;
        Ok(Self { device: Device::open(which)?, layers, format, placement: None })
    }

    /// Decides what runs there; gives the places of keys and values that are kept there.
    pub(crate) fn place(&mut self, spec: &Spec<Loaded>) -> Vec<usize> {
        let placement = place(spec, self.device.info(), self.layers);
        let kept = kept(spec, &placement, self.format).into_iter().map(|(kept, _)| kept).collect();
        self.placement = Some(placement);
        kept
    }

    /// Gives a graph the spans that run there.
    pub(crate) fn take_spans(self, mut graph: Graph) -> Result<(Graph, (Arc<Shared>, Offload))> {
        let Some(placement) = self.placement else {
            return Err(input_error("nothing was placed on the GPU"));
        };
        let (shared, placement, dispatches) = graph.cut(|weights, angles| {
            self_test(&self.device, weights, &placement)?;
            let made = spans(self.device, weights, angles, (placement, self.format))?;
            let (spans, shared, placement) = made;
            let dispatches = spans.iter().map(|span| match span {
                Span::Cpu(_) => 0,
                Span::Gpu(body) => body.dispatches(),
            });
            let dispatches = dispatches.sum();
            Ok((spans, (shared, placement, dispatches)))
        })?;
        let elsewhere = upload::elsewhere(graph.spec(), &placement);
        graph.weights.forget(elsewhere);
        let offload = Offload::new(shared.device.info(), graph.spec(), &placement, dispatches);
        Ok((graph, (shared, offload)))
    }
}

/// What keys and values on a device are kept as.
fn kv_format(kv: KvType) -> Result<KvFormat> {
    match kv {
        KvType::F16 => Ok(KvFormat::F16),
        KvType::F32 => Ok(KvFormat::F32),
        KvType::Q8_0 => Err(input_error("keys and values on a GPU are f16 or f32, not q8_0")),
    }
}

/// Copies what is to run there to the device, from the output backwards, and cuts the model into
/// spans. Where the number of layers is the device's to say, what its memory does not hold stays here.
fn spans(
    device: Device,
    weights: &Weights,
    angles: &Angles<'_>,
    (mut placement, format): (Placement, KvFormat),
) -> Result<(Vec<Span>, Arc<Shared>, Placement)> {
    let spec = &weights.spec;
    let mut uploaded = upload::all(&device, weights, &mut placement)?;
    let kept = kept(spec, &placement, format);
    let shared = Arc::new(Shared { io: Io::new(&device)?, device, kept });
    let mut spans = Vec::new();
    let mut first = 0;
    while first < spec.blocks.len() {
        let on_device = placement.blocks[first].on_device();
        let same = |place: &place::Place| place.on_device() == on_device;
        let end = first + placement.blocks[first..].iter().take_while(|p| same(p)).count();
        let last = end == spec.blocks.len();
        if on_device {
            let head = if last { uploaded.head.take() } else { None };
            let blocks = uploaded.take(first..end);
            spans.push(Span::Gpu(Box::new(Body::new(&shared, weights, angles, blocks, head)?)));
        } else {
            spans.push(Span::Cpu(first..end));
        }
        first = end;
    }
    if let Some(head) = uploaded.head.take() {
        // Behind blocks of the CPU.
        let body = Body::new(&shared, weights, angles, Vec::new(), Some(head))?;
        spans.push(Span::Gpu(Box::new(body)));
    }
    Ok((spans, shared, placement))
}

fn kept(spec: &Spec<Loaded>, placement: &Placement, format: KvFormat) -> Vec<(usize, CacheLayout)> {
    let mut kept = Vec::new();
    for (block, place) in spec.blocks.iter().zip(&placement.blocks) {
        for branch in block.branches.iter().filter(|_| place.on_device()) {
            if let Mixer::Attention(mixer) = &branch.mixer
                && mixer.kv.is_some()
            {
                let (heads, head_dim) = (mixer.heads.n_kv_heads, mixer.heads.head_dim);
                kept.push((mixer.kept, CacheLayout { heads, head_dim, format }));
            }
        }
    }
    kept
}

/// The blocks of `range`, which `taken` gives up.
fn drain<T>(taken: &mut [Option<T>], range: Range<usize>) -> Vec<T> {
    taken[range].iter_mut().filter_map(Option::take).collect()
}

impl From<goldcrest_gpu::Error> for Error {
    fn from(error: goldcrest_gpu::Error) -> Self {
        use goldcrest_gpu::Error as Gpu;
        let kind = match error {
            Gpu::Unknown(..) => ErrorKind::Input,
            Gpu::OutOfMemory(_) => ErrorKind::Memory,
            _ => ErrorKind::Device,
        };
        Error::new(kind, error.to_string()).because(error)
    }
}
