//! Branches beside attention: what it reads as it is, and a low-rank path.

use goldcrest_kernels::PANEL_ROWS;

use super::Walk;
use super::needs::Rows;
use super::product::At;
use super::scratch::Lane;
use crate::model::weights::Loaded;
use crate::spec::LowRank;
use crate::threads::{Poisoned, Worker};

impl Walk<'_> {
    /// x += right(left(norm(x)))
    pub(super) fn low_rank(
        &self,
        w: &mut Worker<'_>,
        lane: &mut Lane,
        at: At<'_>,
        mixer: &LowRank<Loaded>,
    ) -> Result<(), Poisoned> {
        let matrix = &mixer.left;
        let made = self.b.floats(matrix.panels() * PANEL_ROWS, Rows::Pass);
        self.multiply_all(w, lane, &self.hidden(at.pre()), matrix, made)?;
        self.residual(w, lane, at, &self.made(made, matrix.rows), &mixer.right)
    }

    /// x += norm(x), in a block that gathers what its branches make.
    pub(super) fn identity(
        &self,
        w: &mut Worker<'_>,
        lane: &mut Lane,
        at: At<'_>,
    ) -> Result<(), Poisoned> {
        let (to, adds) = self.target(at);
        let grid = to.grid(w, 1, usize::MAX);
        w.each(self.rows, 1, grid, |claim, mut out| {
            let x = self.normalised(self.b.x.row(w, claim.start), at.pre(), &mut lane.row);
            if adds {
                self.graph.kernels.add(out.row(0), x);
            } else {
                out.row(0).copy_from_slice(x);
            }
        });
        self.end_branch(w, lane, at)
    }
}
