//! Arguments.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use goldcrest_train::preset::{Preset, VOCAB};
use goldcrest_train::trainer::Settings;

/// Trains, distils, exports and measures the model that goldcrest carries.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where the text is.
#[derive(Debug, clap::Args)]
pub(crate) struct Text {
    /// Folder with `books/*.txt` and `heldout.txt`; a line `***` stands between stories.
    #[arg(long)]
    pub(crate) corpus: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Training {
    #[command(flatten)]
    pub(crate) text: Text,
    /// tokenizer.json of the command `tokenizer`.
    #[arg(long)]
    pub(crate) tokenizer: PathBuf,
    /// Size of the model.
    #[arg(long)]
    pub(crate) preset: Preset,
    /// Folder for checkpoints and log.
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// Goes on from the last checkpoint in `--out`.
    #[arg(long)]
    pub(crate) resume: bool,
    /// More text to learn from, e.g. from the command `sample`.
    #[arg(long)]
    pub(crate) extra: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) settings: Settings,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Makes a vocabulary from the books.
    Tokenizer {
        #[command(flatten)]
        text: Text,
        /// tokenizer.json to write.
        #[arg(long)]
        out: PathBuf,
        /// Tokens, the 256 bytes included.
        #[arg(long, default_value_t = VOCAB)]
        vocab: usize,
    },
    /// Trains a model on the books.
    Train(Training),
    /// Trains a model on the books and on what a better one says about them.
    Distil {
        #[command(flatten)]
        training: Training,
        /// Checkpoint of the better model.
        #[arg(long)]
        teacher: PathBuf,
        /// What the logits of both are divided by.
        #[arg(long, default_value_t = 1.0)]
        temperature: f32,
        /// The teacher's share of the loss; the rest is the text's.
        #[arg(long, default_value_t = 0.7)]
        share: f32,
        /// Begins with these layers of the better model, e.g. `0,3,6`, and its embedding and last
        /// norm, instead of random weights. All widths have to be the same.
        #[arg(long, value_delimiter = ',')]
        layers: Vec<usize>,
    },
    /// Writes stories that a model tells, to be learned from with `--extra`.
    Sample {
        /// GGUF file or folder.
        #[arg(long)]
        model: PathBuf,
        /// Text file to write.
        #[arg(long)]
        out: PathBuf,
        /// Number of stories.
        #[arg(long)]
        stories: u64,
        /// What the logits are divided by.
        #[arg(long, default_value_t = 1.0)]
        temperature: f32,
        /// The likeliest tokens that together have this probability are drawn from.
        #[arg(long, default_value_t = 0.95)]
        top_p: f32,
        /// Of the first story; each has the next one.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Writes a checkpoint as a GGUF file or as a Hugging Face folder.
    Export {
        /// Checkpoint, e.g. `best.safetensors`.
        #[arg(long)]
        checkpoint: PathBuf,
        /// tokenizer.json of the training.
        #[arg(long)]
        tokenizer: PathBuf,
        /// A file whose name ends in .gguf, or a folder.
        #[arg(long)]
        out: PathBuf,
        /// Types of a GGUF file: f32, q8_0, q4_0, q4_k_s, q4_k_m ...
        #[arg(long, default_value = "f32")]
        types: String,
        /// The model's name in a GGUF file.
        #[arg(long, default_value = "goldcrest stories")]
        name: String,
    },
    /// Measures the held-out loss of a GGUF file or a Hugging Face folder with the engine.
    Loss {
        #[command(flatten)]
        text: Text,
        /// GGUF file or folder.
        #[arg(long)]
        model: PathBuf,
        /// tokenizer.json of the training; the model's own must agree with it.
        #[arg(long)]
        tokenizer: PathBuf,
    },
    /// Draws the losses of trainings.
    Plot {
        /// Folders of trainings, each with its log; the names are the curves'.
        #[arg(required = true)]
        runs: Vec<PathBuf>,
        /// SVG file to write.
        #[arg(long)]
        out: PathBuf,
    },
}
