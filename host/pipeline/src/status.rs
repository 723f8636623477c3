//! What the pipeline tells about itself: streams, plugins, health.
//!
//! Plain data, taken at one moment; the faces (HTTP, CLI, dashboard) give it its shape.

use phronis_core::plugin::{Added, Field, Kind, Limits};
use phronis_core::{Code, PluginId, StreamId};

/// A stream, at one moment.
#[derive(Debug, Clone)]
pub struct Stream {
    /// Which.
    pub id: StreamId,
    /// Its topics.
    pub topics: phronis_core::partition::Topics,
    /// What it does right now.
    pub state: StreamState,
    /// Why it is not running, in words.
    pub detail: Option<String>,
    /// What it has done since the process started.
    pub counts: StreamCounts,
    /// The partitions of raw; empty as long as the log was never reached.
    pub partitions: Vec<PartitionLag>,
    /// Records in raw that are not answered for yet.
    pub lag_records: u64,
    /// How long ago the oldest of them came, in seconds; 0 without lag.
    pub lag_seconds: f64,
}

/// How far a stream is in one partition of raw, when the log was last reached.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PartitionLag {
    /// Which.
    pub partition: i32,
    /// Offset of the oldest record that is still there.
    pub earliest: i64,
    /// Offset that the next record will get.
    pub latest: i64,
    /// The next offset to be read by whoever owns the partition; none before the first commit.
    pub committed: Option<i64>,
    /// Records that are not answered for yet.
    pub lag_records: u64,
    /// How long ago the oldest of them came, in seconds; 0 without lag.
    ///
    /// By the record's own timestamp where this host has the record or read it, else by when the partition was seen to grow.
    pub lag_seconds: f64,
}

/// What a stream does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamState {
    /// Waits until each of its plugins is live, refused or bypassed.
    Starting,
    /// Judges events.
    Running,
    /// Cannot write and tries again, or a partition stands still.
    Blocked,
    /// Waits for a plugin that never had a good version (`on_missing = "hold"`).
    Held,
    /// Ended.
    Stopped,
}

/// Counters of a stream since the process started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamCounts {
    /// Records polled and durably answered for.
    pub received: u64,
    /// Events delivered to `processed`.
    pub delivered: u64,
    /// Letters of the gate.
    pub gate_letters: u64,
    /// Letters of enrichers.
    pub enrich_letters: u64,
    /// Letters of detectors (debts: their events are delivered).
    pub detect_letters: u64,
    /// Letters of events whose processed record would be too large for its topic.
    pub deliver_letters: u64,
    /// Letters of events whose agent was halted.
    pub halt_letters: u64,
    /// Letters of events that wait behind an earlier one of their key.
    pub order_letters: u64,
    /// Range letters: each stands for the events of a batch that a plugin with an open breaker was not shown.
    pub range_letters: u64,
    /// Events that wait in a range letter of an enricher: neither delivered nor letters of their own.
    pub waiting: u64,
    /// Events dropped by a rule (de-duplication, enrichers).
    pub dropped: u64,
    /// Alerts.
    pub alerts: u64,
    /// Letters that were tried again.
    pub retries: u64,
    /// Events that were letters and were delivered or dropped since.
    /// received = delivered + dropped + letters of gate, halts, enrichers, delivery and order − settled.
    pub settled: u64,
    /// Events that their detector has judged since, whose letter said that it could not.
    pub settled_debts: u64,
}

impl std::ops::AddAssign for StreamCounts {
    fn add_assign(&mut self, other: Self) {
        let Self {
            received,
            delivered,
            gate_letters,
            enrich_letters,
            detect_letters,
            deliver_letters,
            halt_letters,
            order_letters,
            range_letters,
            waiting,
            dropped,
            alerts,
            retries,
            settled,
            settled_debts,
        } = other;
        for (sum, more) in [
            (&mut self.received, received),
            (&mut self.delivered, delivered),
            (&mut self.gate_letters, gate_letters),
            (&mut self.enrich_letters, enrich_letters),
            (&mut self.detect_letters, detect_letters),
            (&mut self.deliver_letters, deliver_letters),
            (&mut self.halt_letters, halt_letters),
            (&mut self.order_letters, order_letters),
            (&mut self.range_letters, range_letters),
            (&mut self.waiting, waiting),
            (&mut self.dropped, dropped),
            (&mut self.alerts, alerts),
            (&mut self.retries, retries),
            (&mut self.settled, settled),
            (&mut self.settled_debts, settled_debts),
        ] {
            *sum += more;
        }
    }
}

