//! Files of models: GGUF, Hugging Face folders and packed files, read into one [`Checkpoint`].
//!
//! The bytes of a file are not trusted. Every count and length is checked against what is left of the file
//! before memory is taken for it, every tensor is checked to lie inside the file before anyone asks for its
//! bytes, and whatever is wrong is an [`Error`] that names the file and the tensor or key.

mod blocks;
mod check;
mod factors;
mod finite;
mod folder;
mod ggml;
mod gguf;
mod gguf_write;
mod hadamard;
mod inspect;
mod json;
mod metadata;
mod mmap;
mod mxfp4;
mod names;
mod packed;
mod q2_0;
mod reader;
mod safetensors;
mod sniff;
mod split;
mod tensor;
mod unread;
mod values;

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::error::{Error, Result, format_error, tensor_error, unsupported};

use folder::Folder;
pub(crate) use json::Object;
use mmap::Bytes;
use packed::{Former, Packed};
use sniff::Sniffed;

pub use blocks::BlockCount;
pub use finite::{check_finite, has_bad_scale};
pub use ggml::GgmlType;
pub use gguf_write::{GgufEntry, gguf_padding, write_gguf_header};
pub(crate) use hadamard::Hadamard;
pub(crate) use inspect::bytes as in_words;
pub use inspect::{MemoryNeeded, SourceSummary, Summary, TensorSummary, TypeCount};
pub use metadata::{Array, Metadata, Value};
pub use mmap::Buffer;
pub use packed::PackedSource;
pub(crate) use packed::{Contents, Kind as Section, Placed, Writer as PackedWriter, vector_bytes};
pub use tensor::Tensor;
pub(crate) use values::{put_string, put_value};

/// How to read a file.
#[derive(Debug, Clone)]
pub struct ReadOptions {
    /// Map the file (the default) or read it into memory.
    ///
    /// A mapped file must not be changed while it is open: another program that rewrites it changes the
    /// weights, and one that cuts it short ends this process. Reading has no such exception and costs memory
    /// for the whole file until the checkpoint is dropped.
    pub mmap: bool,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { mmap: true }
    }
}

/// What kind of file a checkpoint came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileKind {
    /// A GGUF file, split or whole.
    Gguf {
        /// The format's version.
        version: u32,
    },
    /// A Hugging Face folder.
    HuggingFace,
    /// A file of `goldcrest pack`, whatever it was made from.
    Packed {
        /// The format's version.
        version: u32,
    },
}

/// Where the tokenizer of a checkpoint is.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum TokenizerSource<'a> {
    /// In the keys `tokenizer.ggml.*`.
    Metadata(&'a Metadata),
    /// In the files of a folder.
    Json {
        /// The content of tokenizer.json.
        tokenizer_json: &'a [u8],
        /// tokenizer_config.json, where there is one.
        tokenizer_config: Option<&'a serde_json::Value>,
        /// The folder, for other files.
        dir: &'a Path,
    },
    /// The file has no tokenizer.
    None,
}

/// The tokens that begin and end texts, as the file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GenerationDefaults {
    /// Put before a text.
    pub bos: Option<u32>,
    /// Each of them ends the generation; without repetitions.
    pub eos: Vec<u32>,
}

/// One file of a checkpoint.
#[derive(Debug)]
struct Source {
    path: PathBuf,
    bytes: Bytes,
}

/// What the model is described by: that of a packed file is its source's.
#[derive(Debug)]
enum Origin {
    Gguf { version: u32 },
    Folder(Box<Folder>),
}

/// An open model file or folder.
///
/// ```no_run
/// use goldcrest::load::{Checkpoint, ReadOptions};
/// let checkpoint = Checkpoint::open("model.gguf", &ReadOptions::default())?;
/// for tensor in checkpoint.tensors() {
///     println!("{} {} {:?}", tensor.name, tensor.ty, tensor.shape);
/// }
/// # Ok::<(), goldcrest::Error>(())
/// ```
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    origin: Origin,
    packed: Option<Packed>,
    sources: Vec<Source>,
    metadata: Metadata,
    tensors: Vec<Tensor>,
    index: HashMap<String, usize>,
}

