//! What a path leads to, told from the content.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use crate::error::{Error, Result, format_error, unsupported};

use super::{gguf, packed, safetensors};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sniffed {
    Gguf,
    /// Made by `goldcrest pack`.
    Packed,
    /// A weights file of a Hugging Face folder.
    Safetensors,
    /// A JSON file of a Hugging Face folder.
    Json,
    Folder,
}

/// Older formats and common mistakes, by their first bytes.
const REFUSED: &[(&[u8], &str)] = &[
    (b"lmgg", "an old GGML file"),
    (b"fmgg", "an old GGML file"),
    (b"tjgg", "an old GGML file (GGJT)"),
    (b"algg", "a GGML adapter file"),
    (b"PK\x03\x04", "a zip archive (PyTorch weights?)"),
    (b"\x80", "a pickle (PyTorch weights?)"),
    (b"FUGG", "a byte-swapped GGUF file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"version https://git-lfs", "a Git LFS pointer: the file itself was not downloaded"),
];

pub(super) fn sniff(path: &Path) -> Result<Sniffed> {
    let info = fs::metadata(path).map_err(|e| Error::io(path, e))?;
    if info.is_dir() {
        return Ok(Sniffed::Folder);
    }
    if !info.is_file() {
        return Err(format_error("neither a regular file nor a folder").at(path));
    }
    let mut head = Vec::new();
    File::open(path)
        .and_then(|file| file.take(64).read_to_end(&mut head))
        .map_err(|e| Error::io(path, e))?;
    sniff_head(&head).map_err(|e| e.at(path))
}

pub(super) fn sniff_head(head: &[u8]) -> Result<Sniffed> {
    if head.is_empty() {
        return Err(format_error("the file is empty"));
    }
    if head.starts_with(gguf::MAGIC) {
        return Ok(Sniffed::Gguf);
    }
    if head.starts_with(packed::MAGIC) {
        return Ok(Sniffed::Packed);
    }
    if safetensors::looks_like(head) {
        return Ok(Sniffed::Safetensors);
    }
    if let Some((_, what)) = REFUSED.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Err(unsupported(format!(
            "this is {what}; a GGUF file or a Hugging Face folder is needed"
        )));
    }
    if head.trim_ascii_start().starts_with(b"{") {
        return Ok(Sniffed::Json);
    }
    Err(format_error(format!(
        "neither GGUF nor safetensors nor a packed file (it begins with \"{}\")",
        head[..head.len().min(8)].escape_ascii()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        assert_eq!(sniff_head(b"GGUF\x03\0\0\0").unwrap(), Sniffed::Gguf);
        assert_eq!(sniff_head(b"\x10\0\0\0\0\0\0\0{\"a\":").unwrap(), Sniffed::Safetensors);
        assert_eq!(sniff_head(b"GOLDPACK\x01\0\0\0").unwrap(), Sniffed::Packed);
        assert_eq!(sniff_head(b" {\n").unwrap(), Sniffed::Json);
        for bad in [&b""[..], b"tjgg\x01", b"PK\x03\x04", b"hello", b"GGU"] {
            assert!(sniff_head(bad).is_err());
        }
    }
}
