//! `goldcrest tokenize`: the tokens of a text.

use std::io::{self, BufWriter, Write};

use goldcrest::load::{Checkpoint, ReadOptions};
use goldcrest::{EncodeOptions, Tokenizer};

use crate::args::TokenizeArgs;
use crate::failure::Failure;
use crate::prompt::read_text;

pub(crate) fn tokenize(args: &TokenizeArgs) -> Result<(), Failure> {
    let text = read_text(args.text.as_deref(), args.file.as_deref())?;
    // Not a model: a file with a vocabulary and no tensors is enough.
    let checkpoint = Checkpoint::open(&args.model, &ReadOptions::default())?;
    let tokenizer = Tokenizer::need_from_checkpoint(&checkpoint)?;
    let special = !args.no_special;
    let options = EncodeOptions { add_special: special, parse_special: special };
    let ids = tokenizer.encode_with(&text, options)?;

    let mut out = BufWriter::new(io::stdout().lock());
    if args.ids {
        for (i, id) in ids.iter().enumerate() {
            let space = if i == 0 { "" } else { " " };
            write!(out, "{space}{id}")?;
        }
        writeln!(out)?;
    } else {
        for &id in &ids {
            let piece = tokenizer.id_to_token(id).unwrap_or_default();
            writeln!(out, "{id:>7}  {piece:?}")?;
        }
    }
    Ok(out.flush()?)
}
