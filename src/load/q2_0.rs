//! The two layouts that share the number of Q2_0: a scale per 64 values, and per 128 in older files.
//!
//! A file does not say which it has, but how far it is from a tensor to what comes after it does.

use super::ggml::GgmlType;
use super::tensor::Tensor;
use crate::error::{Result, format_error};

/// What the room of a tensor says.
#[derive(Clone, Copy, PartialEq)]
enum Room {
    Of64,
    Of128,
    Either,
}

/// Gives the tensors of type Q2_0 the layout that they have; their offsets are still those into the
/// data, which has `len` bytes.
///
/// # Errors
/// Where the tensors contradict each other, or none says which layout it is.
pub(super) fn settle(tensors: &mut [Tensor], len: usize, alignment: usize) -> Result<()> {
    let mut starts: Vec<usize> = tensors.iter().map(|tensor| tensor.offset).collect();
    starts.sort_unstable();
    let room = |tensor: &Tensor| {
        let next = starts.partition_point(|&start| start <= tensor.offset);
        let room = starts.get(next).copied().unwrap_or(len).saturating_sub(tensor.offset);
        of(tensor, room, alignment)
    };
    let (mut of_64, mut of_128, mut either) = (None, None, None);
    for tensor in tensors.iter().filter(|tensor| tensor.ty == GgmlType::Q2_0) {
        let seen = match room(tensor) {
            Room::Of64 => &mut of_64,
            Room::Of128 => &mut of_128,
            Room::Either => &mut either,
        };
        *seen = Some(tensor.name.clone());
    }
    match (of_64, of_128, either) {
        (Some(a), Some(b), _) => Err(format_error(format!(
            "tensors \"{a}\" and \"{b}\" are Q2_0, with room for blocks of 64 and of 128 (truncated?)"
        ))),
        (None, None, Some(name)) => Err(format_error(format!(
            "tensor \"{name}\" is Q2_0, and nothing tells whether in blocks of 64 or of 128"
        ))),
        (None, Some(_), _) => {
            tensors.iter_mut().filter(|tensor| tensor.ty == GgmlType::Q2_0).try_for_each(widen)
        }
        _ => Ok(()),
    }
}

/// What `room` bytes mean for a tensor.
fn of(tensor: &Tensor, room: usize, alignment: usize) -> Room {
    let of_128 = GgmlType::PQ2_0.bytes_for(tensor.elements());
    match of_128.filter(|_| tensor.k().is_multiple_of(GgmlType::PQ2_0.block_len())) {
        Some(_) if room < tensor.len => Room::Of128,
        Some(bytes) if room <= bytes.next_multiple_of(alignment) => Room::Either,
        _ => Room::Of64,
    }
}

fn widen(tensor: &mut Tensor) -> Result<()> {
    let bytes = GgmlType::PQ2_0.bytes_for(tensor.elements());
    let whole = bytes.filter(|_| tensor.k().is_multiple_of(GgmlType::PQ2_0.block_len()));
    let len = whole.ok_or_else(|| {
        let k = tensor.k();
        format_error(format!("tensor \"{}\": rows of {k} are no whole blocks of 128", tensor.name))
    })?;
    (tensor.ty, tensor.len) = (GgmlType::PQ2_0, len);
    Ok(())
}
