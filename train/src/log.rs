//! The log of a training: a line of JSON for each step.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Result, io};

/// The log's name in the directory of a training.
pub const LOG: &str = "log.jsonl";

/// One step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Steps done, this one included.
    pub step: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// Cross-entropy of the batch, nats per token.
    pub hard: f64,
    /// Divergence from the teacher.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soft: Option<f64>,
    /// Cross-entropy of a part of the held-out text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_out: Option<f64>,
    /// Learning rate.
    pub rate: f32,
    /// Norm of the gradient before it was shortened.
    pub norm: f32,
    /// Speed of this step, evaluation not counted.
    pub tokens_per_second: f64,
}

/// A log that is being written.
pub(crate) struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    pub(crate) fn create(dir: &Path) -> Result<Self> {
        let path = dir.join(LOG);
        let file = File::create(&path).map_err(io(&path))?;
        Ok(Self { path, file })
    }

    /// Goes on with a log, without the steps after `step`, which will be done again.
    pub(crate) fn resume(dir: &Path, step: u64) -> Result<Self> {
        let records = read(&dir.join(LOG))?;
        let mut log = Self::create(dir)?;
        for record in records.iter().filter(|record| record.step <= step) {
            log.write(record)?;
        }
        Ok(log)
    }

    pub(crate) fn write(&mut self, record: &Record) -> Result<()> {
        let mut line = serde_json::to_string(record)?;
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(io(&self.path))
    }
}

/// Reads a log.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io), [`Error::Json`](crate::Error::Json).
pub fn read(path: &Path) -> Result<Vec<Record>> {
    let text = fs::read_to_string(path).map_err(io(path))?;
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}
