//! Mixtures of experts: a router chooses, and only the chosen experts' weights are read.
//!
//! Each row's experts are summed in the order of their index. Rows are regrouped by expert: every
//! expert has its rows side by side, from a whole group of the kernels on.

mod routes;

use goldcrest_kernels::{Activation, Format, PANEL_ROWS, Place, Rows as Activations, Tile};

use super::Walk;
use super::needs::{Kinds, Rows, slot};
use super::product::At;
use super::product::form_grids;
use super::scratch::Lane;
use crate::model::weights::{Expert, Loaded, Matrix};
use crate::spec::{Experts, Gating};
use crate::threads::{Poisoned, Shared, Worker};
use routes::Active;
pub(super) use routes::{Choice, Routes};

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
        if mixer.router_norm.is_some() {
            let kinds = match self.rows {
                1 => self.graph.needs.kinds(self.graph.spec().hidden, Rows::Routed),
                _ => Activation::F32.into(),
            };
            self.prepare(w, lane, &self.hidden(at.pre()), kinds)?;
        }
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
        let input = self.hidden(mixer.router_norm.as_ref().or(at.pre()));
        let router = &mixer.router.matrix;
        let others = match self.rows {
            // Whichever experts are chosen, they read this one row.
            1 => self.graph.needs.kinds(input.k, Rows::Routed),
            _ => Activation::F32.into(),
        };
        let kinds = others.union(router.kind().into());
        self.prepare(w, lane, &input, kinds)?;
        let grid = self.b.scores.grid(w, self.rows, PANEL_ROWS);
        w.each(router.panels(), self.grain(), grid, |claim, mut out| {
            self.linear(w, lane, &input, &mixer.router, claim, |row, product| {
                if mixer.router_scale != 1.0 {
                    self.graph.kernels.scale(product, mixer.router_scale);
                }
                out.row(row)[..product.len()].copy_from_slice(product);
            });
        });
        w.barrier()?;
        if self.rows == 1 {
            // Each worker for itself: less than a barrier.
            let mut picked = std::mem::take(&mut lane.routes.picked);
            let choices = &mut picked[..mixer.used];
            let scores = &self.b.scores.row(w, 0)[..mixer.count];
            lane.routes.choose(self.graph.kernels, scores, mixer, choices);
            lane.routes.group(choices.iter(), mixer.used, mixer.count, 1);
            lane.routes.picked = picked;
            return Ok(());
        }
        let grid = self.b.choices.grid(w, 1, usize::MAX);
        w.each(self.rows, 1, grid, |claim, mut out| {
            let scores = &self.b.scores.row(w, claim.start)[..mixer.count];
            let out = &mut out.row(0)[..mixer.used];
            lane.routes.choose(self.graph.kernels, scores, mixer, out);
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
                let biases = [0, 1].map(|half| mixer.bias(half, active.expert));
                for (i, products) in tile.chunks_exact_mut(width).take(active.count).enumerate() {
                    self.add_biases(biases, claim.start, products);
                    let out = out.row(active.first + i);
                    match mixer.gating {
                        Gating::By(f) => self.graph.kernels.gated(f, products, out),
                        Gating::Clamped { limit } => {
                            self.graph.kernels.gated_clamped(limit, products, out);
                        }
                    }
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
                let bias = mixer.bias(2, active.expert);
                let bias = bias.map(|bias| &bias[claim.start * PANEL_ROWS..][..columns]);
                for (&(row, weight), product) in slots.iter().zip(lane.tile.chunks_mut(columns)) {
                    if let Some(bias) = bias {
                        self.graph.kernels.add(product, bias);
                    }
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

impl Experts<Loaded> {
    /// What is added to an expert's gate, up or down.
    fn bias(&self, which: usize, expert: usize) -> Option<&[f32]> {
        let all = &self.biases.as_ref()?[which];
        let len = all.len() / self.count;
        Some(&all[expert * len..][..len])
    }
}
