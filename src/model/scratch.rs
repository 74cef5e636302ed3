//! The buffers of a forward pass, kept from one to the next.

use std::sync::Mutex;

use goldcrest_kernels::{Activation, PANEL_ROWS};

use super::weights::Weights;
use crate::config::Config;
use crate::threads::Shared;

/// Rows of a prompt that go through the graph together.
pub(crate) const BATCH: usize = 256;
/// Panels of a claim at most: for one row, and for the rows of a prompt.
pub(super) const GRAIN: (usize, usize) = (256, 4);
/// Query rows of an attention task.
pub(super) const ATTENTION_ROWS: usize = 16;

/// The forms of activations that some matrices want.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Kinds([bool; 3]);

pub(super) const KINDS: [Activation; 3] = [Activation::F32, Activation::Q8, Activation::Q8K];

fn slot(kind: Activation) -> usize {
    match kind {
        Activation::F32 => 0,
        Activation::Q8 => 1,
        Activation::Q8K => 2,
    }
}

impl Kinds {
    pub(super) fn of(kinds: impl IntoIterator<Item = Activation>) -> Self {
        let mut set = Self::default();
        kinds.into_iter().for_each(|kind| set.0[slot(kind)] = true);
        set
    }

    pub(super) fn contains(self, kind: Activation) -> bool {
        self.0[slot(kind)]
    }

    pub(super) fn iter(self) -> impl Iterator<Item = Activation> {
        KINDS.into_iter().filter(move |&kind| self.contains(kind))
    }

    fn union(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] || other.0[i]))
    }
}

/// Widths of the graph's buffers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Widths {
    pub(super) hidden: usize,
    /// Queries, keys and values side by side, each from a whole panel on.
    pub(super) qkv: usize,
    pub(super) q: usize,
    pub(super) kv: usize,
    pub(super) ffn: usize,
}

impl Widths {
    pub(super) fn new(config: &Config) -> Self {
        let (q, kv) = (config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim);
        let whole = |n: usize| n.next_multiple_of(PANEL_ROWS);
        let qkv = whole(q) + 2 * whole(kv);
        Self { hidden: config.hidden, qkv, q, kv, ffn: config.ffn }
    }

    /// Where keys and values begin in a row of `qkv`.
    pub(super) fn key(self) -> usize {
        self.q.next_multiple_of(PANEL_ROWS)
    }

    pub(super) fn value(self) -> usize {
        self.key() + self.kv.next_multiple_of(PANEL_ROWS)
    }

    /// The products' output is whole panels wide.
    pub(super) fn ffn_panels(self) -> usize {
        self.ffn.next_multiple_of(PANEL_ROWS)
    }
}

/// What belongs to one worker alone.
#[derive(Default)]
pub(super) struct Lane {
    /// One row, normalised.
    pub(super) row: Vec<f32>,
    /// One row in each form that is wanted.
    pub(super) quantized: [Vec<u8>; 3],
    /// `[rows, 2 * grain * 16]`: a product on its way into the residual or the gate.
    pub(super) tile: Vec<f32>,
    /// `[rows of a task, group, head_dim]`: rotated queries.
    pub(super) queries: Vec<f32>,
    /// `[head_dim]`: a rotated key.
    pub(super) key: Vec<f32>,
    /// What the attention kernel works in.
    pub(super) scores: Vec<f32>,
}

impl Lane {
    pub(super) fn quantized(&mut self, kind: Activation) -> &mut Vec<u8> {
        &mut self.quantized[slot(kind)]
    }

    pub(super) fn form(&self, kind: Activation) -> &[u8] {
        &self.quantized[slot(kind)]
    }
}

/// Rows in each form that is wanted: empty where none is.
#[derive(Default)]
struct Forms([Vec<u8>; 3]);

/// The buffers themselves.
#[derive(Default)]
pub(crate) struct Scratch {
    /// For how many rows, and for which model's widths, the buffers are.
    rows: usize,
    x: Vec<f32>,
    qkv: Vec<f32>,
    attended: Vec<f32>,
    act: Vec<f32>,
    hidden_forms: Forms,
    attended_forms: Forms,
    act_forms: Forms,
    partials: Vec<f32>,
    pub(super) lanes: Vec<Mutex<Lane>>,
}

