//! AdamW in one pass over weights, gradient and moments.
//!
//! candle-nn's makes a tensor for every term of the update, on one thread.

use std::sync::{Mutex, PoisonError};

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, InplaceOp2, Layout, Result as CandleResult, bail};
use rayon::prelude::*;

use crate::error::{Result, input};
use crate::math::dot;
use crate::model::Model;
use crate::ops::values;

const BETAS: [f32; 2] = [0.9, 0.95];
const EPS: f32 = 1e-8;
/// Values of one task.
const CHUNK: usize = 1 << 14;

/// Mean and mean square of the gradient of one variable.
#[derive(Default)]
pub(crate) struct Moments {
    pub(crate) first: Vec<f32>,
    pub(crate) second: Vec<f32>,
}

/// The optimiser's state.
pub(crate) struct AdamW {
    /// One for each of the model's weights.
    moments: Vec<Mutex<Moments>>,
    /// Updates done.
    pub(crate) steps: u64,
}

/// One update of one variable.
struct Update<'a> {
    moments: &'a Mutex<Moments>,
    /// Of the gradient, so that its norm is at most that of the clipping.
    scale: f32,
    rate: f32,
    decay: f32,
    /// `1 - beta^steps` of both moments.
    corrections: [f32; 2],
}

impl AdamW {
    pub(crate) fn new(model: &Model) -> Self {
        let zeros = |len: usize| Moments { first: vec![0.0; len], second: vec![0.0; len] };
        let lens = model.weights().iter().map(|w| w.var.elem_count());
        Self { moments: lens.map(|len| Mutex::new(zeros(len))).collect(), steps: 0 }
    }

    pub(crate) fn from_moments(moments: Vec<Moments>, steps: u64) -> Self {
        Self { moments: moments.into_iter().map(Mutex::new).collect(), steps }
    }

    /// Runs `f` on the moments of each weight, in the model's order.
    pub(crate) fn moments(&mut self) -> impl Iterator<Item = &Moments> {
        self.moments.iter_mut().map(|m| &*m.get_mut().unwrap_or_else(PoisonError::into_inner))
    }

    /// Updates the weights and returns the norm of the gradient before clipping.
    pub(crate) fn step(
        &mut self,
        model: &Model,
        grads: &GradStore,
        rate: f32,
        decay: f32,
        clip: f32,
    ) -> Result<f32> {
        let mut square = 0.0;
        let mut all = Vec::with_capacity(model.weights().len());
        for weight in model.weights() {
            let Some(grad) = grads.get(&weight.var) else {
                return input(format!("{}: no gradient", weight.name));
            };
            square += norm_square(grad)?;
            all.push(grad);
        }
        let norm = square.sqrt() as f32;
        if !norm.is_finite() {
            return input("the gradient is not finite: lower the learning rate");
        }
        self.steps += 1;
        let corrections = BETAS.map(|b| (1.0 - f64::from(b).powf(self.steps as f64)) as f32);
        let scale = if norm > clip { clip / norm } else { 1.0 };
        for ((weight, grad), moments) in model.weights().iter().zip(all).zip(&self.moments) {
            let decay = if weight.decays { decay } else { 0.0 };
            let update = Update { moments, scale, rate, decay, corrections };
            weight.var.as_tensor().inplace_op2(grad, &update)?;
        }
        Ok(norm)
    }
}

fn norm_square(grad: &candle_core::Tensor) -> CandleResult<f64> {
    let (storage, layout) = grad.storage_and_layout();
    let chunks = values(&storage, layout)?.par_chunks(CHUNK);
    let parts: Vec<f32> = chunks.map(|c| dot(c, c)).collect();
    Ok(parts.into_iter().map(f64::from).sum())
}

impl InplaceOp2 for Update<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(
        &self,
        weights: &mut CpuStorage,
        weights_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> CandleResult<()> {
        let (CpuStorage::F32(w), CpuStorage::F32(g)) = (weights, grad) else {
            bail!("weights are f32");
        };
        let offsets = (weights_layout.contiguous_offsets(), grad_layout.contiguous_offsets());
        let (Some((w0, w1)), Some((g0, g1))) = offsets else { bail!("weights are contiguous") };
        let mut moments = self.moments.lock().unwrap_or_else(PoisonError::into_inner);
        let Moments { first, second } = &mut *moments;
        let firsts = first.par_chunks_mut(CHUNK).zip(second.par_chunks_mut(CHUNK));
        let tasks = w[w0..w1].par_chunks_mut(CHUNK).zip(g[g0..g1].par_chunks(CHUNK)).zip(firsts);
        tasks.for_each(|((w, g), (m, v))| self.chunk(w, g, m, v));
        Ok(())
    }
}

impl Update<'_> {
    fn chunk(&self, w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
        let rate = self.rate / self.corrections[0];
        let root = 1.0 / self.corrections[1].sqrt();
        let shrink = 1.0 - self.rate * self.decay;
        for (((w, g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
            let g = g * self.scale;
            *m = BETAS[0] * *m + (1.0 - BETAS[0]) * g;
            *v = BETAS[1] * *v + (1.0 - BETAS[1]) * g * g;
            *w = *w * shrink - rate * *m / (v.sqrt() * root + EPS);
        }
    }
}
