//! The `goldcrest` command: parses arguments, calls the library, prints.
//!
//! Standard output gets results and nothing else; statistics, progress and errors go to standard
//! error. Exit codes: 0, 1 for a failure, 2 for a mistake in the arguments.

mod args;
mod bandwidth;
mod bench;
mod chat;
mod device;
mod failure;
mod inspect;
mod kernels;
mod logits;
mod machine;
mod pack;
mod prompt;
mod run;
mod stats;
mod template;
mod tokenize;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Cli, Command};
use failure::Failure;

fn main() -> ExitCode {
    match execute(Cli::parse_from(device::rewritten(std::env::args_os())).command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn execute(command: Command) -> Result<(), Failure> {
    match command {
        Command::Run(args) => run::run(args),
        Command::Chat(args) => chat::chat(args),
        Command::Pack(args) => pack::pack(args),
        Command::Inspect(args) => inspect::inspect(&args),
        Command::Template(args) => template::template(&args),
        Command::Tokenize(args) => tokenize::tokenize(&args),
        Command::Logits(args) => logits::logits(&args),
        Command::Bench(args) => bench::bench(&args),
        Command::Kernels(args) => kernels::kernels(&args),
        Command::Devices { json } => device::devices(json),
        Command::Completions { shell } => completions(shell),
    }
}

fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    // The generator panics where it cannot write, as into a closed pipe: memory takes anything.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "goldcrest", &mut script);
    Ok(std::io::stdout().lock().write_all(&script)?)
}
