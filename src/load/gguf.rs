//! The header of a GGUF file: metadata and where the tensors lie.

use crate::error::{Result, format_error, unsupported};

use super::ggml::{GgmlType, removed_name};
use super::metadata::Metadata;
use super::q2_0;
use super::reader::{Inside, Reader};
use super::tensor::Tensor;

pub(super) const MAGIC: &[u8; 4] = b"GGUF";
const DEFAULT_ALIGNMENT: u32 = 32;
/// A key's length, its type and the smallest value.
pub(super) const MIN_KEY_BYTES: u64 = 8 + 4 + 1;
/// A name's length, the number of dimensions, one dimension, type and offset.
const MIN_TENSOR_BYTES: u64 = 8 + 4 + 8 + 4 + 8;
const MAX_DIMS: u32 = 4;

/// What a GGUF file says before its data.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) metadata: Metadata,
    /// In file order, with offsets from the start of the file.
    pub(super) tensors: Vec<Tensor>,
}

/// Reads and checks a header. Every tensor that it returns lies inside `bytes`, apart from the others.
pub(super) fn parse(bytes: &[u8], file: usize) -> Result<Header> {
    let mut reader = Reader::new(bytes);
    let version = version(&mut reader)?;
    let n_tensors = reader.u64()?;
    let n_keys = reader.count("keys", MIN_KEY_BYTES)?;
    reader.check_count(n_tensors, "tensors", MIN_TENSOR_BYTES)?;
    let metadata = read_metadata(&mut reader, n_keys)?;
    let alignment = alignment(&metadata)?;
    reader.inside = Inside::Header;
    reader.check_count(n_tensors, "tensors", MIN_TENSOR_BYTES)?;
    let mut tensors = Vec::new();
    for number in 0..n_tensors {
        tensors.push(read_tensor(&mut reader, number, file, alignment)?);
    }
    let start = (reader.at() as u64).next_multiple_of(alignment);
    let len = (bytes.len() as u64).saturating_sub(start);
    q2_0::settle(&mut tensors, len as usize, alignment as usize)?;
    place(&mut tensors, reader.at(), alignment, bytes.len())?;
    Ok(Header { version, metadata, tensors })
}

fn version(reader: &mut Reader) -> Result<u32> {
    if &reader.array::<4>()? != MAGIC {
        return Err(reader.error("the magic number is not GGUF"));
    }
    let version = reader.u32()?;
    match version {
        2 | 3 => Ok(version),
        1 => Err(unsupported(
            "GGUF version 1 is not supported (versions 2 and 3 are): convert the model again",
        )),
        _ if matches!(version.swap_bytes(), 1..=3) => Err(unsupported(format!(
            "big-endian GGUF (version {}) is not supported: convert the model to little-endian",
            version.swap_bytes()
        ))),
        _ => Err(unsupported(format!(
            "GGUF version {version} is not supported (versions 2 and 3 are)"
        ))),
    }
}

pub(super) fn read_metadata(reader: &mut Reader, n_keys: u64) -> Result<Metadata> {
    let mut metadata = Metadata::default();
    for number in 0..n_keys {
        reader.inside = Inside::KeyNumber(number);
        let key = reader.string()?;
        reader.inside = Inside::Key(key);
        let ty = reader.u32()?;
        metadata.insert(key, reader.value(ty)?)?;
    }
    Ok(metadata)
}

fn alignment(metadata: &Metadata) -> Result<u64> {
    let alignment = metadata.get_u32("general.alignment")?.unwrap_or(DEFAULT_ALIGNMENT);
    if !alignment.is_power_of_two() || alignment < 8 {
        return Err(format_error(format!(
            "key \"general.alignment\": {alignment} is not a power of two of at least 8"
        )));
    }
    Ok(alignment.into())
}

/// One tensor, its offset still counted from the data section.
fn read_tensor(reader: &mut Reader, number: u64, file: usize, alignment: u64) -> Result<Tensor> {
    reader.inside = Inside::TensorNumber(number);
    let name = reader.string()?;
    reader.inside = Inside::Tensor(name);
    let shape = read_shape(reader)?;
    let ty = read_type(reader)?;
    let k = shape[shape.len() - 1];
    if !k.is_multiple_of(ty.block_len()) {
        return Err(reader.error(format_args!(
            "rows of {k} elements do not fill whole blocks of {} ({ty})",
            ty.block_len()
        )));
    }
    // The product of the dimensions was checked with the shape, so the elements fit.
    let len = ty
        .bytes_for(shape.iter().product())
        .ok_or_else(|| reader.error(format_args!("shape {shape:?} is too large")))?;
    let offset = reader.u64()?;
    if !offset.is_multiple_of(alignment) {
        return Err(reader.error(format_args!("offset {offset} is not a multiple of {alignment}")));
    }
    let offset = usize::try_from(offset)
        .map_err(|_| reader.error(format_args!("offset {offset} is outside the file")))?;
    let name = name.to_owned();
    let (stride, transposed, scales) = (0, false, None);
    Ok(Tensor { name, ty, shape, file, offset, len, stride, transposed, scales })
}

pub(super) fn read_shape(reader: &mut Reader) -> Result<Vec<usize>> {
    let n_dims = reader.u32()?;
    if !(1..=MAX_DIMS).contains(&n_dims) {
        return Err(reader.error(format_args!("{n_dims} dimensions, not 1 to {MAX_DIMS}")));
    }
    let mut shape = Vec::with_capacity(n_dims as usize);
    let mut elements = 1usize;
    for _ in 0..n_dims {
        let dim = reader.u64()?;
        if dim == 0 {
            return Err(reader.error("a dimension is zero"));
        }
        let dim = usize::try_from(dim).ok();
        let product = dim.and_then(|dim| elements.checked_mul(dim));
        let (Some(dim), Some(product)) = (dim, product) else {
            return Err(reader.error("the dimensions are too large"));
        };
        elements = product;
        shape.push(dim);
    }
    // GGUF writes the innermost dimension first.
    shape.reverse();
    Ok(shape)
}

pub(super) fn read_type(reader: &mut Reader) -> Result<GgmlType> {
    let id = reader.u32()?;
    GgmlType::from_id(id).ok_or_else(|| {
        let problem = match removed_name(id) {
            Some(name) => format!("type {name} was removed from GGML: convert the model again"),
            None => format!("unknown tensor type {id}"),
        };
        unsupported(reader.error(problem).to_string())
    })
}

/// Turns offsets into the data section into offsets into the file; checks bounds and overlaps.
fn place(tensors: &mut [Tensor], header: usize, alignment: u64, file_len: usize) -> Result<()> {
    let data = (header as u64).next_multiple_of(alignment);
    for tensor in tensors.iter_mut() {
        let end = data
            .checked_add(tensor.offset as u64)
            .and_then(|start| start.checked_add(tensor.len as u64))
            .filter(|&end| end <= file_len as u64);
        let Some(end) = end else {
            return Err(format_error(format!(
                "tensor \"{}\": {} bytes at offset {} of the data run past the end of the file (truncated?)",
                tensor.name, tensor.len, tensor.offset
            )));
        };
        tensor.offset = end as usize - tensor.len;
    }
    let mut order: Vec<&Tensor> = tensors.iter().collect();
    order.sort_by_key(|tensor| tensor.offset);
    for pair in order.windows(2) {
        if pair[0].offset + pair[0].len > pair[1].offset {
            return Err(format_error(format!(
                "tensors \"{}\" and \"{}\" overlap",
                pair[0].name, pair[1].name
            )));
        }
    }
    Ok(())
}
