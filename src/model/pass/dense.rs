//! Dense feed-forward layers.

use goldcrest_kernels::PANEL_ROWS;

use super::Walk;
use super::needs::{Kinds, Rows};
use super::product::Input;
use super::scratch::Lane;
use crate::model::weights::Loaded;
use crate::spec::{Block, Dense};
use crate::threads::{Poisoned, Worker};

impl Walk<'_> {
    /// x += down(act(gate(norm(x))) * up(norm(x)))
    pub(super) fn dense(
        &self,
        w: &mut Worker<'_>,
        lane: &mut Lane,
        block: &Block<Loaded>,
        mixer: &Dense<Loaded>,
    ) -> Result<(), Poisoned> {
        let [gate, up] = &mixer.gate_up;
        let input = Input { turned: gate.turned, ..self.hidden(&block.pre) };
        self.prepare(w, lane, &input, Kinds::of([gate.kind(), up.kind()]))?;
        let made = self.b.floats(mixer.ffn.next_multiple_of(PANEL_ROWS), Rows::Pass);
        let grid = made.grid(w, self.rows, PANEL_ROWS);
        w.each(gate.panels(), self.grain(), grid, |claim, mut out| {
            let mut tile = std::mem::take(&mut lane.tile);
            let rows = [gate, up].map(|matrix| self.input_rows(w, lane, &input, matrix));
            self.multiply_pair(&mixer.gate_up, &claim, rows, self.rows, &mut tile);
            let width = claim.len() * 2 * PANEL_ROWS;
            for (row, products) in tile.chunks_exact(width).take(self.rows).enumerate() {
                self.graph.kernels.gated(mixer.act, products, out.row(row));
            }
            lane.tile = tile;
        });
        w.barrier()?;
        self.residual(w, lane, block, &self.made(made, mixer.ffn), &mixer.down)
    }
}
