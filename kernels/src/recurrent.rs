//! Mixers that keep a state of fixed size: the gated delta rule, the scan of a state space, the
//! short convolution, and the norms beside them.
//!
//! A matrix of state is kept in strips of sixteen columns, `[strips][depth][16]`, which no other
//! column touches: a strip stays in the first-level cache while all tokens of a piece pass by. A
//! token does the same to it, in the same order and with the same roundings, however many pass in
//! one call; nothing is fused. So bits depend neither on how a text is cut nor on the machine.

mod conv;
mod delta;
mod norms;
mod scan;

use crate::extent::holds;
use crate::simd::LANES;

pub(crate) use conv::short_conv;
pub use delta::Delta;
pub(crate) use delta::delta_rule;
pub use norms::GateOrder;
pub(crate) use norms::{gated_norm, l2_norm, time_steps};
pub use scan::Scan;
pub(crate) use scan::scan;

/// Rows of a matrix, one a token.
#[derive(Debug, Clone, Copy)]
pub struct TokenRows<'a> {
    data: &'a [f32],
    stride: usize,
}

impl<'a> TokenRows<'a> {
    /// Rows that begin `stride` elements apart in `data`, the first at its start.
    pub const fn new(data: &'a [f32], stride: usize) -> Self {
        Self { data, stride }
    }

    #[inline(always)]
    #[track_caller]
    fn check(&self, tokens: usize, width: usize) {
        let Self { data, stride } = *self;
        let fits = holds(data.len(), tokens, stride, width);
        assert!(fits, "{} elements, not {tokens} rows of {width} every {stride}", data.len());
    }

    /// Where a row begins.
    #[inline(always)]
    fn at(&self, token: usize) -> *const f32 {
        self.data.as_ptr().wrapping_add(token * self.stride)
    }
}

/// Elements of a matrix of state, `depth` rows of `columns`, as [`Delta`] and [`Scan`] keep it:
/// `None` if `usize` cannot say.
#[inline(always)]
pub const fn state_len(depth: usize, columns: usize) -> Option<usize> {
    match columns.checked_next_multiple_of(LANES) {
        Some(columns) => columns.checked_mul(depth),
        None => None,
    }
}

#[inline(always)]
#[track_caller]
fn check_state(len: usize, depth: usize, columns: usize) {
    let fits = state_len(depth, columns) == Some(len);
    assert!(fits, "a state of {len} elements, not {depth} rows of {columns}");
}
