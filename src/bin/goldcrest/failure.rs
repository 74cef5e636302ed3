//! How a command fails: the message and the exit code.

use std::error::Error as _;
use std::io::{self, Write};
use std::process::ExitCode;

use goldcrest::{Error, ErrorKind};

/// Why a command ends early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The work failed: exit code 1.
    Failed(Error),
    /// An argument is wrong: exit code 2.
    Usage(Error),
    /// Nobody reads standard output any more, as when `head` has enough. No failure of ours.
    Closed,
}

impl Failure {
    /// A mistake in the arguments.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage(Error::new(ErrorKind::Input, message))
    }

    /// An error of a call whose arguments are the command's: a value out of range is the user's
    /// mistake, anything else a failure.
    pub(crate) fn of_arguments(error: Error) -> Self {
        match error.kind() {
            ErrorKind::Input => Self::Usage(error),
            _ => Self::Failed(error),
        }
    }

    /// Tells the user and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        let (error, code) = match self {
            Self::Failed(error) => (error, 1),
            Self::Usage(error) => (error, 2),
            Self::Closed => return ExitCode::SUCCESS,
        };
        let mut message = format!("error: {error}\n");
        let mut cause = error.source();
        while let Some(inner) = cause {
            let text = inner.to_string();
            // Some messages contain their cause's already.
            if !message.contains(&text) {
                message.push_str(&format!("  because: {text}\n"));
            }
            cause = inner.source();
        }
        if code == 2 {
            message.push_str("\nFor more information, try '--help'.\n");
        }
        // Without a standard error there is nobody to tell.
        let _ = io::stderr().lock().write_all(message.as_bytes());
        ExitCode::from(code)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Errors of writing to standard output; those of files are made with [`Error::io`].
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Failed(Error::io("standard output", error)),
        }
    }
}
