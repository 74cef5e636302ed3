//! Packing into a file.

use std::path::Path;

use goldcrest_kernels::Format;

use super::pack::{pack_batch, panels_at_once};
use super::plan::{Parts, Plan, Source, values};
use crate::config::{Config, RopeScaling};
use crate::error::{Result, input_error};
use crate::load::{Checkpoint, Contents, PackedWriter, Placed, Section, vector_bytes};

/// Writes a packed file of `checkpoint` at `path`; arguments as of [`super::Weights::load`].
///
/// It takes memory for the panels of one batch alone.
pub(crate) fn save(
    checkpoint: &Checkpoint,
    config: &Config,
    quantize: Option<Format>,
    path: &Path,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<()> {
    if checkpoint.panels().is_some() {
        return Err(input_error("the model is packed already").at(checkpoint.path()));
    }
    let mut plan = Plan::new(checkpoint, quantize);
    let Parts { rows, .. } = plan.model(config)?;
    if let RopeScaling::Factors(_) = config.rope.scaling {
        plan.vectors.extend(checkpoint.tensor("rope_freqs.weight"));
    }
    let contents = Contents {
        vectors: std::mem::take(&mut plan.vectors),
        rows: rows.map(|(tensor, _)| tensor),
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
    if let Some(tensor) = contents.rows {
        checkpoint.check_values(tensor)?;
        file.write(checkpoint.data(tensor))?;
        checkpoint.release(tensor, 0..tensor.byte_len());
    }
    file.end(Section::Rows);

    file.begin(Section::Panels)?;
    write_panels(checkpoint, &plan, &mut file, progress)?;
    file.end(Section::Panels);
    file.finish()
}

fn places<'a>(plan: &Plan<'a>) -> Vec<Placed<'a>> {
    let sources = plan.runs.iter().flat_map(|run| &run.sources);
    let place = |Source { tensor, matrix, .. }: &Source<'a>| Placed {
        tensor,
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
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<()> {
    let total = plan.total() as u64;
    let mut at = 0;
    let mut batch = Vec::new();
    progress(0, total);
    for run in &plan.runs {
        file.write(&vec![0; run.offset - at])?;
        at = run.offset;
        let step = panels_at_once(run);
        for first in (0..run.panels).step_by(step) {
            batch.resize(step.min(run.panels - first) * run.stride, 0);
            pack_batch(checkpoint, run, first, &mut batch)?;
            file.write(&batch)?;
            at += batch.len();
            progress(at as u64, total);
        }
    }
    Ok(())
}
