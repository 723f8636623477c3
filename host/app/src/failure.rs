//! How a command ends when it does not end well: what, where, why, what to do next, and the exit code.

use std::fmt;
use std::process::ExitCode;

use phronis_core::text::escape;
use phronis_core::{Code, code};

use crate::config::Problems;

/// The exit codes of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All is well.
    Ok = 0,
    /// A check failed.
    CheckFailed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The configuration is not valid.
    ConfigInvalid = 3,
    /// No host, or a host that cannot answer.
    NotReachable = 4,
    /// The host says no.
    Refused = 5,
    /// Ended by Ctrl-C.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A command that could not do what it was asked.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// The stable code, `PHnnnn`, when there is one.
    pub code: Option<String>,
    /// What went wrong, with where and why.
    pub message: String,
    /// What to do next.
    pub next: Option<String>,
}

/// What a command returns.
pub type Outcome = Result<Exit, Failure>;

impl Failure {
    /// A failure with an exit code.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, code: None, message: message.into(), next: None }
    }

    /// Wrong use of the command line.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Adds the stable code.
    #[must_use]
    pub fn code(mut self, code: Code) -> Self {
        self.code = Some(code.to_string());
        self
    }

    /// Adds what to do next.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }
}

impl fmt::Display for Failure {
    /// Parts of the message may come from a host or a file: nothing in it moves the cursor.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.code {
            Some(code) => write!(f, "error[{code}]: ")?,
            None => f.write_str("error: ")?,
        }
        for (index, line) in self.message.lines().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            f.write_str(&escape(line))?;
        }
        if let Some(next) = &self.next {
            write!(f, "\n  next: {next}")?;
        }
        if let Some(code) = &self.code {
            write!(f, "\n  more: phronis explain {code}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

impl From<Problems> for Failure {
    /// The problems carry their codes themselves.
    fn from(problems: Problems) -> Self {
        let first = problems.0.first().map_or(code::CONFIG_INVALID, |problem| problem.code);
        let message = problems.0.iter().map(|problem| format!("{problem}\n\n")).collect::<String>();
        let count = problems.0.len();
        let plural = if count == 1 { "" } else { "s" };
        Self {
            exit: Exit::ConfigInvalid,
            code: Some(first.to_string()),
            message: format!("{count} problem{plural} in the configuration\n\n{}", message.trim_end()),
            next: Some("mend them, then `phronis check -c FILE`".to_owned()),
        }
    }
}

impl From<phronis_store::Error> for Failure {
    fn from(error: phronis_store::Error) -> Self {
        use phronis_store::Error;
        let exit = match error {
            Error::Unreachable { .. } => Exit::NotReachable,
            Error::Refused { .. } | Error::Newer { .. } => Exit::Refused,
            _ => Exit::CheckFailed,
        };
        Self::new(exit, error.to_string()).code(error.code())
    }
}

impl From<std::io::Error> for Failure {
    /// Writing to standard output: the reader went away, which is how `| head` ends.
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::new(Exit::Ok, String::new()),
            _ => Self::new(Exit::CheckFailed, error.to_string()),
        }
    }
}
