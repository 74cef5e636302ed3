//! Which blocks run on a device, and why others do not.

use goldcrest_gpu::DeviceInfo;

use crate::model::weights::{Loaded, Matrix};
use crate::spec::{Attention, Dense, Experts, Mixer, Norm, Spec, Up};

/// How many layers run on a GPU, counted from the end: the output is the last of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuLayers {
    /// As many as its memory holds.
    Auto,
    /// All.
    All,
    /// So many: one more than the model has layers is all of it.
    Count(usize),
}

/// Where a block runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Device,
    /// And why, where the device was asked for.
    Cpu(Option<String>),
}

impl Place {
    pub(crate) fn on_device(&self) -> bool {
        *self == Self::Device
    }
}

/// Where all of a model runs.
#[derive(Debug)]
pub(crate) struct Placement {
    /// Whether what the memory of the device does not hold stays here.
    pub(crate) gives_way: bool,
    pub(crate) blocks: Vec<Place>,
    pub(crate) head: Place,
}

/// Where the parts of a model run, for those who want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Offload {
    /// The name of the device.
    pub device: String,
    /// The blocks in the order of the pass: attention and feed-forward are one each.
    pub blocks: Vec<OffloadedBlock>,
    /// Whether the output runs there.
    pub head: bool,
    /// Dispatches of all spans for a token: once a context is so long that attention is cut into
    /// chunks, each block of attention has one more.
    pub dispatches: usize,
}

/// Where a block runs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OffloadedBlock {
    /// Its mixers.
    pub kind: String,
    /// Whether it runs on the device.
    pub on_device: bool,
    /// Why it does not, where it was to.
    pub reason: Option<String>,
}

impl Offload {
    pub(crate) fn new(
        device: &DeviceInfo,
        spec: &Spec<Loaded>,
        placement: &Placement,
        dispatches: usize,
    ) -> Self {
        let blocks = spec.blocks.iter().zip(&placement.blocks).map(|(block, place)| {
            let kinds: Vec<_> = block.branches.iter().map(|branch| name(&branch.mixer)).collect();
            let reason = match place {
                Place::Device => None,
                Place::Cpu(reason) => reason.clone(),
            };
            OffloadedBlock { kind: kinds.join(" beside "), on_device: place.on_device(), reason }
        });
        let head = placement.head.on_device();
        Self { device: device.name.clone(), blocks: blocks.collect(), head, dispatches }
    }
}

/// Decides by the layers that are asked for and by what the device can do.
pub(crate) fn place(spec: &Spec<Loaded>, info: &DeviceInfo, layers: GpuLayers) -> Placement {
    let n_layers = spec.layers.len();
    let wanted = match layers {
        GpuLayers::Auto | GpuLayers::All => n_layers + 1,
        GpuLayers::Count(n) => n.min(n_layers + 1),
    };
    // The output counts as the last layer.
    let first_layer = n_layers + 1 - wanted;
    let first = spec.layers.get(first_layer).copied().unwrap_or(spec.blocks.len());
    let mut here = Vec::new();
    let mut blocks = Vec::new();
    for (index, block) in spec.blocks.iter().enumerate() {
        let mixers = || block.branches.iter().map(|branch| &branch.mixer);
        let reason = mixers().find_map(|mixer| why_not(mixer, info, &here));
        let place = match reason {
            _ if index < first => Place::Cpu(None),
            Some(reason) => Place::Cpu(Some(reason)),
            None => Place::Device,
        };
        if !place.on_device() {
            here.extend(mixers().filter_map(|mixer| match mixer {
                Mixer::Attention(mixer) if mixer.kv.is_some() => Some(mixer.kept),
                _ => None,
            }));
        }
        blocks.push(place);
    }
    let head = match matrix(&spec.head.matrix) {
        _ if wanted == 0 => Place::Cpu(None),
        _ if spec.streams.is_some() => Place::Cpu(Some("several residual streams".into())),
        Some(reason) => Place::Cpu(Some(reason)),
        None => Place::Device,
    };
    Placement { gives_way: layers == GpuLayers::Auto, blocks, head }
}

