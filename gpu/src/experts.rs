//! Mixtures of experts: which experts a row goes through, and what they make of it.

use goldcrest_kernels::{Nonlinearity, PANEL_ROWS};

use crate::error::Result;
use crate::memory::{Floats, Matrix, bytes_of};
use crate::pipelines::Use;
use crate::plan::{Binding, Builder, Count, Grid};
use crate::product::{Formats, Head, NONE, act_code, part_words, threads};
use crate::shaders::{ACTIVATIONS, CHOOSE, Codes, MATVEC, NUMBERS, Names, PRODUCT};

/// What becomes of an expert's gate and up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Gating {
    /// `act(gate) * up`
    By(Nonlinearity),
    /// `gate * sigmoid(1.702 gate) * (up + 1)`, both within a limit.
    Clamped(f32),
}

/// How scores become experts.
#[derive(Debug, Clone, Copy)]
pub struct Choose<'a> {
    /// The router's products.
    pub scores: &'a Floats,
    /// On them.
    pub score_scale: f32,
    /// Experts, and how many a row goes through.
    pub count: usize,
    /// How many a row goes through.
    pub used: usize,
    /// Whether scores become sigmoids, not a softmax.
    pub sigmoid: bool,
    /// Groups, how many are used, and whether the two best experts rank one.
    pub groups: Option<(usize, usize, bool)>,
    /// Whether the weights are made to sum to 1.
    pub renormalise: bool,
    /// On the weights.
    pub scale: f32,
    /// Where a bias for the choice alone begins among the vectors.
    pub bias: Option<u32>,
    /// Biases.
    pub vectors: &'a Floats,
    /// `[rows, used]` of an expert and a weight.
    pub choices: &'a Floats,
}

/// The experts of a layer: gate, up and down of each, all in one buffer.
#[derive(Debug, Clone, Copy)]
pub struct Experts<'a> {
    /// Of each expert; matrices of one place are alike but for where they are and their factor.
    pub bank: &'a [[Matrix; 3]],
    /// Where biases of gate, up and down begin, one expert's after another's.
    pub biases: Option<[u32; 3]>,
    /// How many a row goes through.
    pub used: usize,
    /// Of gate and up.
    pub gating: Gating,
    /// Rows that the experts read.
    pub input: &'a Floats,
    /// `[rows * used, ffn]`
    pub made: &'a Floats,
    /// Where the sum goes.
    pub out: &'a Floats,
    /// On the sum, and whether it is added to what is there.
    pub scale: f32,
    /// Whether it is added to what is there.
    pub adds: bool,
    /// `[rows, used]` of an expert and a weight.
    pub choices: &'a Floats,
    /// Biases.
    pub vectors: &'a Floats,
}