impl Checkpoint {
    /// Opens a GGUF file (any part of a split one), a Hugging Face folder (or a file in it) or a packed file.
    ///
    /// What it is, is told from the content, not from the name.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) where the file cannot be read,
    /// [`Format`](crate::ErrorKind::Format) where it is damaged or of another kind,
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for versions and types that are not read.
    pub fn open(path: impl AsRef<Path>, options: &ReadOptions) -> Result<Self> {
        let path = path.as_ref();
        match sniff::sniff(path)? {
            Sniffed::Gguf => Self::open_gguf(path, options),
            Sniffed::Packed => {
                let bytes = Bytes::open(path, options.mmap)?;
                Self::assemble_packed(path, bytes).map_err(|e| e.at(path))
            }
            Sniffed::Folder => Self::open_folder(path, path, None, options),
            Sniffed::Json => Self::open_folder(path, parent(path), None, options),
            Sniffed::Safetensors => Self::open_folder(path, parent(path), Some(path), options),
        }
    }

    /// Reads a GGUF file or a packed file from memory. `name` stands for its path, in errors too.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`Unsupported`](crate::ErrorKind::Unsupported) for what needs
    /// further files: part of a split file, or of a Hugging Face folder.
    pub fn from_bytes(
        name: impl AsRef<Path>,
        bytes: impl Into<Cow<'static, [u8]>>,
    ) -> Result<Self> {
        let (path, bytes) = (name.as_ref(), Bytes::Given(bytes.into()));
        let checkpoint = match sniff::sniff_head(&bytes[..bytes.len().min(64)]) {
            Ok(Sniffed::Gguf) => Self::gguf_of_bytes(path, bytes),
            Ok(Sniffed::Packed) => Self::assemble_packed(path, bytes),
            Ok(_) => {
                Err(unsupported("a file of a Hugging Face folder cannot run without the others"))
            }
            Err(error) => Err(error),
        };
        checkpoint.map_err(|e| e.at(path))
    }

    fn gguf_of_bytes(path: &Path, bytes: Bytes) -> Result<Self> {
        let header = gguf::parse(&bytes, 0)?;
        if split::part(&header.metadata)?.is_some() {
            return Err(unsupported("part of a split file cannot run without the others"));
        }
        Self::assemble_gguf(path, vec![Source { path: path.to_path_buf(), bytes }], header)
    }

    fn open_gguf(path: &Path, options: &ReadOptions) -> Result<Self> {
        let source = Source { path: path.to_path_buf(), bytes: Bytes::open(path, options.mmap)? };
        let opened = gguf::parse(&source.bytes, 0).map_err(|e| e.at(path))?;
        let part = split::part(&opened.metadata).map_err(|e| e.at(path))?;
        let Some(part) = part else {
            return Self::assemble_gguf(path, vec![source], opened).map_err(|e| e.at(path));
        };
        let mut sources = Vec::new();
        let mut whole: Option<gguf::Header> = None;
        for (number, sibling) in (0..).zip(split::siblings(path, part).map_err(|e| e.at(path))?) {
            let bytes = Bytes::open(&sibling, options.mmap)
                .map_err(|e| format_error(format!("part of a split file: {e}")).because(e))?;
            let header = gguf::parse(&bytes, sources.len()).map_err(|e| e.at(&sibling))?;
            let expected = split::Part { number, ..part };
            if split::part(&header.metadata).map_err(|e| e.at(&sibling))? != Some(expected) {
                return Err(format_error(format!(
                    "not part {} of {}, as its name says",
                    number + 1,
                    part.count
                ))
                .at(&sibling));
            }
            sources.push(Source { path: sibling, bytes });
            match &mut whole {
                None => whole = Some(header),
                Some(whole) => whole.tensors.extend(header.tensors),
            }
        }
        let whole = whole.ok_or_else(|| format_error("a split file of no parts").at(path))?;
        Self::assemble_gguf(path, sources, whole).map_err(|e| e.at(path))
    }

