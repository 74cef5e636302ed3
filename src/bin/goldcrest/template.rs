//! `goldcrest template`: the prompt that a chat template makes, and nothing else.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use goldcrest::Model;
use goldcrest::chat::{ChatInput, ChatTemplate, Message};
use goldcrest::load::{Checkpoint, ReadOptions};
use serde::de::DeserializeOwned;
use serde_json::Map;

use crate::failure::Failure;

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    goldcrest template -m model.gguf --messages chat.json --add-generation-prompt\n  \
    goldcrest template --template chatml.jinja --messages chat.json --context variables.json\n\n\
    The messages are a list as OpenAI's interface has it: [{\"role\": \"user\", \"content\": \"Hello\"}].")]
pub(crate) struct TemplateArgs {
    /// GGUF file, Hugging Face folder or packed file whose template it is; a vocabulary alone is enough
    #[arg(short, long, required_unless_present = "template")]
    model: Option<PathBuf>,
    /// A file with a template, or the name of a common one, instead of the model's own
    #[arg(long, value_name = "FILE|NAME")]
    template: Option<String>,
    /// A JSON file with the list of messages
    #[arg(long, value_name = "FILE")]
    messages: PathBuf,
    /// A JSON file with a list of definitions of tools
    #[arg(long, value_name = "FILE")]
    tools: Option<PathBuf>,
    /// A JSON file with an object of variables
    #[arg(long, value_name = "FILE")]
    context: Option<PathBuf>,
    /// End where the model's answer begins
    #[arg(long)]
    add_generation_prompt: bool,
}

pub(crate) fn template(args: &TemplateArgs) -> Result<(), Failure> {
    let messages: Vec<Message> = read(&args.messages)?;
    let mut input = ChatInput::new(messages);
    input.tools = args.tools.as_deref().map(read).transpose()?.unwrap_or_default();
    input.context = args.context.as_deref().map(read).transpose()?.unwrap_or_else(Map::new);
    input.add_generation_prompt = args.add_generation_prompt;
    let checkpoint = args.model.as_ref();
    let checkpoint = checkpoint.map(|model| Checkpoint::open(model, &ReadOptions::default()));
    let checkpoint = checkpoint.transpose()?;
    let own = match &checkpoint {
        Some(checkpoint) => ChatTemplate::from_checkpoint(checkpoint)?,
        None => None,
    };
    let template = match (&args.template, own) {
        (Some(given), own) => {
            let template = given_template(given)?;
            match (own, checkpoint) {
                (_, Some(checkpoint)) => template.for_checkpoint(&checkpoint),
                _ => template,
            }
        }
        (None, Some(own)) => own,
        (None, None) => {
            return Err(Failure::usage("the model has no chat template: --template gives one"));
        }
    };
    Ok(io::stdout().lock().write_all(template.render(&input)?.as_bytes())?)
}

/// The template of `--chat-template`, with the texts of the model's tokens, or the model's own.
pub(crate) fn of_model(model: &Model, given: Option<&str>) -> Result<ChatTemplate, Failure> {
    match given {
        Some(given) => Ok(model.for_chat(given_template(given)?)),
        None => match model.chat_template() {
            Ok(template) => Ok(template.clone()),
            Err(error) => Err(Failure::usage(format!("{error}: --chat-template gives one"))),
        },
    }
}

/// A template in a file, or one with a name.
fn given_template(given: &str) -> Result<ChatTemplate, Failure> {
    match std::fs::read_to_string(given) {
        Ok(source) => Ok(ChatTemplate::parse(&source).map_err(|error| error.at(given))?),
        Err(_) if ChatTemplate::names().any(|name| name == given) => {
            Ok(ChatTemplate::named(given)?)
        }
        Err(error) => {
            let names: Vec<_> = ChatTemplate::names().collect();
            let names = names.join(", ");
            Err(Failure::usage(format!(
                "{given}: {error}, and no template has that name ({names})"
            )))
        }
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    let bytes = std::fs::read(path).map_err(|error| goldcrest::Error::io(path, error))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}