impl Builder<'_> {
    /// Adds the choice of experts.
    ///
    /// # Errors
    /// What the driver says against it.
    pub fn choose(&mut self, choose: &Choose<'_>) -> Result<()> {
        let (groups, groups_used, best_two) = choose.groups.unwrap_or_default();
        let words = [
            choose.count as u32,
            choose.used as u32,
            choose.scores.stride as u32,
            choose.sigmoid.into(),
            groups as u32,
            groups_used as u32,
            best_two.into(),
            choose.renormalise.into(),
            choose.scale.to_bits(),
            choose.bias.unwrap_or(NONE),
            choose.score_scale.to_bits(),
            0,
        ];
        let names = Names::default().set("COUNT", choose.count);
        let bindings = [
            Binding::read(1, &choose.scores.buffer),
            Binding::read(2, &choose.vectors.buffer),
            Binding::write(3, &choose.choices.buffer),
        ];
        let grid = Grid::RowsAlongX { count: Count::Pass };
        self.step(
            (&[CHOOSE], &names),
            &words,
            &bindings,
            ("choice of experts".to_owned(), grid, None, choose.count as u64),
        )
    }

    /// Adds the experts' two products.
    ///
    /// # Errors
    /// What the driver says against them.
    pub fn experts(&mut self, experts: &Experts<'_>) -> Result<()> {
        let bank = self.bank(experts.bank)?;
        self.expert_product(experts, &bank, true)?;
        self.expert_product(experts, &bank, false)
    }

    /// Of every expert, where its matrices begin, and after those of all their factors.
    fn bank(&self, bank: &[[Matrix; 3]]) -> Result<Floats> {
        let all = || bank.iter().flatten();
        let words: Vec<u32> = all()
            .map(|matrix| (matrix.at / 16) as u32)
            .chain(all().map(|matrix| matrix.factor.to_bits()))
            .collect();
        let floats = Floats::new(self.device, 1, words.len())?;
        self.device.queue().write_buffer(&floats.buffer, 0, &bytes_of(&words));
        Ok(floats)
    }

    fn expert_product(&mut self, experts: &Experts<'_>, bank: &Floats, up: bool) -> Result<()> {
        let [gate, second, down] = &experts.bank[0];
        let matrices: &[&Matrix] = if up { &[gate, second] } else { &[down] };
        let (input, out) =
            if up { (experts.input, experts.made) } else { (experts.made, experts.out) };
        let (k, threads) = (matrices[0].k, threads(matrices[0].k));
        let names = Names::default()
            .set("M", 1)
            .set("THREADS", threads)
            .set("LANES", threads)
            .set("BLOCKS", k.div_ceil(32))
            .set("SLOTS", threads / 4)
            .set("SUMS", threads * matrices.len())
            .set("ROW", 1)
            .flag("EXPERT", true)
            .flag("EXPERT_UP", up)
            .flag("EXPERT_DOWN", !up)
            .flag("ADD", !up && experts.adds)
            .flag("CLAMPED", matches!(experts.gating, Gating::Clamped(_)));
        let formats = Formats::of(matrices);
        let names = formats.dots(&names, Codes::Numbers);
        let decoders = formats.decoders(Codes::Numbers);
        let (act, limit) = match experts.gating {
            Gating::By(act) => (act_code(Some(act)), 0.0),
            Gating::Clamped(limit) => (act_code(None), limit),
        };
        let head = Head {
            k,
            x_stride: input.stride,
            out_stride: out.stride,
            count: Count::Pass,
            scale: experts.scale,
            act,
            limit,
            cap: 0.0,
            used: experts.used,
            row_factor: 0,
            factors: 3 * experts.bank.len(),
        };
        let mut words = head.words(matrices.len(), None, None);
        let biases = experts.biases.map(|biases| biases.map(Some)).unwrap_or_default();
        let biases = if up { &biases[..2] } else { &biases[2..] };
        for (matrix, bias) in matrices.iter().zip(biases) {
            words.extend(part_words(matrix, &formats, (0, 0, bias.unwrap_or(NONE))));
        }
        words.resize(20 + 3 * 8, 0);
        let bindings = [
            Binding::read(1, &gate.weights.buffer),
            Binding::read(2, &input.buffer),
            Binding::write(3, &out.buffer),
            Binding::read(4, &experts.vectors.buffer),
            Binding { at: 5, used: Use::Uniform, buffer: &self.io.counts },
            Binding::read(8, &experts.choices.buffer),
            Binding::read(9, &bank.buffer),
        ];
        let x = matrices[0].rows.div_ceil(PANEL_ROWS) as u32;
        let times = if up { experts.used as u32 } else { 1 };
        let grid = Grid::Rows { x, per: 1, times, count: Count::Pass };
        let work = (matrices[0].rows * k * experts.used * matrices.len()) as u64;
        let text = [PRODUCT, ACTIVATIONS, NUMBERS, &decoders, MATVEC];
        let name = format!("experts, {} {} x {k}", matrices[0].format, matrices[0].rows);
        self.step((&text, &names), &words, &bindings, (name, grid, None, work))
    }
}
