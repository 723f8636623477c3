//! Tells that the archive is behind: an alert on the stream, beside those of its detectors.
//!
//! A thread of its own looks: the branch may be waiting for storage that does not answer.
//! Twice a time of trouble at most for each table: when it is late, and, in louder words, when half of the time is over
//! after which the log deletes what is not archived.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use metrics::gauge;
use phronis_core::alert::{self, Alert};
use phronis_core::delivery::{Append, Delivery};
use phronis_core::id::Position;
use phronis_core::plugin::Severity;
use phronis_core::records::RecordsBuilder;
use phronis_core::time::Time;
use phronis_core::{Name, code};
use phronis_log::{Log, Sink, Ticket};
use serde_json::{Map, json};

use super::table::{State, Table};
use super::{MEASURE_EVERY, Parts};
use crate::clock::{now_us, rest};
use crate::stream::Stream;

/// The rule of the alert.
const RULE: &str = "archive-late";

/// Who it comes from: no plugin of a stream can have this name and this version.
const WHO: &str = "archive";

/// How loudly a table was spoken of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum Said {
    #[default]
    Nothing,
    Late,
    AlmostLost,
}

/// What tells.
pub(super) struct Teller<'a> {
    tables: &'a [Arc<Table>],
    stream: Arc<Stream>,
    log: Arc<dyn Log>,
    node_id: String,
    late_after: Duration,
    sink: Option<Box<dyn Sink>>,
    said: BTreeMap<String, Said>,
    waiting: Vec<Delivery>,
    under_way: Option<Ticket>,
}

impl<'a> Teller<'a> {
    pub(super) fn new(parts: &Parts, tables: &'a [Arc<Table>]) -> Self {
        Self {
            tables,
            stream: Arc::clone(&parts.stream),
            log: Arc::clone(&parts.log),
            node_id: parts.node_id.clone(),
            // What came right after a commit is in the table with the one after the next.
            late_after: parts.shared.options.late_after.max(parts.shared.options.commit_every * 3),
            sink: None,
            said: BTreeMap::new(),
            waiting: Vec::new(),
            under_way: None,
        }
    }

    /// Looks now and then until told to stop.
    pub(super) fn keep(mut self, should_stop: &AtomicBool) {
        while !should_stop.load(Ordering::Relaxed) {
            self.look();
            rest(MEASURE_EVERY, should_stop);
        }
    }

    /// Looks at all tables, and tells what is new.
    fn look(&mut self) {
        for table in self.tables {
            let (name, state) = (table.name.to_string(), table.state());
            let age = state.age();
            let labels = [("stream", self.stream.options.id.to_string()), ("table", table.kind.to_string())];
            gauge!("phronis_archive_age_seconds", &labels).set(age.as_secs_f64());
            let options = &self.stream.options;
            let of_letters = table.topic == options.topics.dlq;
            let kept = if of_letters { options.letters_retention.age } else { options.retention.age };
            let now = match kept {
                Some(kept) if age >= kept / 2 && age >= self.late_after => Said::AlmostLost,
                _ if age >= self.late_after => Said::Late,
                _ => Said::Nothing,
            };
            let before = self.said.insert(name.clone(), now).unwrap_or_default();
            if now > before {
                self.tell(&state, &name, kept, now);
            } else if now == Said::Nothing && before != Said::Nothing {
                tracing::info!(stream = %self.stream.options.id, table = name, "the archive is not late any more");
            }
        }
        self.write();
    }

    fn tell(&mut self, state: &State, table: &str, kept: Option<Duration>, said: Said) {
        let age = state.age();
        let Ok(name) = WHO.parse::<Name>() else { return };
        let (id, topics) = (&self.stream.options.id, &self.stream.options.topics);
        let why = state.trouble.as_ref().map_or_else(
            || "it is still reading what there is, or waits for storage".to_owned(),
            |(code, detail)| format!("{detail} ({code})"),
        );
        let minutes = |time: Duration| time.as_secs() / 60;
        let message = match (said, kept) {
            (Said::AlmostLost, Some(kept)) => format!(
                "table {table} is {} minutes late, and the log keeps records for {} minutes only: {why}",
                minutes(age),
                minutes(kept)
            ),
            _ => format!("table {table} is {} minutes late: {why}", minutes(age)),
        };
        tracing::error!(stream = %id, table, code = %code::ARCHIVE_LATE, "{message}");
        let now = now_us();
        let since = Time(now.saturating_sub(i64::try_from(age.as_micros()).unwrap_or(0)));
        let at = Time(now);
        let mut attributes = Map::new();
        attributes.insert("table".into(), table.into());
        attributes.insert("node_id".into(), self.node_id.clone().into());
        attributes.insert("since".into(), json!(since));
        if let Some((code, _)) = &state.trouble {
            attributes.insert("code".into(), code.to_string().into());
        }
        let severity = if said == Said::AlmostLost { Severity::Critical } else { Severity::Warning };
        let archive = alert::Plugin { name, version: env!("CARGO_PKG_VERSION").to_owned(), digest: String::new() };
        let place = Position { topic: table, partition: -1, offset: now };
        let alert = Alert::by_host(id, &topics.raw, archive, RULE, place, at);
        let alert = Alert { severity, message, attributes, ..alert };
        let mut json = Vec::new();
        alert.write_json(&mut json);
        let mut records = RecordsBuilder::default();
        records.push(now / 1000, None, Some(&json), &[]);
        let append = Append { topic: Arc::clone(&topics.alerts), partition: 0, records: records.finish() };
        self.waiting.push(Delivery { appends: vec![append], commits: Vec::new() });
    }

    /// Writes what waits; what the log does not take now is tried with the next look.
    fn write(&mut self) {
        if let Some(ticket) = &mut self.under_way {
            match ticket.try_wait() {
                None => return,
                Some(Ok(_)) => drop(self.waiting.drain(..1)),
                Some(Err(error)) => tracing::warn!(%error, "that the archive is late could not be written yet"),
            }
            self.under_way = None;
        }
        let Some(next) = self.waiting.first() else { return };
        if self.sink.is_none() {
            self.sink = self.log.sink().ok();
        }
        self.under_way = self.sink.as_ref().and_then(|sink| sink.try_submit(next.clone()).ok());
    }
}
