//! Letters that come back: records of a retry topic, byte for byte those of dlq, with where they stand there.

use super::{LETTER_OFFSET, Letter, REDRIVE, full};
use crate::records::{Headers, HeadersBuilder};

/// A letter that comes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Returned {
    /// The letter.
    pub letter: Letter,
    /// Its offset, in the same partition of dlq.
    pub at: i64,
    /// The redrive that brings it back; `None` when its time has come.
    pub redrive: Option<String>,
}

impl Returned {
    /// Writes the headers of a letter that moves to the retry topic: its own, as they are, and after them where it stands.
    pub fn write(letter: Headers<'_>, at: i64, redrive: Option<&str>, out: &mut HeadersBuilder) {
        out.extend(letter);
        out.push(LETTER_OFFSET, at.to_string().as_bytes());
        // Also when there is none: a letter may say which redrive it comes from.
        out.push(REDRIVE, redrive.unwrap_or_default().as_bytes());
    }

    /// Reads a record of a retry topic; `None` when it is no letter.
    pub fn read(headers: Headers<'_>) -> Option<Self> {
        Some(Self {
            letter: Letter::read(headers)?,
            at: full(headers, LETTER_OFFSET)?.parse().ok().filter(|at| *at >= 0)?,
            redrive: full(headers, REDRIVE).map(str::to_owned),
        })
    }
}
