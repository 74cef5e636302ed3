//! Running plans.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ROWS;
use crate::adapters::Device;
use crate::cache::{Cache, RUN};
use crate::error::Result;
use crate::memory::{Floats, buffer, bytes_of};
use crate::plan::{Class, Count, Grid, Plan, Step};

/// Texts of a pass at most.
const RUNS: usize = ROWS;
/// Multiplications of one submission at most, but for passes of one row: drivers give up a device that
/// is busy for seconds.
const WORK: u64 = 1 << 37;
/// Positions of a chunk of a lone row's attention at least.
const CHUNK: usize = 64;
/// Chunks of all lone rows of a pass at most.
pub(crate) const CHUNKS: usize = 64;

/// Where a text's rows are in a pass.
#[derive(Debug, Clone, Copy)]
pub struct RunAt<'a> {
    /// Its first row, and how many it has.
    pub first: usize,
    /// How many rows it has.
    pub rows: usize,
    /// The position of its first row.
    pub start: usize,
    /// Its keys and values.
    pub cache: &'a Arc<Cache>,
}

/// What a pass of a plan is over.
#[derive(Debug, Clone, Copy)]
pub struct Pass<'a> {
    /// Rows of all texts.
    pub rows: usize,
    /// The rows whose logits are wanted.
    pub wanted: &'a [u32],
    /// The texts.
    pub runs: &'a [RunAt<'a>],
}

impl Pass<'_> {
    /// The class of its plans: that of its rows, if each is a text's only one.
    pub fn class(&self) -> Class {
        if self.runs.iter().any(|run| run.rows > 1) { Class::Many } else { Class::of(self.rows) }
    }
}

/// What goes to a device with each pass and comes from it.
#[derive(Debug)]
pub struct Io {
    /// How many rows there are, and how many are wanted.
    pub(crate) counts: wgpu::Buffer,
    pub(crate) wanted: wgpu::Buffer,
    pub(crate) runs: wgpu::Buffer,
    staging: Mutex<wgpu::Buffer>,
}

impl Io {
    /// Buffers for the parameters of passes.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub fn new(device: &Device) -> Result<Self> {
        let usage = wgpu::BufferUsages::COPY_DST;
        let uniform = usage | wgpu::BufferUsages::UNIFORM;
        Ok(Self {
            counts: buffer(device, 16, uniform)?,
            wanted: buffer(device, 4 * ROWS as u64, usage | wgpu::BufferUsages::STORAGE)?,
            runs: buffer(device, RUN * RUNS as u64, uniform)?,
            staging: Mutex::new(staging(device, 1 << 16)?),
        })
    }
}

fn staging(device: &Device, bytes: u64) -> Result<wgpu::Buffer> {
    buffer(device, bytes, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST)
}

/// How many chunks the positions of a row are cut into, and how long they are, where so many rows
/// of a pass are cut.
fn chunks(positions: usize, cut: usize) -> (usize, usize) {
    let most = CHUNKS.checked_div(cut).unwrap_or(1);
    if positions <= CHUNK || most <= 1 {
        return (1, positions.next_multiple_of(32));
    }
    let len = positions.div_ceil(most).next_multiple_of(CHUNK);
    (positions.div_ceil(len), len)
}

/// A text of a pass, and how its positions are cut.
#[derive(Clone)]
struct Text {
    first: usize,
    rows: usize,
    start: usize,
    cache: Arc<Cache>,
    /// How many, and how long.
    chunks: (usize, usize),
}

/// What the steps of plans need to know of a pass.
struct Encoding {
    rows: usize,
    wanted: Vec<u32>,
    texts: Vec<Text>,
}

impl Encoding {
    fn new(pass: &Pass<'_>) -> Self {
        let cut = if pass.class() == Class::Many { 0 } else { pass.runs.len() };
        let text = |run: &RunAt<'_>| Text {
            first: run.first,
            rows: run.rows,
            start: run.start,
            cache: Arc::clone(run.cache),
            chunks: chunks(run.start + run.rows, cut),
        };
        let texts = pass.runs.iter().map(text).collect();
        Self { rows: pass.rows, wanted: pass.wanted.to_vec(), texts }
    }

    /// The same pass one position on.
    fn next(&self) -> Self {
        let texts = self.texts.iter().map(|text| {
            let start = text.start + text.rows;
            Text { start, chunks: chunks(start + text.rows, self.texts.len()), ..text.clone() }
        });
        Self { rows: self.rows, wanted: self.wanted.clone(), texts: texts.collect() }
    }
}

