//! Why a file cannot be read, or not to its end.
//!
//! A bad row is not an error: it is a [`Row`](crate::Row) that the gate refuses.

use std::{io, path::PathBuf};

/// What stops a load.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be opened.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Reading failed in the middle.
    #[error("cannot read {} on after line or row {line} (byte {position}): {source}; the rows before it were read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The last line or row that was read whole.
        line: u64,
        /// Input bytes consumed.
        position: u64,
        /// What the system, the decompressor or the Parquet reader says.
        source: io::Error,
    },
    /// The file ends in the middle of something.
    #[error("{} ends in the middle of {what} after line or row {line} (byte {position}); the rows before it were read, give the whole file to go on", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// The last line or row that was read whole.
        line: u64,
        /// Input bytes consumed.
        position: u64,
        /// What is not closed.
        what: &'static str,
    },
    /// A row grows without end, mostly because a quote or a bracket is not closed.
    #[error("the row after line or row {line} of {} is larger than {limit} bytes; look for an unclosed quote or bracket", path.display())]
    RowTooLarge {
        /// The file.
        path: PathBuf,
        /// The last line or row that was read whole.
        line: u64,
        /// The limit in bytes.
        limit: usize,
    },
    /// There is not a single byte, or only blank ones.
    #[error("{} is empty", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The first line of a CSV file cannot be its header.
    #[error("the first line of {} is not a header: {reason}; add a line with the names of the columns", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The content is none of the formats.
    #[error("{} is {what}; give CSV, JSON, NDJSON or Parquet, plain or gzip, or name the format", path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// What it looks like.
        what: &'static str,
    },
    /// A constant or a new name is not usable.
    #[error("{option} is not usable: {reason}")]
    Mapping {
        /// What was given.
        option: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The note about an earlier load cannot be read or written.
    #[error("cannot keep the progress of the load in {}: {source}", path.display())]
    Resume {
        /// The file with the note.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}
