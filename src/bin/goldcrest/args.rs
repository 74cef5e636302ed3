//! The arguments of every command.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::builder::{PossibleValuesParser, RangedU64ValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use goldcrest::chat::Message;
use goldcrest::{Format, GenerationParams, Isa, KvType, Loader, Model, SamplingParams};
use indicatif::{ProgressBar, ProgressStyle};

use crate::bench::BenchArgs;
use crate::chat::ChatCommand;
use crate::device::DeviceArgs;
use crate::failure::Failure;
use crate::kernels::KernelsArgs;
use crate::template::TemplateArgs;

const EXAMPLES: &str = "\
Examples:
  goldcrest run -p \"Once upon a time\"
  goldcrest run -m model.gguf -p \"Once upon a time\" -n 100
  goldcrest run -m model.gguf -f question.txt --temp 0 > answer.txt
  goldcrest inspect model.gguf
  goldcrest pack model.gguf model.gcpack
  goldcrest tokenize -m model.gguf \"Hello world\"

MODEL is a GGUF file (any part of a split one), a Hugging Face folder with config.json,
safetensors and tokenizer.json, or a file that `goldcrest pack` made. What it is, is told from its
content.

Exit codes: 0 success, 1 failure, 2 wrong arguments.";

const RUN_EXAMPLES: &str = "\
Examples:
  goldcrest run -m model.gguf -p \"Once upon a time\" -n 100
  goldcrest run -m model.gguf -p \"The capital of France is\" -n 20 --temp 0
  echo \"Dear diary,\" | goldcrest run -m model.gguf -n 200 --seed 7
  goldcrest run -m model.gguf --chat -p \"Why is the sky blue?\"
  goldcrest run -m hf-folder/ -p \"Hello\" --quant q4_0 --json

Standard output gets the continuation alone (with --echo the prompt before it) and a line break
at its end; statistics go to standard error. Without -n, and with -n -1, the text goes on until the
model ends it or the context is full; with any other -n, a full context is an error.

The environment variable GOLDCREST_ISA chooses the instruction set where --isa does not.";

/// Runs small language models on the CPU of any machine.
#[derive(Parser)]
#[command(name = "goldcrest", version, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Continue a prompt: stream text to standard output
    Run(RunArgs),
    /// Talk with a model, in the terminal or through a pipe
    Chat(ChatCommand),
    /// Write a file that is mapped and run as it lies, without packing its weights at each load
    Pack(PackArgs),
    /// Show what a model file holds: metadata, tensors, memory needed
    Inspect(InspectArgs),
    /// Print the prompt that a chat template makes of messages, and nothing else
    Template(TemplateArgs),
    /// Show the tokens of a text
    Tokenize(TokenizeArgs),
    /// Write the logits after every token of a text to a safetensors file
    Logits(LogitsArgs),
    /// Measure tokens per second, and the share of the memory's bandwidth
    Bench(BenchArgs),
    /// List the kernels of this machine and time them
    Kernels(KernelsArgs),
    /// List the GPUs of this machine
    Devices {
        /// Print one JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Print a completion script for a shell
    #[command(after_help = "Example, for this session of bash:\n  \
                            source <(goldcrest completions bash)")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Args)]
#[command(after_help = RUN_EXAMPLES)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) prompt: PromptArgs,
    /// Tokens to generate at most; -1 until the model ends the text or the context is full
    #[arg(
        short = 'n',
        long = "n-predict",
        alias = "predict",
        value_name = "N",
        help_heading = "Output",
        default_value = "-1",
        allow_negative_numbers = true,
        value_parser = limit
    )]
    pub(crate) max_tokens: Limit,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    /// Ask the prompt as a question, in the model's chat template
    #[arg(long, help_heading = "Chat", conflicts_with = "echo")]
    pub(crate) chat: bool,
    #[command(flatten)]
    pub(crate) template: ChatArgs,
    /// Print the prompt before its continuation
    #[arg(long, conflicts_with = "json", help_heading = "Output")]
    pub(crate) echo: bool,
    /// Print one JSON object per line: each token, then the statistics
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
}

/// How questions become prompts.
#[derive(Args)]
#[command(next_help_heading = "Chat")]
pub(crate) struct ChatArgs {
    /// Instructions before the first question
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// A file with a chat template, or the name of a common one (chatml, llama3, gemma, mistral-v3, phi4,
    /// zephyr, vicuna), instead of the model's own
    #[arg(long = "chat-template", value_name = "FILE|NAME")]
    pub(crate) template: Option<String>,
}

