//! Mixtures of experts: a router chooses, and only the chosen experts' weights are read.
//!
//! Each row's experts are summed in the order of their index. Rows are regrouped by expert: every
//! expert has its rows side by side, from a whole group of the kernels on.

use std::ops::Range;

use goldcrest_kernels::{
    Activation, Format, Kernels, PANEL_ROWS, Place, Rows as Activations, Tile,
};

use super::Walk;
use super::needs::{Kinds, Routing, Rows, slot};
use super::product::At;
use super::product::form_grids;
use super::scratch::Lane;
use crate::model::weights::{Expert, Loaded, Matrix};
use crate::spec::Experts;
use crate::threads::{Poisoned, Shared, Worker};

/// An expert that a row goes through, and the weight of what it makes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Choice {
    expert: u32,
    weight: f32,
}

/// In the place of a probability: below all of them.
const TAKEN: f32 = -1.0;

/// Which experts are at work, and on which rows: every worker's own copy.
#[derive(Default)]
pub(super) struct Routes {
    /// `[count]`: probabilities on the way to choices, and cursors on the way to rows.
    probabilities: Vec<f32>,
    cursors: Vec<usize>,
    /// A single row's experts.
    picked: Vec<Choice>,
    /// In the order of their index.
    active: Vec<Active>,
    /// `[slots]`: the row of the pass, and its weight.
    rows: Vec<(usize, f32)>,
    /// A single row's activations for each expert's last matrix, in the form that it reads.
    forms: Vec<u8>,
}

/// An expert at work on the rows in some slots.
#[derive(Debug, Clone, Copy)]
struct Active {
    expert: usize,
    first: usize,
    count: usize,
}

impl Routes {
    pub(super) fn grow(&mut self, routing: &Routing, rows: usize, group: usize) {
        self.probabilities.resize(routing.count, 0.0);
        self.cursors.resize(routing.count, 0);
        let at_work = routing.count.min(rows * routing.used);
        self.active.reserve(at_work.saturating_sub(self.active.len()));
        self.rows.resize(routing.slots(rows, group), (0, 0.0));
        self.picked.resize(routing.used, Choice::default());
        self.forms.resize(routing.used * routing.form_bytes, 0);
    }

    /// The likeliest `out.len()` of the experts whose scores are given, in the order of their index.
    fn choose(&mut self, kernels: &Kernels, scores: &[f32], renormalise: bool, out: &mut [Choice]) {
        let probabilities = &mut self.probabilities[..scores.len()];
        probabilities.copy_from_slice(scores);
        kernels.softmax(probabilities);
        for choice in out.iter_mut() {
            // The first of equals; each once, whatever the scores are: NaN is not TAKEN.
            let free = (0..probabilities.len()).filter(|&i| probabilities[i] != TAKEN);
            let best = free.reduce(|a, b| if probabilities[b] > probabilities[a] { b } else { a });
            let best = best.expect("no more experts are used than there are");
            *choice = Choice { expert: best as u32, weight: probabilities[best] };
            probabilities[best] = TAKEN;
        }
        out.sort_unstable_by_key(|choice| choice.expert);
        if renormalise {
            let sum: f32 = out.iter().map(|choice| choice.weight).sum();
            out.iter_mut().for_each(|choice| choice.weight /= sum);
        }
    }

    /// Gives every expert its rows. `choices` are `[rows, used]`.
    fn group<'c>(
        &mut self,
        choices: impl Iterator<Item = &'c Choice> + Clone,
        used: usize,
        count: usize,
        group: usize,
    ) {
        self.active.clear();
        let cursors = &mut self.cursors[..count];
        cursors.fill(0);
        for choice in choices.clone() {
            cursors[choice.expert as usize] += 1;
        }
        let mut first = 0;
        for (expert, cursor) in cursors.iter_mut().enumerate() {
            let count = std::mem::replace(cursor, first);
            if count > 0 {
                self.active.push(Active { expert, first, count });
                first = (first + count).next_multiple_of(group);
            }
        }
        for (i, choice) in choices.enumerate() {
            let cursor = &mut cursors[choice.expert as usize];
            self.rows[*cursor] = (i / used, choice.weight);
            *cursor += 1;
        }
    }

    /// Slots in use, whole groups.
    fn slots(&self, group: usize) -> usize {
        let last = self.active.last();
        last.map_or(0, |active| (active.first + active.count).next_multiple_of(group))
    }

    /// The slots of group `index` that have rows.
    fn slots_of(&self, index: usize, group: usize) -> Range<usize> {
        let first = index * group;
        let at = self.active.partition_point(|active| active.first + active.count <= first);
        let end = self.active.get(at).map_or(first, |active| active.first + active.count);
        first..end.min(first + group)
    }
}

