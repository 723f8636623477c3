//! Why a query has no answer, or no more of it: what, where in the SQL, and what would be right.
//!
//! Each kind has a stable code. Nothing here repeats a row: messages of the engine are about the query, not about what it read.

use std::fmt;
use std::time::Duration;

use datafusion::common::{Column, Diagnostic, SchemaError};
use datafusion::error::DataFusionError;
use phronis_core::text::nearest;
use phronis_core::{Code, code};

/// Why a query has no answer, or no more of it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is not SQL.
    #[error("{message}")]
    Syntax {
        /// What is wrong.
        message: String,
        /// Where.
        at: Option<Place>,
    },
    /// The statement would do more than read.
    #[error("{what}: queries only read")]
    Refused {
        /// What it would do.
        what: String,
        /// Where.
        at: Option<Place>,
    },
    /// No such table for this key.
    #[error("there is no table `{table}`{}", did_you_mean(near.as_deref()))]
    UnknownTable {
        /// Its name, as it was asked for.
        table: String,
        /// The most similar name.
        near: Option<String>,
        /// Where.
        at: Option<Place>,
    },
    /// No such column in what is read.
    #[error("there is no column `{column}`{}", did_you_mean(near.as_deref()))]
    UnknownColumn {
        /// Its name.
        column: String,
        /// The most similar name.
        near: Option<String>,
        /// Where.
        at: Option<Place>,
    },
    /// It reads well and means nothing: wrong types, an unknown function, a division by zero.
    #[error("{message}")]
    Invalid {
        /// What is wrong.
        message: String,
        /// Where.
        at: Option<Place>,
    },
    /// The table has nothing of that time, or no such snapshot.
    #[error("{message}")]
    NoSnapshot {
        /// What was asked for, and what there is.
        message: String,
        /// Where.
        at: Option<Place>,
    },
    /// More rows than allowed.
    #[error("the answer has more than {most} rows: add a LIMIT, or a narrower WHERE")]
    TooManyRows {
        /// The limit.
        most: u64,
    },
    /// More bytes than allowed.
    #[error("the answer has more than {most} bytes: name fewer columns, or add a LIMIT")]
    TooManyBytes {
        /// The limit.
        most: u64,
    },
    /// More memory, or more room for what does not fit into memory, than allowed.
    #[error(
        "the query wants more memory than the {memory} bytes (and {spill} on disk) that a query gets: read less, or group by less"
    )]
    TooMuchMemory {
        /// Bytes of memory.
        memory: u64,
        /// Bytes on disk.
        spill: u64,
    },
    /// More time than allowed.
    #[error("the query was stopped after {} s: read a shorter time range, or fewer columns", most.as_secs())]
    TooLong {
        /// The limit.
        most: Duration,
    },
    /// As many queries run as may.
    #[error("{most} queries run already, no more at a time")]
    Busy {
        /// The limit.
        most: usize,
    },
    /// The catalog or the storage fails.
    #[error("the archive cannot be read: {0}")]
    Failed(String),
}

/// A place in the SQL, counted from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The line.
    pub line: u64,
    /// The column, in characters.
    pub column: u64,
    /// The line itself, with a mark under the place.
    pub excerpt: String,
}

/// Longest part of a line of SQL that is shown.
const EXCERPT: usize = 100;

impl Place {
    /// The place in the text; `None` where the text has no such line.
    pub(super) fn of(sql: &str, line: u64, column: u64) -> Option<Self> {
        let at = usize::try_from(line.checked_sub(1)?).ok()?;
        let text = sql.lines().nth(at)?;
        let before = usize::try_from(column.checked_sub(1)?).ok()?.min(text.chars().count());
        let skipped = before.saturating_sub(EXCERPT / 2);
        let shown: String =
            text.chars().skip(skipped).take(EXCERPT).map(|c| if c.is_control() { ' ' } else { c }).collect();
        let excerpt = format!("{shown}\n{:>width$}", '^', width = before - skipped + 1);
        Some(Self { line, column, excerpt })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

fn did_you_mean(near: Option<&str>) -> String {
    near.map(|near| format!("; is `{near}` meant?")).unwrap_or_default()
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Syntax { .. } => code::QUERY_SYNTAX,
            Self::Refused { .. } => code::QUERY_REFUSED,
            Self::UnknownTable { .. } => code::QUERY_NO_TABLE,
            Self::UnknownColumn { .. } => code::QUERY_NO_COLUMN,
            Self::Invalid { .. } => code::QUERY_INVALID,
            Self::NoSnapshot { .. } => code::QUERY_NO_SNAPSHOT,
            Self::TooManyRows { .. } => code::QUERY_ROWS,
            Self::TooManyBytes { .. } => code::QUERY_BYTES,
            Self::TooMuchMemory { .. } => code::QUERY_MEMORY,
            Self::TooLong { .. } => code::QUERY_TIME,
            Self::Busy { .. } => code::QUERY_BUSY,
            Self::Failed(_) => code::QUERY_FAILED,
        }
    }

