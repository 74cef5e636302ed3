//! What each layer gets of a token beside the residual stream.

use goldcrest_kernels::PANEL_ROWS;

use super::Walk;
use super::needs::Rows;
use super::product::At;
use super::scratch::Lane;
use crate::model::weights::Loaded;
use crate::spec::{LayerInput, LayerInputs};
use crate::threads::{Poisoned, Worker};

impl Walk<'_> {
    /// The inputs of all layers, from the embeddings.
    pub(super) fn layer_inputs(
        &self,
        w: &mut Worker<'_>,
        lane: &mut Lane,
        inputs: &LayerInputs<Loaded>,
    ) -> Result<(), Poisoned> {
        let input = self.hidden(None);
        self.multiply_all(w, lane, &input, &inputs.projection, &self.b.layer_inputs)?;
        let grid = self.b.layer_inputs.grid(w, 1, usize::MAX);
        w.each(self.rows, 1, grid, |claim, mut out| {
            self.finish_inputs(inputs, self.b.tokens[claim.start].0, &mut lane.row, out.row(0));
        });
        w.barrier()
    }

    /// Makes a token's inputs of their projections.
    fn finish_inputs(
        &self,
        inputs: &LayerInputs<Loaded>,
        token: u32,
        room: &mut [f32],
        out: &mut [f32],
    ) {
        let kernels = self.graph.kernels;
        let room = &mut room[..out.len()];
        kernels.scale(out, 1.0 / (self.graph.spec().hidden as f32).sqrt());
        room.copy_from_slice(out);
        self.normalise(&inputs.norm, inputs.width, room, out);
        let token = token as usize;
        let row = if token < inputs.vocab { token } else { 0 };
        self.graph.weights.look_up(inputs.table, row, room);
        kernels.add_scaled(out, room, (inputs.width as f32).sqrt());
        kernels.scale(out, std::f32::consts::FRAC_1_SQRT_2);
    }

    /// x += post(projection(act(gate(x)) * the layer's input))
    pub(super) fn layer_input(
        &self,
        w: &mut Worker<'_>,
        lane: &mut Lane,
        at: At<'_>,
        mixer: &LayerInput<Loaded>,
    ) -> Result<(), Poisoned> {
        let (input, kernels) = (self.hidden(at.pre()), self.graph.kernels);
        let (gate, width) = (&mixer.gate, mixer.gate.rows);
        self.prepare(w, lane, &input, gate.kind().into())?;
        let made = self.b.floats(width.next_multiple_of(PANEL_ROWS), Rows::Pass);
        let grid = made.grid(w, self.rows, PANEL_ROWS);
        w.each(gate.panels(), self.grain(), grid, |claim, mut out| {
            let first = mixer.layer * width + claim.start * PANEL_ROWS;
            self.product(w, lane, &input, gate, claim, |row, product| {
                kernels.activate(mixer.act, product);
                let inputs = &self.b.layer_inputs.row(w, row)[first..][..product.len()];
                kernels.multiply(product, inputs);
                out.row(row)[..product.len()].copy_from_slice(product);
            });
        });
        w.barrier()?;
        self.residual(w, lane, at, &self.made(made, width), &mixer.projection)
    }
}