/// What the commands of a pass of single rows depend on. All else is in buffers.
#[derive(PartialEq)]
pub(crate) struct Key {
    /// The plans' numbers.
    plans: Vec<u64>,
    rows: usize,
    wanted: usize,
    /// The numbers of its texts' caches, and how many chunks each has.
    texts: Vec<(u64, usize)>,
    copied: Option<(wgpu::Buffer, wgpu::Buffer, u64)>,
}

/// Commands that wait for their pass.
pub(crate) struct Ready {
    key: Key,
    commands: wgpu::CommandBuffer,
}

impl Key {
    /// `None` for passes with more rows of a text, which seldom come twice.
    fn new(plans: &[&Plan], encoding: &Encoding, copy: Option<Copied<'_>>) -> Option<Self> {
        let lone = encoding.texts.iter().all(|text| text.rows == 1) && encoding.rows <= Class::FEW;
        lone.then(|| Self {
            plans: plans.iter().map(|plan| plan.id).collect(),
            rows: encoding.rows,
            wanted: encoding.wanted.len(),
            texts: Vec::new(),
            copied: copy.map(|(from, to, bytes)| (from.clone(), to.clone(), bytes)),
        })
        .map(|key| key.of(encoding))
    }

    /// The same for other positions.
    fn of(self, encoding: &Encoding) -> Self {
        let texts = encoding.texts.iter().map(|text| (text.cache.id, text.chunks.0));
        Self { texts: texts.collect(), ..self }
    }
}

/// A number that nothing else has.
pub(crate) fn number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes that go from one buffer to another after a pass.
type Copied<'a> = (&'a wgpu::Buffer, &'a wgpu::Buffer, u64);
impl Device {
    /// Copies rows of `width` numbers to the device.
    pub fn write(&self, to: &Floats, rows: &[f32], width: usize) {
        let words = |row: &[f32]| row.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        if width == to.stride {
            self.queue().write_buffer(&to.buffer, 0, &bytes_of(&words(rows)));
            return;
        }
        for (i, row) in rows.chunks_exact(width).enumerate() {
            let at = (i * to.stride * 4) as u64;
            self.queue().write_buffer(&to.buffer, at, &bytes_of(&words(row)));
        }
    }

    /// Runs a plan, and hands the first `rows` rows of `result` to `take`, `width` numbers each.
    /// Submits once for a pass of one row.
    ///
    /// # Errors
    /// [`Error::Lost`](crate::Error::Lost) and what else the driver says.
    pub fn run(
        &self,
        io: &Io,
        plans: &[&Plan],
        pass: &Pass<'_>,
        (result, rows, width): (&Floats, usize, usize),
        take: impl FnMut(usize, &[f32]),
    ) -> Result<usize> {
        let encoding = Encoding::new(pass);
        self.tell(io, &encoding);
        let mut staged = lock(&io.staging);
        let bytes = (rows * result.stride * 4) as u64;
        if staged.size() < bytes {
            *staged = staging(self, bytes.next_power_of_two())?;
        }
        let copy = (bytes > 0).then_some((&result.buffer, &*staged, bytes));
        let key = Key::new(plans, &encoding, copy);
        let ready = plans.last().and_then(|plan| lock(&plan.ready).take());
        let ready = ready.filter(|_| self.profile().is_none());
        let (last, submits) = match ready.filter(|ready| key.as_ref() == Some(&ready.key)) {
            Some(ready) => (ready.commands, 0),
            None => self.encode(plans, &encoding, copy),
        };
        self.queue().submit([last]);
        let timed = self.profile().is_some();
        if let (Some(key), Some(plan), false) = (key, plans.last(), timed) {
            // The next pass is likely to be one position on: its commands are written meanwhile.
            let next = encoding.next();
            let key = key.of(&next);
            let (commands, _) = self.encode(plans, &next, copy);
            *lock(&plan.ready) = Some(Ready { key, commands });
        }
        match copy {
            Some(_) => self.read(&staged, bytes, (result.stride, width), take)?,
            None => self.wait()?,
        }
        if let Some(profile) = self.profile().as_mut() {
            profile.collect(self)?;
        }
        Ok(submits + 1)
    }

