//! Writing packed files.

use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use goldcrest_kernels::Format;
use xxhash_rust::xxh3::Xxh3;

use crate::error::{Error, Result, input_error};

use super::{ALIGNMENT, CHECKSUM_AT, Kind, MAGIC, PackedSource, Section, VERSION};
use super::{fingerprint_of, head_checksum};
use crate::load::ggml::GgmlType;
use crate::load::tensor::Tensor;
use crate::load::values::{put_string, put_value};
use crate::load::{Checkpoint, Origin};

/// Vectors start on a cache line.
const VECTOR_ALIGNMENT: usize = 64;

/// A matrix in the section of panels.
pub(crate) struct Placed {
    pub(crate) name: String,
    pub(crate) shape: [usize; 2],
    /// The format that it has there.
    pub(crate) format: Format,
    pub(crate) offset: usize,
    pub(crate) stride: usize,
}

/// What is to be written.
pub(crate) struct Contents<'a> {
    pub(crate) vectors: Vec<&'a Tensor>,
    pub(crate) rows: Vec<&'a Tensor>,
    pub(crate) panels: Vec<Placed>,
    /// Bytes of all panels.
    pub(crate) panel_bytes: usize,
}

/// A packed file in the making, beside its final name until it is whole.
pub(crate) struct Writer {
    out: BufWriter<File>,
    path: PathBuf,
    part: PathBuf,
    head: Vec<u8>,
    sections: [Section; 3],
    hash: Xxh3,
    finished: bool,
}

impl Writer {
    /// Starts the file at `path`; the sections are to follow in their order.
    pub(crate) fn create(
        path: &Path,
        checkpoint: &Checkpoint,
        contents: &Contents<'_>,
    ) -> Result<Self> {
        if checkpoint.files().any(|file| same_file(file, path)) {
            return Err(input_error("the packed file would replace its source").at(path));
        }
        let mut head = Vec::new();
        let ends = describe(&mut head, checkpoint, contents);
        let mut free = head.len();
        let sections = ends.map(|len| {
            let offset = free.next_multiple_of(ALIGNMENT);
            free = offset + len;
            Section { offset, len, checksum: 0 }
        });
        let mut part = path.to_path_buf().into_os_string();
        part.push(".tmp");
        let part = PathBuf::from(part);
        let file = File::create(&part).map_err(|e| Error::io(&part, e))?;
        let out = BufWriter::with_capacity(1 << 20, file);
        let path = path.to_path_buf();
        Ok(Self { out, path, part, head, sections, hash: Xxh3::new(), finished: false })
    }

    /// Goes to the start of a section.
    pub(crate) fn begin(&mut self, kind: Kind) -> Result<()> {
        self.hash = Xxh3::new();
        let offset = self.sections[kind as usize].offset as u64;
        self.out.seek(io::SeekFrom::Start(offset)).map_err(|e| Error::io(&self.part, e))?;
        Ok(())
    }

    /// Appends to the section.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hash.update(bytes);
        self.out.write_all(bytes).map_err(|e| Error::io(&self.part, e))
    }

    /// Ends the section, which is full now.
    pub(crate) fn end(&mut self, kind: Kind) {
        self.sections[kind as usize].checksum = self.hash.digest();
    }

    /// Writes the head and gives the file its name.
    pub(crate) fn finish(mut self) -> Result<()> {
        let at = |path: &Path| {
            let path = path.to_path_buf();
            move |e| Error::io(path, e)
        };
        let len = self.sections[Kind::Panels as usize].range().end as u64;
        self.fill_head(len);
        self.out.rewind().map_err(at(&self.part))?;
        self.out.write_all(&self.head).map_err(at(&self.part))?;
        self.out.flush().map_err(at(&self.part))?;
        let file = self.out.get_ref();
        file.set_len(len).and_then(|()| file.sync_all()).map_err(at(&self.part))?;
        std::fs::rename(&self.part, &self.path).map_err(at(&self.path))?;
        self.finished = true;
        sync_folder(crate::load::parent(&self.path));
        Ok(())
    }

    /// Sizes and checksums, known at the end alone.
    fn fill_head(&mut self, file: u64) {
        let mut put = |at: usize, number: u64| {
            self.head[at..at + 8].copy_from_slice(&number.to_le_bytes());
        };
        put(32, file);
        for (i, section) in self.sections.iter().enumerate() {
            let numbers = [section.offset as u64, section.len as u64, section.checksum];
            for (j, number) in numbers.into_iter().enumerate() {
                put(64 + i * 24 + j * 8, number);
            }
        }
        let len = self.head.len() as u64;
        self.head[16..24].copy_from_slice(&len.to_le_bytes());
        let checksum = head_checksum(&self.head);
        self.head[CHECKSUM_AT..CHECKSUM_AT + 8].copy_from_slice(&checksum.to_le_bytes());
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.finished {
            // What is left of it is of no use to anybody.
            let _ = std::fs::remove_file(&self.part);
        }
    }
}

