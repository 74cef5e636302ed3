//! Packing in parallel.

use goldcrest_kernels::{PANEL_ROWS, pack_panel};
use rayon::prelude::*;

use super::plan::{Plan, Run, Source};
use crate::error::{Error, ErrorKind, Result, unsupported};
use crate::load::{Buffer, Checkpoint, check_finite};
use crate::session::CancelToken;

/// Source bytes that are packed before their pages go back to the system.
const BATCH: usize = 16 << 20;

/// How packing is watched, stopped and spread over threads.
pub(crate) struct Watch<'a> {
    /// Hears of bytes done and of all.
    pub(crate) progress: &'a (dyn Fn(u64, u64) + Sync),
    pub(crate) cancel: &'a CancelToken,
}

impl Watch<'_> {
    /// # Errors
    /// [`ErrorKind::Cancelled`].
    pub(super) fn done(&self, bytes: u64, of: u64) -> Result<()> {
        (self.progress)(bytes, of);
        if self.cancel.is_cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, "cancelled"));
        }
        Ok(())
    }
}

/// Packs every run of the plan into one buffer.
pub(super) fn pack(checkpoint: &Checkpoint, plan: &Plan<'_>, watch: &Watch<'_>) -> Result<Buffer> {
    let mut buffer = Buffer::zeroed(plan.total())?;
    let total = plan.total() as u64;
    let mut done = 0;
    watch.done(0, total)?;
    for run in &plan.runs {
        let out = &mut buffer.as_mut_slice()[run.offset..][..run.stride * run.panels];
        let batch = panels_at_once(run);
        for (first, out) in (0..).step_by(batch).zip(out.chunks_mut(batch * run.stride)) {
            pack_batch(checkpoint, run, first, out)?;
            done += out.len() as u64;
            watch.done(done, total)?;
        }
    }
    watch.done(total, total)?;
    Ok(buffer)
}

/// How many panels of a run are packed before their sources' pages are given back.
pub(super) fn panels_at_once(run: &Run<'_>) -> usize {
    let row_bytes: usize = run.sources.iter().map(|s| s.tensor.row_bytes()).sum();
    (BATCH / (row_bytes * PANEL_ROWS)).max(1)
}

/// Packs the panels from `first` on into `out` and gives back the pages that they came from.
pub(super) fn pack_batch(
    checkpoint: &Checkpoint,
    run: &Run<'_>,
    first: usize,
    out: &mut [u8],
) -> Result<()> {
    pack_panels(checkpoint, run, first, out)?;
    for source in &run.sources {
        let panels = first..first + out.len() / run.stride;
        let end = (panels.end * PANEL_ROWS).min(source.matrix.rows);
        for rows in source.runs(panels.start * PANEL_ROWS..end) {
            checkpoint.release_lines(source.tensor, rows);
        }
    }
    Ok(())
}

fn pack_panels(checkpoint: &Checkpoint, run: &Run<'_>, first: usize, out: &mut [u8]) -> Result<()> {
    let scratch = Scratch::default;
    out.par_chunks_mut(run.stride).enumerate().try_for_each_init(scratch, |scratch, (i, out)| {
        let mut rest = out;
        for source in &run.sources {
            let (panel, next) = std::mem::take(&mut rest).split_at_mut(source.matrix.panel_bytes());
            pack_one(checkpoint, source, first + i, panel, scratch)?;
            rest = next;
        }
        Ok(())
    })
}

/// What a thread packs with.
#[derive(Default)]
struct Scratch {
    rows: Vec<u8>,
    values: Vec<f32>,
    quantized: Vec<u8>,
}

/// Packs one panel of one matrix.
fn pack_one(
    checkpoint: &Checkpoint,
    source: &Source<'_>,
    panel: usize,
    out: &mut [u8],
    Scratch { rows, values, quantized }: &mut Scratch,
) -> Result<()> {
    let Source { tensor, from, matrix, .. } = source;
    let row = tensor.row_bytes();
    let first = panel * PANEL_ROWS;
    let bytes = source.rows(checkpoint, first..matrix.rows.min(first + PANEL_ROWS), rows);
    check_finite(tensor.ty, bytes).map_err(|block| {
        let at = source.row(first + block * from.block_bytes() / row);
        checkpoint.tensor_error(tensor, format_args!("holds NaN or infinity in row {at}"))
    })?;
    if matrix.format == *from {
        pack_panel(matrix.format, matrix.k, bytes, out);
        return Ok(());
    }
    values.resize(matrix.k, 0.0);
    quantized.clear();
    for bytes in bytes.chunks_exact(row) {
        from.dequantize(bytes, values);
        let start = quantized.len();
        let len = matrix.format.row_bytes(matrix.k).unwrap_or(0);
        quantized.resize(start + len, 0);
        matrix
            .format
            .quantize(values, &mut quantized[start..])
            .map_err(|error| unsupported(error.to_string()).because(error))?;
    }
    pack_panel(matrix.format, matrix.k, quantized, out);
    Ok(())
}
