//! The weights of blocks, on the device.

use std::ops::Range;

use goldcrest_gpu::{self as gpu, Device};

use super::drain;
use super::place::{Place, Placement};
use crate::error::Result;
use crate::model::weights::{Loaded, Matrix, Weights};
use crate::spec::{Block, Mixer, Spec};

/// A matrix on the device: in pieces, where a dispatch does not see all of it.
#[derive(Debug)]
pub(super) struct Pieces(pub(super) Vec<(gpu::Matrix, usize)>);

/// The matrices of a mixer, in the order of [`matrices`].
#[derive(Debug)]
pub(super) struct MixerWeights(pub(super) Vec<Pieces>);

/// Those of the branches of a block.
#[derive(Debug)]
pub(crate) struct BlockWeights {
    pub(super) index: usize,
    pub(super) branches: Vec<MixerWeights>,
}

pub(super) struct Uploaded {
    blocks: Vec<Option<BlockWeights>>,
    pub(super) head: Option<Pieces>,
}

impl Uploaded {
    pub(super) fn take(&mut self, range: Range<usize>) -> Vec<BlockWeights> {
        drain(&mut self.blocks, range)
    }
}

/// All that is to run on the device. What its memory does not hold is taken off the placement, if that
/// gives way, and with it two blocks more: for keys and values, and what passes work in.
pub(super) fn all(
    device: &Device,
    weights: &Weights,
    placement: &mut Placement,
) -> Result<Uploaded> {
    let spec = &weights.spec;
    let mut blocks: Vec<Option<BlockWeights>> = spec.blocks.iter().map(|_| None).collect();
    let mut head = None;
    if placement.head.on_device() {
        match pieces(device, weights, &[&spec.head.matrix]) {
            Ok(mut all) => head = all.pop(),
            Err(error) => return give_way(error, placement, 0, blocks),
        }
    }
    for index in (0..blocks.len()).rev() {
        if placement.blocks[index].on_device() {
            match block(device, weights, index, &spec.blocks[index]) {
                Ok(own) => blocks[index] = Some(own),
                Err(error) => {
                    let uploaded = give_way(error, placement, index + 3, blocks)?;
                    return Ok(Uploaded { head, ..uploaded });
                }
            }
        }
    }
    Ok(Uploaded { blocks, head })
}

/// Where the panels are that only the device reads: not those of an output that is the embedding, too.
pub(super) fn elsewhere(spec: &Spec<Loaded>, placement: &Placement) -> Vec<Range<usize>> {
    let blocks = spec.blocks.iter().zip(&placement.blocks).filter(|(_, place)| place.on_device());
    let mixers = blocks.flat_map(|(block, _)| block.branches.iter().map(|branch| &branch.mixer));
    let head = placement.head.on_device() && spec.embed.is_some();
    let head = head.then_some(&spec.head.matrix);
    // Of matrices that alternate both are there, or neither.
    runs(&mixers.flat_map(matrices).chain(head).collect::<Vec<_>>())
}

/// Leaves all blocks before `end` to the CPU, where that is allowed.
fn give_way(
    error: gpu::Error,
    placement: &mut Placement,
    end: usize,
    mut blocks: Vec<Option<BlockWeights>>,
) -> Result<Uploaded> {
    if !placement.gives_way || !matches!(error, gpu::Error::OutOfMemory(_)) {
        return Err(error.into());
    }
    let full = || Place::Cpu(Some("the memory of the device is full".into()));
    if end == 0 {
        placement.head = full();
    }
    let end = if end == 0 { blocks.len() } else { end.min(blocks.len()) };
    for (place, block) in placement.blocks.iter_mut().zip(&mut blocks).take(end) {
        *block = None;
        if place.on_device() {
            *place = full();
        }
    }
    Ok(Uploaded { blocks, head: None })
}

fn block(
    device: &Device,
    weights: &Weights,
    index: usize,
    block: &Block<Loaded>,
) -> gpu::Result<BlockWeights> {
    let branches = block
        .branches
        .iter()
        .map(|branch| Ok(MixerWeights(pieces(device, weights, &matrices(&branch.mixer))?)));
    Ok(BlockWeights { index, branches: branches.collect::<gpu::Result<_>>()? })
}