/// The buffers as the workers see them, for `rows` rows.
pub(super) struct Buffers<'a> {
    /// `[rows, hidden]`: the residual stream.
    pub(super) x: Shared<'a, f32>,
    /// `[rows, qkv]`
    pub(super) qkv: Shared<'a, f32>,
    /// `[rows, q]`: what the heads attended to.
    pub(super) attended: Shared<'a, f32>,
    /// `[rows, ffn]`, padded to whole panels: gate x up.
    pub(super) act: Shared<'a, f32>,
    /// `[rows, row_bytes(hidden)]` per form.
    pub(super) hidden_forms: [Shared<'a, u8>; 3],
    /// `[rows, row_bytes(q)]` per form.
    pub(super) attended_forms: [Shared<'a, u8>; 3],
    /// `[rows, row_bytes(ffn)]` per form.
    pub(super) act_forms: [Shared<'a, u8>; 3],
    /// `[n_kv_heads * chunks, partial]`: attention of one row over chunks of a long context.
    pub(super) partials: Shared<'a, f32>,
}

/// Which forms each of the graph's four products reads.
pub(super) struct Wanted {
    pub(super) hidden: Kinds,
    pub(super) attended: Kinds,
    pub(super) act: Kinds,
}

impl Wanted {
    pub(super) fn new(weights: &Weights) -> Self {
        let mut wanted = Self {
            hidden: Kinds::of([weights.output.format.activation()]),
            attended: Kinds::default(),
            act: Kinds::default(),
        };
        for layer in &weights.layers {
            let formats = [&layer.qkv[0], &layer.qkv[1], &layer.qkv[2]].map(|l| l.matrix.format);
            let all = formats.into_iter().chain([layer.gate.format, layer.up.format]);
            wanted.hidden = wanted.hidden.union(Kinds::of(all.map(|f| f.activation())));
            let of = |format: goldcrest_kernels::Format| Kinds::of([format.activation()]);
            wanted.attended = wanted.attended.union(of(layer.attn_output.format));
            wanted.act = wanted.act.union(of(layer.down.format));
        }
        wanted
    }
}

impl Forms {
    fn grow(&mut self, wanted: Kinds, rows: usize, k: usize) {
        for kind in wanted.iter() {
            self.0[slot(kind)].resize(rows * kind.row_bytes(k), 0);
        }
    }

    fn shared(&mut self, rows: usize, k: usize) -> [Shared<'_, u8>; 3] {
        let mut kinds = KINDS.into_iter();
        self.0.each_mut().map(|buffer| {
            let stride = kinds.next().map_or(1, |kind| kind.row_bytes(k));
            let len = buffer.len().min(rows * stride);
            Shared::new(&mut buffer[..len], stride)
        })
    }
}

/// The form's buffer among [`Buffers`]' three.
pub(super) fn form<'b, 'a>(forms: &'b [Shared<'a, u8>; 3], kind: Activation) -> &'b Shared<'a, u8> {
    &forms[slot(kind)]
}

impl Scratch {
    /// Makes room for `rows` rows, `workers` workers and `partials` numbers of partial attention.
    /// Allocates only where there was less.
    pub(super) fn grow(
        &mut self,
        config: &Config,
        wanted: &Wanted,
        rows: usize,
        workers: usize,
        partials: usize,
    ) {
        let widths = Widths::new(config);
        if self.partials.len() < partials {
            self.partials.resize(partials, 0.0);
        }
        if self.rows >= rows && self.lanes.len() == workers {
            return;
        }
        self.rows = rows.max(self.rows);
        let rows = self.rows;
        self.x.resize(rows * widths.hidden, 0.0);
        self.qkv.resize(rows * widths.qkv, 0.0);
        self.attended.resize(rows * widths.q, 0.0);
        self.act.resize(rows * widths.ffn_panels(), 0.0);
        self.lanes.resize_with(workers, Mutex::default);
        if rows > 1 {
            self.hidden_forms.grow(wanted.hidden, rows, widths.hidden);
            self.attended_forms.grow(wanted.attended, rows, widths.q);
            self.act_forms.grow(wanted.act, rows, widths.ffn);
        }
        for lane in &mut self.lanes {
            let lane = lane.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
            lane.grow(config, wanted, widths, rows);
        }
    }

    pub(super) fn x(&mut self) -> &mut [f32] {
        &mut self.x
    }

    /// The buffers for a pass of `rows` rows, and the workers' own.
    pub(super) fn share(
        &mut self,
        config: &Config,
        rows: usize,
        partial: usize,
    ) -> (Buffers<'_>, &[Mutex<Lane>]) {
        let w = Widths::new(config);
        fn cut(buffer: &mut [f32], rows: usize, width: usize) -> Shared<'_, f32> {
            Shared::new(&mut buffer[..rows * width], width)
        }
        let buffers = Buffers {
            x: cut(&mut self.x, rows, w.hidden),
            qkv: cut(&mut self.qkv, rows, w.qkv),
            attended: cut(&mut self.attended, rows, w.q),
            act: cut(&mut self.act, rows, w.ffn_panels()),
            hidden_forms: self.hidden_forms.shared(rows, w.hidden),
            attended_forms: self.attended_forms.shared(rows, w.q),
            act_forms: self.act_forms.shared(rows, w.ffn),
            partials: Shared::new(&mut self.partials, partial.max(1)),
        };
        (buffers, &self.lanes)
    }
}

impl Lane {
    fn grow(&mut self, config: &Config, wanted: &Wanted, widths: Widths, rows: usize) {
        let group = config.n_heads / config.n_kv_heads;
        let longest = widths.hidden.max(widths.q).max(widths.ffn);
        self.row.resize(longest, 0.0);
        let all = wanted.hidden.union(wanted.attended).union(wanted.act);
        for kind in all.iter() {
            self.quantized(kind).resize(kind.row_bytes(longest), 0);
        }
        self.tile.resize((rows * GRAIN.1).max(GRAIN.0) * 2 * PANEL_ROWS, 0.0);
        self.queries.resize(ATTENTION_ROWS.min(rows) * group * config.head_dim, 0.0);
        self.key.resize(config.head_dim, 0.0);
        self.scores.resize(goldcrest_kernels::scratch_len(config.head_dim), 0.0);
    }
}
