//! RMSNorm.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{floats, values};
use crate::math::dot;

/// Rows of one task; sums over rows are taken in this order on any number of threads.
const ROWS: usize = 128;

/// `x / sqrt(mean(x^2) + eps) * weight` for each row of `[rows, hidden]`.
pub(crate) struct Norm {
    pub(crate) eps: f32,
}

impl Norm {
    fn inverse(&self, x: &[f32]) -> f32 {
        1.0 / (dot(x, x) / x.len() as f32 + self.eps).sqrt()
    }

    /// The gradient of one row, and what it adds to that of the weights.
    fn row_back(&self, x: &[f32], w: &[f32], dy: &[f32], dx: &mut [f32], dw: &mut [f32]) {
        let r = self.inverse(x);
        for (dx, (w, dy)) in dx.iter_mut().zip(w.iter().zip(dy)) {
            *dx = w * dy;
        }
        let along = dot(dx, x) * r * r / x.len() as f32;
        for (((dx, dw), x), dy) in dx.iter_mut().zip(dw).zip(x).zip(dy) {
            *dx = r * (*dx - x * along);
            *dw += dy * x * r;
        }
    }
}

impl CustomOp2 for Norm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (floats(x, x_layout)?, floats(w, w_layout)?);
        let mut out = vec![0.0; x.len()];
        let hidden = w.len();
        let chunks = x.par_chunks(ROWS * hidden).zip(out.par_chunks_mut(ROWS * hidden));
        chunks.for_each(|(x, out)| {
            for (x, out) in x.chunks_exact(hidden).zip(out.chunks_exact_mut(hidden)) {
                let r = self.inverse(x);
                for ((out, x), w) in out.iter_mut().zip(x).zip(w) {
                    *out = x * r * w;
                }
            }
        });
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let ((xs, xl), (ws, wl), (gs, gl)) =
            (x.storage_and_layout(), w.storage_and_layout(), grad.storage_and_layout());
        let (xv, wv, dy) = (values(&xs, xl)?, values(&ws, wl)?, values(&gs, gl)?);
        let hidden = wv.len();
        let mut dx = vec![0.0; xv.len()];
        let len = ROWS * hidden;
        let tasks = xv.par_chunks(len).zip(dy.par_chunks(len)).zip(dx.par_chunks_mut(len));
        let parts: Vec<Vec<f32>> = tasks
            .map(|((x, dy), dx)| {
                let mut dw = vec![0.0; hidden];
                let rows = x.chunks_exact(hidden).zip(dy.chunks_exact(hidden));
                for ((x, dy), dx) in rows.zip(dx.chunks_exact_mut(hidden)) {
                    self.row_back(x, wv, dy, dx, &mut dw);
                }
                dw
            })
            .collect();
        let mut dw = vec![0.0; hidden];
        for part in &parts {
            dw.iter_mut().zip(part).for_each(|(sum, v)| *sum += v);
        }
        let device = x.device();
        Ok((
            Some(Tensor::from_vec(dx, x.shape(), device)?),
            Some(Tensor::from_vec(dw, w.shape(), device)?),
        ))
    }
}
