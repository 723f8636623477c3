//! Settlements: records of dlq without a value that say how a letter ended.

use super::{
    Letter, Origin, PREVIOUS, Plugin, REDRIVE, SETTLED, Stage, full, read_origin, read_plugin, read_stream, text,
    write_identity,
};
use crate::code::Code;
use crate::id::Id;
use crate::name::StreamId;
use crate::records::{Headers, HeadersBuilder};

/// How a letter ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Its detector has judged the event, or all events of the range.
    Judged,
    /// The event was delivered.
    Delivered,
    /// A rule dropped the event.
    Dropped,
    /// A person gave it up.
    Discarded,
}

impl Outcome {
    const ALL: [Self; 4] = [Self::Judged, Self::Delivered, Self::Dropped, Self::Discarded];

    /// As it stands in headers and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Judged => "judged",
            Self::Delivered => "delivered",
            Self::Dropped => "dropped",
            Self::Discarded => "discarded",
        }
    }
}

/// The end of a letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// How it ended.
    pub outcome: Outcome,
    /// The letter's offset, in the same partition of dlq.
    pub previous: i64,
    /// The letter's id.
    pub id: Id,
    /// Where the letter's record was first read.
    pub origin: Origin,
    /// Whose the letter is.
    pub stream: StreamId,
    /// The plugin that the letter names, as it was then.
    pub plugin: Option<Plugin>,
    /// The letter's stage.
    pub stage: Stage,
    /// The letter's code.
    pub code: Code,
    /// The attempt that the letter was.
    pub attempt: u32,
    /// The redrive that brought it about.
    pub redrive: Option<String>,
}

impl Settlement {
    /// The end of the letter that stands at `previous`.
    pub fn of(letter: &Letter, previous: i64, outcome: Outcome, redrive: Option<String>) -> Self {
        Self {
            outcome,
            previous,
            id: letter.id,
            origin: letter.origin.clone(),
            stream: letter.stream.clone(),
            plugin: letter.plugin.clone(),
            stage: letter.stage,
            code: letter.code,
            attempt: letter.attempt,
            redrive,
        }
    }

    /// Writes all headers of the record; it has neither key nor value.
    pub fn write(&self, out: &mut HeadersBuilder) {
        let Self { id, origin, stream, plugin, stage, code, attempt, .. } = self;
        write_identity(out, *id, origin, stream, plugin.as_ref(), *stage, *code, *attempt);
        out.push(PREVIOUS, self.previous.to_string().as_bytes());
        out.push(SETTLED, self.outcome.as_str().as_bytes());
        if let Some(redrive) = &self.redrive {
            out.push(REDRIVE, redrive.as_bytes());
        }
    }

    /// Reads a settlement; `None` when a header is missing or wrong.
    pub fn read(headers: Headers<'_>) -> Option<Self> {
        let settled = full(headers, SETTLED)?;
        Some(Self {
            outcome: Outcome::ALL.into_iter().find(|outcome| outcome.as_str() == settled)?,
            previous: full(headers, PREVIOUS)?.parse().ok()?,
            id: text(headers, "phronis-id")?.parse().ok()?,
            origin: read_origin(headers)?,
            stream: read_stream(headers)?,
            plugin: read_plugin(headers)?,
            stage: Stage::parse(text(headers, "phronis-stage")?)?,
            code: Code::parse(text(headers, "phronis-code")?)?,
            attempt: text(headers, "phronis-attempt")?.parse().ok()?,
            redrive: full(headers, REDRIVE).map(str::to_owned),
        })
    }
}
