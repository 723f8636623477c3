//! What a record of dlq or retry does to the index, read from its headers.
//!
//! Whoever writes events can give them headers that look like ours; in a letter they come before ours.
//! So nothing here believes a header that stands before the last `phronis-id`.

use serde::{Deserialize, Serialize};

use super::{Class, Filter};
use crate::code::Code;
use crate::letter::{LETTER_OFFSET, Stage};
use crate::records::Headers;
use crate::time::Time;

/// The code of range letters that wait for a breaker.
const BREAKER_OPEN: &str = "PH2201";

/// The code of letters that wait behind another, which the stream's worker moves when that one ended.
const WAITS_BEHIND: &str = "PH2305";

/// The due time of a letter that no clock decides about.
pub const NO_TIME: Time = Time(i64::MAX);

/// What a record of dlq does to the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A letter.
    Letter {
        /// Which class it is of.
        class: Class,
        /// When it is to be tried again; a letter without is parked.
        due_at: Option<Time>,
        /// When its record failed for the first time.
        first_failed_at: Time,
        /// When this letter was written.
        written_at: Time,
        /// The attempt before, which this one settles.
        previous: Option<i64>,
    },
    /// A letter was answered for.
    Settled {
        /// Which.
        previous: i64,
    },
    /// Letters that nobody wants any more.
    Discard(Discard),
    /// Nothing that the index knows.
    Other,
}

/// Which letters of a partition nobody wants any more: those before the record that says so.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Discard {
    /// All of these classes (times are not asked here), below `below`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Filter>,
    /// The first offset that the filter does not mean.
    #[serde(default)]
    pub below: i64,
    /// Runs of offsets, each from its first to the one after its last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub offsets: Vec<(i64, i64)>,
    /// Who said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

impl Entry {
    /// Reads a record of dlq; `timestamp` is the record's, in milliseconds since 1970.
    pub fn read(headers: Headers<'_>, value: Option<&[u8]>, timestamp: i64) -> Self {
        let ours = Ours::read(headers);
        if ours.is_discard {
            let discard = value.and_then(|value| serde_json::from_slice(value).ok());
            return discard.map_or(Self::Other, Self::Discard);
        }
        if ours.is_settled {
            return ours.previous.map_or(Self::Other, |previous| Self::Settled { previous });
        }
        ours.letter(timestamp).unwrap_or(Self::Other)
    }
}

/// The offset in dlq of the letter that a record of retry is.
pub fn moved_from(headers: Headers<'_>) -> Option<i64> {
    str::from_utf8(headers.last(LETTER_OFFSET)?).ok()?.parse().ok()
}

/// Our headers of a record of dlq, as far as the index asks.
#[derive(Default)]
struct Ours<'a> {
    is_discard: bool,
    is_settled: bool,
    is_range: bool,
    previous: Option<i64>,
    stage: &'a str,
    code: &'a str,
    plugin: &'a str,
    version: &'a str,
    due_at: &'a str,
    first_failed_at: &'a str,
}

impl<'a> Ours<'a> {
    fn read(headers: Headers<'a>) -> Self {
        let mut ours = Self::default();
        for (name, value) in headers {
            let Some(name) = name.strip_prefix(crate::letter::PREFIX) else { continue };
            let text = str::from_utf8(value).unwrap_or_default();
            match name {
                // What stood before is the record's own.
                "id" => ours = Self::default(),
                "discard" => ours.is_discard = !text.is_empty(),
                "settled" => ours.is_settled = !text.is_empty(),
                "range" => ours.is_range = !text.is_empty(),
                "previous" => ours.previous = text.parse().ok(),
                "stage" => ours.stage = text,
                "code" => ours.code = text,
                "plugin" => ours.plugin = text,
                "plugin-version" => ours.version = text,
                "due-at" => ours.due_at = text,
                "first-failed-at" => ours.first_failed_at = text,
                _ => {}
            }
        }
        ours
    }

    fn letter(&self, timestamp: i64) -> Option<Entry> {
        let plugin = match self.plugin {
            "" => None,
            name => Some((name.parse().ok()?, self.version.into())),
        };
        let class = Class { stage: Stage::parse(self.stage)?, code: Code::parse(self.code)?, plugin };
        let due_at = match self.due_at {
            // A range letter waits for its plugin's breaker; one with another code waits for a person.
            "" if self.is_range && self.code == BREAKER_OPEN => Some(Time(0)),
            "" if self.code == WAITS_BEHIND => Some(NO_TIME),
            "" => None,
            due_at => Some(due_at.parse().ok()?),
        };
        Some(Entry::Letter {
            class,
            due_at,
            first_failed_at: self.first_failed_at.parse().ok()?,
            written_at: Time::from_millis(timestamp),
            previous: self.previous,
        })
    }
}
