//! Plans: lists of dispatches, made once.

use std::sync::Mutex;

use crate::adapters::Device;
use crate::error::Result;
use crate::memory::uniform;
use crate::pipelines::{Layout, Use, group_layout};
use crate::run::{Io, Ready, number};
use crate::shaders::Names;

/// For how many rows a plan is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// One: norms are part of the products that follow them.
    One,
    /// Some, each a single row of its own text: up to [`FEW`](Class::FEW).
    Few,
    /// Any.
    Many,
}

impl Class {
    /// Rows above which products are tiles.
    pub const FEW: usize = 8;

    /// The class of a number of rows.
    pub fn of(rows: usize) -> Self {
        match rows {
            0 | 1 => Self::One,
            _ if rows <= Self::FEW => Self::Few,
            _ => Self::Many,
        }
    }
}

/// Which rows a dispatch is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// Those of the pass.
    Pass,
    /// Those whose logits are wanted.
    Wanted,
}

/// How many workgroups a dispatch has.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Grid {
    /// `x` of them for every `per` of the rows, each taken `times` times.
    Rows { x: u32, per: u32, times: u32, count: Count },
    /// The same with the rows along x.
    RowsAlongX { count: Count },
    /// For each text: `x` for each row.
    Store { x: u32 },
    /// For each text: its queries, `r` at a time, of so many heads of keys; and chunks.
    Attend { kv_heads: u32, group: u32, r: u32 },
    /// For each text that is in chunks: `x` for each row.
    Merge { x: u32 },
}

/// One dispatch.
pub(crate) struct Step {
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) bindings: wgpu::BindGroup,
    pub(crate) grid: Grid,
    /// The step that takes its place in passes of more rows than so many.
    pub(crate) above: Option<(usize, Box<Step>)>,
    /// Which keys and values.
    pub(crate) kept: Option<usize>,
    /// Multiplications for each row.
    pub(crate) work: u64,
    /// What it does.
    pub(crate) name: String,
}

/// Dispatches that follow one another.
pub struct Plan {
    pub(crate) steps: Vec<Step>,
    pub(crate) id: u64,
    /// The commands of the next pass, written while the device was at work on the last. They keep the
    /// caches of its texts.
    pub(crate) ready: Mutex<Option<Ready>>,
}

impl Plan {
    /// How many dispatches a pass of one row makes, where no text is in chunks.
    pub fn dispatches(&self) -> usize {
        self.steps.iter().filter(|step| !matches!(step.grid, Grid::Merge { .. })).count()
    }

    /// And where one is.
    pub fn dispatches_in_chunks(&self) -> usize {
        self.steps.len()
    }
}

/// How products of many rows are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tiles {
    /// In single precision.
    Single,
    /// By cooperative matrices of half floats.
    Matrices,
    /// The same tiles of half floats by plain loops, which any device with half floats can run: for
    /// tests.
    MatricesInLoops,
}

/// Makes a plan.
pub struct Builder<'d> {
    pub(crate) device: &'d Device,
    pub(crate) io: &'d Io,
    pub(crate) class: Class,
    pub(crate) tiles: Tiles,
    plan: Plan,
}

/// What a kernel is bound to.
pub(crate) struct Binding<'b> {
    pub(crate) at: u32,
    pub(crate) used: Use,
    pub(crate) buffer: &'b wgpu::Buffer,
}

impl<'b> Binding<'b> {
    pub(crate) fn read(at: u32, buffer: &'b wgpu::Buffer) -> Self {
        Self { at, used: Use::Read, buffer }
    }

    pub(crate) fn write(at: u32, buffer: &'b wgpu::Buffer) -> Self {
        Self { at, used: Use::Write, buffer }
    }
}

impl<'d> Builder<'d> {
    /// A plan of a class with no steps yet.
    pub fn new(device: &'d Device, io: &'d Io, class: Class) -> Self {
        let plan = Plan { steps: Vec::new(), id: number(), ready: Mutex::default() };
        let tiles = if device.has_matrices() { Tiles::Matrices } else { Tiles::Single };
        Self { device, io, class, tiles, plan }
    }

    /// Has products of many rows made in another way than the device's best.
    pub fn tiles(mut self, tiles: Tiles) -> Self {
        self.tiles = tiles;
        self
    }

    /// The plan.
    ///
    /// # Errors
    /// What the driver says against one of its kernels.
    pub fn finish(self) -> Result<Plan> {
        self.device.check()?;
        Ok(self.plan)
    }

    /// Makes the last step the form of the one before it for passes of more than so many rows.
    pub(crate) fn join(&mut self, rows: usize) {
        let steps = &mut self.plan.steps;
        let large = steps.pop();
        if let (Some(large), Some(small)) = (large, steps.last_mut()) {
            small.above = Some((rows, Box::new(large)));
        }
    }

    /// Adds a dispatch of the kernel `text`, whose first binding is `params`.
    pub(crate) fn step(
        &mut self,
        (text, names): (&[&str], &Names),
        params: &[u32],
        bindings: &[Binding<'_>],
        (name, grid, kept, work): (String, Grid, Option<usize>, u64),
    ) -> Result<()> {
        let text: String = text.iter().map(|part| names.expand(part)).collect();
        let mut layout: Layout = vec![(0, Use::Uniform)];
        layout.extend(bindings.iter().map(|binding| (binding.at, binding.used)));
        let mut groups = vec![layout.clone()];
        if kept.is_some() {
            groups.push(crate::cache::layout());
        }
        let pipeline = self.device.pipelines().get(self.device, text, &groups);
        let params = uniform(self.device, params)?;
        let mut entries =
            vec![wgpu::BindGroupEntry { binding: 0, resource: params.as_entire_binding() }];
        entries.extend(bindings.iter().map(|binding| wgpu::BindGroupEntry {
            binding: binding.at,
            resource: binding.buffer.as_entire_binding(),
        }));
        let bindings = self.device.raw().create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &group_layout(self.device, &layout),
            entries: &entries,
        });
        self.device.check()?;
        self.plan.steps.push(Step { pipeline, bindings, grid, above: None, kept, work, name });
        Ok(())
    }
}
