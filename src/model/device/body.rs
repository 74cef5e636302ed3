//! A span: its plans, and a pass through it.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;

use goldcrest_gpu::{
    Builder, Cache, Class, Count, Floats, Kind, Norm as GpuNorm, NormStep, Part, Pass, Pending,
    Plan, Product, RunAt, Vectors,
};

use super::Shared;
use super::buffers::Buffers;
use super::mixers::Bound;
use super::upload::{BlockWeights, Pieces};
use crate::error::Result;
use crate::model::pass::{Angles, mixes};
use crate::model::weights::{Loaded, Weights};
use crate::spec::{Block, Norm, Scale, Spec};

/// Rows that there is room for logits of, at most: their vocabularies are large.
const LOGIT_ROWS: usize = 128;

/// Blocks on a device, perhaps with the output.
pub(crate) struct Body {
    shared: Arc<Shared>,
    hidden: usize,
    vocab: usize,
    /// Of classes [`Class::One`], [`Class::Few`] and [`Class::Many`]; and where they leave the rows.
    blocks: [Plan; 3],
    result: [Floats; 3],
    /// Of how many rows are wanted, in the same order.
    head: Option<[Plan; 3]>,
    x: Floats,
    angles: Floats,
    logits: Floats,
    /// Rows that there are logits of at a time.
    logit_rows: usize,
}

/// The rows of a pass.
pub(crate) struct Rows<'a> {
    /// `[rows, hidden]`
    pub(crate) x: &'a mut [f32],
    /// Cosines and sines of each.
    pub(crate) angles: &'a [f32],
    pub(crate) angles_width: usize,
    /// First row, rows, position and cache of each text.
    pub(crate) texts: Vec<(usize, usize, usize, Option<&'a Arc<Cache>>)>,
    pub(crate) wanted: &'a [usize],
}

impl Body {
    pub(super) fn new(
        shared: &Arc<Shared>,
        weights: &Weights,
        angles: &Angles<'_>,
        blocks: Vec<BlockWeights>,
        head: Option<Pieces>,
    ) -> Result<Self> {
        let spec = &weights.spec;
        let mut vectors = Vectors::default();
        let bound: Vec<_> = blocks
            .iter()
            .map(|own| BoundBlock::new(spec, own, &mut vectors, shared))
            .collect::<Result<_>>()?;
        let head = head.map(|pieces| BoundHead::new(spec, pieces, &mut vectors));
        let buffers = Buffers::new(&shared.device);
        let vectors = vectors.upload(&shared.device)?;
        let logit_rows = if head.is_some() {
            let row = 4 * spec.vocab.next_multiple_of(4) as u64;
            ((shared.device.info().max_binding / row) as usize).clamp(1, LOGIT_ROWS)
        } else {
            1
        };
        let width = if head.is_some() { spec.vocab } else { 4 };
        let logits = buffers.get("logits", logit_rows, width)?;
        let (x, turned) = (buffers.rows("x", spec.hidden)?, buffers.rows("angles", angles.width)?);
        let plan = |class| {
            let mut writer = Writer::new(shared, spec, angles, &buffers, &vectors, class)?;
            bound.iter().try_for_each(|block| writer.block(block))?;
            if class != Class::One || head.is_none() {
                writer.settle()?;
            }
            let result = writer.x.clone();
            let before = writer.builder.finish()?;
            Ok::<_, crate::Error>((before, result, writer.pending))
        };
        // Drivers take seconds for the kernels of each.
        let [one, few, many] = thread::scope(|scope| {
            let plan = &plan;
            [Class::One, Class::Few, Class::Many]
                .map(|class| scope.spawn(move || plan(class)))
                .map(|plan| plan.join().unwrap_or_else(|panic| resume_unwind(panic)))
        });
        let (one, one_result, pending) = one?;
        let (few, few_result, _) = few?;
        let (many, many_result, _) = many?;
        let head = head.map(|head| {
            let plan = |class, (x, pending): (&Floats, Option<Waiting>)| {
                let mut writer = Writer::new(shared, spec, angles, &buffers, &vectors, class)?;
                if x.is(&writer.other) {
                    std::mem::swap(&mut writer.x, &mut writer.other);
                }
                writer.pending = pending;
                writer.head(&head, &logits)?;
                Ok::<_, crate::Error>(writer.builder.finish()?)
            };
            Ok::<_, crate::Error>([
                plan(Class::One, (&one_result, pending))?,
                plan(Class::Few, (&many_result, None))?,
                plan(Class::Many, (&many_result, None))?,
            ])
        });
        Ok(Self {
            hidden: spec.hidden,
            vocab: spec.vocab,
            blocks: [one, few, many],
            result: [one_result, few_result, many_result],
            head: head.transpose()?,
            x,
            angles: turned,
            logits,
            logit_rows,
            shared: Arc::clone(shared),
        })
    }