    /// The commands of plans, and the copy of their result; all but the last submission are submitted.
    fn encode(
        &self,
        plans: &[&Plan],
        encoding: &Encoding,
        copy: Option<Copied<'_>>,
    ) -> (wgpu::CommandBuffer, usize) {
        let mut encoder = self.raw().create_command_encoder(&Default::default());
        let (mut work, mut submits) = (0, 0);
        let most = if encoding.rows > 1 { WORK } else { u64::MAX };
        for plan in plans {
            let mut first = 0;
            while first < plan.steps.len() {
                // Steps that are timed are passes of their own.
                let mut profile = self.profile();
                let timed = profile.is_some();
                let timestamp_writes =
                    profile.as_mut().and_then(|profile| profile.step(&plan.steps[first].name));
                let mut compute = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                    label: None,
                    timestamp_writes,
                });
                for step in &plan.steps[first..] {
                    first += 1;
                    encoding.dispatch(&mut compute, step);
                    work += step.work * encoding.rows as u64;
                    if work > most || timed {
                        break;
                    }
                }
                drop(compute);
                if work > most {
                    self.queue().submit([encoder.finish()]);
                    (work, submits) = (0, submits + 1);
                    encoder = self.raw().create_command_encoder(&Default::default());
                }
            }
        }
        if let Some((from, to, bytes)) = copy {
            encoder.copy_buffer_to_buffer(from, 0, to, 0, bytes);
        }
        (encoder.finish(), submits)
    }

    /// Tells the device where the rows of the pass are.
    fn tell(&self, io: &Io, encoding: &Encoding) {
        let counts = [encoding.rows as u32, encoding.wanted.len() as u32, 0, 0];
        self.queue().write_buffer(&io.counts, 0, &bytes_of(&counts));
        if !encoding.wanted.is_empty() {
            self.queue().write_buffer(&io.wanted, 0, &bytes_of(&encoding.wanted));
        }
        let mut words = Vec::with_capacity(encoding.texts.len() * RUN as usize / 4);
        let mut before = 0;
        for text in &encoding.texts {
            let (chunks, len) = text.chunks;
            let positions = text.cache.positions;
            let own = [text.first, text.rows, text.start, chunks, len, before, positions];
            let end = words.len() + RUN as usize / 4;
            words.extend(own.map(|n| n as u32));
            before += chunks;
            words.resize(end, 0);
        }
        self.queue().write_buffer(&io.runs, 0, &bytes_of(&words));
    }

    pub(crate) fn wait(&self) -> Result<()> {
        let waited = self.raw().poll(wgpu::PollType::wait_indefinitely());
        waited.map_err(|error| self.lost(error))?;
        self.check()
    }

    fn read(
        &self,
        staged: &wgpu::Buffer,
        bytes: u64,
        (stride, width): (usize, usize),
        mut take: impl FnMut(usize, &[f32]),
    ) -> Result<()> {
        let slice = staged.slice(..bytes);
        slice.map_async(wgpu::MapMode::Read, |_| ());
        self.wait()?;
        let view = slice.get_mapped_range().map_err(|error| self.lost(error))?;
        let mut row = vec![0.0; width];
        for (i, bytes) in view.chunks_exact(stride * 4).enumerate() {
            for (to, from) in row.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *to = f32::from_le_bytes(*from);
            }
            take(i, &row);
        }
        drop(view);
        staged.unmap();
        Ok(())
    }
}

impl Encoding {
    fn dispatch(&self, compute: &mut wgpu::ComputePass<'_>, step: &Step) {
        let rows = |count| match count {
            Count::Pass => self.rows as u32,
            Count::Wanted => self.wanted.len() as u32,
        };
        let step = match (&step.above, step.grid) {
            (Some((most, large)), Grid::Rows { count, .. }) if rows(count) as usize > *most => {
                large
            }
            _ => step,
        };
        compute.set_pipeline(&step.pipeline);
        compute.set_bind_group(0, &step.bindings, &[]);
        let (x, y) = match step.grid {
            Grid::Rows { x, per, times, count } => (x, rows(count).div_ceil(per) * times),
            Grid::RowsAlongX { count } => (rows(count), 1),
            Grid::Store { .. } | Grid::Attend { .. } | Grid::Merge { .. } => {
                self.texts(compute, step);
                return;
            }
        };
        if x > 0 && y > 0 {
            compute.dispatch_workgroups(x, y, 1);
        }
    }

    /// A dispatch for each text.
    fn texts(&self, compute: &mut wgpu::ComputePass<'_>, step: &Step) {
        for (i, run) in self.texts.iter().enumerate() {
            let (chunks, _) = run.chunks;
            let (x, y) = match step.grid {
                Grid::Store { x } => (x, run.rows as u32),
                Grid::Attend { kv_heads, group, r } => {
                    let queries = run.rows as u32 * group;
                    (kv_heads * queries.div_ceil(r), chunks as u32)
                }
                Grid::Merge { x } if chunks > 1 => (x, run.rows as u32),
                _ => continue,
            };
            let kept = step.kept.expect("attention has a place in the cache");
            let offset = u32::try_from(i as u64 * RUN).expect("runs are few");
            compute.set_bind_group(1, run.cache.group(kept), &[offset]);
            compute.dispatch_workgroups(x, y, 1);
        }
    }
}
