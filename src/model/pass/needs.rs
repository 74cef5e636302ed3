//! What buffers a model's passes need: each mixer says so.

use goldcrest_kernels::{Activation, Format, PANEL_ROWS};

use super::attention::ATTENTION_ROWS;
use super::latent;
use super::product::mixes;
use super::rope::Rotation;
use crate::error::{Result, unsupported};
use crate::model::weights::Loaded;
use crate::spec::{Dense, Linear, LowRank, Mixer, Spec, Streams, Up};

/// Different widths of one sort of buffer that a model may have.
pub(super) const WIDTHS: usize = 16;

/// The forms of activations that some matrices want.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Kinds([bool; 3]);

pub(super) const KINDS: [Activation; 3] = [Activation::F32, Activation::Q8, Activation::Q8K];

pub(super) fn slot(kind: Activation) -> usize {
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

    pub(super) fn union(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] || other.0[i]))
    }
}

impl From<Activation> for Kinds {
    fn from(kind: Activation) -> Self {
        Self::of([kind])
    }
}

/// How many rows a buffer has: those of the pass, or one for each expert that a row goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rows {
    Pass,
    /// Those of the pass, beside others of the same width: what a convolution has made.
    Convolved,
    Routed,
}

/// Quantised rows of `k` values.
#[derive(Debug)]
pub(super) struct FormWidth {
    pub(super) k: usize,
    pub(super) rows: Rows,
    pub(super) kinds: Kinds,
}

/// Rows of `width` floats.
#[derive(Debug)]
pub(super) struct FloatWidth {
    pub(super) width: usize,
    pub(super) rows: Rows,
}

/// Sizes of all buffers of a pass but for the number of its rows.
#[derive(Debug, Default)]
pub(super) struct Needs {
    pub(super) forms: Vec<FormWidth>,
    pub(super) floats: Vec<FloatWidth>,
    /// Cosines and sines of a position, for every rotation.
    pub(super) angles: usize,
    /// A block gathers what its branches made.
    pub(super) mixed: bool,
    /// A branch normalises what its mixer made.
    pub(super) branched: bool,
    /// Width of all layers' inputs.
    pub(super) layer_inputs: usize,
    /// Width of all residual streams, where there are several.
    pub(super) streams: usize,
    /// The widest row that is quantised, and all of its forms.
    pub(super) longest: usize,
    pub(super) kinds: Kinds,
    /// Numbers of a task's queries, of a key and a value, and of attention's own room.
    pub(super) queries: usize,
    pub(super) key: usize,
    pub(super) scores: usize,
    /// Numbers of the inputs that a task's convolution sees.
    pub(super) window: usize,
    pub(super) routing: Routing,
    /// Of a task of latent attention: [`latent::Room`].
    pub(super) latents: usize,
    pub(super) head_products: usize,
    pub(super) head_forms: usize,
    /// Rows that a kernel takes at once.
    pub(super) group: usize,
}

/// The greatest numbers of experts of any block.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Routing {
    pub(super) count: usize,
    pub(super) used: usize,
    /// Widest row of an expert, in its forms.
    pub(super) form_bytes: usize,
}

impl Routing {
    /// Rows of a buffer of [`Rows::Routed`]: every expert's begin at a whole group.
    pub(super) fn slots(&self, rows: usize, group: usize) -> usize {
        match rows {
            1 => self.used,
            _ => rows * self.used + self.count.min(rows * self.used) * (group - 1),
        }
    }
}