    /// Where in the SQL.
    pub fn at(&self) -> Option<&Place> {
        match self {
            Self::Syntax { at, .. }
            | Self::Refused { at, .. }
            | Self::UnknownTable { at, .. }
            | Self::UnknownColumn { at, .. }
            | Self::Invalid { at, .. }
            | Self::NoSnapshot { at, .. } => at.as_ref(),
            _ => None,
        }
    }
}

impl From<crate::Error> for Error {
    fn from(error: crate::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// What the engine's error means; `sql` is what was asked, for the place.
pub(super) fn meaning(error: &DataFusionError, sql: &str, memory: u64, spill: u64) -> Error {
    let at = place(error, sql);
    match error.find_root() {
        DataFusionError::ResourcesExhausted(_) => Error::TooMuchMemory { memory, spill },
        DataFusionError::SchemaError(schema, _) => schema_error(schema, at),
        DataFusionError::SQL(error, _) => super::sql::syntax(&error.to_string(), sql),
        DataFusionError::Plan(message) if message.contains("not found") && message.starts_with("table") => {
            Error::UnknownTable { table: message.split('\'').nth(1).unwrap_or_default().to_owned(), near: None, at }
        }
        DataFusionError::Plan(message)
        | DataFusionError::Execution(message)
        | DataFusionError::Configuration(message) => Error::Invalid { message: first_sentences(message), at },
        DataFusionError::NotImplemented(message) => {
            Error::Invalid { message: format!("this is not offered: {}", first_sentences(message)), at }
        }
        DataFusionError::ArrowError(error, _) => Error::Invalid { message: error.to_string(), at },
        DataFusionError::Diagnostic(diagnostic, _) => Error::Invalid { message: diagnostic.message.clone(), at },
        other => Error::Failed(other.strip_backtrace()),
    }
}

/// The engine's messages go on with candidates over many lines; the beginning says what is wrong.
fn first_sentences(message: &str) -> String {
    let text = message.split("\n\nbacktrace:").next().unwrap_or(message);
    text.chars().take(400).collect::<String>().trim_end().to_owned()
}

fn schema_error(error: &SchemaError, at: Option<Place>) -> Error {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let written = field.flat_name();
            let known: Vec<String> = valid_fields.iter().map(|valid| like(field, valid)).collect();
            let near = nearest(&written, known.iter().map(String::as_str)).map(quoted);
            Error::UnknownColumn { column: written, near, at }
        }
        SchemaError::AmbiguousReference { field } => {
            let message = format!("`{}` is a column of several tables: put the table's name before it", field.name);
            Error::Invalid { message, at }
        }
        other => Error::Invalid { message: other.to_string(), at },
    }
}

/// A known column, written as the unknown one is: with its table or without.
fn like(written: &Column, known: &Column) -> String {
    if written.relation.is_some() { known.flat_name() } else { known.name.clone() }
}

/// A name as SQL has to write it.
pub(super) fn quoted(name: &str) -> String {
    let is_plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'.');
    if is_plain { name.to_owned() } else { format!("\"{name}\"") }
}

fn place(error: &DataFusionError, sql: &str) -> Option<Place> {
    fn span(diagnostic: &Diagnostic) -> Option<(u64, u64)> {
        diagnostic.span.map(|span| (span.start.line, span.start.column))
    }
    let (line, column) = error.diagnostic().and_then(span)?;
    Place::of(sql, line, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_shows_its_line_with_a_mark_under_it() {
        let place = Place::of("SELECT a,\n  FROM t", 2, 3).unwrap();
        assert_eq!(place.excerpt, "  FROM t\n  ^");
        assert_eq!(place.to_string(), "line 2, column 3");
        assert_eq!(Place::of("SELECT", 1, 99).unwrap().excerpt, "SELECT\n      ^");
        assert_eq!(Place::of("SELECT", 2, 1), None);
        let long = format!("SELECT {} FROM", "x".repeat(300));
        let place = Place::of(&long, 1, 309).unwrap();
        let lines: Vec<&str> = place.excerpt.lines().collect();
        assert_eq!(lines[0].chars().nth(lines[1].len() - 1), Some('F'));
    }
}
