//! What `goldcrest inspect` shows of a file.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use goldcrest_kernels::KvType;
use serde::Serialize;

use crate::config::Config;
use crate::model::DEFAULT_CONTEXT;
use crate::spec::{Named, Spec};
use crate::state::kv_bytes;

use super::blocks::{self, BlockCount};
use super::metadata::{Array, Metadata, Value, each_array};
use super::{Checkpoint, FileKind, GgmlType};

/// Of a long text or array, this much is shown.
const SHOWN_CHARS: usize = 72;
const SHOWN_ITEMS: usize = 4;

/// A summary of a checkpoint: `Serialize` for programs (complete), `Display` for people (abbreviated).
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct Summary<'a> {
    /// The path that was opened.
    pub path: String,
    /// `gguf`, `huggingface` or `packed`.
    pub format: &'static str,
    /// The version of the GGUF or the packed format.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// What a packed file was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceSummary>,
    /// The architecture's name, known or not.
    pub architecture: Option<&'a str>,
    /// Number of weights.
    pub parameters: u64,
    /// Bytes of all tensors.
    pub tensor_bytes: u64,
    /// Bytes of all files of weights.
    pub file_bytes: u64,
    /// Whether the model runs.
    pub runnable: bool,
    /// Why it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// The longest context that the model was made for, in tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_length: Option<usize>,
    /// What the model is made of, where it runs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub blocks: Vec<BlockCount>,
    /// Memory that running it takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryNeeded>,
    /// How many tensors of each type.
    pub types: Vec<TypeCount>,
    /// The keys of the file.
    pub metadata: &'a Metadata,
    /// The tensors in file order.
    pub tensors: Vec<TensorSummary<'a>>,
}

/// Memory that a model takes with one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MemoryNeeded {
    /// Bytes of weights.
    pub weights: u64,
    /// Bytes of keys and values in half precision for `context` tokens.
    pub kv_cache: u64,
    /// The default context: the model's, up to 4096 tokens.
    pub context: usize,
    /// The sum.
    pub total: u64,
}

/// The file or folder that a packed file was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceSummary {
    /// Bytes of its weight files.
    pub bytes: u64,
    /// When they were written, to the second, in UTC.
    pub modified: String,
}

/// The tensors of one type, together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TypeCount {
    /// The type.
    #[serde(rename = "type")]
    pub ty: GgmlType,
    /// Number of tensors.
    pub tensors: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Whether there are kernels for it.
    pub runnable: bool,
}

/// One tensor.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct TensorSummary<'a> {
    /// GGUF name.
    pub name: &'a str,
    /// Type.
    #[serde(rename = "type")]
    pub ty: GgmlType,
    /// Outermost dimension first.
    pub shape: &'a [usize],
    /// Bytes of data.
    pub bytes: usize,
    /// Whether there are kernels for its type.
    pub runnable: bool,
}

