//! What a record of a dlq topic is.

use super::{DISCARD, RANGE, SETTLED, full};
use crate::records::Headers;

/// What a record of a dlq topic is. Readers pass over what they do not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A letter about one record: a first one, or another attempt.
    Letter,
    /// A letter about many records of raw, which stand there.
    Range,
    /// The end of a letter.
    Settlement,
    /// The end of many letters.
    Discard,
    /// Something else.
    Unknown,
}

impl Kind {
    /// The kind of a record with these headers. Whether it is well made is for whoever reads it.
    pub fn of(headers: Headers<'_>) -> Self {
        let has = |name: &str| full(headers, name).is_some();
        match () {
            () if has(DISCARD) => Self::Discard,
            () if has(SETTLED) => Self::Settlement,
            () if has(RANGE) => Self::Range,
            () if has("phronis-id") => Self::Letter,
            () => Self::Unknown,
        }
    }

    /// Whether it may come back.
    pub fn is_letter(self) -> bool {
        matches!(self, Self::Letter | Self::Range)
    }
}