impl ChatArgs {
    /// Whether any of it is given.
    pub(crate) fn given(&self) -> bool {
        self.system.is_some() || self.template.is_some()
    }

    /// The messages that a conversation begins with.
    pub(crate) fn begun(&self) -> Vec<Message> {
        self.system.iter().map(Message::system).collect()
    }
}

/// The prompt, in one of three ways.
#[derive(Args)]
#[command(next_help_heading = "Prompt")]
pub(crate) struct PromptArgs {
    /// The prompt; "" starts from the beginning-of-text token, where the model has one
    #[arg(
        short = 'p',
        long = "prompt",
        value_name = "TEXT",
        conflicts_with = "file",
        allow_hyphen_values = true
    )]
    pub(crate) text: Option<String>,
    /// Read the prompt from a file, less one line break at its end [default: standard input]
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}

#[derive(Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// Divides the logits: 0 always takes the likeliest token
    #[arg(long = "temp", alias = "temperature", value_name = "T",
        default_value_t = SamplingParams::default().temperature)]
    temperature: f32,
    /// Keep the K likeliest tokens; 0 keeps all
    #[arg(long, value_name = "K", default_value_t = SamplingParams::default().top_k)]
    top_k: usize,
    /// Keep the likeliest tokens that together reach this probability; 1 keeps all
    #[arg(long, value_name = "P", default_value_t = SamplingParams::default().top_p)]
    top_p: f32,
    /// Drop tokens less likely than this share of the likeliest; 0 keeps all
    #[arg(long, value_name = "P", default_value_t = SamplingParams::default().min_p)]
    min_p: f32,
    /// Make recent tokens less likely; 1 is off
    #[arg(long, value_name = "X", default_value_t = SamplingParams::default().repeat_penalty)]
    repeat_penalty: f32,
    /// How many recent tokens the penalty sees; 0 none, -1 all of the context
    #[arg(long, value_name = "N", default_value = "64", allow_negative_numbers = true,
        value_parser = limit)]
    repeat_last_n: Limit,
    /// Repeats a generation: same seed, same text [default: random, shown at the end]
    #[arg(short = 's', long, value_name = "N")]
    seed: Option<u64>,
    /// End before this text, or the control token of this name, comes; may be given several times
    #[arg(
        short = 'r',
        long,
        alias = "reverse-prompt",
        value_name = "TEXT",
        allow_hyphen_values = true
    )]
    stop: Vec<String>,
    /// Go on after the model's end-of-text tokens
    #[arg(long)]
    ignore_eos: bool,
}

impl SamplingArgs {
    pub(crate) fn into_params(self, max_tokens: Limit) -> GenerationParams {
        let sampling = SamplingParams::default()
            .temperature(self.temperature)
            .top_k(self.top_k)
            .top_p(self.top_p)
            .min_p(self.min_p)
            .repeat_penalty(self.repeat_penalty)
            .repeat_last_n(self.repeat_last_n)
            .seed(self.seed);
        GenerationParams::from(sampling)
            .max_tokens(max_tokens)
            .stop(self.stop)
            .ignore_eos(self.ignore_eos)
    }
}

/// A number of tokens that only the context limits where it is `None`.
#[derive(Clone, Copy)]
pub(crate) struct Limit(Option<usize>);

impl From<Limit> for Option<usize> {
    fn from(limit: Limit) -> Self {
        limit.0
    }
}

/// As llama.cpp's limits, where -1 is the context.
pub(crate) fn limit(text: &str) -> Result<Limit, String> {
    match text {
        "-1" => Ok(Limit(None)),
        _ => text.parse().map(|n| Limit(Some(n))).map_err(|_| "not a number from -1 on".into()),
    }
}

/// A number of tokens, or as many as fit.
#[derive(Clone, Copy)]
enum Context {
    Of(usize),
    Auto,
}

