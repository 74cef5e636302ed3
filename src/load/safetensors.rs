//! The header of a safetensors file: where the tensors lie.

use std::collections::HashSet;
use std::fmt;

use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::error::{Error, Result, format_error, unsupported};

use super::ggml::GgmlType;
use super::tensor::Tensor;

/// The length of the header comes first, as a u64.
const LENGTH_BYTES: usize = 8;
/// The format's own cap.
const MAX_HEADER: u64 = 100_000_000;

/// Whether `bytes` begin like a safetensors file.
pub(super) fn looks_like(bytes: &[u8]) -> bool {
    let header = bytes.first_chunk::<LENGTH_BYTES>().map(|n| u64::from_le_bytes(*n));
    header.is_some_and(|n| n <= MAX_HEADER) && bytes.get(LENGTH_BYTES) == Some(&b'{')
}

/// The tensors in file order, under their own names; they tile the data section without gaps or overlaps.
///
/// The bounds are checked here and not by `safetensors::SafeTensors::read_metadata`: that one does not name
/// the tensor, takes the last of two tensors of one name, and (0.8.0) adds up the end of the data without a
/// check for overflow.
pub(super) fn parse(bytes: &[u8], file: usize) -> Result<Vec<Tensor>> {
    let (header, data) = header(bytes)?;
    let mut entries = header.0;
    entries.sort_by_key(|(_, info)| info.data_offsets);
    let base = bytes.len() - data;
    let mut tensors = Vec::with_capacity(entries.len());
    let mut next = 0;
    for (name, info) in entries {
        let len = check_extent(&name, &info, next, data)?;
        tensors.push(Tensor {
            ty: ggml_type(&name, info.dtype)?,
            // A scalar has no dimensions and one element.
            shape: if info.shape.is_empty() { vec![1] } else { info.shape },
            name,
            file,
            offset: base + next,
            len,
            stride: 0,
            transposed: false,
            scales: None,
        });
        next += len;
    }
    if next != data {
        return Err(format_error(format!(
            "the tensors take {next} bytes of data, the file has {data}"
        )));
    }
    Ok(tensors)
}

/// The header and the length of the data after it.
fn header(bytes: &[u8]) -> Result<(Header, usize)> {
    let length = bytes
        .first_chunk::<LENGTH_BYTES>()
        .map(|n| u64::from_le_bytes(*n))
        .ok_or_else(|| format_error("too short for a safetensors file"))?;
    if length > MAX_HEADER {
        return Err(format_error(format!(
            "claims a header of {length} bytes, more than the format's {MAX_HEADER}"
        )));
    }
    let rest = &bytes[LENGTH_BYTES..];
    let text = rest.get(..length as usize).ok_or_else(|| {
        format_error(format!(
            "claims a header of {length} bytes, but only {} are left (truncated?)",
            rest.len()
        ))
    })?;
    let header = serde_json::from_slice(text)
        .map_err(|e| format_error(format!("header: {e}")).because(e))?;
    Ok((header, rest.len() - text.len()))
}

/// The length of a tensor that must begin at `next`, where the one before it ended.
fn check_extent(name: &str, info: &TensorInfo, next: usize, data: usize) -> Result<usize> {
    let error =
        |problem: String| -> Error { format_error(format!("tensor \"{name}\": {problem}")) };
    let (start, end) = info.data_offsets;
    if start != next {
        let what = if start < next { "overlaps the tensor before it" } else { "follows a gap" };
        return Err(error(format!("offset {start} {what}, which ends at {next}")));
    }
    if end < start || end > data {
        return Err(error(format!(
            "bytes {start} to {end} are not inside the {data} bytes of data (truncated?)"
        )));
    }
    if info.shape.contains(&0) {
        return Err(error("a dimension is zero".into()));
    }
    let bits = info
        .shape
        .iter()
        .try_fold(1usize, |product, &dim| product.checked_mul(dim))
        .and_then(|elements| elements.checked_mul(info.dtype.bitsize()))
        .ok_or_else(|| error("the dimensions are too large".into()))?;
    let len = end - start;
    if !bits.is_multiple_of(8) || bits / 8 != len {
        return Err(error(format!(
            "shape {:?} of {:?} does not take {len} bytes",
            info.shape, info.dtype
        )));
    }
    Ok(len)
}

/// The GGML type of the same size. Unsigned integers and masks, in which nothing runs, are listed as signed.
fn ggml_type(name: &str, dtype: Dtype) -> Result<GgmlType> {
    Ok(match dtype {
        Dtype::F32 => GgmlType::F32,
        Dtype::F16 => GgmlType::F16,
        Dtype::BF16 => GgmlType::BF16,
        Dtype::F64 => GgmlType::F64,
        Dtype::I8 | Dtype::U8 | Dtype::BOOL => GgmlType::I8,
        Dtype::I16 | Dtype::U16 => GgmlType::I16,
        Dtype::I32 | Dtype::U32 => GgmlType::I32,
        Dtype::I64 | Dtype::U64 => GgmlType::I64,
        other => {
            return Err(unsupported(format!(
                "tensor \"{name}\" has type {other:?}, which is not supported"
            )));
        }
    })
}

/// The JSON object of the header, its names checked to be unique.
struct Header(Vec<(String, TensorInfo)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut entries = Vec::new();
        let mut seen = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let info = map
                .next_value()
                .map_err(|e| serde::de::Error::custom(format_args!("tensor \"{name}\": {e}")))?;
            if !seen.insert(name.clone()) {
                return Err(serde::de::Error::custom(format_args!(
                    "tensor \"{name}\" occurs twice"
                )));
            }
            entries.push((name, info));
        }
        Ok(Header(entries))
    }
}