fn name(mixer: &Mixer<Loaded>) -> &'static str {
    match mixer {
        Mixer::Attention(_) => "attention",
        Mixer::Latent(_) => "latent attention",
        Mixer::DeltaNet(_) => "gated delta rule",
        Mixer::ShortConv(_) => "short convolution",
        Mixer::Mamba(_) => "state space",
        Mixer::Dense(Dense { up: Up::Sparse(..), .. }) => "sparse feed-forward",
        Mixer::Dense(_) => "feed-forward",
        Mixer::Experts(_) => "experts",
        Mixer::LayerInput(_) => "layer input",
        Mixer::LowRank(_) => "low-rank path",
        Mixer::Identity => "identity",
        Mixer::Predict(_) => "prediction of streams",
        Mixer::Correct(_) => "correction of streams",
    }
}

/// `here`: the places of keys and values on the CPU.
fn why_not(mixer: &Mixer<Loaded>, info: &DeviceInfo, here: &[usize]) -> Option<String> {
    match mixer {
        _ if !mixer.on_gpus() => Some(format!("{} has no GPU kernels", name(mixer))),
        Mixer::Attention(mixer) => attention(mixer, here),
        Mixer::Dense(mixer) => dense(mixer, info),
        Mixer::Experts(mixer) => experts(mixer, info),
        _ => None,
    }
}

fn attention(mixer: &Attention<Loaded>, here: &[usize]) -> Option<String> {
    let heads = mixer.heads;
    let norms = [mixer.q_norm.as_ref(), mixer.kv.as_ref().and_then(|kv| kv.k_norm.as_ref())];
    let of_heads = |norm: &Norm<Loaded>| norm.weight.as_ref().map_or(0, Vec::len) <= heads.head_dim;
    if mixer.kv.is_none() && here.contains(&mixer.kept) {
        return Some("it attends to keys of a block on the CPU".into());
    }
    if !heads.head_dim.is_multiple_of(2) || heads.head_dim > 1024 {
        return Some(format!("heads of {}", heads.head_dim));
    }
    if !mixer.norms_whole && !norms.into_iter().flatten().all(of_heads) {
        return Some("a norm of its own for each head".into());
    }
    mixer.linears().chain([&mixer.output]).find_map(|linear| matrix(&linear.matrix))
}

fn dense(mixer: &Dense<Loaded>, info: &DeviceInfo) -> Option<String> {
    // Gate and up alternate: one dispatch sees both.
    let bytes: usize = mixer.up.linears().iter().map(|linear| linear.matrix.bytes()).sum();
    if bytes as u64 > info.max_binding && matches!(mixer.up, Up::Gated(_)) {
        let most = info.max_binding;
        return Some(format!("gate and up of {bytes} bytes, where one dispatch sees {most}"));
    }
    let matrices = mixer.up.linears().iter().chain([&mixer.down]).map(|linear| &linear.matrix);
    matrices.chain(&mixer.gate).find_map(matrix)
}

fn experts(mixer: &Experts<Loaded>, info: &DeviceInfo) -> Option<String> {
    if mixer.count > goldcrest_gpu::EXPERTS {
        return Some(format!("{} experts, more than {}", mixer.count, goldcrest_gpu::EXPERTS));
    }
    let all = || mixer.bank.iter().flat_map(|e| e.gate_up.iter().chain([&e.down]));
    let formats = |e: &crate::model::weights::Expert| {
        [e.gate_up[0].format, e.gate_up[1].format, e.down.format]
    };
    if !mixer.bank.iter().all(|expert| formats(expert) == formats(&mixer.bank[0])) {
        return Some("experts of different formats".into());
    }
    let bytes: usize = all().chain([&mixer.router.matrix]).map(Matrix::bytes).sum();
    if bytes as u64 > info.max_binding {
        let most = info.max_binding;
        return Some(format!("experts of {bytes} bytes, where one dispatch sees {most}"));
    }
    all().chain([&mixer.router.matrix]).find_map(matrix)
}

fn matrix(matrix: &Matrix) -> Option<String> {
    if matrix.turned {
        return Some("a rotation of activations".into());
    }
    let there = goldcrest_gpu::supports(matrix.format);
    (!there).then(|| format!("{} has no GPU kernels", matrix.format))
}