impl Walk<'_> {
    /// x += sum over the chosen experts of weight * down(act(gate(norm(x))) * up(norm(x)))
    pub(super) fn experts(
        &self,
        w: &mut Worker<'_>,
        lane: &mut Lane,
        at: At<'_>,
        mixer: &Experts<Loaded>,
    ) -> Result<(), Poisoned> {
        self.route(w, lane, at, mixer)?;
        let mut routes = std::mem::take(&mut lane.routes);
        let done = self.routed(w, lane, at, mixer, &mut routes);
        lane.routes = routes;
        done
    }

    /// The router's scores of every row, and from them its experts.
    fn route(
        &self,
        w: &mut Worker<'_>,
        lane: &mut Lane,
        at: At<'_>,
        mixer: &Experts<Loaded>,
    ) -> Result<(), Poisoned> {
        let input = self.hidden(at.pre());
        let router = &mixer.router;
        let others = match self.rows {
            // Whichever experts are chosen, they read this one row.
            1 => self.graph.needs.kinds(input.k, Rows::Routed),
            _ => Activation::F32.into(),
        };
        let kinds = others.union(router.kind().into());
        self.prepare(w, lane, &input, kinds)?;
        let grid = self.b.scores.grid(w, self.rows, PANEL_ROWS);
        w.each(router.panels(), self.grain(), grid, |claim, mut out| {
            self.product(w, lane, &input, router, claim, |row, product| {
                out.row(row)[..product.len()].copy_from_slice(product);
            });
        });
        w.barrier()?;
        if self.rows == 1 {
            // Each worker for itself: less than a barrier.
            let mut picked = std::mem::take(&mut lane.routes.picked);
            let choices = &mut picked[..mixer.used];
            let scores = &self.b.scores.row(w, 0)[..mixer.count];
            lane.routes.choose(self.graph.kernels, scores, mixer.renormalise, choices);
            lane.routes.group(choices.iter(), mixer.used, mixer.count, 1);
            lane.routes.picked = picked;
            return Ok(());
        }
        let grid = self.b.choices.grid(w, 1, usize::MAX);
        w.each(self.rows, 1, grid, |claim, mut out| {
            let scores = &self.b.scores.row(w, claim.start)[..mixer.count];
            let out = &mut out.row(0)[..mixer.used];
            lane.routes.choose(self.graph.kernels, scores, mixer.renormalise, out);
        });
        w.barrier()?;
        let choices = self.b.choices.read(w);
        let choices = choices.chunks(self.b.choices.stride()).take(self.rows);
        let choices = choices.flat_map(|row| &row[..mixer.used]);
        lane.routes.group(choices, mixer.used, mixer.count, self.graph.kernels.group());
        Ok(())
    }

    fn routed(
        &self,
        w: &mut Worker<'_>,
        lane: &mut Lane,
        at: At<'_>,
        mixer: &Experts<Loaded>,
        routes: &mut Routes,
    ) -> Result<(), Poisoned> {
        let hidden = self.graph.spec().hidden;
        let bank = |active: &Active| &mixer.bank[active.expert];
        let kinds = routes.active.iter().flat_map(|active| &bank(active).gate_up);
        let kinds = Kinds::of(kinds.map(Matrix::kind));
        let forms = self.b.forms(hidden, Rows::Routed);
        let floats = self.b.forms(hidden, Rows::Pass);
        if self.rows > 1 {
            // The rows as the router has them, normalised, each in a slot of its experts.
            let bytes = Activation::F32.row_bytes(hidden);
            let normalised = &floats[slot(Activation::F32)];
            let read = |w: &Worker<'_>, slot: usize, row: &mut [f32]| {
                let from = &normalised.read(w)[routes.rows[slot].0 * bytes..][..hidden * 4];
                Format::F32.dequantize(from, row);
            };
            self.quantize_slots(w, lane, routes, kinds, (forms, hidden), read)?;
        }
        let made = self.b.floats(mixer.ffn.next_multiple_of(PANEL_ROWS), Rows::Routed);
        self.gate_up(w, lane, mixer, routes, forms, made)?;

        let kinds = Kinds::of(routes.active.iter().map(|active| bank(active).down.kind()));
        let forms = self.b.forms(mixer.ffn, Rows::Routed);
        if self.rows > 1 {
            let read = |w: &Worker<'_>, slot: usize, row: &mut [f32]| {
                row.copy_from_slice(&made.row(w, slot)[..mixer.ffn]);
            };
            self.quantize_slots(w, lane, routes, kinds, (forms, mixer.ffn), read)?;
        } else {
            self.quantize_alone(w, routes, mixer, made);
        }
        self.down(w, lane, at, mixer, routes, forms)
    }

    /// Quantises the row of every slot, group by group, up to the barrier.
    fn quantize_slots(
        &self,
        w: &mut Worker<'_>,
        lane: &mut Lane,
        routes: &Routes,
        kinds: Kinds,
        (forms, k): (&[Shared<'_, u8>; 3], usize),
        read: impl Fn(&Worker<'_>, usize, &mut [f32]),
    ) -> Result<(), Poisoned> {
        let group = self.graph.kernels.group();
        let parts = form_grids(w, forms, kinds, group);
        w.each(routes.slots(group) / group, 1, parts, |claim, mut blocks| {
            let slots = routes.slots_of(claim.start, group);
            for (at, slot) in slots.clone().enumerate() {
                let row = &mut lane.row[..k];
                read(w, slot, row);
                self.quantize(row, &mut blocks, Place { rows: slots.len(), row: at });
            }
        });
        w.barrier()
    }

    /// A single row's activations for the last matrices, each worker for itself.
    fn quantize_alone(
        &self,
        w: &Worker<'_>,
        routes: &mut Routes,
        mixer: &Experts<Loaded>,
        made: &Shared<'_, f32>,
    ) {
        let bytes = routes.forms.len() / routes.active.len().max(1);
        let forms = routes.forms.chunks_exact_mut(bytes.max(1));
        for (active, out) in routes.active.iter().zip(forms) {
            let kind = mixer.bank[active.expert].down.kind();
            let x = &made.row(w, active.first)[..mixer.ffn];
            let out = &mut out[..kind.row_bytes(mixer.ffn)];
            self.graph.kernels.quantize_row(kind, x, out, Place::ALONE);
        }
    }

    /// Of every slot: act(gate(x)) * up(x), up to the barrier.
    fn gate_up(
        &self,
        w: &mut Worker<'_>,
        lane: &mut Lane,
        mixer: &Experts<Loaded>,
        routes: &Routes,
        forms: &[Shared<'_, u8>; 3],
        made: &Shared<'_, f32>,
    ) -> Result<(), Poisoned> {
        let hidden = self.graph.spec().hidden;
        let slots = if self.rows == 1 { routes.active.len() } else { made.rows() };
        let grid = made.grid(w, slots, PANEL_ROWS);
        let panels = mixer.ffn.div_ceil(PANEL_ROWS);
        w.each(panels, self.grain(), grid, |claim, mut out| {
            let mut tile = std::mem::take(&mut lane.tile);
            let width = claim.len() * 2 * PANEL_ROWS;
            for active in &routes.active {
                let Expert { gate_up, .. } = &mixer.bank[active.expert];
                let rows = gate_up.each_ref().map(|matrix| {
                    let kind = matrix.kind();
                    let alone = (self.rows == 1).then(|| lane.form(kind));
                    self.slot_rows(w, active, forms, alone, kind, hidden)
                });
                self.multiply_pair(gate_up.each_ref(), &claim, rows, active.count, &mut tile);
                for (i, products) in tile.chunks_exact(width).take(active.count).enumerate() {
                    self.graph.kernels.gated(mixer.act, products, out.row(active.first + i));
                }
            }
            lane.tile = tile;
        });
        w.barrier()
    }

    /// Ends the block: every row's experts, weighted, in the order of their index.
    fn down(
        &self,
        w: &mut Worker<'_>,
        lane: &mut Lane,
        at: At<'_>,
        mixer: &Experts<Loaded>,
        routes: &Routes,
        forms: &[Shared<'_, u8>; 3],
    ) -> Result<(), Poisoned> {
        let spec = self.graph.spec();
        let bytes = routes.forms.len() / routes.active.len().max(1);
        let (to, adds) = self.target(at);
        let grid = to.grid(w, self.rows, PANEL_ROWS);
        let panels = spec.hidden.div_ceil(PANEL_ROWS);
        w.each(panels, self.grain(), grid, |claim, mut out| {
            let columns = out.cols();
            if !adds {
                (0..self.rows).for_each(|row| out.row(row).fill(0.0));
            }
            for (i, active) in routes.active.iter().enumerate() {
                let matrix = &mixer.bank[active.expert].down;
                let kind = matrix.kind();
                let alone = (self.rows == 1).then(|| &routes.forms[i * bytes..]);
                let rows = self.slot_rows(w, active, forms, alone, kind, mixer.ffn);
                let tile = Tile::new(&mut lane.tile, columns, active.count, columns);
                self.multiply(matrix, claim.clone(), rows, tile);
                let slots = &routes.rows[active.first..][..active.count];
                for (&(row, weight), product) in slots.iter().zip(lane.tile.chunks(columns)) {
                    self.graph.kernels.add_scaled(out.row(row), product, weight * at.factor());
                }
            }
        });
        self.end_branch(w, lane, at)
    }

    /// The rows of an expert in the form `kind`, `k` values wide; `alone` has those of a single row.
    fn slot_rows<'s>(
        &self,
        w: &'s Worker<'_>,
        active: &Active,
        forms: &'s [Shared<'_, u8>; 3],
        alone: Option<&'s [u8]>,
        kind: Activation,
        k: usize,
    ) -> Activations<'s> {
        let bytes = kind.row_bytes(k);
        let group = self.graph.kernels.group();
        if let Some(row) = alone {
            return Activations::new(kind, k, &row[..bytes], 1, group);
        }
        let data = &forms[slot(kind)].read(w)[active.first * bytes..][..active.count * bytes];
        Activations::new(kind, k, data, active.count, group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(scores: &[f32], used: usize, renormalise: bool) -> Vec<(u32, f32)> {
        let mut routes = Routes::default();
        let routing = Routing { count: scores.len(), used, form_bytes: 0 };
        routes.grow(&routing, 1, 1);
        let mut out = vec![Choice::default(); used];
        routes.choose(Kernels::best(), scores, renormalise, &mut out);
        out.iter().map(|choice| (choice.expert, choice.weight)).collect()
    }

    #[test]
    fn the_likeliest_in_the_order_of_their_index() {
        let of = |scores: &[f32]| -> Vec<u32> {
            chosen(scores, 2, true).iter().map(|(expert, _)| *expert).collect()
        };
        assert_eq!(of(&[0.0, 3.0, 1.0, 4.0]), [1, 3]);
        assert_eq!(of(&[2.0, 2.0, 2.0]), [0, 1], "the first of equals");
        let weights = |renormalise| -> f32 {
            chosen(&[1.0, 2.0, 3.0], 2, renormalise).iter().map(|(_, weight)| weight).sum()
        };
        assert!((weights(true) - 1.0).abs() < 1e-6 && weights(false) < 0.95);
    }

    /// A hostile file's: every expert is chosen once all the same.
    #[test]
    fn scores_that_are_no_numbers() {
        for scores in [[f32::NAN; 5], [f32::INFINITY; 5], [0.0, f32::NAN, 1.0, f32::INFINITY, 2.0]]
        {
            let experts: Vec<u32> = chosen(&scores, 3, true).iter().map(|c| c.0).collect();
            assert_eq!(experts.len(), 3);
            assert!(experts.windows(2).all(|pair| pair[0] < pair[1]), "{experts:?}");
        }
    }
}
