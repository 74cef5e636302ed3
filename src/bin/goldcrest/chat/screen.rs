//! What a conversation looks like.

use std::io::{self, IsTerminal, Write};

const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// Standard output for answers; standard error for everything else, where somebody sits before it.
pub(super) struct Screen {
    colours: bool,
    notes: bool,
    reasoning: bool,
    dimmed: bool,
    /// The output ends a line.
    line_ended: bool,
}

impl Screen {
    /// `reasoning` says whether it is shown; `None` in a terminal.
    pub(super) fn new(reasoning: Option<bool>) -> Self {
        let terminal = io::stdout().is_terminal();
        let colours = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            colours,
            notes: io::stdin().is_terminal(),
            reasoning: reasoning.unwrap_or(terminal),
            dimmed: false,
            line_ended: true,
        }
    }

    /// A line that is no part of the conversation.
    pub(super) fn note(&self, text: &str) -> io::Result<()> {
        if !self.notes {
            return Ok(());
        }
        let (dim, plain) = if self.colours { (DIM, PLAIN) } else { ("", "") };
        writeln!(io::stderr().lock(), "{dim}{text}{plain}")
    }

    pub(super) fn reasoning(&mut self, text: &str) -> io::Result<()> {
        if !self.reasoning {
            return Ok(());
        }
        if self.colours && !self.dimmed {
            io::stdout().lock().write_all(DIM.as_bytes())?;
        }
        self.dimmed = true;
        self.write(text)
    }

    pub(super) fn text(&mut self, text: &str) -> io::Result<()> {
        if self.dimmed {
            self.undim()?;
            let gap = if self.line_ended { "\n" } else { "\n\n" };
            self.write(gap)?;
        }
        self.write(text)
    }

    /// Why an answer ended before its end.
    pub(super) fn stopped(&mut self, why: &str) -> io::Result<()> {
        self.end()?;
        self.note(&format!("({why})"))
    }

    /// The answer is over: it ends a line.
    pub(super) fn end(&mut self) -> io::Result<()> {
        self.undim()?;
        if self.line_ended { Ok(()) } else { self.write("\n") }
    }

    fn undim(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.dimmed) && self.colours {
            io::stdout().lock().write_all(PLAIN.as_bytes())?;
        }
        Ok(())
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        self.line_ended = text.ends_with('\n');
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }
}
