//! Metadata values as GGUF writes them.

use super::metadata::{Array, Value};

/// A length and the text.
pub(crate) fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// A value after the number of its type.
pub(crate) fn put_value(out: &mut Vec<u8>, value: &Value) {
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
