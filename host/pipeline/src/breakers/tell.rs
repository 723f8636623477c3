//! A breaker's change as others learn it: the facts, the record of `phronis.control`, the alert.
//!
//! The record's key is `breakers/<tenant>/<stream>/<plugin>/<node_id>`: each host says what its own breakers do,
//! and reads it again when it starts.

use std::time::Duration;

use phronis_core::alert::{self, Alert};
use phronis_core::breaker::{Counts, Reason, State, Transition, Why};
use phronis_core::id::Position;
use phronis_core::partition::{CONTROL_TOPIC, Topics};
use phronis_core::records::{Records, TopicName};
use phronis_core::time::Time;
use phronis_core::{Name, PluginId, StreamId, breaker, code};
use phronis_store::audit;
use phronis_store::breakers::Row;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Clock, Kept, Trip};

const KEY_PREFIX: &str = "breakers/";

/// The rule of the alert about a trip.
const RULE: &str = "breaker-open";

/// The key of a breaker's record.
pub(super) fn key(plugin: &PluginId, node_id: &str) -> String {
    format!("{KEY_PREFIX}{plugin}/{node_id}")
}

/// The facts of a change: what goes to live listeners and to `phronis.control`.
pub(super) fn facts(kept: &Kept, change: &Transition, node_id: &str) -> Value {
    let clock = kept.clock;
    let reason = match change.why {
        Why::Tripped(reason) | Why::WouldTrip(reason) | Why::Suppressed(reason) => Some(reason),
        _ => None,
    };
    let view = kept.shared.view(kept.now());
    let over = super::lock(&kept.over).clone();
    json!({
        "change": change.why.as_str(),
        "plugin": kept.id.to_string(),
        "node_id": node_id,
        "at": clock.wall(change.at),
        "from": change.from,
        "state": change.to,
        "mode": change.mode,
        "reason": reason,
        "opened_at": view.opened_at.filter(|_| change.to != State::Closed).map(|at| clock.wall(at)),
        "retry_at": change.retry_at.map(|at| clock.wall(at)),
        "trips": view.trips,
        "trip": change.trip.map(|trip| Trip::of(&trip, clock)),
        "override": over,
    })
}

/// In words, for a log line and an alert.
pub(super) fn sentence(change: &Transition, clock: Clock, window: Duration) -> String {
    let counts = change.trip.map(|trip| trip.counts).unwrap_or_default();
    let streak = change.trip.map_or(0, |trip| trip.streak);
    let because = |reason: Reason| match reason {
        Reason::Deadlines => format!("{streak} deadlines one after the other"),
        Reason::Failures => format!("{} failed calls within {window:?} ({})", counts.hard(), kinds(&counts)),
        Reason::Rows => format!("{} of {} rows failed within {window:?}", counts.failed_rows, counts.rows),
        Reason::Slow => format!("{} of {} calls were slow within {window:?}", counts.slow, counts.calls),
        Reason::Probe => format!("a probe failed ({})", kinds(&counts)),
        Reason::ProbesTimeout => "probes did not end in time".to_owned(),
    };
    let retry = change.retry_at.map_or_else(String::new, |at| format!(", tried again at {}", clock.wall(at)));
    match change.why {
        Why::Tripped(reason) => format!("the breaker opened: {}{retry}", because(reason)),
        Why::WouldTrip(reason) => format!("the breaker would have opened (shadow): {}", because(reason)),
        Why::Suppressed(reason) => {
            format!("the breaker would have opened, but the host is suspected: {}", because(reason))
        }
        Why::Waited => "the breaker is half-open: its open time is over".to_owned(),
        Why::Recovered => "the breaker closed: its probes went well".to_owned(),
        Why::Override => format!("the breaker is {} ({})", change.to.as_str(), change.mode.as_str()),
        Why::Renewed => "the breaker is half-open: the plugin changed".to_owned(),
        Why::Restored => format!("the breaker is open as it was when the host ended{retry}"),
    }
}

fn kinds(counts: &Counts) -> String {
    let kinds = [
        ("trap", counts.trap),
        ("deadline", counts.deadline),
        ("memory", counts.memory),
        ("bad output", counts.bad_output),
        ("failed rows", counts.failed_rows),
        ("slow", counts.slow),
    ];
    let told: Vec<_> = kinds.iter().filter(|(_, n)| *n > 0).map(|(kind, n)| format!("{kind} {n}")).collect();
    told.join(", ")
}

/// The alert about a trip. Its id is the same however often it is written: plugin, host and time of the trip.
pub(super) fn alert(
    kept: &Kept,
    change: &Transition,
    node_id: &str,
    plugin: alert::Plugin,
    raw: &TopicName,
    message: String,
) -> Alert {
    let at = kept.clock.wall(change.at);
    let id = &kept.id;
    let trip = change.trip.map(|trip| Trip::of(&trip, kept.clock));
    let mut attributes = Map::new();
    attributes.insert("node_id".into(), node_id.into());
    if let Some(trip) = &trip {
        attributes.insert("reason".into(), trip.reason.as_str().into());
        attributes.insert("counts".into(), json!(trip.counts));
    }
    if let Some(retry_at) = change.retry_at {
        attributes.insert("retry_at".into(), kept.clock.wall(retry_at).to_string().into());
    }
    let place = Position { topic: node_id, partition: -1, offset: at.0 };
    Alert { message, attributes, ..Alert::by_host(&id.stream, raw, plugin, RULE, place, at) }
}