    /// Whether the output is part of it.
    pub(crate) fn has_head(&self) -> bool {
        self.head.is_some()
    }

    /// Dispatches of a pass of one row.
    pub(crate) fn dispatches(&self) -> usize {
        self.blocks[0].dispatches() + self.head.as_ref().map_or(0, |head| head[0].dispatches())
    }

    /// Runs the rows of a pass: they become what the last block leaves, or the rows that are wanted are
    /// handed to `logits`.
    pub(crate) fn run(&self, rows: Rows<'_>, mut logits: impl FnMut(usize, &[f32])) -> Result<()> {
        let count = rows.x.len() / self.hidden;
        let device = &self.shared.device;
        device.write(&self.x, rows.x, self.hidden);
        device.write(&self.angles, rows.angles, rows.angles_width);
        let texts = rows.texts.iter().map(|&(first, rows, start, cache)| {
            let cache = cache.ok_or_else(|| {
                crate::error::unsupported("a session of a model on another device")
            })?;
            Ok(RunAt { first, rows, start, cache })
        });
        let texts: Vec<_> = texts.collect::<Result<_>>()?;
        let wanted: Vec<u32> = rows.wanted.iter().map(|&row| row as u32).collect();
        let pass = Pass { rows: count, wanted: &[], runs: &texts };
        let class = pass.class();
        let blocks = &self.blocks[class as usize];
        let Some(head) = &self.head else {
            let result = (&self.result[class as usize], count, self.hidden);
            device.run(&self.shared.io, &[blocks], &pass, result, |row, x| {
                rows.x[row * self.hidden..][..self.hidden].copy_from_slice(x);
            })?;
            return Ok(());
        };
        let mut plans = vec![blocks];
        let mut first = 0;
        for wanted in pieces(&wanted, self.logit_rows) {
            let pass = Pass { wanted, ..pass };
            if !wanted.is_empty() {
                let of = match class {
                    Class::One => Class::One,
                    _ if wanted.len() <= Class::FEW => Class::Few,
                    _ => Class::Many,
                };
                plans.push(&head[of as usize]);
            }
            let result = (&self.logits, wanted.len(), self.vocab);
            device.run(&self.shared.io, &plans, &pass, result, |row, x| logits(first + row, x))?;
            // The rows are there for what else is wanted.
            plans.clear();
            first += wanted.len();
        }
        Ok(())
    }
}

/// Pieces of a slice, one at least.
fn pieces(all: &[u32], len: usize) -> impl Iterator<Item = &[u32]> {
    let one: &[u32] = &[];
    all.chunks(len).chain(all.is_empty().then_some(one))
}

/// A block's weights and vectors on the device.
pub(super) struct BoundBlock<'a> {
    block: &'a Block<Loaded>,
    branches: Vec<BoundBranch<'a>>,
    post: Option<GpuNorm>,
}

struct BoundBranch<'a> {
    pre: Option<GpuNorm>,
    mixer: Bound<'a>,
    post: Option<GpuNorm>,
}

struct BoundHead {
    pieces: Pieces,
    norm: GpuNorm,
    bias: Option<u32>,
}

/// A norm's weights among the vectors, ones where it has none.
pub(super) fn norm(norm: &Norm<Loaded>, width: usize, vectors: &mut Vectors) -> GpuNorm {
    let weight = match &norm.weight {
        Some(weight) => vectors.add(weight),
        None => vectors.ones(width),
    };
    GpuNorm {
        weight,
        bias: norm.bias.as_ref().map(|bias| vectors.add(bias)),
        eps: norm.eps,
        centred: norm.centred,
    }
}