impl Checkpoint {
    /// Summarises the file, whether or not it runs.
    pub fn describe(&self) -> Summary<'_> {
        let decoder = self.decoder();
        let spec = decoder.and_then(|decoder| Ok((self.spec(&decoder)?, decoder)));
        let problem = spec.as_ref().err().map(|e| e.to_string());
        let (format, version) = match self.kind() {
            FileKind::Gguf { version } => ("gguf", Some(version)),
            FileKind::HuggingFace => ("huggingface", None),
            FileKind::Packed { version } => ("packed", Some(version)),
        };
        let source = self
            .packed_source()
            .map(|source| SourceSummary { bytes: source.bytes, modified: utc(source.modified) });
        Summary {
            path: self.path().display().to_string(),
            format,
            version,
            source,
            architecture: self.architecture(),
            parameters: self.parameters(),
            tensor_bytes: self.tensor_bytes(),
            file_bytes: self.file_bytes(),
            runnable: problem.is_none(),
            problem,
            context_length: spec.as_ref().ok().map(|(_, decoder)| decoder.config.context_length),
            blocks: spec.as_ref().map_or_else(|_| Vec::new(), |(spec, _)| blocks::count(spec)),
            memory: spec.ok().map(|(spec, decoder)| self.memory_needed(&spec, &decoder.config)),
            types: self.count_types(),
            metadata: self.metadata(),
            tensors: self.summarise_tensors(),
        }
    }

    fn memory_needed(&self, spec: &Spec<Named>, config: &Config) -> MemoryNeeded {
        let context = config.context_length.min(DEFAULT_CONTEXT);
        let weights = self.tensor_bytes();
        let kv_cache = kv_bytes(spec, KvType::F16, context).unwrap_or(usize::MAX) as u64;
        MemoryNeeded { weights, kv_cache, context, total: weights.saturating_add(kv_cache) }
    }

    fn count_types(&self) -> Vec<TypeCount> {
        let mut counts = BTreeMap::new();
        for tensor in self.tensors() {
            let (tensors, bytes) = counts.entry(tensor.ty).or_insert((0, 0));
            *tensors += 1;
            *bytes += tensor.byte_len() as u64;
        }
        counts
            .into_iter()
            .map(|(ty, (tensors, bytes))| TypeCount { ty, tensors, bytes, runnable: ty.runnable() })
            .collect()
    }

    fn summarise_tensors(&self) -> Vec<TensorSummary<'_>> {
        self.tensors()
            .iter()
            .map(|tensor| TensorSummary {
                name: &tensor.name,
                ty: tensor.ty,
                shape: &tensor.shape,
                bytes: tensor.byte_len(),
                runnable: tensor.ty.runnable(),
            })
            .collect()
    }
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.path)?;
        match self.version {
            Some(version) if self.format == "packed" => {
                writeln!(f, "format        packed, version {version}")?;
            }
            Some(version) => writeln!(f, "format        GGUF version {version}")?,
            None => writeln!(f, "format        Hugging Face folder")?,
        }
        if let Some(SourceSummary { bytes: size, modified }) = &self.source {
            writeln!(f, "packed from   {} ({size} bytes) of {modified}", bytes(*size))?;
        }
        let architecture = self.architecture.unwrap_or("(none)");
        writeln!(f, "architecture  {}", architecture.escape_debug())?;
        writeln!(f, "parameters    {} ({})", count(self.parameters), self.parameters)?;
        writeln!(f, "tensors       {} in {}", bytes(self.tensor_bytes), self.tensors.len())?;
        writeln!(f, "file          {}", bytes(self.file_bytes))?;
        if let Some(context) = self.context_length {
            writeln!(f, "context       {context} tokens")?;
        }
        for (i, BlockCount { count, kind, on_gpus }) in self.blocks.iter().enumerate() {
            let title = if i == 0 { "blocks" } else { "" };
            let here = if *on_gpus { "" } else { " (on the CPU alone)" };
            writeln!(f, "{title:<12}  {count} {kind}{here}")?;
        }
        if let Some(memory) = &self.memory {
            writeln!(
                f,
                "memory        {} ({} of weights, {} of KV cache for {} tokens)",
                bytes(memory.total),
                bytes(memory.weights),
                bytes(memory.kv_cache),
                memory.context
            )?;
        }
        match &self.problem {
            None => writeln!(f, "runs          yes")?,
            Some(problem) => writeln!(f, "runs          no: {problem}")?,
        }
        self.write_types(f)?;
        self.write_metadata(f)?;
        self.write_tensors(f)
    }
}

