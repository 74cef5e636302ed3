//! Entry points for fuzzing: no file system, every accessor called.

use std::path::Path;

use super::*;
use crate::model::Model;

/// Reads `bytes` as a GGUF file.
pub fn gguf(bytes: &[u8]) -> Result<Checkpoint> {
    let path = Path::new("fuzz.gguf");
    let header = gguf::parse(bytes, 0)?;
    let source = Source { path: path.to_path_buf(), bytes: Bytes::Given(bytes.to_vec().into()) };
    split::part(&header.metadata)?;
    Checkpoint::assemble_gguf(path, vec![source], header)
}

/// Reads `bytes` as a packed file.
pub fn packed(bytes: &[u8]) -> Result<Checkpoint> {
    let path = Path::new("fuzz.gcpack");
    Checkpoint::assemble_packed(path, Bytes::Given(bytes.to_vec().into()))
}

/// Makes sizes and checksums of a packed file right, so that what is behind them is read.
pub fn seal(bytes: &mut [u8]) {
    packed::seal(bytes);
}

/// Reads `config` as the config.json and `weights` as the model.safetensors of a folder.
pub fn folder(config: &[u8], weights: &[u8]) -> Result<Checkpoint> {
    let path = Path::new("fuzz");
    let config = Some(json::parse(config)?);
    let folder = Folder { dir: path.to_path_buf(), config, ..Folder::default() };
    let mut tensors = safetensors::parse(weights, 0)?;
    folder.name(&mut tensors)?;
    let source = Source {
        path: path.join("model.safetensors"),
        bytes: Bytes::Given(weights.to_vec().into()),
    };
    Checkpoint::assemble_folder(path, folder, vec![source], tensors)
}

/// Loads a model and runs it, as a program would; what comes of it does not matter, panics do.
///
/// # Errors
/// Those of loading and running.
pub fn run(checkpoint: Checkpoint) -> Result<()> {
    const TOKENS: usize = 24;
    let context = checkpoint.config()?.context_length().min(TOKENS);
    let path = checkpoint.path().to_path_buf();
    let model = Model::loader(path).threads(1).context(context).load_from(checkpoint)?;
    let mut session = model.session()?;
    let vocab = model.config().vocab_size() as u32;
    let prompt: Vec<u32> =
        (0..context as u32 - context.div_ceil(2) as u32).map(|i| i % vocab).collect();
    if !prompt.is_empty() {
        session.push(&prompt)?;
    }
    (0..context - prompt.len()).try_for_each(|i| session.push(&[i as u32 % vocab]))
}

/// Calls everything that a program would call on an open file; the results do not matter, panics do.
pub fn exercise(checkpoint: &Checkpoint) {
    let _ = checkpoint.check();
    let _ = checkpoint.verify();
    let _ = checkpoint.generation_defaults();
    let _ = checkpoint.tokenizer_source();
    for tensor in checkpoint.tensors() {
        let data = checkpoint.data(tensor);
        if !tensor.is_packed() && !tensor.is_in_parts() {
            assert_eq!(data.len(), tensor.rows() * tensor.row_bytes());
        }
        let _ = checkpoint.check_values(tensor);
        checkpoint.release(tensor, 0..data.len());
    }
    let summary = checkpoint.describe();
    let _ = summary.to_string();
    let _ = serde_json::to_string(&summary);
}
