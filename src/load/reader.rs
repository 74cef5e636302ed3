//! A cursor over untrusted bytes that knows what it is reading, for errors that say so.

use std::fmt;

use crate::error::{Error, Result, format_error};

use super::metadata::{Array, Value};

/// Arrays of arrays go no deeper: no file has two levels, and recursion must end before the stack does.
const MAX_ARRAY_DEPTH: usize = 4;

/// What the cursor is inside of.
#[derive(Clone, Copy)]
pub(super) enum Inside<'a> {
    Header,
    KeyNumber(u64),
    Key(&'a str),
    TensorNumber(u64),
    Tensor(&'a str),
}

impl fmt::Display for Inside<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => write!(f, "header"),
            Self::KeyNumber(n) => write!(f, "key number {n}"),
            Self::Key(key) => write!(f, "key \"{}\"", key.escape_debug()),
            Self::TensorNumber(n) => write!(f, "tensor number {n}"),
            Self::Tensor(name) => write!(f, "tensor \"{}\"", name.escape_debug()),
        }
    }
}

pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    pub(super) inside: Inside<'a>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, inside: Inside::Header }
    }

    /// Bytes read so far.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Everything, read or not.
    pub(super) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Lets the reader go no further than offset `end`, which is at or after its own.
    pub(super) fn end_at(&mut self, end: usize) {
        self.bytes = &self.bytes[..end];
    }

    pub(super) fn remaining(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    /// A format error that names what is being read.
    pub(super) fn error(&self, problem: impl fmt::Display) -> Error {
        format_error(format!("{}: {problem}", self.inside))
    }

    /// The next `len` bytes. Nothing is allocated before this check, whatever length the file claims.
    pub(super) fn take(&mut self, len: u64) -> Result<&'a [u8]> {
        if len > self.remaining() {
            return Err(self.error(format_args!(
                "{len} bytes wanted at offset {}, but the file ends after {} (truncated?)",
                self.at,
                self.remaining()
            )));
        }
        let start = self.at;
        self.at += len as usize;
        Ok(&self.bytes[start..self.at])
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.take(N as u64)?;
        Ok(bytes.try_into().expect("take returns the length asked for"))
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A count of things of at least `min_bytes` each, checked against what is left of the file.
    pub(super) fn count(&mut self, what: &str, min_bytes: u64) -> Result<u64> {
        let count = self.u64()?;
        self.check_count(count, what, min_bytes)?;
        Ok(count)
    }

    pub(super) fn check_count(&self, count: u64, what: &str, min_bytes: u64) -> Result<()> {
        if count > self.remaining() / min_bytes {
            return Err(self.error(format_args!(
                "claims {count} {what}, but only {} bytes of the file are left (truncated?)",
                self.remaining()
            )));
        }
        Ok(())
    }

    /// A length and as many bytes of UTF-8.
    pub(super) fn string(&mut self) -> Result<&'a str> {
        let len = self.u64()?;
        let bytes = self.take(len)?;
        std::str::from_utf8(bytes).map_err(|e| self.error(format_args!("text is not UTF-8 ({e})")))
    }

    /// A metadata value of the GGUF type number `ty`.
    pub(super) fn value(&mut self, ty: u32) -> Result<Value> {
        Ok(match ty {
            0 => Value::U8(u8::from_le_bytes(self.array()?)),
            1 => Value::I8(i8::from_le_bytes(self.array()?)),
            2 => Value::U16(u16::from_le_bytes(self.array()?)),
            3 => Value::I16(i16::from_le_bytes(self.array()?)),
            4 => Value::U32(self.u32()?),
            5 => Value::I32(i32::from_le_bytes(self.array()?)),
            6 => Value::F32(f32::from_le_bytes(self.array()?)),
            7 => {
                let [byte] = self.array()?;
                Value::Bool(self.bool(byte)?)
            }
            8 => Value::String(self.string()?.to_owned()),
            9 => Value::Array(self.typed_array(1)?),
            10 => Value::U64(self.u64()?),
            11 => Value::I64(i64::from_le_bytes(self.array()?)),
            12 => Value::F64(f64::from_le_bytes(self.array()?)),
            _ => return Err(self.error(format_args!("unknown value type {ty}"))),
        })
    }

    fn bool(&self, byte: u8) -> Result<bool> {
        match byte {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.error(format_args!("a bool is 0 or 1, not {byte}"))),
        }
    }

    fn typed_array(&mut self, depth: usize) -> Result<Array> {
        if depth > MAX_ARRAY_DEPTH {
            return Err(self.error(format_args!("arrays nested deeper than {MAX_ARRAY_DEPTH}")));
        }
        let ty = self.u32()?;
        Ok(match ty {
            0 => Array::U8(self.numbers(u8::from_le_bytes)?),
            1 => Array::I8(self.numbers(i8::from_le_bytes)?),
            2 => Array::U16(self.numbers(u16::from_le_bytes)?),
            3 => Array::I16(self.numbers(i16::from_le_bytes)?),
            4 => Array::U32(self.numbers(u32::from_le_bytes)?),
            5 => Array::I32(self.numbers(i32::from_le_bytes)?),
            6 => Array::F32(self.numbers(f32::from_le_bytes)?),
            7 => {
                let count = self.count("array elements", 1)?;
                let bytes = self.take(count)?;
                Array::Bool(bytes.iter().map(|&b| self.bool(b)).collect::<Result<_>>()?)
            }
            8 => Array::String(self.items(8, |r| r.string().map(str::to_owned))?),
            9 => Array::Array(self.items(12, |r| r.typed_array(depth + 1))?),
            10 => Array::U64(self.numbers(u64::from_le_bytes)?),
            11 => Array::I64(self.numbers(i64::from_le_bytes)?),
            12 => Array::F64(self.numbers(f64::from_le_bytes)?),
            _ => return Err(self.error(format_args!("unknown array element type {ty}"))),
        })
    }

    fn numbers<const N: usize, T>(&mut self, convert: impl Fn([u8; N]) -> T) -> Result<Vec<T>> {
        let count = self.count("array elements", N as u64)?;
        let bytes = self.take(count * N as u64)?;
        Ok(bytes.as_chunks::<N>().0.iter().map(|&b| convert(b)).collect())
    }

    /// Elements of varying size. The vector grows as they are read: the count alone, though checked, would
    /// justify a multiple of the file's size.
    fn items<T>(
        &mut self,
        min_bytes: u64,
        mut read: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        let count = self.count("array elements", min_bytes)?;
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(read(self)?);
        }
        items.shrink_to_fit();
        Ok(items)
    }
}
