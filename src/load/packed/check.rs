//! Where sections and tensors may lie.

use goldcrest_kernels::PANEL_ROWS;

use crate::error::{Result, format_error};

use super::{ALIGNMENT, Kind, Section};
use crate::load::ggml::GgmlType;
use crate::load::reader::Reader;
use crate::load::tensor::Tensor;

/// Reads the table of sections: aligned, in order, apart from the head and from one another.
pub(super) fn sections(reader: &mut Reader, head: usize) -> Result<[Section; 3]> {
    let mut sections: [Section; 3] = Default::default();
    let mut free = head;
    for (kind, section) in Kind::ALL.iter().zip(&mut sections) {
        let (offset, len, checksum) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let error =
            |problem: String| Err(format_error(format!("section \"{}\": {problem}", kind.name())));
        if !offset.is_multiple_of(ALIGNMENT as u64) {
            return error(format!("offset {offset} is not a multiple of {ALIGNMENT}"));
        }
        let end = offset.checked_add(len);
        if end.is_none_or(|end| end > reader.bytes().len() as u64) {
            return error(format!("{len} bytes at offset {offset} are outside the file"));
        }
        if offset < free as u64 {
            return error(format!("offset {offset} overlaps what ends at {free}"));
        }
        // Both fit the file, hence the address space.
        *section = Section { offset: offset as usize, len: len as usize, checksum };
        free = section.range().end;
    }
    Ok(sections)
}

/// A tensor with its place in the file. Vectors, rows and panels are told apart by the number of
/// dimensions and the stride.
pub(super) fn place(
    reader: &Reader,
    name: &str,
    shape: Vec<usize>,
    ty: GgmlType,
    (offset, stride): (u64, u64),
    sections: &[Section; 3],
) -> Result<Tensor> {
    let kind = match (shape.len(), stride) {
        (1, 0) if ty == GgmlType::F32 => Kind::Vectors,
        (2, 0) => Kind::Rows,
        (2, _) => Kind::Panels,
        _ => return Err(reader.error("neither a vector of F32 nor a matrix")),
    };
    let section = &sections[kind as usize];
    let outside = || {
        reader.error(format_args!("it lies outside the section \"{}\" (truncated?)", kind.name()))
    };
    let (Ok(offset), Ok(stride)) = (usize::try_from(offset), usize::try_from(stride)) else {
        return Err(outside());
    };
    let k = shape[shape.len() - 1];
    let whole_blocks = ty.kernel_format().is_some_and(|format| format.row_bytes(k).is_some());
    if !whole_blocks {
        return Err(reader.error(format_args!("no kernels for rows of {k} in {ty}")));
    }
    let len = match kind {
        // The product of the dimensions was checked with the shape.
        Kind::Vectors | Kind::Rows => ty.bytes_for(shape.iter().product()),
        // A panel has more bytes than K, so that what does not fit here could overflow there.
        Kind::Panels if k > section.len => None,
        Kind::Panels => {
            let panel = ty.kernel_format().map_or(0, |format| format.panel_bytes(k));
            if stride < panel {
                return Err(reader.error(format_args!("panels of {panel} every {stride} bytes")));
            }
            (shape[0].div_ceil(PANEL_ROWS) - 1)
                .checked_mul(stride)
                .and_then(|n| n.checked_add(panel))
        }
    };
    let end = len.and_then(|len| offset.checked_add(len)).filter(|&end| end <= section.len);
    let (Some(len), Some(_)) = (len, end) else { return Err(outside()) };
    if kind == Kind::Vectors && !offset.is_multiple_of(4) {
        return Err(reader.error(format_args!("offset {offset} is not a multiple of 4")));
    }
    let offset = section.offset + offset;
    let name = name.to_owned();
    Ok(Tensor { name, ty, shape, file: 0, offset, len, stride, transposed: false, scales: None })
}

/// Checks that no two tensors share bytes. The panels of two matrices may alternate.
pub(super) fn apart(tensors: &[Tensor]) -> Result<()> {
    let mut order: Vec<&Tensor> = tensors.iter().collect();
    order.sort_by_key(|tensor| tensor.offset);
    let mut free = 0;
    let mut previous: Option<&Tensor> = None;
    for tensor in order {
        if let Some(previous) = previous
            && tensor.offset < free
            && !alternate(previous, tensor)
        {
            return Err(format_error(format!(
                "tensors \"{}\" and \"{}\" overlap",
                previous.name.escape_debug(),
                tensor.name.escape_debug()
            )));
        }
        // A third one cannot come between two that alternate: their panels leave no gap.
        free = free.max(tensor.offset + tensor.len);
        previous = Some(tensor);
    }
    Ok(())
}

/// Whether panels of `b` fill what those of `a` leave free.
fn alternate(a: &Tensor, b: &Tensor) -> bool {
    let panel = |tensor: &Tensor| tensor.byte_len() / tensor.rows().div_ceil(PANEL_ROWS);
    a.is_packed()
        && a.stride == b.stride
        && a.rows().div_ceil(PANEL_ROWS) == b.rows().div_ceil(PANEL_ROWS)
        && b.offset == a.offset + panel(a)
        && a.stride == panel(a) + panel(b)
}