/// The matrices of a mixer that there are kernels for.
fn matrices(mixer: &Mixer<Loaded>) -> Vec<&Matrix> {
    match mixer {
        Mixer::Attention(mixer) => {
            mixer.linears().chain([&mixer.output]).map(|linear| &linear.matrix).collect()
        }
        Mixer::Dense(mixer) => {
            let linears = mixer.up.linears().iter().chain([&mixer.down]);
            linears.map(|linear| &linear.matrix).chain(&mixer.gate).collect()
        }
        Mixer::Experts(mixer) => {
            let bank = mixer.bank.iter().flat_map(|e| e.gate_up.iter().chain([&e.down]));
            [&mixer.router.matrix].into_iter().chain(bank).collect()
        }
        _ => Vec::new(),
    }
}

/// Matrices in one buffer if a dispatch sees all of it, else each by itself, in as many pieces as it
/// takes.
fn pieces(device: &Device, weights: &Weights, all: &[&Matrix]) -> gpu::Result<Vec<Pieces>> {
    let runs = runs(all);
    let bytes: usize = runs.iter().map(Range::len).sum();
    let most = device.info().max_binding;
    if bytes as u64 <= most {
        let mut joined = Vec::with_capacity(if runs.len() > 1 { bytes } else { 0 });
        let buffer = match &runs[..] {
            [one] => gpu::Weights::upload(device, weights.bytes(one.clone()))?,
            several => {
                several.iter().for_each(|run| joined.extend_from_slice(weights.bytes(run.clone())));
                gpu::Weights::upload(device, &joined)?
            }
        };
        let at = |offset: usize| {
            let run = runs.iter().position(|run| run.contains(&offset)).expect("of a matrix");
            let before: usize = runs[..run].iter().map(Range::len).sum();
            before + offset - runs[run].start
        };
        let one =
            |matrix: &&Matrix| Pieces(vec![(on_device(matrix, &buffer, at(matrix.offset)), 0)]);
        return Ok(all.iter().map(one).collect());
    }
    all.iter().map(|matrix| cut(device, weights, matrix)).collect()
}

/// The bytes of matrices, those that follow one another or alternate as one run.
fn runs(all: &[&Matrix]) -> Vec<Range<usize>> {
    let mut ranges: Vec<_> = all.iter().map(|matrix| matrix.range()).collect();
    ranges.sort_by_key(|range| range.start);
    let mut runs: Vec<Range<usize>> = Vec::new();
    for range in ranges {
        match runs.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => runs.push(range),
        }
    }
    runs
}

/// A matrix by itself, in pieces of whole panels.
fn cut(device: &Device, weights: &Weights, matrix: &Matrix) -> gpu::Result<Pieces> {
    let panel_rows = goldcrest_kernels::PANEL_ROWS;
    let per_piece = (device.info().max_binding as usize / matrix.stride).max(1);
    let panels: Vec<_> = (0..matrix.panels()).step_by(per_piece).collect();
    let piece = |&first: &usize| {
        let count = per_piece.min(matrix.panels() - first);
        let from = matrix.offset + first * matrix.stride;
        let end = from + (count - 1) * matrix.stride + matrix.panel_bytes();
        let buffer = gpu::Weights::upload(device, weights.bytes(from..end))?;
        let rows = (count * panel_rows).min(matrix.rows - first * panel_rows);
        Ok((gpu::Matrix { rows, ..on_device(matrix, &buffer, 0) }, first * panel_rows))
    };
    Ok(Pieces(panels.iter().map(piece).collect::<gpu::Result<_>>()?))
}

fn on_device(matrix: &Matrix, weights: &gpu::Weights, at: usize) -> gpu::Matrix {
    gpu::Matrix {
        weights: weights.clone(),
        format: matrix.format,
        rows: matrix.rows,
        k: matrix.k,
        at,
        stride: matrix.stride,
        factor: matrix.factor,
    }
}
