//! A template, compiled.

use std::borrow::Cow;
use std::fmt;
use std::fmt::Write;
use std::io;
use std::time::SystemTime;

use chrono::{DateTime, Local};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Value};
use serde_json::Map;

use super::message::{ChatInput, Message};
use super::{named, python};
use crate::error::{Error, ErrorKind, Result};
use crate::tokenizer::{EncodeOptions, Tokenizer};

const NAME: &str = "chat template";
/// Steps of a template: the longest conversations take some hundred thousand.
const FUEL: u64 = 20_000_000;
/// Bytes of a prompt.
const MAX_PROMPT: usize = 64 << 20;

/// A chat template: it makes one text of a conversation, in the way that a model was trained with.
///
/// ```
/// use goldcrest::chat::{ChatInput, ChatTemplate, Message};
///
/// let template = ChatTemplate::named("chatml")?;
/// let prompt = template.render(&ChatInput::new([Message::user("Hello")]))?;
/// assert_eq!(prompt, "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n");
/// # Ok::<(), goldcrest::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// Texts of special tokens: `bos_token`, `eos_token`.
    tokens: Map<String, serde_json::Value>,
}

impl ChatTemplate {
    /// Compiles a template.
    ///
    /// # Errors
    /// [`ErrorKind::Template`] where the syntax is wrong.
    pub fn parse(source: &str) -> Result<Self> {
        let mut environment = environment();
        environment
            .add_template_owned(NAME, in_known_tags(source).into_owned())
            .map_err(|error| of_template(&error))?;
        Ok(Self { environment, tokens: Map::new() })
    }

    /// One of the templates that many models share, by the name that llama.cpp has for it.
    ///
    /// # Errors
    /// [`ErrorKind::Template`] for an unknown name; the message has the known ones.
    pub fn named(name: &str) -> Result<Self> {
        named::source(name).and_then(Self::parse)
    }

    /// The names of [`named`](Self::named).
    pub fn names() -> impl Iterator<Item = &'static str> {
        named::ALL.iter().map(|&(name, _)| name)
    }

    /// Gives the template the text of a special token, as `bos_token` or another variable.
    #[must_use]
    pub fn token(mut self, variable: &str, text: impl Into<String>) -> Self {
        self.tokens.insert(variable.to_owned(), serde_json::Value::String(text.into()));
        self
    }

    pub(crate) fn with_tokens(mut self, tokens: Map<String, serde_json::Value>) -> Self {
        self.tokens.extend(tokens);
        self
    }

    /// Whether a system message shows in the prompt: some templates refuse it, some say nothing and leave
    /// it out. [`ChatInput::system_folded`] is for those.
    pub fn takes_system(&self) -> bool {
        const TEXT: &str = "instructions to be found again";
        let input = ChatInput::new([Message::system(TEXT), Message::user("-")]);
        self.render(&input).is_ok_and(|prompt| prompt.contains(TEXT))
    }

    /// The prompt of a conversation.
    ///
    /// A template is not trusted: its steps and the length of the prompt are limited. (The texts that it
    /// makes on the way are not: one written to exhaust the memory can.)
    ///
    /// # Errors
    /// [`ErrorKind::Template`] where the template refuses the conversation, which it says in its own words,
    /// or cannot be carried out.
    pub fn render(&self, input: &ChatInput) -> Result<String> {
        let mut environment = self.environment.clone();
        let now = input.now.unwrap_or_else(SystemTime::now);
        environment.add_function("strftime_now", move |format: &str| strftime(now, format));
        let mut context = self.tokens.clone();
        let list = |list: &[serde_json::Value]| {
            if list.is_empty() { serde_json::Value::Null } else { list.to_vec().into() }
        };
        context.insert("tools".into(), list(&input.tools));
        context.insert("documents".into(), list(&input.documents));
        context.insert("add_generation_prompt".into(), input.add_generation_prompt.into());
        context.extend(input.context.clone());
        let messages = serde_json::to_value(&input.messages).map_err(io::Error::from);
        context.insert("messages".into(), messages.map_err(|e| template_error(e.to_string()))?);
        let template = environment.get_template(NAME).map_err(|error| of_template(&error))?;
        let mut prompt = Prompt(Vec::new());
        template
            .render_captured_to(Value::from(Serde(context)), &mut prompt)
            .map_err(|error| of_template(&error))?;
        String::from_utf8(prompt.0).map_err(|error| template_error(error.to_string()))
    }
}

impl ChatTemplate {
    /// The tokens of a conversation's prompt; with a system message where the template has no place for
    /// one, of the conversation [folded](ChatInput::system_folded).
    ///
    /// Control tokens in the text are tokens. The token that begins a text comes first where the tokenizer
    /// adds one, whether the template has written it or not.
    ///
    /// # Errors
    /// As [`render`](Self::render) and [`Tokenizer::encode_with`].
    pub fn encode(&self, tokenizer: &Tokenizer, input: &ChatInput) -> Result<Vec<u32>> {
        self.prompt(tokenizer, input).map(|(_, ids)| ids)
    }

