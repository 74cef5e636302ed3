//! Spans: consecutive blocks of a model that one device runs.

use std::ops::Range;

/// Who runs some blocks.
pub(crate) enum Span {
    /// All workers of the team.
    Cpu(Range<usize>),
    /// A GPU; the last span may have the output, too.
    #[cfg(feature = "gpu")]
    Gpu(Box<crate::model::device::Body>),
}

impl Span {
    /// Whether the logits are made with it.
    pub(super) fn has_head(&self) -> bool {
        match self {
            Self::Cpu(_) => false,
            #[cfg(feature = "gpu")]
            Self::Gpu(body) => body.has_head(),
        }
    }
}

/// What a pass knows of the rotations, and how wide a row of their angles is.
#[cfg(feature = "gpu")]
pub(crate) struct Angles<'a> {
    pub(super) rotations: &'a [super::Rotation],
    pub(crate) width: usize,
}

#[cfg(feature = "gpu")]
impl Angles<'_> {
    /// Pairs that a rotation turns, where its angles begin in a row, and what a pair is.
    pub(crate) fn of(&self, index: usize) -> (usize, usize, goldcrest_kernels::RopeStyle) {
        let before = self.rotations[..index].iter().map(|rotation| 2 * rotation.pairs()).sum();
        (self.rotations[index].pairs(), before, self.rotations[index].style)
    }
}
