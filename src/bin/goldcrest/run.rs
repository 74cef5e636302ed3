//! `goldcrest run`: a prompt and its continuation.

use std::io::{self, StdoutLock, Write};

use goldcrest::chat::{ChatInput, Message};
use goldcrest::{ErrorKind, Token};
use serde::Serialize;
use serde_json::json;

use crate::args::RunArgs;
use crate::failure::Failure;
use crate::stats::{RunStats, reason_name};
use crate::template::of_model;

pub(crate) fn run(args: RunArgs) -> Result<(), Failure> {
    let RunArgs { model, prompt, max_tokens, sampling, chat, template, echo, json } = args;
    if !chat && template.given() {
        return Err(Failure::usage("--system and --chat-template are for --chat"));
    }
    // All that can be wrong with the arguments alone is said before the model is loaded.
    let params = sampling.into_params(max_tokens);
    params.validate().map_err(Failure::of_arguments)?;
    let random = params.sampling.temperature > 0.0;
    let endless = params.max_tokens.is_none();
    let prompt = prompt.read()?;

    let (model, load_time) = model.load()?;
    let tokenizer = model.tokenizer()?;
    let ids = if chat {
        let mut messages = template.begun();
        messages.push(Message::user(&prompt));
        let template = of_model(&model, template.template.as_deref())?;
        template.encode(tokenizer, &ChatInput::new(messages))
    } else {
        tokenizer.encode(&prompt)
    };
    let ids = ids.map_err(Failure::of_arguments)?;
    let mut session = model.session().map_err(Failure::of_arguments)?;
    session.push(&ids).map_err(Failure::of_arguments)?;

    let mut out = Output::new(json);
    if echo {
        out.text(&prompt)?;
    }
    let mut failure = None;
    let mut generator = session.generate(params).map_err(Failure::of_arguments)?;
    for token in generator.by_ref() {
        match token {
            Ok(token) => out.token(&token)?,
            // Until the context is full is what no -n asks for.
            Err(error) if error.kind() == ErrorKind::ContextFull && endless => {}
            Err(error) => failure = Some(error),
        }
    }
    out.held(&generator.take_held())?;
    let reason = reason_name(generator.stop_reason());
    let seed = random.then_some(generator.seed());
    let stats = RunStats::new(&model, load_time.as_secs_f64(), session.stats(), seed);
    out.finish(&stats, reason)?;
    if !chat && !json && model.chat_template().is_ok() {
        let hint = "hint    the model has a chat template: --chat asks the prompt as a question\n";
        let _ = io::stderr().lock().write_all(hint.as_bytes());
    }
    failure.map_or(Ok(()), |error| Err(error.into()))
}

/// Where tokens go, as text or as JSON.
struct Output {
    out: StdoutLock<'static>,
    json: bool,
    /// The text so far ends a line.
    line_ended: bool,
}

#[derive(Serialize)]
struct TokenLine<'a> {
    id: u32,
    text: &'a str,
    logprob: f32,
}

impl Output {
    fn new(json: bool) -> Self {
        Self { out: io::stdout().lock(), json, line_ended: true }
    }

    fn token(&mut self, token: &Token) -> io::Result<()> {
        if !self.json {
            return self.text(&token.text);
        }
        let Token { id, text, logprob, .. } = token;
        self.line(&TokenLine { id: *id, text, logprob: *logprob })
    }

    /// The text that no token brought, since the generation failed.
    fn held(&mut self, text: &str) -> io::Result<()> {
        match self.json {
            true if !text.is_empty() => self.line(&json!({ "text": text })),
            true => Ok(()),
            false => self.text(text),
        }
    }

    fn text(&mut self, text: &str) -> io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        self.line_ended = text.ends_with('\n');
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }

    fn line(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, value)?;
        self.out.write_all(b"\n")?;
        self.out.flush()
    }

    fn finish(&mut self, stats: &RunStats, reason: &str) -> io::Result<()> {
        if self.json {
            return self.line(&json!({ "stats": stats, "stop_reason": reason }));
        }
        if !self.line_ended {
            self.text("\n")?;
        }
        // Statistics that nobody can read are no failure.
        let _ = write!(io::stderr().lock(), "\n{stats}stop    {}\n", reason.replace('_', " "));
        Ok(())
    }
}
