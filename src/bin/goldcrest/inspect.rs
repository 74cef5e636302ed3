//! `goldcrest inspect`: what a model file holds.

use std::io::{self, BufWriter, Write};

use goldcrest::load::{Checkpoint, ReadOptions};

use crate::args::InspectArgs;
use crate::failure::Failure;

pub(crate) fn inspect(args: &InspectArgs) -> Result<(), Failure> {
    let checkpoint = Checkpoint::open(&args.path, &ReadOptions::default())?;
    if args.verify {
        checkpoint.verify()?;
    }
    let summary = checkpoint.describe();
    let mut out = BufWriter::new(io::stdout().lock());
    if args.json {
        serde_json::to_writer_pretty(&mut out, &summary).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        write!(out, "{summary}")?;
    }
    Ok(out.flush()?)
}
