//! Dropout whose mask is a function of a seed, so that nothing need be kept or restored.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{floats, values};
use crate::random::mix;

/// Values of one task.
const CHUNK: usize = 1 << 15;

/// Sets each value to zero with probability `p` and divides the others by `1 - p`.
pub(crate) struct Dropout {
    pub(crate) p: f32,
    pub(crate) seed: u64,
}

impl Dropout {
    fn apply(&self, x: &[f32]) -> Vec<f32> {
        let keep = 1.0 / (1.0 - self.p);
        // Eight bits of a word decide on one value.
        let limit = (self.p * 256.0).round() as u64;
        let mut out = vec![0.0; x.len()];
        let chunks = x.par_chunks(CHUNK).zip(out.par_chunks_mut(CHUNK)).enumerate();
        chunks.for_each(|(chunk, (x, out))| {
            for (i, (x, out)) in x.chunks(8).zip(out.chunks_mut(8)).enumerate() {
                let word = mix(self.seed ^ ((chunk * CHUNK / 8 + i) as u64));
                for (lane, (x, out)) in x.iter().zip(out).enumerate() {
                    let kept = (word >> (8 * lane)) & 255 >= limit;
                    *out = if kept { x * keep } else { 0.0 };
                }
            }
        });
        out
    }
}

impl CustomOp1 for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(self.apply(floats(x, layout)?)), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (storage, layout) = grad.storage_and_layout();
        let dx = self.apply(values(&storage, layout)?);
        Ok(Some(Tensor::from_vec(dx, grad.shape(), grad.device())?))
    }
}