    fn assemble_gguf(path: &Path, sources: Vec<Source>, header: gguf::Header) -> Result<Self> {
        let gguf::Header { version, metadata, tensors } = header;
        if let Some(count) = metadata.get_u64("split.tensors.count")?
            && count != tensors.len() as u64
        {
            return Err(format_error(format!(
                "key \"split.tensors.count\" says {count}, but the parts hold {} tensors",
                tensors.len()
            )));
        }
        Self::assemble(path, Origin::Gguf { version }, sources, metadata, tensors)
    }

    fn open_folder(
        path: &Path,
        dir: &Path,
        weights: Option<&Path>,
        options: &ReadOptions,
    ) -> Result<Self> {
        let folder = Folder::open(dir, options)?;
        let (sources, tensors) = folder.weights(weights, options)?;
        Self::assemble_folder(path, folder, sources, tensors)
    }

    fn assemble_folder(
        path: &Path,
        folder: Folder,
        sources: Vec<Source>,
        tensors: Vec<Tensor>,
    ) -> Result<Self> {
        let metadata = match &folder.config {
            Some(config) => json::metadata(config)?,
            None => Metadata::default(),
        };
        Self::assemble(path, Origin::Folder(Box::new(folder)), sources, metadata, tensors)
            .map_err(|e| e.at(path))
    }

    fn assemble_packed(path: &Path, bytes: Bytes) -> Result<Self> {
        let packed::Header { packed, former, tensors } = packed::parse(&bytes)?;
        let sources = vec![Source { path: path.to_path_buf(), bytes }];
        let checkpoint = match former {
            Former::Gguf { version, metadata } => {
                Self::assemble(path, Origin::Gguf { version }, sources, metadata, tensors)
            }
            Former::Folder(folder) => Self::assemble_folder(path, *folder, sources, tensors),
        };
        checkpoint.map(|checkpoint| Self { packed: Some(packed), ..checkpoint })
    }

    fn assemble(
        path: &Path,
        origin: Origin,
        sources: Vec<Source>,
        metadata: Metadata,
        tensors: Vec<Tensor>,
    ) -> Result<Self> {
        let mut index = HashMap::with_capacity(tensors.len());
        for (at, tensor) in tensors.iter().enumerate() {
            if index.insert(tensor.name.clone(), at).is_some() {
                return Err(format_error(format!("tensor \"{}\" occurs twice", tensor.name)));
            }
        }
        let path = path.to_path_buf();
        Ok(Self { path, origin, packed: None, sources, metadata, tensors, index })
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What kind of file it is.
    pub fn kind(&self) -> FileKind {
        match (&self.packed, &self.origin) {
            (Some(packed), _) => FileKind::Packed { version: packed.version },
            (None, Origin::Gguf { version }) => FileKind::Gguf { version: *version },
            (None, Origin::Folder(_)) => FileKind::HuggingFace,
        }
    }

    /// What a packed file was made from; `None` of other files.
    pub fn packed_source(&self) -> Option<PackedSource> {
        self.packed.as_ref().map(|packed| packed.source)
    }

    /// The panels of a packed file, all of them.
    pub(crate) fn panels(&self) -> Option<&[u8]> {
        let packed = self.packed.as_ref()?;
        Some(&self.sources[0].bytes[packed.panels()])
    }

    /// Where in [`panels`](Self::panels) a packed tensor begins, and the way from one of its panels to the
    /// next.
    pub(crate) fn place_in_panels(&self, tensor: &Tensor) -> Option<(usize, usize)> {
        let packed = self.packed.as_ref().filter(|_| tensor.is_packed())?;
        Some((tensor.offset - packed.panels().start, tensor.stride))
    }

    /// Asks for the panels of a packed file ahead of their use.
    pub(crate) fn will_need_panels(&self) {
        if let Some(packed) = &self.packed {
            self.sources[0].bytes.will_need(packed.panels());
        }
    }

    /// Reads everything: compares a packed file with its checksums, and checks the numbers of other files as
    /// [`check_values`](Self::check_values) does.
    ///
    /// # Errors
    /// [`ErrorKind::Format`](crate::ErrorKind::Format) with the damaged section, and those of
    /// [`check_values`](Self::check_values).
    pub fn verify(&self) -> Result<()> {
        if let Some(packed) = &self.packed {
            packed.verify(&self.sources[0].bytes).map_err(|e| e.at(&self.path))?;
        }
        self.tensors.iter().try_for_each(|tensor| self.check_values(tensor))
    }

    /// The keys of a GGUF file, or the top level of config.json.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All tensors, in file order.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The tensor of this GGUF name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.index.get(name).map(|&at| &self.tensors[at])
    }

