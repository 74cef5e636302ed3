//! `goldcrest chat`: a conversation, in a terminal or through a pipe.

mod input;
mod screen;

use std::path::Path;

use clap::{Args, ValueEnum};
use goldcrest::chat::{Chat, ChatEvent, Message};
use goldcrest::{CancelToken, Error, ErrorKind, GenerationParams, StopReason};

use crate::args::{ChatArgs, Limit, ModelArgs, SamplingArgs, limit};
use crate::failure::Failure;
use crate::stats::RunStats;
use crate::template::of_model;
use input::{Input, Line};
use screen::Screen;

const HELP: &str = "\
/help           these lines
/clear          forget the conversation, but for the instructions
/system TEXT    other instructions, and begin again
/save FILE      write the messages as JSON
/load FILE      read them back and go on from there
/stats          tokens and seconds so far
/exit           end (also Ctrl-D)

A line that ends with \\ goes on in the next. Ctrl-C stops an answer.
";

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    goldcrest chat -m model.gguf --system \"Be brief.\"\n  \
    echo \"What is a goldcrest?\" | goldcrest chat -m model.gguf\n\n\
    Through a pipe every line is a message, and standard output gets the answers alone.")]
pub(crate) struct ChatCommand {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    chat: ChatArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Tokens of an answer at most; -1 until the model ends it or the context is full
    #[arg(short = 'n', long = "n-predict", value_name = "N", default_value = "-1",
        allow_negative_numbers = true, value_parser = limit, help_heading = "Output")]
    max_tokens: Limit,
    /// What to do with what a model thinks before it answers [default: show in a terminal, else hide]
    #[arg(long, value_name = "HOW", help_heading = "Output")]
    reasoning: Option<Show>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Show {
    Show,
    Hide,
}

pub(crate) fn chat(args: ChatCommand) -> Result<(), Failure> {
    let ChatCommand { model, chat, sampling, max_tokens, reasoning } = args;
    if model.is_embedded() {
        let problem = "the story model in the program does not chat: -m gives one that does";
        return Err(Failure::usage(problem));
    }
    let params = sampling.into_params(max_tokens);
    params.validate().map_err(Failure::of_arguments)?;
    let (model, load_time) = model.load()?;
    let template = of_model(&model, chat.template.as_deref())?;
    let session = model.session().map_err(Failure::of_arguments)?;
    let mut screen = Screen::new(reasoning.map(|show| show == Show::Show));
    let mut talk = Talk {
        chat: Chat::new(session, template),
        begun: chat.begun(),
        params,
        load_seconds: load_time.as_secs_f64(),
    };
    talk.begin();
    let mut input = Input::new()?;
    screen.note("/help lists the commands, /exit ends")?;
    loop {
        match input.read()? {
            Line::End => return Ok(()),
            Line::Interrupted => screen.note("Ctrl-D or /exit ends")?,
            Line::Text(line) if line.trim().is_empty() => {}
            Line::Text(line) => match line.trim().strip_prefix('/') {
                Some(command) if input.is_terminal() => match talk.command(command, &screen) {
                    Ok(true) => return Ok(()),
                    Ok(false) => {}
                    Err(Failure::Failed(error) | Failure::Usage(error)) => {
                        screen.note(&format!("error: {error}"))?;
                    }
                    Err(closed) => return Err(closed),
                },
                _ => match talk.ask(&line, &input, &mut screen) {
                    Ok(()) => {}
                    // At the terminal there is somebody who can say something else.
                    Err(Failure::Failed(error) | Failure::Usage(error)) if input.is_terminal() => {
                        screen.note(&format!("error: {error}"))?;
                    }
                    Err(failure) => return Err(failure),
                },
            },
        }
    }
}

/// The conversation and how it goes on.
struct Talk {
    chat: Chat,
    /// What it begins with.
    begun: Vec<Message>,
    params: GenerationParams,
    load_seconds: f64,
}

impl Talk {
    fn begin(&mut self) {
        self.chat.input_mut().messages.clone_from(&self.begun);
    }

    fn ask(&mut self, text: &str, input: &Input, screen: &mut Screen) -> Result<(), Failure> {
        self.chat.push(Message::user(text));
        let before = self.chat.messages().len();
        let cancel = CancelToken::new();
        let _stops = input.stops_with(&cancel);
        let params = self.params.clone().cancel(&cancel);
        let asked = self.chat.answer(params).map(|answer| show(answer, screen));
        let failure = match asked {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(failure)) => failure,
            Err(error) if error.kind() == ErrorKind::Cancelled => return Ok(()),
            Err(error) => error.into(),
        };
        // What was not answered is not part of the conversation.
        if self.chat.messages().len() == before {
            self.chat.input_mut().messages.pop();
        }
        Err(failure)
    }

    /// Whether it was the last.
    fn command(&mut self, command: &str, screen: &Screen) -> Result<bool, Failure> {
        let (name, argument) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        let argument = argument.trim();
        match name {
            "help" => screen.note(HELP.trim_end())?,
            "clear" => self.begin(),
            "system" => {
                self.begun =
                    (!argument.is_empty()).then(|| Message::system(argument)).into_iter().collect();
                self.begin();
            }
            "save" | "load" if argument.is_empty() => {
                return Err(Failure::usage(format!("/{name} needs the name of a file")));
            }
            "save" => {
                let json = serde_json::to_vec_pretty(self.chat.messages());
                let json = json.map_err(std::io::Error::from)?;
                std::fs::write(argument, json).map_err(|error| Error::io(argument, error))?;
            }
            "load" => self.load(Path::new(argument))?,
            "stats" => {
                let stats = self.chat.session().stats();
                let model = self.chat.session().model();
                let stats = RunStats::new(model, self.load_seconds, stats, None);
                screen.note(stats.to_string().trim_end())?;
            }
            "exit" | "quit" | "bye" => return Ok(true),
            _ => return Err(Failure::usage(format!("no command /{name}: /help lists them"))),
        }
        Ok(false)
    }

    fn load(&mut self, path: &Path) -> Result<(), Failure> {
        let bytes = std::fs::read(path).map_err(|error| Error::io(path, error))?;
        let wrong =
            |error: serde_json::Error| Error::new(ErrorKind::Format, error.to_string()).at(path);
        self.chat.input_mut().messages = serde_json::from_slice(&bytes).map_err(wrong)?;
        Ok(())
    }
}

/// Prints an answer as it comes.
fn show(
    answer: impl Iterator<Item = goldcrest::Result<ChatEvent>>,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let mut shown = Ok(());
    for event in answer {
        match event {
            Ok(ChatEvent::Reasoning(text)) => screen.reasoning(&text)?,
            Ok(ChatEvent::Text(text)) => screen.text(&text)?,
            Ok(ChatEvent::End(StopReason::Cancelled)) => screen.stopped("stopped")?,
            Ok(ChatEvent::End(StopReason::ContextFull)) => {
                screen.stopped("the context is full: /clear begins again")?;
            }
            Ok(ChatEvent::End(StopReason::MaxTokens)) => screen.stopped("-n tokens are reached")?,
            Ok(_) => {}
            Err(error) => shown = Err(error.into()),
        }
    }
    screen.end()?;
    shown
}
