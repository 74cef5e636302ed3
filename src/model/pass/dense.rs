//! Dense feed-forward layers.

use goldcrest_kernels::{Nonlinearity, PANEL_ROWS};

use super::Walk;
use super::needs::{Kinds, Rows, side_by_side};
use super::product::{At, Input};
use super::scratch::Lane;
use crate::model::weights::{Loaded, Matrix};
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
        if let Up::Sparse(linears, deviations) = &mixer.up {
            return self.sparse(w, lane, at, mixer, (linears, *deviations));
        }
        let linears = mixer.up.linears();
        let turned = linears[0].matrix.turned;
        let input = Input { turned, ..self.hidden(at.pre()) };
        let matrices = linears.iter().map(|linear| &linear.matrix).chain(&mixer.gate);
        self.prepare(w, lane, &input, Kinds::of(matrices.map(Matrix::kind)))?;
        let made = self.b.floats(mixer.width(), Rows::Pass);
        let grid = made.grid(w, self.rows, PANEL_ROWS);
        let kernels = self.graph.kernels;
        let panels = linears[0].matrix.panels();
        w.each(mixer.width() / PANEL_ROWS, self.grain(), grid, |claim, mut out| {
            if let Some(gate) = mixer.gate.as_ref().filter(|_| claim.end > panels) {
                let at = (panels - claim.start) * PANEL_ROWS;
                self.product(w, lane, &input, gate, 0..1, |row, product| {
                    kernels.activate(Nonlinearity::Sigmoid, product);
                    out.row(row)[at] = product[0];
                });
            }
            let claim = claim.start..claim.end.min(panels);
            if claim.is_empty() {
                return;
            }
            match &mixer.up {
                Up::Sparse(..) => {}
                Up::Gated(pair) => {
                    let mut tile = std::mem::take(&mut lane.tile);
                    let matrices = pair.each_ref().map(|linear| &linear.matrix);
                    let rows = matrices.map(|matrix| self.input_rows(w, lane, &input, matrix));
                    self.multiply_pair(matrices, &claim, rows, self.rows, &mut tile);
                    let width = claim.len() * 2 * PANEL_ROWS;
                    let biases = pair.each_ref().map(|linear| linear.bias.as_deref());
                    for (row, products) in tile.chunks_exact_mut(width).take(self.rows).enumerate()
                    {
                        self.add_biases(biases, claim.start, products);
                        let out = &mut out.row(row)[..claim.len() * PANEL_ROWS];
                        kernels.gated(mixer.act, products, out);
                    }
                    lane.tile = tile;
                }
                Up::Plain(linear) => {
                    self.linear(w, lane, &input, linear, claim, |row, product| {
                        kernels.activate(mixer.act, product);
                        out.row(row)[..product.len()].copy_from_slice(product);
                    });
                }
            }
        });
        w.barrier()?;
        let gate = mixer.gate.as_ref().map(|_| panels * PANEL_ROWS);
        let norm = mixer.down_norm.as_ref();
        let input = Input { gate, norm, ..self.made(made, mixer.ffn) };
        self.residual(w, lane, at, &input, &mixer.down)
    }

    /// The same of gates of which few count, which a whole row of them says.
    fn sparse(
        &self,
        w: &mut Worker<'_>,
        lane: &mut Lane,
        at: At<'_>,
        mixer: &Dense<Loaded>,
        (linears, deviations): (&[Linear<Loaded>; 2], f32),
    ) -> Result<(), Poisoned> {
        let kernels = self.graph.kernels;
        let both = self.b.floats(side_by_side(linears), Rows::Pass);
        self.side_by_side(w, lane, &self.hidden(at.pre()), linears.iter(), both)?;
        let made = self.b.floats(mixer.width(), Rows::Pass);
        let grid = made.grid(w, 1, usize::MAX);
        w.each(self.rows, 1, grid, |claim, mut made| {
            let (gates, up) = both.row(w, claim.start).split_at(both.stride() / 2);
            let made = &mut made.row(0)[..mixer.ffn];
            made.copy_from_slice(&gates[..mixer.ffn]);
            kernels.gaussian_top_k(made, deviations);
            kernels.activate(mixer.act, made);
            kernels.multiply(made, &up[..mixer.ffn]);
        });
        w.barrier()?;
        let norm = mixer.down_norm.as_ref();
        let input = Input { norm, ..self.made(made, mixer.ffn) };
        self.residual(w, lane, at, &input, &mixer.down)
    }

    /// Adds the biases of two matrices to products of their panels, which alternate, from panel
    /// `first` on.
    pub(super) fn add_biases(
        &self,
        biases: [Option<&[f32]>; 2],
        first: usize,
        products: &mut [f32],
    ) {
        for (half, bias) in biases.into_iter().enumerate() {
            let Some(bias) = bias else { continue };
            let biases = bias[first * PANEL_ROWS..].chunks(PANEL_ROWS);
            let products = products.chunks_exact_mut(PANEL_ROWS).skip(half).step_by(2);
            for (products, bias) in products.zip(biases) {
                self.graph.kernels.add(&mut products[..bias.len()], bias);
            }
        }
    }
}

impl Dense<Loaded> {
    /// Of a row of products: whole panels, and one more where the layer has a gate, whose sigmoid
    /// is its first number.
    pub(super) fn width(&self) -> usize {
        self.ffn.next_multiple_of(PANEL_ROWS) + self.gate.as_ref().map_or(0, |_| PANEL_ROWS)
    }
}