/// A plugin, at one moment.
#[derive(Debug, Clone)]
pub struct Plugin {
    /// Which.
    pub id: PluginId,
    /// What it does right now.
    pub state: PluginState,
    /// The version that runs.
    pub active: Option<Version>,
    /// Digest (SHA-256, hex) of the file in the folder, when there is one.
    pub wanted_digest: Option<String>,
    /// Why the wanted version, or the newest settings, are not in force.
    pub refusal: Option<Refusal>,
    /// Parameters in force, defaults filled in.
    pub params: serde_json::Value,
    /// Where they came from.
    pub params_origin: Origin,
    /// Limits in force.
    pub limits: Limits,
    /// Where they came from.
    pub limits_origin: Origin,
    /// Settings of its breaker as somebody wrote them; what is absent is the default.
    pub breaker: crate::breakers::Wanted,
    /// Rises with each change of its settings, of its breaker's and of what a person says of its breaker; 0 before the first.
    pub version: u64,
    /// The versions that ran well and are kept on this host's disk, the last one first.
    pub good: Vec<crate::plugins::Good>,
    /// What it has done since the process started.
    pub counts: PluginCounts,
}

/// What a plugin does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PluginState {
    /// Is being compiled or checked for the first time.
    Loading,
    /// The wanted version judges.
    Active,
    /// An older good version judges, the wanted one is refused.
    Outdated,
    /// Never had a good version: events pass unjudged, and are marked.
    Bypassed,
}

/// A version of a plugin that was loaded.
#[derive(Debug, Clone)]
pub struct Version {
    /// The plugin's own name.
    pub name: String,
    /// The author's version.
    pub version: String,
    /// SHA-256 of the component, hex.
    pub digest: String,
    /// Detector or enricher.
    pub kind: Kind,
    /// Columns that it reads.
    pub fields: Vec<Field>,
    /// Columns that it adds.
    pub adds: Vec<Added>,
    /// JSON Schema of its parameters.
    pub params_schema: serde_json::Value,
    /// When it became active, in milliseconds since 1970-01-01T00:00:00Z.
    pub active_since: i64,
}

/// Why something is not in force.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The stable code.
    pub code: Code,
    /// What, where, why, what to do.
    pub message: String,
    /// When, in milliseconds since 1970-01-01T00:00:00Z.
    pub at: i64,
    /// Digest of the refused component, when it is one.
    pub digest: Option<String>,
}

/// Where a live value came from.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// `default`, `file`, `api`, `cli`, or what the writer of the record called itself.
    pub source: String,
    /// Who, when known.
    pub actor: Option<String>,
    /// The offset of the record in `phronis.config`; rises with each change.
    pub revision: Option<i64>,
    /// When, in milliseconds since 1970-01-01T00:00:00Z.
    pub at: Option<i64>,
}

/// Counters of a plugin since the process started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PluginCounts {
    /// Rows judged or enriched.
    pub judged: u64,
    /// Rows not shown because a required field was null.
    pub skipped: u64,
    /// Rows without an answer: letters.
    pub failed: u64,
    /// Findings.
    pub findings: u64,
    /// Calls into the guest.
    pub calls: u64,
    /// Calls that failed as a whole (trap, deadline, memory, bad output, error).
    pub failed_calls: u64,
    /// Time spent in the guest, in nanoseconds.
    pub busy_nanos: u64,
}

/// Whether the host can do its work.
#[derive(Debug, Clone)]
pub struct Check {
    /// What was looked at: `log`, `stream sensors`, `plugins`.
    pub name: String,
    /// Whether it is as it should be.
    pub is_ok: bool,
    /// What is wrong, or a few words on what is right.
    pub detail: String,
}
