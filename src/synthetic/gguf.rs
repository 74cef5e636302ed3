//! Writing GGUF files, version 3.

use std::io::{self, Write};

use crate::load::{GgmlType, Metadata, put_string, put_value};

const ALIGNMENT: u64 = 32;
const VERSION: u32 = 3;

/// A tensor to be written.
pub(super) struct Entry {
    pub(super) name: String,
    /// Outermost dimension first.
    pub(super) shape: Vec<usize>,
    pub(super) ty: GgmlType,
    pub(super) bytes: u64,
}

/// Writes everything before the tensors' data; the data follow in the same order, each tensor
/// followed by [`padding`].
pub(super) fn write_header(
    out: &mut impl Write,
    metadata: &Metadata,
    entries: &[Entry],
) -> io::Result<()> {
    let mut head = b"GGUF".to_vec();
    head.extend(VERSION.to_le_bytes());
    head.extend((entries.len() as u64).to_le_bytes());
    head.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata.iter() {
        put_string(&mut head, key);
        put_value(&mut head, value);
    }
    let mut offset = 0;
    for Entry { name, shape, ty, bytes } in entries {
        put_string(&mut head, name);
        head.extend((shape.len() as u32).to_le_bytes());
        for &dim in shape.iter().rev() {
            head.extend((dim as u64).to_le_bytes());
        }
        head.extend(ty.id().to_le_bytes());
        head.extend(u64::to_le_bytes(offset));
        offset = (offset + bytes).next_multiple_of(ALIGNMENT);
    }
    head.resize(head.len().next_multiple_of(ALIGNMENT as usize), 0);
    out.write_all(&head)
}

/// The zeros after a tensor of `bytes`.
pub(super) fn padding(bytes: u64) -> &'static [u8] {
    let zeros = &[0; ALIGNMENT as usize];
    &zeros[..(bytes.next_multiple_of(ALIGNMENT) - bytes) as usize]
}
