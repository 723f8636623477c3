//! Letters: records that something refused, kept byte for byte, with headers that say what happened and where they come from.
//!
//! The envelope is final: retry, redrive and every reader of `phronis.dlq` rely on these names.
//!
//! **Whom to believe.** Anybody may write records with `phronis-` headers into raw. They are kept like any other header,
//! but ours come after them, and readers take the *last* header of a name ([`Headers::last`]).
//! A record's own `phronis-` headers mean something only where we alone write: in dlq and retry topics.
//! So only a worker that read a record from its retry topic calls [`Letter::read`] on it; for records of raw the origin is where they stand.
//!
//! A dlq topic is the only truth about letters, and holds more than letters: what settles them, and what discards many ([`Kind`]).
//! An *attempt* that failed again is a letter with the same id that names the one before ([`Letter::previous`]) and takes its place.

pub mod backoff;
pub mod due;
pub mod index;
mod kind;
pub mod order;
mod range;
mod returned;
mod settlement;

pub use kind::Kind;
pub use range::{Offsets, Range};
pub use returned::Returned;
pub use settlement::{Outcome, Settlement};

use crate::code::Code;
use crate::id::{Id, Position};
use crate::name::{Name, StreamId};
use crate::records::{Headers, HeadersBuilder, TopicName};
use crate::text::{bounded, escape};
use crate::time::Time;

/// Longest `phronis-message`, in bytes.
pub const MESSAGE_BYTES: usize = 1024;

/// What every header of ours begins with.
pub const PREFIX: &str = "phronis-";

/// On a processed event: a detector that has not judged it yet. One header a detector.
pub const UNJUDGED: &str = "phronis-unjudged";

/// On a processed event: its agent, which was halted when the event was judged.
pub const HALTED: &str = "phronis-halted";

/// On a letter that will be tried again: when.
const DUE_AT: &str = "phronis-due-at";

/// On what takes a letter's place: the offset of that letter, in the same partition of dlq.
pub const PREVIOUS: &str = "phronis-previous";

/// On a range letter: how many records it stands for. Which, stands in the value.
pub const RANGE: &str = "phronis-range";

/// On a settlement: how the letter ended.
pub const SETTLED: &str = "phronis-settled";

/// On a discard of many letters: what ordered it.
pub const DISCARD: &str = "phronis-discard";

/// On a record of a retry topic: the offset in dlq of the letter that it is.
pub const LETTER_OFFSET: &str = "phronis-letter-offset";

/// On what a redrive brought about: its id.
pub const REDRIVE: &str = "phronis-redrive";

/// Headers of ours that a letter may be without. A producer's own of the same name must not be taken for them.
const OPTIONAL: [&str; 11] = [
    DUE_AT,
    "phronis-trace-id",
    PREVIOUS,
    VALUE_OMITTED,
    HEADERS_OMITTED,
    KEY_OMITTED,
    RANGE,
    SETTLED,
    DISCARD,
    LETTER_OFFSET,
    REDRIVE,
];

/// On a letter without its record's value: how many bytes that has.
const VALUE_OMITTED: &str = "phronis-value-omitted";

/// On a letter without its record's own headers: how many bytes they have.
const HEADERS_OMITTED: &str = "phronis-headers-omitted";

/// On a letter without its record's key: how many bytes that has.
const KEY_OMITTED: &str = "phronis-key-omitted";

/// The step that refused the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The contract.
    Gate,
    /// An enricher.
    Enrich,
    /// A detector.
    Detect,
    /// What follows from the event is more than its topic takes.
    Deliver,
    /// Its agent is halted.
    Halt,
    /// Nothing: an earlier event of its key is a letter, and its stream keeps the order of each key.
    Order,
}

impl Stage {
    /// As it stands in headers and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gate => "gate",
            Self::Enrich => "enrich",
            Self::Detect => "detect",
            Self::Deliver => "deliver",
            Self::Halt => "halt",
            Self::Order => "order",
        }
    }

    /// The stage of a word.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Gate, Self::Enrich, Self::Detect, Self::Deliver, Self::Halt, Self::Order]
            .into_iter()
            .find(|stage| stage.as_str() == text)
    }
}

/// Where a record was first read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// The record's timestamp, in milliseconds since 1970-01-01T00:00:00Z.
    pub timestamp: i64,
}

impl Origin {
    /// Without the timestamp, for ids.
    pub fn position(&self) -> Position<'_> {
        Position { topic: &self.topic, partition: self.partition, offset: self.offset }
    }
}

