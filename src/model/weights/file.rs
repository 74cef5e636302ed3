//! Packing into a file.

use std::path::Path;

use goldcrest_kernels::Format;

use super::pack::{Watch, pack_batch, panels_at_once};
use super::plan::{Plan, Source, values};
use crate::arch::ROPE_FREQS;
use crate::config::RopeScaling;
use crate::error::{Result, input_error};
use crate::load::{Checkpoint, Contents, PackedWriter, Placed, Section, vector_bytes};
use crate::spec::{Named, Spec};

/// Writes a packed file of `checkpoint` at `path`; arguments as of [`super::Weights::load`].
///
/// It takes memory for the panels of one batch alone.
pub(crate) fn save(
    checkpoint: &Checkpoint,
    spec: &Spec<Named>,
    quantize: Option<Format>,
    path: &Path,
    watch: &Watch<'_>,
) -> Result<()> {
    if checkpoint.panels().is_some() {
        return Err(input_error("the model is packed already").at(checkpoint.path()));
    }
    let mut plan = Plan::new(checkpoint, None, quantize);
    plan.model(spec)?;
    if spec.ropes.iter().any(|rope| matches!(rope.scaling, RopeScaling::Factors(_))) {
        plan.vectors.extend(checkpoint.tensor(ROPE_FREQS));
    }
    let contents = Contents {
        vectors: std::mem::take(&mut plan.vectors),
        rows: plan.tables.iter().map(|(tensor, _)| *tensor).collect(),
        panels: places(&plan),
        panel_bytes: plan.total(),
    };
    let mut file = PackedWriter::create(path, checkpoint, &contents)?;
    file.begin(Section::Vectors)?;
    for tensor in &contents.vectors {
        file.write(&vector(checkpoint, tensor)?)?;
    }
    file.end(Section::Vectors);

    file.begin(Section::Rows)?;
    for tensor in &contents.rows {
        checkpoint.check_values(tensor)?;
        file.write(checkpoint.data(tensor))?;
        checkpoint.release(tensor, 0..tensor.byte_len());
    }
    file.end(Section::Rows);

    file.begin(Section::Panels)?;
    write_panels(checkpoint, &plan, &mut file, watch)?;
    file.end(Section::Panels);
    file.finish()
}

fn places(plan: &Plan<'_>) -> Vec<Placed> {
    let sources = plan.runs.iter().flat_map(|run| &run.sources);
    let place = |Source { name, matrix, .. }: &Source<'_>| Placed {
        name: name.clone(),
        shape: [matrix.rows, matrix.k],
        format: matrix.format,
        offset: matrix.offset,
        stride: matrix.stride,
    };
    sources.map(place).collect()
}

/// The numbers of a vector, and zeros up to the next one.
fn vector(checkpoint: &Checkpoint, tensor: &crate::load::Tensor) -> Result<Vec<u8>> {
    // The plan has asked for it.
    let format = tensor.ty.kernel_format().unwrap_or(Format::F32);
    let values = values(checkpoint, tensor, format)?;
    let mut bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    bytes.resize(vector_bytes(values.len()), 0);
    Ok(bytes)
}

fn write_panels(
    checkpoint: &Checkpoint,
    plan: &Plan<'_>,
    file: &mut PackedWriter,
    watch: &Watch<'_>,
) -> Result<()> {
    let total = plan.total() as u64;
    let mut at = 0;
    let mut batch = Vec::new();
    watch.done(0, total)?;
    for run in &plan.runs {
        file.write(&vec![0; run.offset - at])?;
        at = run.offset;
        let step = panels_at_once(run);
        for first in (0..run.panels).step_by(step) {
            batch.resize(step.min(run.panels - first) * run.stride, 0);
            pack_batch(checkpoint, run, first, &mut batch)?;
            file.write(&batch)?;
            at += batch.len();
            watch.done(at as u64, total)?;
        }
    }
    Ok(())
}
