//! The parts of a split GGUF file: `<name>-00001-of-00003.gguf` and its siblings.

use std::path::{Path, PathBuf};

use crate::error::{Result, format_error};

use super::metadata::Metadata;

/// What the five digits of the name can count.
const MAX_PARTS: u32 = 99_999;

/// How a split file counts itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// From zero.
    pub(super) number: u32,
    pub(super) count: u32,
}

/// The part that this file is, or `None` when it is whole.
pub(super) fn part(metadata: &Metadata) -> Result<Option<Part>> {
    let count = metadata.get_u32("split.count")?.unwrap_or(1);
    if count <= 1 {
        return Ok(None);
    }
    if count > MAX_PARTS {
        return Err(format_error(format!(
            "key \"split.count\": {count} parts, more than {MAX_PARTS}"
        )));
    }
    let number = Metadata::need("split.no", metadata.get_u32("split.no")?)?;
    if number >= count {
        return Err(format_error(format!(
            "key \"split.no\": part {number} of {count} (they count from 0)"
        )));
    }
    Ok(Some(Part { number, count }))
}

/// The paths of all parts, in order.
pub(super) fn siblings(path: &Path, part: Part) -> Result<Vec<PathBuf>> {
    let suffix = |number: u32| format!("-{:05}-of-{:05}.gguf", number + 1, part.count);
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some(stem) = name.strip_suffix(&suffix(part.number)) else {
        return Err(format_error(format!(
            "part {} of a split file of {} must be named ...{} for its siblings to be found",
            part.number + 1,
            part.count,
            suffix(part.number)
        )));
    };
    Ok((0..part.count).map(|n| path.with_file_name(format!("{stem}{}", suffix(n)))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sibling_names() {
        let part = Part { number: 1, count: 3 };
        let paths = siblings(Path::new("/m/a-00001-of-00002-00002-of-00003.gguf"), part).unwrap();
        assert_eq!(paths[0], Path::new("/m/a-00001-of-00002-00001-of-00003.gguf"));
        assert_eq!(paths.len(), 3);
        assert!(siblings(Path::new("/m/a.gguf"), part).is_err());
        assert!(siblings(Path::new("/m/a-00001-of-00003.gguf"), part).is_err());
    }
}