/// The plugin that could not do its part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plugin {
    /// What it is called in the stream.
    pub name: Name,
    /// Its version, as its author counts.
    pub version: String,
    /// Digest of its file.
    pub digest: String,
}

/// What a letter does not keep of its record, in bytes, because the topic of letters does not take as much.
/// The record itself stands at its origin, as long as retention leaves it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Omitted {
    /// The value.
    pub value: Option<u64>,
    /// The record's own headers.
    pub headers: Option<u64>,
    /// The key.
    pub key: Option<u64>,
}

/// What a letter says beside the record that it keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// The same for the same failure of the same record.
    pub id: Id,
    /// Where the record was first read.
    pub origin: Origin,
    /// Whose it is.
    pub stream: StreamId,
    /// The plugin, where it was one.
    pub plugin: Option<Plugin>,
    /// The step that refused it.
    pub stage: Stage,
    /// Why.
    pub code: Code,
    /// Why, in words.
    pub message: String,
    /// How often it was tried, from 1; one that waits behind another was never tried, and has 0.
    pub attempt: u32,
    /// When it failed for the first time.
    pub first_failed_at: Time,
    /// When it is to be tried again. Without it the letter is parked: it waits for a person.
    pub due_at: Option<Time>,
    /// The offset of the attempt before, in the same partition of dlq, whose place this one takes.
    pub previous: Option<i64>,
    /// The trace of the record's `traceparent` header.
    pub trace_id: Option<String>,
    /// What it does not keep.
    pub omitted: Omitted,
}

impl Letter {
    /// A first letter about a record; `headers` are the record's own, `now` is when it failed.
    #[expect(clippy::too_many_arguments, reason = "each is a fact of its own, and all are needed")]
    pub fn new(
        stream: &StreamId,
        stage: Stage,
        plugin: Option<Plugin>,
        origin: Origin,
        code: Code,
        message: &str,
        headers: Headers<'_>,
        now: Time,
    ) -> Self {
        let id = Id::of_letter(stream, stage, plugin.as_ref().map(|plugin| &plugin.name), origin.position());
        Self {
            id,
            origin,
            stream: stream.clone(),
            plugin,
            stage,
            code,
            message: message.to_owned(),
            attempt: 1,
            first_failed_at: now,
            due_at: None,
            previous: None,
            trace_id: trace_id(headers),
            omitted: Omitted::default(),
        }
    }

    /// Writes the record's own headers byte for byte (unless they are omitted), and after them this letter's.
    pub fn write(&self, original: Headers<'_>, out: &mut HeadersBuilder) {
        if self.omitted.headers.is_none() {
            out.extend(original);
        }
        let Self { id, origin, stream, plugin, stage, code, attempt, .. } = self;
        write_identity(out, *id, origin, stream, plugin.as_ref(), *stage, *code, *attempt);
        let mut text = |name: &str, value: &str| {
            out.push(name, value.as_bytes());
        };
        text("phronis-message", bounded(&escape(&self.message), MESSAGE_BYTES));
        text("phronis-first-failed-at", &self.first_failed_at.to_string());
        let Omitted { value, headers, key } = self.omitted;
        let optional = [
            (DUE_AT, self.due_at.map(|due| due.to_string())),
            (PREVIOUS, self.previous.map(|offset| offset.to_string())),
            ("phronis-trace-id", self.trace_id.as_deref().map(|trace| bounded(trace, 128).to_owned())),
            (VALUE_OMITTED, value.map(|bytes| bytes.to_string())),
            (HEADERS_OMITTED, headers.map(|bytes| bytes.to_string())),
            (KEY_OMITTED, key.map(|bytes| bytes.to_string())),
        ];
        for name in OPTIONAL {
            match optional.iter().find(|(own, _)| *own == name) {
                Some((_, Some(value))) => text(name, value),
                // Empty rather than absent, as above.
                _ if original.last(name).is_some() => text(name, ""),
                _ => {}
            }
        }
    }

    /// Reads the letter of a record of a dlq or retry topic; `None` when a header is missing or wrong.
    pub fn read(headers: Headers<'_>) -> Option<Self> {
        let text = |name: &str| text(headers, name);
        let full = |name: &str| full(headers, name);
        Some(Self {
            id: text("phronis-id")?.parse().ok()?,
            origin: read_origin(headers)?,
            stream: read_stream(headers)?,
            plugin: read_plugin(headers)?,
            stage: Stage::parse(text("phronis-stage")?)?,
            code: Code::parse(text("phronis-code")?)?,
            message: text("phronis-message")?.to_owned(),
            attempt: text("phronis-attempt")?.parse().ok()?,
            first_failed_at: text("phronis-first-failed-at")?.parse().ok()?,
            due_at: full(DUE_AT).map(str::parse).transpose().ok()?,
            previous: full(PREVIOUS).map(str::parse).transpose().ok()?,
            trace_id: full("phronis-trace-id").map(str::to_owned),
            omitted: Omitted {
                value: full(VALUE_OMITTED).map(str::parse).transpose().ok()?,
                headers: full(HEADERS_OMITTED).map(str::parse).transpose().ok()?,
                key: full(KEY_OMITTED).map(str::parse).transpose().ok()?,
            },
        })
    }
}