    /// The tensor of this GGUF name, or an error that names it.
    ///
    /// # Errors
    /// [`ErrorKind::Tensor`](crate::ErrorKind::Tensor) when it is missing.
    pub fn need(&self, name: &str) -> Result<&Tensor> {
        self.tensor(name)
            .ok_or_else(|| tensor_error(format!("tensor \"{name}\" is missing")).at(&self.path))
    }

    /// The bytes of one of this checkpoint's tensors. They need not be aligned.
    ///
    /// Of a [packed](Tensor::is_packed) one they are panels, and between them those of the matrix that it
    /// alternates with, where there is one. Of one whose scales are apart they are the codes.
    ///
    /// # Panics
    /// When the tensor is of another checkpoint and does not lie inside this one.
    pub fn data(&self, tensor: &Tensor) -> &[u8] {
        &self.sources[tensor.file].bytes[tensor.offset..tensor.offset + tensor.len]
    }

    /// Says that a range of a tensor's bytes will not be read again soon, so that its mapped pages go back to
    /// the system. The bytes stay readable. Without a mapping nothing happens.
    pub fn release(&self, tensor: &Tensor, range: Range<usize>) {
        let end = range.end.min(tensor.len);
        let start = range.start.min(end);
        self.sources[tensor.file].bytes.release(tensor.offset + start..tensor.offset + end);
    }

    /// The same of rows, or of the columns of a transposed matrix.
    pub(crate) fn release_lines(&self, tensor: &Tensor, lines: Range<usize>) {
        let line = tensor.line_bytes();
        self.release(tensor, lines.start * line..lines.end * line);
        self.release_scales(tensor, lines);
    }

    /// Whether the weights are mapped, so that [`release`](Self::release) has an effect.
    pub fn is_mapped(&self) -> bool {
        self.sources.iter().any(|source| source.bytes.is_mapped())
    }

    /// The file that a tensor lies in, for error messages.
    pub fn file_of(&self, tensor: &Tensor) -> &Path {
        &self.sources[tensor.file].path
    }

    /// The model's configuration.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) for keys that are missing, contradictory or out of
    /// range, [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for an architecture or a variant that
    /// does not run.
    pub fn config(&self) -> Result<Config> {
        self.decoder().map(|decoder| decoder.config)
    }

    /// The name of the architecture, known or not.
    pub fn architecture(&self) -> Option<&str> {
        match &self.origin {
            Origin::Gguf { .. } => self.metadata.get_str("general.architecture").ok().flatten(),
            Origin::Folder(folder) => folder.config().ok()?.str("model_type").ok().flatten(),
        }
    }

