//! Where a text comes from: an argument, a file, standard input.

use std::io::{IsTerminal, Read};
use std::path::Path;

use goldcrest::{Error, ErrorKind};

use crate::args::PromptArgs;
use crate::failure::Failure;

impl PromptArgs {
    /// The prompt. Of a file and of standard input, a line break at the end is the editor's or the
    /// shell's, not the prompt's.
    pub(crate) fn read(&self) -> Result<String, Failure> {
        if let Some(text) = &self.text {
            return Ok(text.clone());
        }
        let mut text = read_text(None, self.file.as_deref())?;
        if text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        if text.is_empty() {
            let place = self.file.as_deref().unwrap_or(Path::new("standard input"));
            return Err(Failure::usage(format!(
                "the prompt is empty: {} has no text (-p \"\" starts from the beginning of a text)",
                place.display()
            )));
        }
        Ok(text)
    }
}

/// The text of an argument, else of a file, else of standard input, to the byte.
pub(crate) fn read_text(text: Option<&str>, file: Option<&Path>) -> Result<String, Failure> {
    if let Some(text) = text {
        return Ok(text.to_owned());
    }
    let (place, bytes) = match file {
        Some(file) => (file, std::fs::read(file)),
        None if std::io::stdin().is_terminal() => {
            return Err(Failure::usage(
                "no text: give it as an argument, with -f FILE, or on standard input",
            ));
        }
        None => (Path::new("standard input"), read_stdin()),
    };
    let bytes = bytes.map_err(|error| Error::io(place, error))?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Error::new(ErrorKind::Format, format!("not UTF-8 at byte {at}")).at(place).into()
    })
}

fn read_stdin() -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes)?;
    Ok(bytes)
}
