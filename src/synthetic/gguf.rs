//! Writing GGUF files, version 3.

use std::io::{self, Write};

use crate::load::{Array, GgmlType, Metadata, Value};

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

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// A value after the number of its type.
fn put_value(out: &mut Vec<u8>, value: &Value) {
    macro_rules! put {
        ($id:literal, $bytes:expr) => {{
            out.extend(u32::to_le_bytes($id));
            out.extend($bytes);
        }};
    }
    match value {
        Value::U8(x) => put!(0, x.to_le_bytes()),
        Value::I8(x) => put!(1, x.to_le_bytes()),
        Value::U16(x) => put!(2, x.to_le_bytes()),
        Value::I16(x) => put!(3, x.to_le_bytes()),
        Value::U32(x) => put!(4, x.to_le_bytes()),
        Value::I32(x) => put!(5, x.to_le_bytes()),
        Value::F32(x) => put!(6, x.to_le_bytes()),
        Value::Bool(x) => put!(7, [u8::from(*x)]),
        Value::String(x) => {
            put!(8, b"");
            put_string(out, x);
        }
        Value::Array(x) => {
            put!(9, b"");
            put_array(out, x);
        }
        Value::U64(x) => put!(10, x.to_le_bytes()),
        Value::I64(x) => put!(11, x.to_le_bytes()),
        Value::F64(x) => put!(12, x.to_le_bytes()),
    }
}

/// The number of the elements' type, how many there are, and the elements.
fn put_array(out: &mut Vec<u8>, array: &Array) {
    let mut head = |id: u32| {
        out.extend(id.to_le_bytes());
        out.extend((array.len() as u64).to_le_bytes());
    };
    macro_rules! put {
        ($id:literal, $items:expr) => {{
            head($id);
            $items.iter().for_each(|x| out.extend(x.to_le_bytes()));
        }};
    }
    match array {
        Array::U8(x) => put!(0, x),
        Array::I8(x) => put!(1, x),
        Array::U16(x) => put!(2, x),
        Array::I16(x) => put!(3, x),
        Array::U32(x) => put!(4, x),
        Array::I32(x) => put!(5, x),
        Array::F32(x) => put!(6, x),
        Array::Bool(x) => {
            head(7);
            out.extend(x.iter().map(|&x| u8::from(x)));
        }
        Array::String(x) => {
            head(8);
            x.iter().for_each(|x| put_string(out, x));
        }
        Array::Array(x) => {
            head(9);
            x.iter().for_each(|x| put_array(out, x));
        }
        Array::U64(x) => put!(10, x),
        Array::I64(x) => put!(11, x),
        Array::F64(x) => put!(12, x),
    }
}
