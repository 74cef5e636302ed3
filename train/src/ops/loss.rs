//! Output matrix and loss in one: the logits are never all in memory.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{Mode, Saved, floats, values};
use crate::buffer::Buffer;
use crate::math::{exp, log_sum, sum};
use crate::matmul::{Into, Matrix, Workers, multiply};

/// Rows whose logits exist at a time.
const ROWS: usize = 512;

/// What a teacher says about the same rows.
pub(crate) struct Soft {
    /// The teacher's last hidden states `[rows, its hidden]`, after the norm.
    pub(crate) hidden: Tensor,
    /// Its output matrix `[vocab, its hidden]`.
    pub(crate) output: Tensor,
    /// What both models' logits are divided by.
    pub(crate) temperature: f32,
    /// The share of the teacher in the loss.
    pub(crate) share: f32,
}

/// What the rows should say.
pub(crate) struct Targets {
    /// The next token of each row.
    pub(crate) ids: Vec<u32>,
    pub(crate) soft: Option<Soft>,
}

/// Means over all rows, in nats.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Losses {
    /// Cross-entropy with the text.
    pub hard: f64,
    /// Kullback-Leibler divergence from the teacher, where there is one, at its temperature.
    pub soft: f64,
}

/// Arguments: hidden states `[rows, hidden]` after the last norm, output matrix `[vocab, hidden]`.
/// The result is one number: `(1 - share) * hard + share * temperature^2 * soft`.
pub(crate) struct Loss {
    targets: Targets,
    /// Gradients of both arguments: they are made while the logits are there.
    saved: Saved<(Vec<f32>, Vec<f32>)>,
    losses: Arc<Mutex<Losses>>,
}

impl Loss {
    pub(crate) fn new(targets: Targets, mode: Mode) -> (Self, Arc<Mutex<Losses>>) {
        let losses = Arc::default();
        (Self { targets, saved: Saved::new(mode), losses: Arc::clone(&losses) }, losses)
    }

    /// Turns the logits of a row into their gradient times `rows` and returns the row's losses.
    /// The teacher's logits are used up.
    fn row(&self, logits: &mut [f32], id: u32, teacher: Option<&mut [f32]>) -> (f32, f32) {
        let target = logits[id as usize];
        let log = log_sum(logits, 1.0);
        let (mut divergence, mut hard_share) = (0.0, 1.0);
        if let Some((teacher, soft)) = teacher.zip(self.targets.soft.as_ref()) {
            let Soft { temperature, share, .. } = *soft;
            let inverse = 1.0 / temperature;
            let student_log = log_sum(logits, inverse);
            let teacher_log = log_sum(teacher, inverse);
            hard_share = 1.0 - share;
            for (z, t) in logits.iter_mut().zip(&mut *teacher) {
                let log_p = *t * inverse - teacher_log;
                let log_q = *z * inverse - student_log;
                let (p, q, hard) = (exp(log_p), exp(log_q), exp(*z - log));
                *z = hard_share * hard + share * temperature * (q - p);
                *t = p * (log_p - log_q);
            }
            divergence = sum(teacher);
        } else {
            logits.iter_mut().for_each(|z| *z = exp(*z - log));
        }
        logits[id as usize] -= hard_share;
        (log - target, divergence)
    }

    /// Gradients of the logits of some rows, which are there as logits, and the sums of losses.
    fn rows(&self, logits: &mut [f32], ids: &[u32], teacher: Option<&mut [f32]>) -> Losses {
        let vocab = logits.len() / ids.len();
        let rows = logits.par_chunks_mut(vocab).zip(ids);
        let losses: Vec<(f32, f32)> = match teacher {
            Some(teacher) => rows
                .zip(teacher.par_chunks_mut(vocab))
                .map(|((logits, &id), teacher)| self.row(logits, id, Some(teacher)))
                .collect(),
            None => rows.map(|(logits, &id)| self.row(logits, id, None)).collect(),
        };
        let total = |part: fn(&(f32, f32)) -> f32| losses.iter().map(|l| f64::from(part(l))).sum();
        Losses { hard: total(|l| l.0), soft: total(|l| l.1) }
    }

    /// The teacher's logits of some rows.
    fn teach(&self, first: usize, rows: usize, out: &mut [f32]) -> Result<()> {
        let Some(soft) = &self.targets.soft else { return Ok(()) };
        let (vocab, hidden) = soft.output.dims2()?;
        let (hs, hl) = soft.hidden.storage_and_layout();
        let (os, ol) = soft.output.storage_and_layout();
        let hidden_rows = &values(&hs, hl)?[first * hidden..][..rows * hidden];
        let output = Matrix::new(values(&os, ol)?, vocab, hidden).t();
        let hidden_rows = Matrix::new(hidden_rows, rows, hidden);
        multiply((out, vocab), Into::Replace, 1.0, hidden_rows, output, Workers::All);
        Ok(())
    }
}

impl CustomOp2 for Loss {
    fn name(&self) -> &'static str {
        "loss"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let ((n, hidden), (vocab, _)) = (x_layout.shape().dims2()?, w_layout.shape().dims2()?);
        let (x, w) = (floats(x, x_layout)?, floats(w, w_layout)?);
        let train = self.saved.0 == Mode::Train;
        let (mut dx, mut dw) =
            if train { (vec![0.0; x.len()], vec![0.0; w.len()]) } else { (Vec::new(), Vec::new()) };
        let mut losses = Losses::default();
        let w = Matrix::new(w, vocab, hidden);
        for (chunk, ids) in self.targets.ids.chunks(ROWS).enumerate() {
            let (first, rows) = (chunk * ROWS, ids.len());
            let x = Matrix::new(&x[first * hidden..][..rows * hidden], rows, hidden);
            let mut logits = Buffer::new(rows * vocab);
            multiply((&mut logits, vocab), Into::Replace, 1.0, x, w.t(), Workers::All);
            let mut teacher = self.targets.soft.as_ref().map(|_| Buffer::new(rows * vocab));
            if let Some(teacher) = &mut teacher {
                self.teach(first, rows, teacher)?;
            }
            let sums = self.rows(&mut logits, ids, teacher.as_deref_mut());
            losses.hard += sums.hard;
            losses.soft += sums.soft;
            if train {
                let scale = 1.0 / n as f32;
                let d = Matrix::new(&logits, rows, vocab);
                let dx = (&mut dx[first * hidden..][..rows * hidden], hidden);
                multiply(dx, Into::Replace, scale, d, w, Workers::All);
                multiply((&mut dw, hidden), Into::Add, scale, d.t(), x, Workers::All);
            }
        }
        losses.hard /= n as f64;
        losses.soft /= n as f64;
        *self.losses.lock().unwrap_or_else(PoisonError::into_inner) = losses;
        self.saved.put((dx, dw));
        let total = match &self.targets.soft {
            Some(Soft { temperature, share, .. }) => {
                let (t, share) = (f64::from(*temperature), f64::from(*share));
                (1.0 - share) * losses.hard + share * t * t * losses.soft
            }
            None => losses.hard,
        };
        Ok((CpuStorage::F32(vec![total as f32]), Shape::from(())))
    }

    /// The gradient of the result is taken to be 1: it is where a backward pass begins.
    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        _: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dx, dw) = self.saved.take()?;
        Ok((
            Some(Tensor::from_vec(dx, x.shape(), x.device())?),
            Some(Tensor::from_vec(dw, w.shape(), w.device())?),
        ))
    }
}
