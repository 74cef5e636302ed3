//! MXFP4 as Hugging Face folders have it: a tensor of codes beside one of scales.
//!
//! `*_blocks` is `[..., rows, k / 32, 16]`, each byte two neighbours, the first in its low nibble, and
//! `*_scales` is `[..., rows, k / 32]`. Together they are one tensor here, whose blocks come as GGUF has
//! them: the scale, then the codes, the first half of them in low nibbles and the second in high ones.

use std::collections::HashMap;
use std::ops::Range;

use super::tensor::{Scales, Tensor};
use super::{Checkpoint, GgmlType};
use crate::error::{Result, tensor_error};

/// How the names of the two end, once they are translated, and that of the whole.
const CODES: &str = ".blocks";
const SCALES: &str = ".scales";
const WHOLE: &str = ".mxfp4";

/// Bytes of a block's codes.
const BYTES: usize = 16;

/// Puts the codes of experts and their scales together. Scales alone stay as they are.
///
/// # Errors
/// [`ErrorKind::Tensor`](crate::ErrorKind::Tensor) for codes without scales, or of shapes that do not go
/// together.
pub(super) fn join(tensors: &mut Vec<Tensor>) -> Result<()> {
    let stems = tensors.iter().map(|tensor| stem(tensor, SCALES)).enumerate();
    let scales: HashMap<_, _> =
        stems.filter_map(|(at, stem)| Some((stem?.to_owned(), at))).collect();
    let mut keep = vec![true; tensors.len()];
    for i in 0..tensors.len() {
        let Some(stem) = stem(&tensors[i], CODES) else { continue };
        let missing = || tensor_error(format!("tensor \"{stem}{SCALES}\" is missing"));
        let at = *scales.get(stem).ok_or_else(missing)?;
        let name = format!("{stem}{WHOLE}");
        tensors[i] = whole(&tensors[i], &tensors[at], name)?;
        keep[at] = false;
    }
    let mut keep = keep.into_iter();
    tensors.retain(|_| keep.next() == Some(true));
    Ok(())
}

/// The name of experts without this ending.
fn stem<'t>(tensor: &'t Tensor, end: &str) -> Option<&'t str> {
    let stem = tensor.name.strip_suffix(end)?;
    (stem.starts_with("blk.") && stem.ends_with("_exps")).then_some(stem)
}

fn whole(codes: &Tensor, scales: &Tensor, name: String) -> Result<Tensor> {
    let bytes = |tensor: &Tensor| tensor.ty == GgmlType::I8;
    let shape = match &codes.shape[..] {
        [of @ .., BYTES] if bytes(codes) && bytes(scales) && scales.shape == of => of,
        other => {
            return Err(tensor_error(format!(
                "tensors \"{}\" of {other:?} and \"{}\" of {:?} are no bytes of MXFP4",
                codes.name, scales.name, scales.shape
            )));
        }
    };
    let (Some((blocks, rows @ [_, ..])), Some(_)) = (shape.split_last(), codes.len.checked_mul(2))
    else {
        return Err(tensor_error(format!("tensor \"{}\" is no matrix", codes.name)));
    };
    let shape = [rows, &[blocks * 2 * BYTES]].concat();
    let scales = Scales { file: scales.file, offset: scales.offset, len: scales.len };
    Ok(Tensor { name, ty: GgmlType::MXFP4, shape, scales: Some(scales), ..codes.clone() })
}

impl Checkpoint {
    /// Appends rows of a tensor whose scales are apart, in blocks as GGUF has them.
    pub(crate) fn blocks(&self, tensor: &Tensor, rows: Range<usize>, out: &mut Vec<u8>) {
        let Some(scales) = self.scales(tensor) else { return };
        let blocks = tensor.k() / (2 * BYTES);
        let blocks = rows.start * blocks..rows.end * blocks;
        let scales = &scales[blocks.clone()];
        let codes = &self.data(tensor)[blocks.start * BYTES..blocks.end * BYTES];
        out.reserve(codes.len() + scales.len());
        for (&scale, codes) in scales.iter().zip(codes.as_chunks::<BYTES>().0) {
            out.push(scale);
            out.extend(halves(codes));
        }
    }

    /// As [`release`](Self::release), of the scales of rows.
    pub(super) fn release_scales(&self, tensor: &Tensor, rows: Range<usize>) {
        let Some(Scales { file, offset, len }) = tensor.scales else { return };
        let row = len / tensor.rows();
        self.sources[file].bytes.release(offset + rows.start * row..offset + rows.end * row);
    }

    /// The first row with a scale that is no number: the greatest of the biased exponents.
    pub(super) fn bad_row(&self, tensor: &Tensor) -> Option<usize> {
        let scales = self.scales(tensor)?;
        Some(scales.iter().position(|&scale| scale == 0xff)? / (scales.len() / tensor.rows()))
    }

    fn scales(&self, tensor: &Tensor) -> Option<&[u8]> {
        let Scales { file, offset, len } = tensor.scales?;
        Some(&self.sources[file].bytes[offset..][..len])
    }
}

/// From pairs of neighbours to pairs of codes that are half a block apart.
fn halves(pairs: &[u8; BYTES]) -> [u8; BYTES] {
    let mut out = [0; BYTES];
    let (first, second) = pairs.split_at(BYTES / 2);
    for (out, (a, b)) in out.as_chunks_mut().0.iter_mut().zip(first.iter().zip(second)) {
        *out = [a & 15 | b << 4, a >> 4 | b & 0xf0];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_become_halves() {
        let code = |i: usize| (i * 7 + i / 16) as u8 & 15;
        let pairs = std::array::from_fn(|i| code(2 * i) | code(2 * i + 1) << 4);
        assert_eq!(halves(&pairs), std::array::from_fn(|i| code(i) | code(i + 16) << 4));
    }
}