    /// The prompt as text and as tokens.
    pub(super) fn prompt(
        &self,
        tokenizer: &Tokenizer,
        input: &ChatInput,
    ) -> Result<(String, Vec<u32>)> {
        let system = input.messages.iter().any(|message| message.role() == "system");
        let prompt = if system && !self.takes_system() {
            self.render(&input.clone().system_folded())?
        } else {
            self.render(input)?
        };
        let options = EncodeOptions { add_special: false, parse_special: true };
        let mut ids = tokenizer.encode_with(&prompt, options)?;
        let first =
            tokenizer.encode("")?.first().copied().filter(|id| Some(*id) == tokenizer.bos());
        if let Some(first) = first.filter(|first| ids.first() != Some(first)) {
            ids.insert(0, first);
        }
        Ok((prompt, ids))
    }
}

/// As `transformers` sets Jinja up.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the usual delimiters"));
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_formatter(|out, _, value| Ok(python::write_str(out, value)?));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", python::to_json);
    environment.add_function(
        "raise_exception",
        |message: &str| -> Result<Value, minijinja::Error> {
            let kind = minijinja::ErrorKind::InvalidOperation;
            Err(minijinja::Error::new(kind, "refused").with_source(Refused(message.to_owned())))
        },
    );
    environment.set_fuel(Some(FUEL));
    environment
}

/// What `raise_exception` says.
#[derive(Debug)]
struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

fn template_error(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Template, message)
}

fn of_template(error: &minijinja::Error) -> Error {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if let Some(Refused(why)) = error.downcast_ref() {
            return template_error(format!("the chat template refuses these messages: {why}"));
        }
        cause = error.source();
    }
    let line = error.line().map_or_else(String::new, |line| format!(", line {line}"));
    let detail = error.detail().map_or_else(String::new, |detail| format!(": {detail}"));
    template_error(format!("chat template{line}: {}{detail}", error.kind()))
}

/// The time in a format of Python's `strftime`.
fn strftime(now: SystemTime, format: &str) -> Result<String, minijinja::Error> {
    let mut text = String::new();
    match write!(text, "{}", DateTime::<Local>::from(now).format(format)) {
        Ok(()) => Ok(text),
        Err(_) => {
            let problem = format!("strftime_now: unknown format {format:?}");
            Err(minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, problem))
        }
    }
}

/// `{% generation %}` marks the model's own words for training: here the block is always taken.
fn in_known_tags(source: &str) -> Cow<'_, str> {
    let mut out = Cow::Borrowed(source);
    for (tag, known) in [("generation", "if true"), ("endgeneration", "endif")] {
        let mut at = 0;
        while let Some(found) = out[at..].find("{%") {
            let start = at + found + 2;
            at = start;
            let Some(length) = out[start..].find("%}") else { break };
            let inside = &out[start..start + length];
            let word = inside.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
            if word == tag {
                let tag = inside.replacen(word, known, 1);
                out.to_mut().replace_range(start..start + length, &tag);
            }
        }
    }
    out
}

/// A prompt of limited length.
struct Prompt(Vec<u8>);

impl io::Write for Prompt {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_PROMPT {
            return Err(io::Error::other("the prompt is too long"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn rendered(source: &str, input: &ChatInput) -> Result<String> {
        ChatTemplate::parse(source)?.token("bos_token", "<s>").render(input)
    }

    #[test]
    fn what_a_template_can_read() {
        let mut input = ChatInput::new([Message::user(" hi ").with("name", "Ann")]);
        input.now = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_752_148_800));
        input.context.insert("who".into(), json!("you"));
        let source = "{{ bos_token }}{% for m in messages %}{{ m['content'].strip() }}{{ m.name }}\n\
            {% if m.role != 'user' %}{% continue %}{% endif %}.{% endfor %}{{ who }}{{ tools is none }}\
            {%- generation -%} {{ strftime_now('%d %b %Y') }} {%- endgeneration %}";
        assert_eq!(rendered(source, &input).unwrap(), "<s>hiAnn\n.youTrue10 Jul 2025");
        input.tools.push(json!({"type": "function"}));
        assert_eq!(rendered("{{ tools|tojson }}", &input).unwrap(), r#"[{"type": "function"}]"#);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let input = ChatInput::new([Message::user("hi")]);
        for (source, says) in [
            ("{{ raise_exception('Roles must alternate') }}", "Roles must alternate"),
            ("{% if %}", "line 1"),
            ("\n{{ messages.foo.bar }}", "line 2"),
            ("{{ strftime_now('%Q') }}", "%Q"),
            (
                "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
                "fuel",
            ),
            ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "recursion"),
            (
                "{% set x = 'abcdefgh' * 100000 %}{% for i in range(1000) %}{{ x }}{% endfor %}",
                "write",
            ),
        ] {
            let error = rendered(source, &input).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Template);
            assert!(error.to_string().contains(says), "{source}: {error}");
        }
    }
}
