//! The keys and values of one session.

use goldcrest_kernels::{KvLayout, KvType};

use crate::config::Config;
use crate::error::{Result, input_error};
use crate::load::Buffer;
use crate::threads::Shared;

/// Keys and values of every layer and key/value head: `[layer][head][keys | values]`.
///
/// Positions from [`len`](Self::len) on hold what an abandoned pass left; nothing reads them. The
/// system gives the memory page by page as positions are first written.
pub(crate) struct Cache {
    buffer: Buffer,
    layout: KvLayout,
    len: usize,
}

impl Cache {
    /// Room for `context` positions.
    pub(crate) fn new(config: &Config, ty: KvType, context: usize) -> Result<Self> {
        let layout = KvLayout::new(ty, config.head_dim, context);
        let heads = config.n_layers * config.n_kv_heads;
        let bytes = (layout.k_bytes() + layout.v_bytes())
            .checked_mul(heads)
            .ok_or_else(|| input_error(format!("a context of {context} tokens is too long")))?;
        Ok(Self { buffer: Buffer::sparse(bytes)?, layout, len: 0 })
    }

    /// How a head's keys and values lie.
    pub(crate) fn layout(&self) -> KvLayout {
        self.layout
    }

    /// Positions in use.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Positions that there is room for.
    pub(crate) fn capacity(&self) -> usize {
        self.layout.positions()
    }

    /// A row for each layer's heads.
    pub(crate) fn shared(&mut self) -> Shared<'_, u8> {
        let stride = self.layout.k_bytes() + self.layout.v_bytes();
        Shared::new(self.buffer.as_mut_slice(), stride)
    }

    /// Counts `rows` positions that a pass has written.
    pub(crate) fn advance(&mut self, rows: usize) {
        self.len += rows;
        debug_assert!(self.len <= self.capacity());
    }

    /// Forgets all positions from `len` on.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}
