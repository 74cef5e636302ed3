//! Where messages come from.

use std::io::{self, BufRead, IsTerminal};
use std::sync::{Arc, Mutex, PoisonError};

use goldcrest::{CancelToken, Error, ErrorKind};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::failure::Failure;

/// A message, or why there is none.
pub(super) enum Line {
    Text(String),
    /// Ctrl-C while nothing was being answered.
    Interrupted,
    End,
}

/// Lines of a terminal, which can be edited and called back, or of a pipe.
pub(super) struct Input {
    editor: Option<DefaultEditor>,
    answering: Arc<Mutex<Option<CancelToken>>>,
}

impl Input {
    pub(super) fn new() -> Result<Self, Failure> {
        let answering = Arc::new(Mutex::new(None::<CancelToken>));
        let terminal = io::stdin().is_terminal();
        if terminal {
            let answering = Arc::clone(&answering);
            ctrlc::set_handler(move || {
                match &*answering.lock().unwrap_or_else(PoisonError::into_inner) {
                    Some(cancel) => cancel.cancel(),
                    // As without a handler: nothing was being answered, or read, that could stop.
                    None => std::process::exit(130),
                }
            })
            .map_err(|error| Error::new(ErrorKind::Io, error.to_string()))?;
        }
        let editor = terminal.then(DefaultEditor::new).transpose().map_err(failed)?;
        Ok(Self { editor, answering })
    }

    pub(super) fn is_terminal(&self) -> bool {
        self.editor.is_some()
    }

    /// Ctrl-C stops what has this token, until the result is dropped.
    pub(super) fn stops_with(&self, cancel: &CancelToken) -> Stops {
        *self.answering.lock().unwrap_or_else(PoisonError::into_inner) = Some(cancel.clone());
        Stops(Arc::clone(&self.answering))
    }

    /// The next message; lines that end with a backslash go on.
    pub(super) fn read(&mut self) -> Result<Line, Failure> {
        let mut text = String::new();
        loop {
            let prompt = if text.is_empty() { "> " } else { ". " };
            let line = match self.line(prompt)? {
                Line::Text(line) => line,
                Line::End if !text.is_empty() => return Ok(Line::Text(text)),
                other => return Ok(other),
            };
            match line.strip_suffix('\\') {
                Some(line) if self.is_terminal() => {
                    text.push_str(line);
                    text.push('\n');
                }
                _ => {
                    text.push_str(&line);
                    break;
                }
            }
        }
        if let Some(editor) = &mut self.editor {
            editor.add_history_entry(&text).map_err(failed)?;
        }
        Ok(Line::Text(text))
    }

    fn line(&mut self, prompt: &str) -> Result<Line, Failure> {
        let Some(editor) = &mut self.editor else {
            let mut line = String::new();
            let read = io::stdin().lock().read_line(&mut line);
            let read = read.map_err(|error| Error::io("standard input", error))?;
            line.truncate(line.trim_end_matches(['\r', '\n']).len());
            return Ok(if read == 0 { Line::End } else { Line::Text(line) });
        };
        match editor.readline(prompt) {
            Ok(line) => Ok(Line::Text(line)),
            Err(ReadlineError::Interrupted) => Ok(Line::Interrupted),
            Err(ReadlineError::Eof) => Ok(Line::End),
            Err(error) => Err(failed(error)),
        }
    }
}

/// While it lives, Ctrl-C is for the answer.
pub(super) struct Stops(Arc<Mutex<Option<CancelToken>>>);

impl Drop for Stops {
    fn drop(&mut self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

fn failed(error: ReadlineError) -> Failure {
    Error::new(ErrorKind::Io, error.to_string()).at("the terminal").into()
}