    /// Where to read the tokenizer from.
    pub fn tokenizer_source(&self) -> TokenizerSource<'_> {
        match &self.origin {
            Origin::Gguf { .. } if self.metadata.get("tokenizer.ggml.tokens").is_some() => {
                TokenizerSource::Metadata(&self.metadata)
            }
            Origin::Folder(folder) => match &folder.tokenizer {
                Some(tokenizer) => TokenizerSource::Json {
                    tokenizer_json: tokenizer,
                    tokenizer_config: folder.tokenizer_config.as_ref(),
                    dir: &folder.dir,
                },
                None => TokenizerSource::None,
            },
            Origin::Gguf { .. } => TokenizerSource::None,
        }
    }

    /// The tokens that begin and end texts.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) for an id that is no id.
    pub fn generation_defaults(&self) -> Result<GenerationDefaults> {
        match &self.origin {
            Origin::Gguf { .. } => generation_gguf(&self.metadata).map_err(|e| e.at(&self.path)),
            Origin::Folder(folder) => generation_json(folder).map_err(|e| e.at(&folder.dir)),
        }
    }

    /// Number of weights.
    pub fn parameters(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.elements() as u64).fold(0, u64::saturating_add)
    }

    /// Bytes of all tensors.
    pub fn tensor_bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.byte_len() as u64).sum()
    }

    /// The files that hold weights.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        self.sources.iter().map(|source| source.path.as_path())
    }

    /// Bytes of all files that hold weights.
    pub fn file_bytes(&self) -> u64 {
        self.sources.iter().map(|source| source.bytes.len() as u64).sum()
    }

    /// Number of tokens of a tokenizer in GGUF metadata.
    pub fn vocabulary(&self) -> Option<usize> {
        self.metadata.get_strings("tokenizer.ggml.tokens").ok().flatten().map(<[_]>::len)
    }

    /// Checks that a tensor holds no NaN and no infinity, in its scales or its numbers. One in panels was
    /// checked when it was packed and is not again.
    ///
    /// It reads the whole tensor: a loader that does so anyway calls [`has_bad_scale`] on the way and this
    /// only to say where.
    ///
    /// # Errors
    /// [`ErrorKind::Tensor`](crate::ErrorKind::Tensor) with the tensor and the row.
    pub fn check_values(&self, tensor: &Tensor) -> Result<()> {
        if tensor.is_packed() {
            return Ok(());
        }
        let bad = |row: usize| {
            self.tensor_error(tensor, format_args!("({}) is not finite in row {row}", tensor.ty))
        };
        if tensor.is_in_parts() {
            return self.bad_row(tensor).map_or(Ok(()), |row| Err(bad(row)));
        }
        check_finite(tensor.ty, self.data(tensor))
            .map_err(|block| bad(block * tensor.ty.block_bytes() / tensor.row_bytes()))
    }

    /// An error about a tensor, with its file.
    pub(crate) fn tensor_error(&self, tensor: &Tensor, problem: impl std::fmt::Display) -> Error {
        tensor_error(format!("tensor \"{}\" {problem}", tensor.name)).at(self.file_of(tensor))
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn generation_gguf(metadata: &Metadata) -> Result<GenerationDefaults> {
    let mut eos = Vec::new();
    for name in ["eos", "eot", "eom"] {
        let id = metadata.get_u32(&format!("tokenizer.ggml.{name}_token_id"))?;
        eos.extend(id.filter(|id| !eos.contains(id)));
    }
    Ok(GenerationDefaults { bos: metadata.get_u32("tokenizer.ggml.bos_token_id")?, eos })
}

/// generation_config.json goes before config.json, key by key.
fn generation_json(folder: &Folder) -> Result<GenerationDefaults> {
    let ids = |key: &str| -> Result<Vec<u32>> {
        for map in [&folder.generation, &folder.config].into_iter().flatten() {
            let found = Object::new(map, "").token_ids(key)?;
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Ok(Vec::new())
    };
    let mut eos = Vec::new();
    for id in ids("eos_token_id")? {
        if !eos.contains(&id) {
            eos.push(id);
        }
    }
    Ok(GenerationDefaults { bos: ids("bos_token_id")?.first().copied(), eos })
}

/// Entry points for the fuzz targets: everything that reads a file's bytes, without the file.
#[doc(hidden)]
pub mod fuzzing;