/// The last header of a name, as text.
fn text<'a>(headers: Headers<'a>, name: &str) -> Option<&'a str> {
    headers.last(name).and_then(|value| str::from_utf8(value).ok())
}

/// The same, where it says something.
fn full<'a>(headers: Headers<'a>, name: &str) -> Option<&'a str> {
    text(headers, name).filter(|value| !value.is_empty())
}

fn read_origin(headers: Headers<'_>) -> Option<Origin> {
    Some(Origin {
        topic: full(headers, "phronis-origin-topic")?.into(),
        partition: text(headers, "phronis-origin-partition")?.parse().ok()?,
        offset: text(headers, "phronis-origin-offset")?.parse().ok()?,
        timestamp: text(headers, "phronis-origin-timestamp")?.parse().ok()?,
    })
}

fn read_stream(headers: Headers<'_>) -> Option<StreamId> {
    Some(StreamId {
        tenant: text(headers, "phronis-tenant")?.parse().ok()?,
        stream: text(headers, "phronis-stream")?.parse().ok()?,
    })
}

/// The plugin, where there is one; `None` when what stands there is none.
#[expect(clippy::option_option, reason = "no plugin, and a plugin that cannot be read, are two things")]
fn read_plugin(headers: Headers<'_>) -> Option<Option<Plugin>> {
    let Some(name) = full(headers, "phronis-plugin") else { return Some(None) };
    Some(Some(Plugin {
        name: name.parse().ok()?,
        version: text(headers, "phronis-plugin-version")?.to_owned(),
        digest: text(headers, "phronis-plugin-digest")?.to_owned(),
    }))
}

/// Writes what letters and settlements have in common.
#[expect(clippy::too_many_arguments, reason = "each is a fact of its own, and all are needed")]
fn write_identity(
    out: &mut HeadersBuilder,
    id: Id,
    origin: &Origin,
    stream: &StreamId,
    plugin: Option<&Plugin>,
    stage: Stage,
    code: Code,
    attempt: u32,
) {
    let mut text = |name: &str, value: &str| {
        out.push(name, value.as_bytes());
    };
    text("phronis-id", &id.to_string());
    text("phronis-origin-topic", &origin.topic);
    text("phronis-origin-partition", &origin.partition.to_string());
    text("phronis-origin-offset", &origin.offset.to_string());
    text("phronis-origin-timestamp", &origin.timestamp.to_string());
    text("phronis-tenant", stream.tenant.as_str());
    text("phronis-stream", stream.stream.as_str());
    // Empty rather than absent: an older `phronis-plugin` before ours must not be the last one.
    let (name, version, digest) =
        plugin.map_or(("", "", ""), |p| (p.name.as_str(), p.version.as_str(), p.digest.as_str()));
    text("phronis-plugin", name);
    text("phronis-plugin-digest", bounded(&escape(digest), 128));
    text("phronis-plugin-version", bounded(&escape(version), 128));
    text("phronis-stage", stage.as_str());
    text("phronis-code", &code.to_string());
    text("phronis-attempt", &attempt.to_string());
}

/// The record's own headers, without those of the last letter: what stood before the last `phronis-id`.
pub fn original_headers(headers: Headers<'_>, out: &mut HeadersBuilder) {
    let ours = headers.into_iter().enumerate().filter(|(_, (name, _))| *name == "phronis-id").map(|(at, _)| at).last();
    for (name, value) in headers.into_iter().take(ours.unwrap_or(usize::MAX)) {
        out.push(name, value);
    }
}

/// The trace id of a W3C `traceparent` header: `00-<32 hex>-<16 hex>-<2 hex>`.
fn trace_id(headers: Headers<'_>) -> Option<String> {
    let text = str::from_utf8(headers.last("traceparent")?).ok()?;
    let trace = text.split('-').nth(1)?;
    let is_trace =
        trace.len() == 32 && trace.bytes().all(|b| b.is_ascii_hexdigit()) && trace.bytes().any(|b| b != b'0');
    is_trace.then(|| trace.to_owned())
}

#[cfg(test)]
mod tests;