impl Summary<'_> {
    fn write_types(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\ntypes")?;
        for TypeCount { ty, tensors, bytes: size, runnable } in &self.types {
            let note = if *runnable { "" } else { "  (not run by this version)" };
            writeln!(f, "  {ty:<8} {tensors:>5} tensors  {:>10}{note}", bytes(*size))?;
        }
        Ok(())
    }

    fn write_metadata(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nmetadata ({})", self.metadata.len())?;
        for (key, value) in self.metadata.iter() {
            writeln!(f, "  {} = {}", key.escape_debug(), brief(value))?;
        }
        Ok(())
    }

    fn write_tensors(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\ntensors ({})", self.tensors.len())?;
        let width = self.tensors.iter().map(|t| t.name.len()).max().unwrap_or(0).min(48);
        for tensor in &self.tensors {
            // Padding applies to strings alone.
            let name = tensor.name.escape_debug().to_string();
            let shape = format!("{:?}", tensor.shape);
            let size = bytes(tensor.bytes as u64);
            writeln!(f, "  {name:<width$}  {:<8} {shape:<16} {size:>10}", tensor.ty)?;
        }
        Ok(())
    }
}

/// A value in one short line, control characters escaped.
pub(super) fn brief(value: &Value) -> String {
    match value {
        Value::U8(x) => x.to_string(),
        Value::I8(x) => x.to_string(),
        Value::U16(x) => x.to_string(),
        Value::I16(x) => x.to_string(),
        Value::U32(x) => x.to_string(),
        Value::I32(x) => x.to_string(),
        Value::U64(x) => x.to_string(),
        Value::I64(x) => x.to_string(),
        Value::F32(x) => x.to_string(),
        Value::F64(x) => x.to_string(),
        Value::Bool(x) => x.to_string(),
        Value::String(x) => brief_text(x),
        Value::Array(x) => brief_array(x),
    }
}

fn brief_text(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}... ({} bytes)", &text[..end], text.len()),
    }
}

fn brief_array(array: &Array) -> String {
    let mut shown: Vec<String> = match array {
        Array::String(items) => items.iter().take(SHOWN_ITEMS).map(|x| brief_text(x)).collect(),
        Array::Array(items) => items.iter().take(SHOWN_ITEMS).map(brief_array).collect(),
        other => each_array!(other, items => {
            items.iter().take(SHOWN_ITEMS).map(|x| format!("{x:?}")).collect()
        }),
    };
    if array.len() > SHOWN_ITEMS {
        shown.push(format!("... ({} in all)", array.len()));
    }
    format!("[{}]", shown.join(", "))
}

/// A time as `2026-01-31 23:59:59 UTC`.
fn utc(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Years that begin in March end with their leap day; eras of 400 of them are all alike
    // (Howard Hinnant, "chrono-compatible low-level date algorithms").
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

fn scaled(x: u64, base: f64, units: &[&str]) -> String {
    let mut x = x as f64;
    let mut unit = 0;
    while x >= base && unit + 1 < units.len() {
        x /= base;
        unit += 1;
    }
    let digits = if unit == 0 { 0 } else { 1 };
    format!("{x:.digits$} {}", units[unit]).trim_end().to_string()
}

/// A number of bytes as people write it.
pub(crate) fn bytes(n: u64) -> String {
    scaled(n, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB"])
}

fn count(n: u64) -> String {
    scaled(n, 1000.0, &["", "thousand", "million", "billion", "trillion"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_in_one_line() {
        assert_eq!(brief(&Value::String("a\n\u{1b}[2J".into())), r#""a\n\u{1b}[2J""#);
        let long = brief(&Value::String("é".repeat(100)));
        assert!(long.contains("(200 bytes)") && long.len() < 200);
        let array = Array::I32((0..9).collect());
        assert_eq!(brief(&Value::Array(array)), "[0, 1, 2, 3, ... (9 in all)]");
    }

    #[test]
    fn dates() {
        let at = |seconds| utc(UNIX_EPOCH + std::time::Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(at(951_827_696), "2000-02-29 12:34:56 UTC");
        assert_eq!(at(1_798_761_599), "2026-12-31 23:59:59 UTC");
    }

    #[test]
    fn sizes() {
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(3 << 20), "3.0 MiB");
        assert_eq!(count(144_192), "144.2 thousand");
        assert_eq!(count(7), "7");
    }
}