impl Needs {
    pub(super) fn new(spec: &Spec<Loaded>, rotations: &[Rotation], group: usize) -> Result<Self> {
        let mut needs = Self { group, ..Self::default() };
        let angles: usize = rotations.iter().map(|rotation| 2 * rotation.pairs()).sum();
        // A grid has columns.
        needs.angles = angles.max(1);
        needs.mixed = spec.blocks.iter().any(mixes);
        let mut branches = spec.blocks.iter().flat_map(|block| &block.branches);
        needs.branched = branches.any(|branch| branch.post.is_some());
        needs.form(spec.hidden, Rows::Pass, [spec.head.matrix.format]);
        for mixer in spec.mixers() {
            match mixer {
                Mixer::Attention(mixer) => needs.attention(spec.hidden, mixer),
                Mixer::Dense(mixer) => needs.dense(spec.hidden, mixer),
                Mixer::Latent(mixer) => needs.latent(spec.hidden, mixer),
                Mixer::DeltaNet(mixer) => needs.delta_net(spec.hidden, mixer),
                Mixer::ShortConv(mixer) => needs.short_conv(spec.hidden, mixer),
                Mixer::Mamba(mixer) => needs.mamba(spec.hidden, mixer),
                Mixer::Experts(mixer) => needs.experts(spec.hidden, mixer),
                Mixer::LayerInput(mixer) => {
                    needs.form(spec.hidden, Rows::Pass, [mixer.gate.format]);
                    let width = mixer.gate.rows;
                    needs.float(width.next_multiple_of(PANEL_ROWS), Rows::Pass);
                    needs.form(width, Rows::Pass, [mixer.projection.matrix.format]);
                }
                Mixer::LowRank(LowRank { left, right }) => {
                    needs.form(spec.hidden, Rows::Pass, [left.format]);
                    needs.float(left.panels() * PANEL_ROWS, Rows::Pass);
                    needs.form(left.rows, Rows::Pass, [right.matrix.format]);
                }
                Mixer::Identity | Mixer::Predict(_) | Mixer::Correct(_) => {}
            }
        }
        if let Some(inputs) = &spec.layer_inputs {
            needs.form(spec.hidden, Rows::Pass, [inputs.projection.format]);
            needs.layer_inputs = inputs.projection.rows;
            needs.longest = needs.longest.max(needs.layer_inputs);
        }
        if let Some(Streams { count, split, join }) = &spec.streams {
            let matrices = split.iter().chain(join);
            needs.form(spec.hidden, Rows::Pass, matrices.map(|matrix| matrix.format));
            needs.streams = count * spec.hidden;
            needs.longest = needs.longest.max(needs.streams);
            needs.branched = true;
        }
        if needs.forms.len() > WIDTHS || needs.floats.len() > WIDTHS {
            return Err(unsupported(format!("a model of more than {WIDTHS} different widths")));
        }
        Ok(needs)
    }

    fn attention(&mut self, hidden: usize, mixer: &crate::spec::Attention<Loaded>) {
        let heads = mixer.heads;
        self.form(hidden, Rows::Pass, linear_formats(mixer.linears()));
        self.float(super::attention::Widths::new(mixer).qkv, Rows::Pass);
        self.float(heads.q(), Rows::Pass);
        self.form(heads.q(), Rows::Pass, [mixer.output.matrix.format]);
        let queries = ATTENTION_ROWS * heads.group() * heads.head_dim;
        self.queries = self.queries.max(queries);
        self.key = self.key.max(2 * heads.head_dim);
        self.scores =
            self.scores.max(goldcrest_kernels::scratch_len(heads.head_dim, heads.head_dim));
    }

    fn dense(&mut self, hidden: usize, mixer: &Dense<Loaded>) {
        let linears = mixer.up.linears();
        self.form(hidden, Rows::Pass, linear_formats(linears));
        self.form(hidden, Rows::Pass, mixer.gate.iter().map(|gate| gate.format));
        if let Up::Sparse(..) = mixer.up {
            self.float(side_by_side(linears), Rows::Pass);
        }
        self.float(mixer.width(), Rows::Pass);
        self.form(mixer.ffn, Rows::Pass, [mixer.down.matrix.format]);
    }

    fn latent(&mut self, hidden: usize, mixer: &crate::spec::Latent<Loaded>) {
        let heads = mixer.heads;
        let widths = latent::Widths::new(mixer);
        self.form(hidden, Rows::Pass, linear_formats(&mixer.inputs));
        self.float(widths.first, Rows::Pass);
        if let Some((_, linear)) = &mixer.low_rank {
            self.form(linear.matrix.k, Rows::Pass, [linear.matrix.format]);
        }
        widths.queries.into_iter().for_each(|width| self.float(width, Rows::Pass));
        self.float(heads.values(), Rows::Pass);
        self.form(heads.values(), Rows::Pass, [mixer.output.matrix.format]);
        let (key, task) = (heads.key(), ATTENTION_ROWS * latent::LATENT_HEADS);
        self.key = self.key.max(key);
        self.queries = self.queries.max(task * key);
        self.scores = self.scores.max(goldcrest_kernels::scratch_len(key, heads.rank));
        self.latents = self.latents.max(task * heads.rank);
        let widest = heads.rank.max(heads.value);
        self.head_products = self.head_products.max(ATTENTION_ROWS * widest);
        let matrices = mixer.keys.iter().chain(&mixer.values);
        let bytes = matrices.map(|matrix| matrix.kind().row_bytes(matrix.k)).max().unwrap_or(0);
        self.head_forms = self.head_forms.max(ATTENTION_ROWS * bytes);
    }

