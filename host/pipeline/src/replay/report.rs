//! What a replay says: counts by day, rule and key, and a few of the alerts that differ.
//!
//! [`Report::result`] is a function of the rows, the plugins and their parameters alone: the same range gives the same bytes,
//! however often. What it took stands apart, in [`Report::cost`].

use serde::Serialize;
use serde_json::Value;

/// What a replay says.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// What was found.
    pub result: Findings,
    /// What it took; never twice the same.
    pub cost: Cost,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Findings {
    /// The stream.
    pub stream: String,
    /// The table of events.
    pub table: String,
    /// Its snapshot that was read.
    pub snapshot: Option<String>,
    /// From this event time.
    pub since: String,
    /// To this event time, not included.
    pub until: String,
    /// What was tried.
    pub plugin: Tried,
    /// What it is compared with.
    pub against: Option<Compared>,
    /// Events of the range.
    pub events: u64,
    /// Rows of the table without an event behind them: foreign records, and what could not be decoded.
    pub left_out: u64,
    /// Alerts.
    pub alerts: Sides,
    /// By day, in UTC.
    pub days: Vec<ByDay>,
    /// By rule.
    pub rules: Vec<Named>,
    /// The keys with most alerts.
    pub top_keys: Vec<Named>,
    /// The first alerts that only the tried plugin has.
    pub only_new: Vec<Sample>,
    /// The first alerts that only the other has.
    pub only_old: Vec<Sample>,
}

/// A plugin that was tried, and what became of the events.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tried {
    /// What it is called.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of its file.
    pub digest: String,
    /// Its parameters, defaults filled in.
    pub params: Value,
    /// Events that it judged.
    pub judged: u64,
    /// Events that it was not shown: a field that it requires is null.
    pub skipped: u64,
    /// Events that it has no answer for.
    pub failed: Vec<Failed>,
}

/// Events without an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failed {
    /// The stable code.
    pub code: String,
    /// What the first one said.
    pub message: String,
    /// How many.
    pub events: u64,
}

/// What a trial is compared with.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "from", rename_all = "snake_case")]
pub enum Compared {
    /// What a plugin of the stream found when it ran.
    Archive {
        /// What it is called.
        name: String,
        /// The table of alerts.
        table: String,
        /// Its snapshot that was read.
        snapshot: Option<String>,
        /// The versions that found something in the range, and how much.
        versions: Vec<Version>,
    },
    /// Another plugin, over the same events.
    Plugin(Tried),
}

/// A version that found something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Version {
    /// Name, version and the beginning of the digest.
    pub version: String,
    /// Alerts.
    pub alerts: u64,
}

/// Alerts of both sides. One alert is one rule about one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Sides {
    /// Of the tried plugin.
    pub new: u64,
    /// Of what it is compared with.
    pub old: u64,
    /// Of both.
    pub both: u64,
    /// Of the tried plugin alone.
    pub only_new: u64,
    /// Of the other alone.
    pub only_old: u64,
    /// Archived alerts about events that are not in the table, counted nowhere else.
    pub unmatched: u64,
}

/// A day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ByDay {
    /// As in `2026-11-22`.
    pub day: String,
    /// Events.
    pub events: u64,
    /// Alerts.
    #[serde(flatten)]
    pub alerts: Sides,
}

/// A rule or a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Named {
    /// Its name; `null` is the key of events without one.
    pub name: Option<String>,
    /// Alerts of the tried plugin.
    pub new: u64,
    /// Alerts of the other.
    pub old: u64,
}

/// An alert of one side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sample {
    /// When it happened.
    pub at: String,
    /// The event's partition in raw.
    pub partition: i32,
    /// The event's offset in raw.
    pub offset: i64,
    /// The event's key.
    pub key: Option<String>,
    /// Which rule.
    pub rule: String,
    /// How bad.
    pub severity: String,
    /// What it says.
    pub message: String,
}

/// What it took.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cost {
    /// In all.
    pub seconds: f64,
    /// Events a second, reading included.
    pub events_per_second: f64,
    /// Nanoseconds in the tried plugin for an event that it judged.
    pub plugin_nanos_per_event: f64,
    /// The same of the plugin that it is compared with.
    pub against_nanos_per_event: Option<f64>,
    /// Files that were read.
    pub files: u64,
    /// Their bytes; only the columns that are needed are read of them.
    pub file_bytes: u64,
}