fn context(text: &str) -> Result<Context, String> {
    match text {
        "auto" => Ok(Context::Auto),
        _ => text.parse().map(Context::Of).map_err(|_| "no number, and not \"auto\"".into()),
    }
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  goldcrest pack model.gguf model.gcpack
  goldcrest pack hf-folder/ model-q4.gcpack --quant q4_0

A packed file holds the weights as they lie in memory, the tokenizer and the configuration. It
opens in milliseconds and needs no other file. Its size is that of the source within 3%, and what
alignment adds (64 KB a section, 4 KB a matrix). It is read by the version that wrote it, and by others with the same layouts;
the rest refuse it, and `pack` makes a new one.")]
pub(crate) struct PackArgs {
    /// GGUF file or Hugging Face folder
    #[arg(value_name = "MODEL")]
    pub(crate) path: PathBuf,
    /// The file to write
    #[arg(value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Quantise float weights
    #[arg(long, value_name = "TYPE", ignore_case = true, value_parser = quant_parser())]
    pub(crate) quant: Option<Format>,
}

#[derive(Args)]
pub(crate) struct InspectArgs {
    /// GGUF file, Hugging Face folder or packed file
    #[arg(value_name = "MODEL")]
    pub(crate) path: PathBuf,
    /// Read everything: compare a packed file with its checksums, look for NaN in other files
    #[arg(long)]
    pub(crate) verify: bool,
    /// Print everything as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  goldcrest tokenize -m model.gguf \"Hello world\"
  goldcrest tokenize -m vocabulary.gguf -f text.txt --ids

The text is taken as it is, a line break at its end included. A GGUF file that holds a vocabulary
and no tensors is enough.")]
pub(crate) struct TokenizeArgs {
    /// GGUF file, Hugging Face folder or packed file
    #[arg(short, long, value_name = "MODEL")]
    pub(crate) model: PathBuf,
    /// The text [default: standard input]
    #[arg(conflicts_with = "file")]
    pub(crate) text: Option<String>,
    /// Read the text from a file
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Print the ids alone, separated by spaces
    #[arg(long)]
    pub(crate) ids: bool,
    /// Add no BOS or EOS, and read the names of special tokens as plain text
    #[arg(long)]
    pub(crate) no_special: bool,
}

#[derive(Args)]
#[command(after_help = "\
Example:
  goldcrest logits -m model.gguf --ids 1,403,407 -o logits.safetensors

The file gets one tensor, `logits`, of shape [tokens, vocabulary] in F32: row i holds the logits
after token i.")]
pub(crate) struct LogitsArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) prompt: PromptArgs,
    /// Token ids, separated by commas, in place of a text
    #[arg(long, value_name = "IDS", help_heading = "Prompt", value_delimiter = ',', conflicts_with_all = ["text", "file"])]
    pub(crate) ids: Option<Vec<u32>>,
    /// The file to write
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub(crate) output: PathBuf,
}

/// Which model, and how to run it.
#[derive(Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// GGUF file, Hugging Face folder or packed file [default: the model in the program]
    #[cfg(feature = "embedded-model")]
    #[arg(short = 'm', long = "model", value_name = "MODEL")]
    path: Option<PathBuf>,
    /// GGUF file, Hugging Face folder or packed file
    #[cfg(not(feature = "embedded-model"))]
    #[arg(short = 'm', long = "model", value_name = "MODEL")]
    path: PathBuf,
    /// Worker threads [default: the physical cores that the process may use]
    #[arg(short, long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=1024))]
    threads: Option<usize>,
    /// Tokens of context, prompt included, or "auto": as many as the model has and memory holds
    /// [default: the model's, 4096 at most]
    #[arg(short = 'c', long = "ctx-size", value_name = "N", value_parser = context)]
    context: Option<Context>,
    /// Megabytes of memory at hand [default: what the system and its control group leave]
    #[arg(long, value_name = "MB", value_parser = RangedU64ValueParser::<u64>::new().range(1..=1 << 40))]
    memory: Option<u64>,
    /// Load a model that needs more memory than there is at hand
    #[arg(long)]
    no_memory_check: bool,
    /// Instruction set [default: $GOLDCREST_ISA, else the best of this machine]
    #[arg(long, value_name = "NAME", ignore_case = true, value_parser = isa_parser())]
    isa: Option<Isa>,
    /// Number format of keys and values
    #[arg(long, value_name = "TYPE", default_value = "f16", ignore_case = true,
        value_parser = kv_parser())]
    kv: KvType,
    /// Quantise float weights while loading
    #[arg(long, value_name = "TYPE", ignore_case = true, value_parser = quant_parser())]
    quant: Option<Format>,
    /// Read the file into memory instead of mapping it
    #[arg(long)]
    no_mmap: bool,
    /// Give the same tokens and log-probabilities, bit for bit, on every machine
    #[arg(long)]
    deterministic: bool,
    #[command(flatten)]
    device: DeviceArgs,
    /// Say where each block runs
    #[arg(short, long)]
    verbose: bool,
}