impl<'a> BoundBlock<'a> {
    fn new(
        spec: &'a Spec<Loaded>,
        own: &'a BlockWeights,
        vectors: &mut Vectors,
        shared: &Shared,
    ) -> Result<Self> {
        let block = &spec.blocks[own.index];
        let bind = |of: &Option<Norm<Loaded>>, vectors: &mut Vectors| {
            of.as_ref().map(|of| norm(of, spec.hidden, vectors))
        };
        let mut branches = Vec::new();
        for (branch, weights) in block.branches.iter().zip(&own.branches) {
            branches.push(BoundBranch {
                pre: bind(&branch.pre, vectors),
                mixer: Bound::new(spec, &branch.mixer, weights, vectors, shared)?,
                post: bind(&branch.post, vectors),
            });
        }
        Ok(Self { block, branches, post: bind(&block.post, vectors) })
    }
}

impl BoundHead {
    fn new(spec: &Spec<Loaded>, pieces: Pieces, vectors: &mut Vectors) -> Self {
        let bias = spec.head.bias.as_ref().map(|bias| vectors.add(bias));
        Self { pieces, norm: norm(&spec.norm, spec.hidden, vectors), bias }
    }
}

/// What a block made and has not added yet: `x = (x + mix * norm(mixed)) * scale`.
#[derive(Clone)]
struct Waiting {
    norm: Option<GpuNorm>,
    mix: f32,
    scale: f32,
}

/// Writes a plan.
pub(super) struct Writer<'w> {
    pub(super) builder: Builder<'w>,
    pub(super) spec: &'w Spec<Loaded>,
    pub(super) angles: &'w Angles<'w>,
    pub(super) buffers: &'w Buffers<'w>,
    pub(super) vectors: &'w Floats,
    pub(super) class: Class,
    /// The residual stream, and where it goes when something waiting is added on the way.
    x: Floats,
    other: Floats,
    mixed: Floats,
    branched: Floats,
    pending: Option<Waiting>,
    shared_memory: usize,
}

/// What a branch reads: rows, and what is to be done to them on the way.
pub(super) struct Input<'i> {
    pub(super) from: Floats,
    pub(super) norm: Option<GpuNorm>,
    pub(super) pending: Option<Pending<'i>>,
}

/// Where a branch's last product goes.
pub(super) struct Target {
    pub(super) to: Floats,
    /// On what is added; `None` to write it.
    pub(super) adds: Option<f32>,
}

impl Target {
    pub(super) fn kind(&self) -> Kind {
        match self.adds {
            Some(scale) => Kind::Add { scale },
            None => Kind::Store { scale: 1.0, act: None },
        }
    }
}

impl<'w> Writer<'w> {
    fn new(
        shared: &'w Shared,
        spec: &'w Spec<Loaded>,
        angles: &'w Angles<'w>,
        buffers: &'w Buffers<'w>,
        vectors: &'w Floats,
        class: Class,
    ) -> Result<Self> {
        let rows = |of| buffers.rows(of, spec.hidden);
        Ok(Self {
            builder: Builder::new(&shared.device, &shared.io, class),
            spec,
            angles,
            buffers,
            vectors,
            class,
            x: rows("x")?,
            other: rows("other x")?,
            mixed: rows("mixed")?,
            branched: rows("branched")?,
            pending: None,
            shared_memory: shared.device.info().shared_memory as usize,
        })
    }

    /// The residual stream.
    pub(super) fn stream(&self) -> Floats {
        self.x.clone()
    }

    fn block(&mut self, bound: &BoundBlock<'_>) -> Result<()> {
        let block = bound.block;
        let gathers = mixes(block);
        for (index, branch) in bound.branches.iter().enumerate() {
            let target = if branch.post.is_some() {
                Target { to: self.branched.clone(), adds: None }
            } else if gathers {
                Target { to: self.mixed.clone(), adds: (index > 0).then_some(1.0) }
            } else {
                Target { to: self.x.clone(), adds: Some(block.factor) }
            };
            self.branch(branch, target)?;
            if let Some(norm) = branch.post {
                let (from, to) = (self.branched.clone(), self.mixed.clone());
                self.step(&from, &to, Some(norm), (f32::from(index > 0), 1.0, 1.0))?;
            }
        }
        if gathers {
            let scale = block.scale.as_ref().map_or(1.0, Scale::number);
            self.pending = Some(Waiting { norm: bound.post, mix: block.factor, scale });
            // Rows of a pass of many have no product to go with.
            if self.class != Class::One {
                self.settle()?;
            }
        }
        Ok(())
    }

