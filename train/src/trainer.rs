//! The loop: batches, steps, evaluations, checkpoints.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::checkpoint::{Head, Opened, save};
use crate::corpus::{Batches, Stream};
use crate::error::{Result, input, io};
use crate::log::{Log, Record};
use crate::model::{Model, Pass, Teacher};
use crate::ops::{Losses, Mode};
use crate::optimizer::AdamW;
use crate::random::derive;
use crate::schedule::Schedule;

/// Sequences of a batch of held-out text.
const HELD_OUT_BATCH: usize = 16;

/// How to train.
#[derive(Debug, Clone, clap::Args)]
pub struct Settings {
    /// Steps; the learning rate falls to its end over them.
    #[arg(long)]
    pub steps: u64,
    /// Sequences of a step.
    #[arg(long, default_value_t = 16)]
    pub batch: usize,
    /// Learning rate at its height.
    #[arg(long, default_value_t = 3e-3)]
    pub rate: f64,
    /// Steps in which the learning rate rises.
    #[arg(long, default_value_t = 100)]
    pub warmup: u64,
    /// Share of the learning rate that is left at the end.
    #[arg(long, default_value_t = 0.02)]
    pub floor: f64,
    /// Weight decay of the matrices; not of norms and the embedding.
    #[arg(long, default_value_t = 0.1)]
    pub decay: f32,
    /// Longest gradient; longer ones are shortened.
    #[arg(long, default_value_t = 1.0)]
    pub clip: f32,
    /// Share of what each block adds that is left out.
    #[arg(long, default_value_t = 0.0)]
    pub dropout: f32,
    /// Makes first weights, order of the data and dropout.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Steps between evaluations on held-out text; each is a checkpoint.
    #[arg(long, default_value_t = 100)]
    pub every: u64,
    /// Part of the held-out text that is evaluated then: one of so many batches.
    #[arg(long, default_value_t = 8)]
    pub stride: usize,
    /// Evaluations without a lower loss after which training stops.
    #[arg(long, default_value_t = 8)]
    pub patience: u32,
    /// Stops here, to be resumed; for the learning rate `--steps` counts.
    #[arg(long)]
    pub until: Option<u64>,
}

/// A training under way.
pub struct Trainer {
    settings: Settings,
    dir: PathBuf,
    model: Model,
    optimizer: AdamW,
    head: Head,
    log: Log,
}

/// The checkpoint to resume from, in the directory of a training.
pub const LATEST: &str = "checkpoint.safetensors";
/// The weights of least held-out loss.
pub const BEST: &str = "best.safetensors";

impl Trainer {
    /// Begins a training of a model that writes to `dir`.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io).
    pub fn new(model: Model, settings: Settings, dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).map_err(io(dir))?;
        let dimensions = model.dimensions().clone();
        let head = Head { dimensions, step: 0, seed: settings.seed, best: None };
        Ok(Self {
            optimizer: AdamW::new(&model),
            log: Log::create(dir)?,
            dir: dir.into(),
            settings,
            model,
            head,
        })
    }

    /// Goes on with the training in `dir` from its last checkpoint.
    ///
    /// # Errors
    /// As [`Model::open`], and [`Error::Input`](crate::Error::Input) for another seed.
    pub fn resume(settings: Settings, dir: &Path) -> Result<Self> {
        let opened = Opened::open(&dir.join(LATEST))?;
        let head = opened.head.clone();
        if head.seed != settings.seed {
            return input(format!("the checkpoint was begun with --seed {}", head.seed));
        }
        let model = opened.model()?;
        Ok(Self {
            optimizer: opened.optimizer(&model)?,
            log: Log::resume(dir, head.step)?,
            dir: dir.into(),
            settings,
            model,
            head,
        })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Steps done.
    pub fn step(&self) -> u64 {
        self.head.step
    }

    /// Trains to the end, or until it no longer helps. `progress` is called after every step.
    ///
    /// # Errors
    /// [`Error::Input`](crate::Error::Input) if the gradient is not finite; as
    /// [`Trainer::new`].
    pub fn run(
        &mut self,
        train: &Stream,
        held_out: &Stream,
        teacher: Option<&Teacher>,
        mut progress: impl FnMut(&Record),
    ) -> Result<()> {
        let Settings { steps, batch, seed, every, patience, until, .. } = self.settings;
        let seq_len = self.head.dimensions.context;
        let mut batches = Batches::new(train, batch, seq_len, derive(seed, 0))?;
        let end = until.unwrap_or(steps).min(steps);
        let mut start = Instant::now();
        while self.head.step < end {
            let (losses, norm, rate) = self.advance(&mut batches, teacher)?;
            let mut record = Record {
                step: self.head.step,
                tokens: self.head.step * (batch * seq_len) as u64,
                hard: losses.hard,
                soft: teacher.map(|_| losses.soft),
                held_out: None,
                rate,
                norm,
                tokens_per_second: (batch * seq_len) as f64 / start.elapsed().as_secs_f64(),
            };
            if self.head.step.is_multiple_of(every) || self.head.step == end {
                record.held_out = Some(self.evaluate(held_out)?);
            }
            self.log.write(&record)?;
            progress(&record);
            if let Some(loss) = record.held_out
                && self.keep(loss)? > patience
            {
                break;
            }
            start = Instant::now();
        }
        Ok(())
    }

    /// One step: losses, norm of the gradient, learning rate.
    fn advance(
        &mut self,
        batches: &mut Batches,
        teacher: Option<&Teacher>,
    ) -> Result<(Losses, f32, f32)> {
        let Settings { steps, rate, warmup, floor, decay, clip, dropout, seed, .. } = self.settings;
        let step = self.head.step;
        let rate = Schedule { peak: rate, warmup, steps, floor }.rate(step);
        let pass = Pass { mode: Mode::Train, dropout, seed: derive(seed, step + 1) };
        let (loss, losses) = self.model.loss(batches.get(step), pass, teacher)?;
        let grads = loss.backward()?;
        let norm = self.optimizer.step(&self.model, &grads, rate, decay, clip)?;
        self.head.step += 1;
        Ok((losses, norm, rate))
    }

    /// Loss of a part of the held-out text.
    fn evaluate(&self, held_out: &Stream) -> Result<f64> {
        let context = self.head.dimensions.context;
        let batches = held_out.batches(HELD_OUT_BATCH, context, self.settings.stride);
        let (mut sum, mut count) = (0.0, 0);
        for batch in batches {
            sum += self.model.evaluate(batch)?;
            count += 1;
        }
        if count == 0 {
            return input("the held-out text is too short");
        }
        Ok(sum / f64::from(count))
    }

    /// Writes checkpoints and returns the evaluations since the best.
    fn keep(&mut self, loss: f64) -> Result<u32> {
        let since = match self.head.best {
            Some((best, since)) if best <= loss => {
                self.head.best = Some((best, since + 1));
                since + 1
            }
            _ => {
                self.head.best = Some((loss, 0));
                save(&self.dir.join(BEST), &self.head, &self.model, None)?;
                0
            }
        };
        let latest = self.dir.join(LATEST);
        save(&latest, &self.head, &self.model, Some(&mut self.optimizer))?;
        Ok(since)
    }
}
