//! Letters: records that something refused, kept byte for byte, with headers that say what happened and where they come from.
//!
//! The envelope is final: retry, redrive and every reader of `phronis.dlq` rely on these names.
//!
//! **Whom to believe.** Anybody may write records with `phronis-` headers into raw. They are kept like any other header,
//! but ours come after them, and readers take the *last* header of a name ([`Headers::last`]).
//! A record's own `phronis-` headers mean something only where we alone write: in dlq and retry topics.
//! So only a worker that read a record from its retry topic calls [`Letter::read`] on it; for records of raw the origin is where they stand.

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
}

impl Stage {
    /// As it stands in headers and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gate => "gate",
            Self::Enrich => "enrich",
            Self::Detect => "detect",
            Self::Deliver => "deliver",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Gate, Self::Enrich, Self::Detect, Self::Deliver].into_iter().find(|stage| stage.as_str() == text)
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
    /// How often it was tried, from 1.
    pub attempt: u32,
    /// When it failed for the first time.
    pub first_failed_at: Time,
    /// When it is to be tried again; never, if there is none.
    pub due_at: Option<Time>,
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
            trace_id: trace_id(headers),
            omitted: Omitted::default(),
        }
    }

    /// Writes the record's own headers byte for byte (unless they are omitted), and after them this letter's.
    pub fn write(&self, original: Headers<'_>, out: &mut HeadersBuilder) {
        if self.omitted.headers.is_none() {
            out.extend(original);
        }
        let mut text = |name: &str, value: &str| {
            out.push(name, value.as_bytes());
        };
        text("phronis-id", &self.id.to_string());
        text("phronis-origin-topic", &self.origin.topic);
        text("phronis-origin-partition", &self.origin.partition.to_string());
        text("phronis-origin-offset", &self.origin.offset.to_string());
        text("phronis-origin-timestamp", &self.origin.timestamp.to_string());
        text("phronis-tenant", self.stream.tenant.as_str());
        text("phronis-stream", self.stream.stream.as_str());
        // Empty rather than absent: an older `phronis-plugin` before ours must not be the last one.
        let (name, version, digest) =
            self.plugin.as_ref().map_or(("", "", ""), |p| (p.name.as_str(), p.version.as_str(), p.digest.as_str()));
        text("phronis-plugin", name);
        text("phronis-plugin-digest", bounded(&escape(digest), 128));
        text("phronis-plugin-version", bounded(&escape(version), 128));
        text("phronis-stage", self.stage.as_str());
        text("phronis-code", &self.code.to_string());
        text("phronis-message", bounded(&escape(&self.message), MESSAGE_BYTES));
        text("phronis-attempt", &self.attempt.to_string());
        text("phronis-first-failed-at", &self.first_failed_at.to_string());
        let has_older = |name: &str| original.last(name).is_some();
        match self.due_at {
            Some(due) => text("phronis-due-at", &due.to_string()),
            None if has_older("phronis-due-at") => text("phronis-due-at", ""),
            None => {}
        }
        match &self.trace_id {
            Some(trace) => text("phronis-trace-id", bounded(trace, 128)),
            None if has_older("phronis-trace-id") => text("phronis-trace-id", ""),
            None => {}
        }
        let Omitted { value, headers, key } = self.omitted;
        for (name, bytes) in [(VALUE_OMITTED, value), (HEADERS_OMITTED, headers), (KEY_OMITTED, key)] {
            match bytes {
                Some(bytes) => text(name, &bytes.to_string()),
                None if has_older(name) => text(name, ""),
                None => {}
            }
        }
    }

    /// Reads the letter of a record of a dlq or retry topic; `None` when a header is missing or wrong.
    pub fn read(headers: Headers<'_>) -> Option<Self> {
        let text = |name: &str| headers.last(name).and_then(|value| str::from_utf8(value).ok());
        let full = |name: &str| text(name).filter(|value| !value.is_empty());
        let plugin = match full("phronis-plugin") {
            Some(name) => Some(Plugin {
                name: name.parse().ok()?,
                version: text("phronis-plugin-version")?.to_owned(),
                digest: text("phronis-plugin-digest")?.to_owned(),
            }),
            None => None,
        };
        Some(Self {
            id: text("phronis-id")?.parse().ok()?,
            origin: Origin {
                topic: full("phronis-origin-topic")?.into(),
                partition: text("phronis-origin-partition")?.parse().ok()?,
                offset: text("phronis-origin-offset")?.parse().ok()?,
                timestamp: text("phronis-origin-timestamp")?.parse().ok()?,
            },
            stream: StreamId {
                tenant: text("phronis-tenant")?.parse().ok()?,
                stream: text("phronis-stream")?.parse().ok()?,
            },
            plugin,
            stage: Stage::parse(text("phronis-stage")?)?,
            code: Code::parse(text("phronis-code")?)?,
            message: text("phronis-message")?.to_owned(),
            attempt: text("phronis-attempt")?.parse().ok()?,
            first_failed_at: text("phronis-first-failed-at")?.parse().ok()?,
            due_at: match full("phronis-due-at") {
                Some(due) => Some(due.parse().ok()?),
                None => None,
            },
            trace_id: full("phronis-trace-id").map(str::to_owned),
            omitted: Omitted {
                value: full(VALUE_OMITTED).map(str::parse).transpose().ok()?,
                headers: full(HEADERS_OMITTED).map(str::parse).transpose().ok()?,
                key: full(KEY_OMITTED).map(str::parse).transpose().ok()?,
            },
        })
    }
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
