//! Dense feed-forward layers.

use goldcrest_kernels::PANEL_ROWS;

use super::Walk;
use super::needs::{Kinds, Rows};
use super::product::At;
use super::scratch::Lane;
use crate::model::weights::Loaded;
use crate::spec::{Dense, Linear, Up};
use crate::threads::{Poisoned, Worker};

impl Walk<'_> {
    /// x += down(act(gate(norm(x))) * up(norm(x))), or without the gate
    pub(super) fn dense(
        &self,
        w: &mut Worker<'_>,
        lane: &mut Lane,
        at: At<'_>,
        mixer: &Dense<Loaded>,
    ) -> Result<(), Poisoned> {
        let input = self.hidden(at.pre());
        let linears = mixer.up.linears();
        self.prepare(w, lane, &input, Kinds::of(linears.iter().map(|l| l.matrix.kind())))?;
        let made = self.b.floats(mixer.ffn.next_multiple_of(PANEL_ROWS), Rows::Pass);
        let grid = made.grid(w, self.rows, PANEL_ROWS);
        let kernels = self.graph.kernels;
        w.each(linears[0].matrix.panels(), self.grain(), grid, |claim, mut out| match &mixer.up {
            Up::Gated(pair) => {
                let mut tile = std::mem::take(&mut lane.tile);
                let matrices = pair.each_ref().map(|linear| &linear.matrix);
                let rows = matrices.map(|matrix| self.input_rows(w, lane, &input, matrix));
                self.multiply_pair(matrices, &claim, rows, self.rows, &mut tile);
                let width = claim.len() * 2 * PANEL_ROWS;
                for (row, products) in tile.chunks_exact_mut(width).take(self.rows).enumerate() {
                    self.add_biases(pair, claim.start, products);
                    kernels.gated(mixer.act, products, out.row(row));
                }
                lane.tile = tile;
            }
            Up::Plain(Linear { matrix, bias }) => {
                let first = claim.start * PANEL_ROWS;
                self.product(w, lane, &input, matrix, claim, |row, product| {
                    if let Some(bias) = bias {
                        kernels.add(product, &bias[first..][..product.len()]);
                    }
                    kernels.activate(mixer.act, product);
                    out.row(row)[..product.len()].copy_from_slice(product);
                });
            }
        });
        w.barrier()?;
        self.residual(w, lane, at, &self.made(made, mixer.ffn), &mixer.down)
    }

    /// Adds the biases of two matrices to products of their panels, which alternate, from panel
    /// `first` on.
    fn add_biases(&self, pair: &[Linear<Loaded>; 2], first: usize, products: &mut [f32]) {
        for (half, linear) in pair.iter().enumerate() {
            let Some(bias) = &linear.bias else { continue };
            let biases = bias[first * PANEL_ROWS..].chunks(PANEL_ROWS);
            let products = products.chunks_exact_mut(PANEL_ROWS).skip(half).step_by(2);
            for (products, bias) in products.zip(biases) {
                self.graph.kernels.add(&mut products[..bias.len()], bias);
            }
        }
    }
}
