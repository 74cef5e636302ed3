//! Norms of rows, and sums of rows.

use crate::error::Result;
use crate::memory::Floats;
use crate::plan::{Binding, Builder, Count, Grid};
use crate::product::NONE;
use crate::shaders::{NORM, Names};

/// `x / sqrt(mean(x^2) + eps) * weight`, or of x - mean(x); + bias.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Norm {
    /// Where the weights begin among the vectors.
    pub weight: u32,
    /// And what is added.
    pub bias: Option<u32>,
    /// Epsilon.
    pub eps: f32,
    /// Whether the mean is subtracted first.
    pub centred: bool,
}

/// `to = (keep * to + mix * norm(from)) * scale`, `k` numbers of each row.
#[derive(Debug, Clone, Copy)]
pub struct NormStep<'a> {
    /// Numbers of a row.
    pub k: usize,
    /// What is normalised, from a column on; `None` for `to` itself.
    pub from: Option<&'a Floats>,
    /// Whether only the rows are taken whose logits are wanted.
    pub picked: bool,
    /// Where it goes, from a column on.
    pub to: (&'a Floats, usize),
    /// `None`: as it is.
    pub norm: Option<Norm>,
    /// On what is there.
    pub keep: f32,
    /// On what is added.
    pub mix: f32,
    /// On the sum.
    pub scale: f32,
    /// Weights and biases.
    pub vectors: &'a Floats,
}

impl Builder<'_> {
    /// Adds a norm of every row.
    ///
    /// # Errors
    /// What the driver says against it.
    pub fn norm(&mut self, step: &NormStep<'_>) -> Result<()> {
        let (to, column) = step.to;
        let norm = step.norm.unwrap_or(Norm { weight: NONE, ..Norm::default() });
        let (stride, at) = step.from.map_or((to.stride, column), |from| (from.stride, 0));
        let words = [
            step.k as u32,
            at as u32,
            stride as u32,
            column as u32,
            to.stride as u32,
            norm.weight,
            norm.bias.unwrap_or(NONE),
            norm.eps.to_bits(),
            step.keep.to_bits(),
            step.mix.to_bits(),
            step.scale.to_bits(),
            norm.centred.into(),
        ];
        let names = Names::default().flag("OTHER", step.from.is_some()).flag("PICK", step.picked);
        let mut bindings =
            vec![Binding::write(1, &to.buffer), Binding::read(2, &step.vectors.buffer)];
        if let Some(from) = step.from {
            bindings.push(Binding::read(3, &from.buffer));
        }
        if step.picked {
            bindings.push(Binding::read(4, &self.io.wanted));
        }
        let count = if step.picked { Count::Wanted } else { Count::Pass };
        let grid = Grid::RowsAlongX { count };
        self.step(
            (&[NORM], &names),
            &words,
            &bindings,
            ("norm".to_owned(), grid, None, step.k as u64),
        )
    }
}
