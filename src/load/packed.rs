//! Packed files: a model as it lies in memory, to be mapped and used without a copy.
//!
//! ```text
//! prefix       magic, version, sizes, checksum of the head, key of the source, the three sections
//! description  metadata or JSON files of the source, then name, shape, type and place of each tensor
//! vectors      F32, 64 bytes aligned: norms, biases, rope's divisors
//! rows         tables that are looked up row by row, as they were in the source
//! panels       every other matrix, as the kernels read it
//! ```
//!
//! Numbers are little-endian. Sections start on multiples of 64 KB, so that they can be mapped on
//! systems of any page size. The head (prefix and description) and the vectors are compared with
//! their checksums whenever a file is opened; rows and panels, which may be gigabytes, when
//! [`Checkpoint::verify`](super::Checkpoint::verify) asks for it. Any bytes there are safe to run:
//! at worst they are wrong numbers.

mod check;
mod write;

use std::borrow::Cow;
use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use goldcrest_kernels::{PANEL_ROWS, pack_panel};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::error::{Result, format_error, unsupported};

use super::folder::{Folder, Parts};
use super::ggml::GgmlType;
use super::gguf;
use super::metadata::Metadata;
use super::reader::{Inside, Reader};
use super::tensor::Tensor;

pub(crate) use write::{Contents, Placed, Writer, vector_bytes};

pub(super) const MAGIC: &[u8; 8] = b"GOLDPACK";
/// Of the layout of the file. What the layout of panels is, the fingerprint says.
const VERSION: u32 = 1;
const ALIGNMENT: usize = 64 << 10;
/// Where the head's checksum is; it counts as zero in itself.
const CHECKSUM_AT: usize = 24;
const PREFIX: usize = 144;
/// A name's length, the number of dimensions, one dimension, type, offset and stride.
const MIN_TENSOR_BYTES: u64 = 8 + 4 + 8 + 4 + 8 + 8;

/// The sections, in the order of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Vectors,
    Rows,
    Panels,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Vectors, Self::Rows, Self::Panels];

    fn name(self) -> &'static str {
        match self {
            Self::Vectors => "vectors",
            Self::Rows => "rows",
            Self::Panels => "panels",
        }
    }
}

/// A part of the file and the XXH3 of its bytes.
#[derive(Debug, Clone, Default)]
struct Section {
    offset: usize,
    len: usize,
    checksum: u64,
}

impl Section {
    fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.len
    }
}

/// The file or folder that a packed file was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedSource {
    /// Bytes of its weight files.
    pub bytes: u64,
    /// When the last of them was written.
    pub modified: SystemTime,
}

impl PackedSource {
    fn modified_parts(&self) -> (u64, u32) {
        let since = self.modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        (since.as_secs(), since.subsec_nanos())
    }
}

/// What a packed file has that others have not.
#[derive(Debug, Clone)]
pub(super) struct Packed {
    pub(super) version: u32,
    pub(super) source: PackedSource,
    sections: [Section; 3],
}

/// What the file was before it was packed.
pub(super) enum Former {
    Gguf { version: u32, metadata: Metadata },
    Folder(Box<Folder>),
}

pub(super) struct Header {
    pub(super) packed: Packed,
    pub(super) former: Former,
    pub(super) tensors: Vec<Tensor>,
}

impl Packed {
    pub(super) fn panels(&self) -> Range<usize> {
        self.sections[Kind::Panels as usize].range()
    }

    /// Compares every section with its checksum.
    pub(super) fn verify(&self, bytes: &[u8]) -> Result<()> {
        Kind::ALL.iter().try_for_each(|&kind| self.verify_section(bytes, kind))
    }

    fn verify_section(&self, bytes: &[u8], kind: Kind) -> Result<()> {
        let section = &self.sections[kind as usize];
        if xxh3_64(&bytes[section.range()]) != section.checksum {
            return Err(format_error(format!(
                "section \"{}\": the checksum is wrong (the file is damaged): pack the model again",
                kind.name()
            )));
        }
        Ok(())
    }
}

/// Reads and checks a packed file. Every tensor that it returns lies inside its section, apart
/// from the others.
pub(super) fn parse(bytes: &[u8]) -> Result<Header> {
    let mut reader = Reader::new(bytes);
    let packed = prefix(&mut reader)?;
    packed.verify_section(bytes, Kind::Vectors)?;
    let fingerprint_stored = reader.u64()?;
    let former = former(&mut reader)?;
    reader.inside = Inside::Header;
    let count = reader.count("tensors", MIN_TENSOR_BYTES)?;
    let mut tensors = Vec::new();
    for number in 0..count {
        tensors.push(tensor(&mut reader, number, &packed.sections)?);
    }
    check::apart(&tensors)?;
    if fingerprint(&tensors) != fingerprint_stored {
        return Err(unsupported(
            "this packed file's panels are of another version of the program: pack the model again",
        ));
    }
    Ok(Header { packed, former, tensors })
}