/// The library's list.
fn quant_parser() -> impl TypedValueParser<Value = Format> {
    let names = Loader::quantizers().map(|format| format.name().to_lowercase());
    PossibleValuesParser::new(names).try_map(|name| {
        Loader::quantizers().find(|f| f.name().eq_ignore_ascii_case(&name)).ok_or("no format")
    })
}

pub(crate) fn kv_parser() -> impl TypedValueParser<Value = KvType> {
    PossibleValuesParser::new(["f32", "f16", "q8_0"]).map(|name| {
        match name.to_lowercase().as_str() {
            "f32" => KvType::F32,
            "q8_0" => KvType::Q8_0,
            _ => KvType::F16,
        }
    })
}

/// One list of names: the library's.
pub(crate) fn isa_parser() -> impl TypedValueParser<Value = Isa> {
    PossibleValuesParser::new(Isa::ALL.iter().map(|isa| isa.name()))
        .try_map(|name| name.parse::<Isa>())
}

impl ModelArgs {
    #[cfg(feature = "embedded-model")]
    fn source(&self) -> Loader {
        self.path.as_ref().map_or_else(Model::embedded, Model::loader)
    }

    #[cfg(not(feature = "embedded-model"))]
    fn source(&self) -> Loader {
        Model::loader(&self.path)
    }

    /// Whether it is the model in the program.
    pub(crate) fn is_embedded(&self) -> bool {
        #[cfg(feature = "embedded-model")]
        return self.path.is_none();
        #[cfg(not(feature = "embedded-model"))]
        false
    }

    /// Loads the model, with a progress bar where standard error is a terminal, and says how long
    /// that took.
    pub(crate) fn load(&self) -> Result<(Model, Duration), Failure> {
        let start = Instant::now();
        let bar = Progress::new("loading");
        let mut loader = self
            .source()
            .kv(self.kv)
            .mmap(!self.no_mmap)
            .memory_check(!self.no_memory_check)
            .deterministic(self.deterministic)
            .progress(bar.callback());
        if let Some(threads) = self.threads {
            loader = loader.threads(threads);
        }
        match self.context {
            None => {}
            Some(Context::Of(context)) => loader = loader.context(context),
            Some(Context::Auto) => loader = loader.longest_context(),
        }
        if let Some(megabytes) = self.memory {
            loader = loader.memory(megabytes << 20);
        }
        if let Some(isa) = self.isa {
            loader = loader.isa(isa);
        }
        if let Some(quant) = self.quant {
            loader = loader.quantize(quant);
        }
        let model = self.device.apply(loader)?.load();
        bar.finish();
        let model = model.map_err(Failure::of_arguments)?;
        if self.verbose {
            io::stderr().write_all(crate::stats::placement(&model).as_bytes())?;
        }
        Ok((model, start.elapsed()))
    }
}

/// A bar on standard error; indicatif draws nothing where that is no terminal.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    pub(crate) fn new(what: &'static str) -> Self {
        let style = ProgressStyle::with_template("{msg} [{bar:40}] {bytes}/{total_bytes}")
            .expect("a template of known fields")
            .progress_chars("=> ");
        Self(ProgressBar::new(0).with_style(style).with_message(what))
    }

    /// What the library tells its progress to.
    pub(crate) fn callback(&self) -> impl Fn(u64, u64) + Sync + 'static {
        let bar = self.0.clone();
        move |done, total| {
            bar.update(|state| {
                state.set_len(total);
                state.set_pos(done);
            });
        }
    }

    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn limits_are_those_of_llama_cpp() {
        let parse = |args: &[&str]| -> GenerationParams {
            let args = ["goldcrest", "run", "-m", "x", "-p", "x"].iter().chain(args);
            match Cli::try_parse_from(args).map(|cli| cli.command) {
                Ok(Command::Run(run)) => run.sampling.into_params(run.max_tokens),
                _ => panic!("not understood"),
            }
        };
        let limits = |args: &[&str]| {
            let params = parse(args);
            (params.max_tokens, params.sampling.repeat_last_n)
        };
        assert_eq!(limits(&[]), (None, SamplingParams::default().repeat_last_n));
        assert_eq!(limits(&["-n", "-1", "--repeat-last-n", "-1"]), (None, None));
        assert_eq!(limits(&["-n", "5", "--repeat-last-n=0"]), (Some(5), Some(0)));
        assert!(Cli::try_parse_from(["goldcrest", "run", "-n", "-3"]).is_err());
    }

    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }
}
