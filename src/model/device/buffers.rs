//! What the plans of a span work in.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use goldcrest_gpu::{Device, Floats, ROWS, Result};

/// Buffers by what they are for and their width.
pub(super) struct Buffers<'d> {
    device: &'d Device,
    known: Mutex<HashMap<(&'static str, usize), Floats>>,
}

impl<'d> Buffers<'d> {
    pub(super) fn new(device: &'d Device) -> Self {
        Self { device, known: Mutex::default() }
    }

    /// A row of `width` for each row of a pass.
    pub(super) fn rows(&self, of: &'static str, width: usize) -> Result<Floats> {
        self.get(of, ROWS, width)
    }

    /// So many rows, which a name stands for.
    pub(super) fn get(&self, of: &'static str, rows: usize, width: usize) -> Result<Floats> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = known.get(&(of, rows * width)) {
            return Ok(there.clone());
        }
        let made = Floats::new(self.device, rows, width)?;
        known.insert((of, rows * width), made.clone());
        Ok(made)
    }
}
