//! Where a model has its templates.

use serde_json::{Map, Value as Json};

use super::ChatTemplate;
use crate::error::{Error, ErrorKind, Result};
use crate::load::{Checkpoint, TokenizerSource};

/// Variables of a template, and the keys of GGUF that have the tokens' ids.
const TOKENS: [(&str, &str); 4] = [
    ("bos_token", "tokenizer.ggml.bos_token_id"),
    ("eos_token", "tokenizer.ggml.eos_token_id"),
    ("unk_token", "tokenizer.ggml.unknown_token_id"),
    ("pad_token", "tokenizer.ggml.padding_token_id"),
];

const MORE_TOKENS: &str = "additional_special_tokens";

impl ChatTemplate {
    /// The template of a model file or folder, with the texts of its special tokens; `None` where it has
    /// none.
    ///
    /// # Errors
    /// [`ErrorKind::Template`] where it is wrong.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Option<Self>> {
        Self::of_checkpoint(checkpoint, None)
    }

    /// Another of the model's templates, such as "tool_use".
    ///
    /// # Errors
    /// Also where the model has none of that name.
    pub fn from_checkpoint_named(checkpoint: &Checkpoint, name: &str) -> Result<Self> {
        Self::of_checkpoint(checkpoint, Some(name))?.ok_or_else(|| {
            let problem = format!("the model has no chat template called \"{name}\"");
            Error::new(ErrorKind::Template, problem).at(checkpoint.path())
        })
    }

    /// Gives the template the texts of a model's special tokens.
    #[must_use]
    pub fn for_checkpoint(self, checkpoint: &Checkpoint) -> Self {
        self.with_tokens(tokens(checkpoint))
    }

    fn of_checkpoint(checkpoint: &Checkpoint, name: Option<&str>) -> Result<Option<Self>> {
        let Some(source) = find(checkpoint, name) else { return Ok(None) };
        let template = Self::parse(source).map_err(|error| error.at(checkpoint.path()))?;
        Ok(Some(template.for_checkpoint(checkpoint)))
    }
}

/// The texts of a model's special tokens, by the variables of a template.
pub(crate) fn tokens(checkpoint: &Checkpoint) -> Map<String, Json> {
    let named = TOKENS.into_iter().filter_map(|(variable, key)| {
        Some((variable.to_owned(), Json::String(token(checkpoint, variable, key)?)))
    });
    let more = more_tokens(checkpoint).map(|texts| (MORE_TOKENS.to_owned(), texts.into()));
    named.chain(more).collect()
}

fn find<'a>(checkpoint: &'a Checkpoint, name: Option<&str>) -> Option<&'a str> {
    match checkpoint.tokenizer_source() {
        TokenizerSource::Json { tokenizer_config, .. } => {
            in_config(tokenizer_config?.get("chat_template")?, name)
        }
        _ => {
            let name = name.filter(|&name| name != "default");
            let key = name.map_or_else(String::new, |name| format!(".{name}"));
            checkpoint.metadata().get_str(&format!("tokenizer.chat_template{key}")).ok().flatten()
        }
    }
}

/// One template, or a list of them with names.
fn in_config<'a>(templates: &'a Json, name: Option<&str>) -> Option<&'a str> {
    let name = name.unwrap_or("default");
    match templates {
        Json::String(template) => (name == "default").then_some(template),
        templates => {
            let mut list = templates.as_array()?.iter();
            list.find(|entry| entry["name"] == name)?["template"].as_str()
        }
    }
}

fn token(checkpoint: &Checkpoint, variable: &str, key: &str) -> Option<String> {
    match checkpoint.tokenizer_source() {
        TokenizerSource::Json { tokenizer_config, .. } => {
            text_of(tokenizer_config?.get(variable)?).map(str::to_owned)
        }
        _ => {
            let metadata = checkpoint.metadata();
            let id = usize::try_from(metadata.get(key)?.as_u64()?).ok()?;
            metadata.get_strings("tokenizer.ggml.tokens").ok().flatten()?.get(id).cloned()
        }
    }
}

/// Of a folder, the special tokens beside those with names.
fn more_tokens(checkpoint: &Checkpoint) -> Option<Vec<String>> {
    let TokenizerSource::Json { tokenizer_config, .. } = checkpoint.tokenizer_source() else {
        return None;
    };
    let list = tokenizer_config?.get(MORE_TOKENS)?.as_array()?.iter();
    list.map(|token| text_of(token).map(str::to_owned)).collect()
}

/// A token's text, or that of its description.
fn text_of(token: &Json) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}