    fn delta_net(&mut self, hidden: usize, mixer: &crate::spec::DeltaNet<Loaded>) {
        let heads = mixer.heads;
        self.form(hidden, Rows::Pass, linear_formats(&mixer.inputs));
        self.float(side_by_side(&mixer.inputs), Rows::Pass);
        self.float(super::delta::convolved(heads), Rows::Convolved);
        self.float(heads.values(), Rows::Pass);
        self.form(heads.values(), Rows::Pass, [mixer.output.matrix.format]);
        self.window = self.window.max(mixer.conv.taps * heads.slot());
        self.key = self.key.max(heads.n_v);
    }

    fn mamba(&mut self, hidden: usize, mixer: &crate::spec::Mamba<Loaded>) {
        let heads = mixer.heads;
        self.form(hidden, Rows::Pass, [mixer.input.matrix.format]);
        self.float(side_by_side([&mixer.input]), Rows::Pass);
        self.float(super::mamba::convolved(heads), Rows::Convolved);
        self.float(heads.inner(), Rows::Pass);
        self.form(heads.inner(), Rows::Pass, [mixer.output.matrix.format]);
        self.window = self.window.max(mixer.conv.taps * heads.slot());
    }

    fn short_conv(&mut self, hidden: usize, mixer: &crate::spec::ShortConv<Loaded>) {
        self.form(hidden, Rows::Pass, [mixer.input.matrix.format, mixer.output.matrix.format]);
        self.float(side_by_side([&mixer.input]), Rows::Pass);
        self.float(hidden, Rows::Convolved);
        let channels = crate::spec::ShortConv::<Loaded>::CHANNELS;
        self.window = self.window.max(mixer.conv.taps * channels);
    }

    fn experts(&mut self, hidden: usize, mixer: &crate::spec::Experts<Loaded>) {
        let bank = &mixer.bank;
        // Rows are quantised for each expert from the router's floats.
        self.form(hidden, Rows::Pass, [mixer.router.matrix.format, Format::F32]);
        self.form(hidden, Rows::Pass, bank.iter().flat_map(|expert| formats(&expert.gate_up)));
        self.form(hidden, Rows::Routed, bank.iter().flat_map(|expert| formats(&expert.gate_up)));
        self.float(mixer.ffn.next_multiple_of(PANEL_ROWS), Rows::Routed);
        let down = Kinds::of(bank.iter().map(|expert| expert.down.kind()));
        self.form(mixer.ffn, Rows::Routed, bank.iter().map(|expert| expert.down.format));
        let bytes = down.iter().map(|kind| kind.row_bytes(mixer.ffn)).max().unwrap_or(0);
        let routing = &mut self.routing;
        routing.count = routing.count.max(mixer.count);
        routing.used = routing.used.max(mixer.used);
        routing.form_bytes = routing.form_bytes.max(bytes);
    }

    fn form(&mut self, k: usize, rows: Rows, formats: impl IntoIterator<Item = Format>) {
        let kinds = Kinds::of(formats.into_iter().map(Format::activation));
        self.longest = self.longest.max(k);
        self.kinds = self.kinds.union(kinds);
        match self.forms.iter_mut().find(|form| form.k == k && form.rows == rows) {
            Some(form) => form.kinds = form.kinds.union(kinds),
            None => self.forms.push(FormWidth { k, rows, kinds }),
        }
    }

    fn float(&mut self, width: usize, rows: Rows) {
        if !self.floats.iter().any(|float| float.width == width && float.rows == rows) {
            self.floats.push(FloatWidth { width, rows });
        }
    }

    /// The forms that rows of `k` values are wanted in.
    pub(super) fn kinds(&self, k: usize, rows: Rows) -> Kinds {
        let found = self.forms.iter().find(|form| form.k == k && form.rows == rows);
        found.map_or(Kinds::default(), |form| form.kinds)
    }

    /// Rows of a buffer in a pass of `rows`.
    pub(super) fn rows_of(&self, sort: Rows, rows: usize) -> usize {
        match sort {
            Rows::Pass | Rows::Convolved => rows,
            Rows::Routed => self.routing.slots(rows, self.group),
        }
    }
}

/// Numbers of a row of the products of several matrices, each of which begins at a whole panel.
pub(super) fn side_by_side<'m>(linears: impl IntoIterator<Item = &'m Linear<Loaded>>) -> usize {
    linears.into_iter().map(|linear| linear.matrix.panels() * PANEL_ROWS).sum()
}

fn linear_formats<'m>(
    linears: impl IntoIterator<Item = &'m Linear<Loaded>>,
) -> impl Iterator<Item = Format> {
    linears.into_iter().map(|linear| linear.matrix.format)
}

fn formats(pair: &[crate::model::weights::Matrix; 2]) -> [Format; 2] {
    [pair[0].format, pair[1].format]
}
