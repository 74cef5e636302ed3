//! `goldcrest logits`: the logits after every token of a text, in a file.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use goldcrest::{Error, ErrorKind, Model};
use serde_json::json;

use crate::args::LogitsArgs;
use crate::failure::Failure;

/// Tokens at a time: the logits of a long text can be larger than the model.
const ROWS: usize = 256;

pub(crate) fn logits(args: &LogitsArgs) -> Result<(), Failure> {
    let text = match &args.ids {
        Some(_) => None,
        None => Some(args.prompt.read()?),
    };
    let (model, _) = args.model.load()?;
    let ids = match (&args.ids, &text) {
        (Some(ids), _) => Cow::Borrowed(&ids[..]),
        (None, text) => {
            let text = text.as_deref().unwrap_or_default();
            Cow::Owned(model.tokenizer()?.encode(text).map_err(Failure::of_arguments)?)
        }
    };
    check(&model, &ids)?;
    let path = &args.output;
    // A device or a pipe is written to; a file appears when it is whole.
    if path.exists() && !path.is_file() {
        return write(&model, &ids, path);
    }
    let mut part = path.clone().into_os_string();
    part.push(".part");
    let part = PathBuf::from(part);
    let written = write(&model, &ids, &part)
        .and_then(|()| std::fs::rename(&part, path).map_err(|error| Error::io(path, error).into()));
    if written.is_err() {
        // What is left of it is of no use to anybody.
        let _ = std::fs::remove_file(&part);
    }
    written
}

/// All that may be wrong with the tokens, before the file is touched.
fn check(model: &Model, ids: &[u32]) -> Result<(), Failure> {
    let vocab = model.config().vocab_size();
    if ids.is_empty() {
        return Err(Failure::usage("the prompt is empty"));
    }
    if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab) {
        return Err(Failure::usage(format!("token id {id} is outside the vocabulary of {vocab}")));
    }
    if ids.len() > model.context() {
        let message =
            format!("the prompt has {} tokens, the context {}", ids.len(), model.context());
        return Err(Error::new(ErrorKind::ContextFull, message).into());
    }
    Ok(())
}

fn write(model: &Model, ids: &[u32], path: &Path) -> Result<(), Failure> {
    let mut session = model.session().map_err(Failure::of_arguments)?;
    let at = |error: io::Error| Error::io(path, error);
    let mut out = BufWriter::new(File::create(path).map_err(at)?);
    out.write_all(&header(ids.len(), model.config().vocab_size())).map_err(at)?;
    for ids in ids.chunks(ROWS) {
        for logit in session.logits_all(ids)? {
            out.write_all(&logit.to_le_bytes()).map_err(at)?;
        }
    }
    out.flush().map_err(at)?;
    Ok(())
}

/// The start of a safetensors file of one tensor, padded so that the floats are aligned. (The
/// safetensors crate writes tensors that are whole in memory.)
fn header(rows: usize, vocab: usize) -> Vec<u8> {
    let bytes = rows as u64 * vocab as u64 * 4;
    let tensor = json!({ "dtype": "F32", "shape": [rows, vocab], "data_offsets": [0, bytes] });
    let mut header = json!({ "logits": tensor }).to_string();
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out
}