    fn branch(&mut self, branch: &BoundBranch<'_>, mut target: Target) -> Result<()> {
        let adds_to_x = target.to.is(&self.x);
        // What waits is added first, so that the branch adds to what it reads.
        if self.pending.is_some() && !(branch.mixer.fuses() && self.fits(branch.pre)) {
            self.settle()?;
        }
        let waiting = self.pending.take();
        let (mixed, to) = (self.mixed.clone(), self.other.clone());
        let pending = waiting.as_ref().and_then(|waiting| {
            let norm = waiting.norm?;
            Some(Pending { mixed: &mixed, norm, mix: waiting.mix, scale: waiting.scale, to: &to })
        });
        let from = self.x.clone();
        if pending.is_some() {
            std::mem::swap(&mut self.x, &mut self.other);
        }
        if adds_to_x {
            target.to = self.x.clone();
        }
        let input = match branch.pre {
            Some(norm) if !(branch.mixer.fuses() && self.fits(branch.pre)) => {
                let normed = self.buffers.rows("normed", self.spec.hidden)?;
                self.step(&from, &normed, Some(norm), (0.0, 1.0, 1.0))?;
                Input { from: normed, norm: None, pending: None }
            }
            norm => Input { from, norm, pending },
        };
        branch.mixer.write(self, input, &target)
    }

    /// Whether a product of one row can normalise what it reads: the row lies in shared memory.
    fn fits(&self, norm: Option<GpuNorm>) -> bool {
        // Beside it lie the sums of 256 threads, twice, four columns each.
        let bytes = 4 * self.spec.hidden.next_multiple_of(4) + 2 * 256 * 16 + 256 * 4;
        let waits = self.pending.as_ref().is_none_or(|waiting| waiting.norm.is_some());
        self.class == Class::One && norm.is_some() && waits && bytes <= self.shared_memory
    }

    /// Adds what waits.
    fn settle(&mut self) -> Result<()> {
        let Some(Waiting { norm, mix, scale }) = self.pending.take() else { return Ok(()) };
        let (from, to) = (self.mixed.clone(), self.x.clone());
        self.step(&from, &to, norm, (1.0, mix, scale))
    }

    /// `to = (keep * to + mix * norm(from)) * scale`
    pub(super) fn step(
        &mut self,
        from: &Floats,
        to: &Floats,
        norm: Option<GpuNorm>,
        (keep, mix, scale): (f32, f32, f32),
    ) -> Result<()> {
        let k = self.spec.hidden;
        Ok(self.builder.norm(&NormStep {
            k,
            from: Some(from),
            picked: false,
            to: (to, 0),
            norm,
            keep,
            mix,
            scale,
            vectors: self.vectors,
        })?)
    }

    /// A product with one matrix, in as many pieces as it has.
    pub(super) fn product(
        &mut self,
        pieces: &Pieces,
        bias: Option<u32>,
        product: &Product<'_>,
    ) -> Result<()> {
        for (matrix, column) in &pieces.0 {
            let bias = bias.map(|bias| bias + *column as u32);
            let parts = [Part { matrix, bias, column: *column }];
            self.builder.product(&Product { parts: &parts, ..*product })?;
        }
        Ok(())
    }

    fn head(&mut self, head: &BoundHead, logits: &Floats) -> Result<()> {
        let fits = self.fits(Some(head.norm)) && head.pieces.0.len() == 1;
        if !fits {
            self.settle()?;
        }
        let (mixed, to, from) = (self.mixed.clone(), self.other.clone(), self.x.clone());
        let waiting = self.pending.take();
        let pending = waiting.as_ref().and_then(|waiting| {
            let norm = waiting.norm?;
            Some(Pending { mixed: &mixed, norm, mix: waiting.mix, scale: waiting.scale, to: &to })
        });
        let mut product = Product {
            parts: &[],
            input: &from,
            norm: Some(head.norm),
            pending,
            out: logits,
            kind: match self.spec.logits.cap {
                Some(cap) => Kind::Capped { scale: self.spec.logits.scale, cap },
                None => Kind::Store { scale: self.spec.logits.scale, act: None },
            },
            count: Count::Wanted,
            row_factor: None,
            vectors: self.vectors,
        };
        let normed = self.buffers.rows("wanted", self.spec.hidden)?;
        if !fits {
            self.builder.norm(&NormStep {
                k: self.spec.hidden,
                from: Some(&from),
                picked: true,
                to: (&normed, 0),
                norm: Some(head.norm),
                keep: 0.0,
                mix: 1.0,
                scale: 1.0,
                vectors: self.vectors,
            })?;
            product = Product { input: &normed, norm: None, pending: None, ..product };
        }
        self.product(&head.pieces, head.bias, &product)
    }
}
