//! Rows as bytes, for products of few rows.

use crate::adapters::DeviceInfo;
use crate::error::Result;
use crate::memory::Floats;
use crate::plan::{Binding, Builder, Class, Count, Grid};
use crate::product::{Kind, Product};
use crate::shaders::{Codes, Names, QUANTISE, ROWS_TO_BYTES, has_codes};

/// In which form a product of few rows takes what it reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Row {
    /// Numbers, as weights in floating point need them.
    Numbers,
    /// Bytes that each workgroup makes for itself in shared memory.
    Made,
    /// Bytes that a step before has made.
    Read,
}

impl Row {
    /// The best form on a device, for workgroups of which all rows together have so many threads.
    pub(crate) fn of(product: &Product<'_>, device: &DeviceInfo, threads: usize) -> Self {
        if !product.parts.iter().all(|part| has_codes(part.matrix.format)) {
            return Self::Numbers;
        }
        let k = product.parts[0].matrix.k;
        let sums = if matches!(product.kind, Kind::Gated(_)) { 2 } else { 1 };
        let staged = product.norm.is_some() && !product.scales();
        // Codes, scales, sums, what is normalised.
        let bytes = k + k.div_ceil(32) * 16 + 16 * threads * sums + 8 * threads;
        let bytes = bytes + if staged { 4 * k.next_multiple_of(4) } else { 0 };
        match product.norm {
            _ if bytes <= device.shared_memory as usize => Self::Made,
            None => Self::Read,
            // It is applied to numbers in shared memory.
            Some(_) => Self::Numbers,
        }
    }

    /// The same for several rows, which share no workgroup's memory.
    pub(crate) fn read(self) -> Self {
        if self == Self::Numbers { self } else { Self::Read }
    }

    pub(crate) fn codes(self) -> Codes {
        if self == Self::Numbers { Codes::Numbers } else { Codes::Bytes }
    }
}

impl Builder<'_> {
    /// Adds a step that makes rows of `k` numbers bytes; gives those, four a word, and the scales of each
    /// 32.
    pub(crate) fn rows_to_bytes(
        &mut self,
        input: &Floats,
        k: usize,
        count: Count,
    ) -> Result<(Floats, Floats)> {
        let blocks = k.div_ceil(32);
        let codes = Floats::new(self.device, Class::FEW, 8 * blocks)?;
        let scales = Floats::new(self.device, Class::FEW, 4 * blocks)?;
        let words = [blocks as u32, (input.stride / 4) as u32, 0, 0];
        let bindings = [
            Binding::read(1, &input.buffer),
            Binding::write(2, &codes.buffer),
            Binding::write(3, &scales.buffer),
        ];
        let grid = Grid::Rows { x: blocks.div_ceil(64) as u32, per: 1, times: 1, count };
        let text = [QUANTISE, ROWS_TO_BYTES];
        self.step(
            (&text, &Names::default()),
            &words,
            &bindings,
            ("rows to bytes".to_owned(), grid, None, k as u64),
        )?;
        Ok((codes, scales))
    }
}