fn same_file(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

/// Writes a head without sizes and checksums; gives the lengths of the sections.
fn describe(head: &mut Vec<u8>, checkpoint: &Checkpoint, contents: &Contents<'_>) -> [usize; 3] {
    let source = key(checkpoint);
    let (seconds, nanoseconds) = source.modified_parts();
    head.extend(MAGIC);
    head.extend(VERSION.to_le_bytes());
    head.extend((Kind::ALL.len() as u32).to_le_bytes());
    head.extend([0; 24]);
    head.extend(source.bytes.to_le_bytes());
    head.extend(seconds.to_le_bytes());
    head.extend(nanoseconds.to_le_bytes());
    head.extend([0; 4 + 3 * 24]);
    let mut types: Vec<GgmlType> = contents.panels.iter().map(|p| type_of(p.format)).collect();
    types.sort_unstable();
    types.dedup();
    head.extend(fingerprint_of(&types).to_le_bytes());
    debug_assert_eq!(head.len(), super::PREFIX);
    put_former(head, checkpoint);

    let Contents { vectors, rows, panels, panel_bytes } = contents;
    let count = vectors.len() + rows.len() + panels.len();
    head.extend((count as u64).to_le_bytes());
    let mut at = 0;
    for tensor in vectors {
        put_tensor(head, (&tensor.name, &[tensor.elements()]), GgmlType::F32, at, 0);
        at += vector_bytes(tensor.elements());
    }
    let mut rows_at = 0;
    for tensor in rows {
        put_tensor(head, (&tensor.name, &tensor.shape), tensor.ty, rows_at, 0);
        rows_at += tensor.byte_len();
    }
    for Placed { name, shape, format, offset, stride } in panels {
        put_tensor(head, (name, shape), type_of(*format), *offset, *stride);
    }
    [at, rows_at, *panel_bytes]
}

/// Makes a new name in the folder survive a loss of power; where that is refused, the file is whole all
/// the same.
#[cfg(unix)]
fn sync_folder(folder: &Path) {
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
}

/// Windows opens no folder as a file, and keeps a journal of names.
#[cfg(not(unix))]
fn sync_folder(_: &Path) {}

/// Bytes that a vector takes in its section.
pub(crate) fn vector_bytes(elements: usize) -> usize {
    (elements * 4).next_multiple_of(VECTOR_ALIGNMENT)
}

fn type_of(format: Format) -> GgmlType {
    let same = |ty: &&GgmlType| ty.kernel_format() == Some(format);
    GgmlType::ALL.iter().find(same).copied().expect("a format has the name of a type")
}

fn put_tensor(
    head: &mut Vec<u8>,
    (name, shape): (&str, &[usize]),
    ty: GgmlType,
    offset: usize,
    stride: usize,
) {
    put_string(head, name);
    head.extend((shape.len() as u32).to_le_bytes());
    for &dim in shape.iter().rev() {
        head.extend((dim as u64).to_le_bytes());
    }
    head.extend(ty.id().to_le_bytes());
    head.extend((offset as u64).to_le_bytes());
    head.extend((stride as u64).to_le_bytes());
}

/// Everything of the source but its weights.
fn put_former(head: &mut Vec<u8>, checkpoint: &Checkpoint) {
    match &checkpoint.origin {
        Origin::Gguf { version } => {
            head.extend(0u32.to_le_bytes());
            head.extend(version.to_le_bytes());
            head.extend((checkpoint.metadata.len() as u64).to_le_bytes());
            for (key, value) in checkpoint.metadata.iter() {
                put_string(head, key);
                put_value(head, value);
            }
        }
        Origin::Folder(folder) => {
            head.extend(1u32.to_le_bytes());
            let parts = folder.parts();
            for part in [parts.config, parts.generation, parts.tokenizer, parts.tokenizer_config] {
                let len = part.as_ref().map_or(u64::MAX, |part| part.len() as u64);
                head.extend(len.to_le_bytes());
                head.extend(part.unwrap_or_default().as_ref());
            }
        }
    }
}

/// Size and time of the source's weights.
fn key(checkpoint: &Checkpoint) -> PackedSource {
    let modified = checkpoint
        .files()
        .filter_map(|path| std::fs::metadata(path).and_then(|info| info.modified()).ok())
        .max();
    PackedSource { bytes: checkpoint.file_bytes(), modified: modified.unwrap_or(UNIX_EPOCH) }
}