/// Why a host is suspected, in words.
pub(super) const SUSPECTED: &str =
    "most plugins fail at once: this host is suspected, and no further breaker opens by itself";

/// The rule of the alert about a host that is suspected.
const SUSPECTED_RULE: &str = "host-suspected";

/// The alert about this host, in one of its streams. The host stands where a plugin would.
pub(super) fn suspicion(stream: &StreamId, topics: &Topics, node_id: &str, now: i64) -> Option<Alert> {
    let at = Time(now);
    let name: Name = "host".parse().ok()?;
    let mut attributes = Map::new();
    attributes.insert("node_id".into(), node_id.into());
    attributes.insert("code".into(), code::HOST_SUSPECTED.to_string().into());
    let host = alert::Plugin { name, version: String::new(), digest: String::new() };
    let place = Position { topic: node_id, partition: -1, offset: now };
    let alert = Alert::by_host(stream, &topics.raw, host, SUSPECTED_RULE, place, at);
    Some(Alert { message: SUSPECTED.to_owned(), attributes, ..alert })
}

/// The breaker's row in the store.
pub(super) fn row(kept: &Kept, facts: &Value, node_id: &str) -> Row {
    let time = |name: &str| facts.get(name).and_then(|at| serde_json::from_value(at.clone()).ok());
    let status = kept.status();
    Row {
        node: node_id.to_owned(),
        plugin: kept.id.clone(),
        state: facts.get("state").and_then(Value::as_str).unwrap_or_default().to_owned(),
        opened_at: time("opened_at"),
        retry_at: time("retry_at"),
        trips: status.trips.into(),
        last_trip: status.last_trip.map(|trip| json!(trip)),
    }
}

/// The change in the audit, with the numbers that caused it.
pub(super) fn entry(kept: &Kept, change: &Transition, node_id: &str, sentence: &str, facts: &Value) -> audit::Entry {
    let at = kept.clock.wall(change.at);
    audit::Entry {
        id: format!("breaker/{}/{node_id}/{}/{}", kept.id, change.generation, at.0),
        at,
        actor: format!("host {node_id}"),
        action: format!("breaker.{}", change.why.as_str()),
        subject: kept.id.to_string(),
        tenant: Some(kept.id.stream.tenant.clone()),
        reason: Some(sentence.to_owned()),
        facts: facts.clone(),
    }
}

/// What a host said of one of its breakers, as far as it matters when it starts again.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub(super) struct Said {
    pub(super) state: State,
    #[serde(default)]
    pub(super) retry_at: Option<Time>,
    #[serde(default)]
    pub(super) trips: u32,
    #[serde(default)]
    pub(super) trip: Option<SaidTrip>,
}

/// The trip as it was said.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub(super) struct SaidTrip {
    pub(super) reason: Reason,
    pub(super) at: Time,
    pub(super) counts: Counts,
    #[serde(default)]
    pub(super) deadlines_in_a_row: u64,
}

impl SaidTrip {
    /// The trip by the breakers' clock; one before the process began is as old as it.
    pub(super) fn trip(&self, clock: Clock) -> breaker::Trip {
        let ago = crate::clock::now_us().saturating_sub(self.at.0);
        let ago = Duration::from_micros(u64::try_from(ago).unwrap_or(0));
        breaker::Trip {
            reason: self.reason,
            at: clock.now().saturating_sub(ago),
            counts: self.counts,
            streak: self.deadlines_in_a_row,
            generation: 0,
        }
    }
}

/// What a row of the store says; none when a newer version wrote it.
pub(super) fn of_row(row: Row) -> Option<(PluginId, Said)> {
    let said = Said {
        state: serde_json::from_value(Value::String(row.state)).ok()?,
        retry_at: row.retry_at,
        trips: u32::try_from(row.trips).unwrap_or(u32::MAX),
        trip: row.last_trip.and_then(|trip| serde_json::from_value(trip).ok()),
    };
    Some((row.plugin, said))
}

/// What hosts said of their breakers, in the order of the topic, with their node ids; none is a tombstone.
pub(super) fn said(records: &Records) -> Vec<(PluginId, String, Option<Said>)> {
    let one = |row: usize| {
        let key = str::from_utf8(records.body.key(row)?).ok()?.strip_prefix(KEY_PREFIX)?;
        let (plugin, node) = key.rsplit_once('/')?;
        // What a newer version wrote and this one cannot read is as good as nothing.
        let said = records.body.value(row).and_then(|value| serde_json::from_slice(value).ok());
        Some((plugin.parse().ok()?, node.to_owned(), said))
    };
    (0..records.len()).filter_map(one).collect()
}

/// Where these records stand.
pub(super) fn topic() -> TopicName {
    CONTROL_TOPIC.into()
}