/// The prefix, apart from the fingerprint at its end. Leaves the reader unable to go past the head.
fn prefix(reader: &mut Reader) -> Result<Packed> {
    if &reader.array::<8>()? != MAGIC {
        return Err(reader.error("the magic number is not that of a packed file"));
    }
    let version = reader.u32()?;
    if version != VERSION {
        return Err(unsupported(format!(
            "packed file of version {version}; this program reads version {VERSION}: \
             pack the model again"
        )));
    }
    let n_sections = reader.u32()?;
    if n_sections as usize != Kind::ALL.len() {
        return Err(reader.error(format_args!("{n_sections} sections, not {}", Kind::ALL.len())));
    }
    let (head, checksum, file) = (reader.u64()?, reader.u64()?, reader.u64()?);
    let all = reader.bytes();
    if file != all.len() as u64 {
        let problem = if file > all.len() as u64 { "truncated" } else { "something is appended" };
        return Err(reader.error(format_args!(
            "the file should have {file} bytes and has {} ({problem})",
            all.len()
        )));
    }
    let head = usize::try_from(head).ok().filter(|head| (PREFIX..=all.len()).contains(head));
    let head = head.ok_or_else(|| reader.error("the head does not fit the file"))?;
    if head_checksum(&all[..head]) != checksum {
        return Err(reader.error(
            "the checksum is wrong (the file is damaged, or not this program's): \
             pack the model again",
        ));
    }
    let source_bytes = reader.u64()?;
    let modified = Duration::new(reader.u64()?, reader.u32()?.min(999_999_999));
    let modified = UNIX_EPOCH.checked_add(modified);
    let modified = modified.ok_or_else(|| reader.error("the source's time is out of range"))?;
    reader.u32()?; // padding
    let sections = check::sections(reader, head)?;
    reader.end_at(head);
    let source = PackedSource { bytes: source_bytes, modified };
    Ok(Packed { version, source, sections })
}

/// XXH3 of the head with zeros in the place of the checksum.
fn head_checksum(head: &[u8]) -> u64 {
    let (before, rest) = head.split_at(CHECKSUM_AT);
    let mut hash = Xxh3::new();
    hash.update(before);
    hash.update(&[0; 8]);
    hash.update(&rest[8..]);
    hash.digest()
}

fn former(reader: &mut Reader) -> Result<Former> {
    match reader.u32()? {
        0 => {
            let version = reader.u32()?;
            let n_keys = reader.count("keys", gguf::MIN_KEY_BYTES)?;
            Ok(Former::Gguf { version, metadata: gguf::read_metadata(reader, n_keys)? })
        }
        1 => {
            let mut part = || -> Result<Option<&[u8]>> {
                let len = reader.u64()?;
                // No length at all tells a file that was not there from an empty one.
                if len == u64::MAX { Ok(None) } else { reader.take(len).map(Some) }
            };
            let [config, generation, tokenizer, tokenizer_config] =
                [part()?, part()?, part()?, part()?].map(|part| part.map(Cow::Borrowed));
            let parts = Parts { config, generation, tokenizer, tokenizer_config };
            Ok(Former::Folder(Box::new(Folder::from_parts(&parts)?)))
        }
        kind => Err(reader.error(format_args!("unknown kind of source {kind}"))),
    }
}

fn tensor(reader: &mut Reader, number: u64, sections: &[Section; 3]) -> Result<Tensor> {
    reader.inside = Inside::TensorNumber(number);
    let name = reader.string()?;
    reader.inside = Inside::Tensor(name);
    let shape = gguf::read_shape(reader)?;
    let ty = gguf::read_type(reader)?;
    let (offset, stride) = (reader.u64()?, reader.u64()?);
    check::place(reader, name, shape, ty, (offset, stride), sections)
}

/// A hash of a few packed rows of every type in the file: it differs where panels do.
fn fingerprint(tensors: &[Tensor]) -> u64 {
    let mut types: Vec<GgmlType> =
        tensors.iter().filter(|tensor| tensor.is_packed()).map(|tensor| tensor.ty).collect();
    types.sort_unstable();
    types.dedup();
    fingerprint_of(&types)
}

/// Of types that have a kernel, each once, in the order of their numbers.
fn fingerprint_of(types: &[GgmlType]) -> u64 {
    const K: usize = 512;
    let mut hash = Xxh3::new();
    for ty in types {
        let Some(format) = ty.kernel_format() else { continue };
        let row = format.row_bytes(K).unwrap_or(0);
        let rows: Vec<u8> =
            (0..(PANEL_ROWS - 3) * row).map(|i| ((i * 0x9e37) >> 5) as u8).collect();
        let mut panel = vec![0; format.panel_bytes(K)];
        pack_panel(format, K, &rows, &mut panel);
        hash.update(ty.name().as_bytes());
        hash.update(&panel);
    }
    hash.digest()
}

/// Makes the sizes and checksums of changed bytes right, so that a fuzzer gets past them.
pub(super) fn seal(bytes: &mut [u8]) {
    if bytes.len() < PREFIX {
        return;
    }
    let len = bytes.len() as u64;
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..16].copy_from_slice(&(Kind::ALL.len() as u32).to_le_bytes());
    bytes[32..40].copy_from_slice(&len.to_le_bytes());
    let number = |bytes: &[u8], at: usize| {
        usize::try_from(u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default()))
            .unwrap_or(usize::MAX)
    };
    for section in 0..Kind::ALL.len() {
        let at = 64 + section * 24;
        let (offset, len) = (number(bytes, at), number(bytes, at + 8));
        let body = offset.checked_add(len).and_then(|end| bytes.get(offset..end));
        let checksum = body.map_or(0, xxh3_64);
        bytes[at + 16..at + 24].copy_from_slice(&checksum.to_le_bytes());
    }
    let head = number(bytes, 16);
    if (PREFIX..=bytes.len()).contains(&head) {
        let checksum = head_checksum(&bytes[..head]);
        bytes[CHECKSUM_AT..CHECKSUM_AT + 8].copy_from_slice(&checksum.to_le_bytes());
    }
}
