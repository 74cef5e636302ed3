//! Writing GGUF files, version 3.

use std::io::{self, Write};

use super::{GgmlType, Metadata, put_string, put_value};

const ALIGNMENT: u64 = 32;
const VERSION: u32 = 3;

/// A tensor to be written to a GGUF file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufEntry {
    /// The name.
    pub name: String,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// The type.
    pub ty: GgmlType,
    /// Bytes of the data.
    pub bytes: u64,
}

/// Writes everything of a GGUF file before the tensors' data; the data follow in the same order,
/// each tensor followed by [`gguf_padding`].
///
/// # Errors
/// Those of `out`.
pub fn write_gguf_header(
    out: &mut impl Write,
    metadata: &Metadata,
    entries: &[GgufEntry],
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
    for GgufEntry { name, shape, ty, bytes } in entries {
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

/// The zeros after a tensor of `bytes` in a GGUF file.
pub fn gguf_padding(bytes: u64) -> &'static [u8] {
    let zeros = &[0; ALIGNMENT as usize];
    &zeros[..(bytes.next_multiple_of(ALIGNMENT) - bytes) as usize]
}
