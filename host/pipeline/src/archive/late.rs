//! Tells that the archive is behind: an alert on the stream, beside those of its detectors.
//!
//! A thread of its own looks: the branch may be waiting for storage that does not answer.
//! Twice a time of trouble at most for each table: when it is late, and, in louder words, when half of what the log keeps is not
//! archived, by time or by size: the log deletes the older half next.

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
use phronis_log::{Log, PartitionInfo, Sink, Ticket, TopicInfo};
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
            let is_late = age >= self.late_after;
            let loss = if is_late { self.loss(table, &state) } else { None };
            let before = self.said.get(&name).copied().unwrap_or_default();
            let now = match loss {
                Some(_) => Said::AlmostLost,
                // A log that is away says nothing, and what was said holds.
                None if is_late => before.max(Said::Late),
                None => Said::Nothing,
            };
            self.said.insert(name.clone(), now);
            if now > before {
                self.tell(&state, &name, loss.as_deref());
            } else if now == Said::Nothing && before != Said::Nothing {
                tracing::info!(stream = %self.stream.options.id, table = name, "the archive is not late any more");
            }
        }
        self.write();
    }

    /// What the log keeps, in words, when half of it is not archived.
    fn loss(&self, table: &Table, state: &State) -> Option<String> {
        let options = &self.stream.options;
        let of_letters = table.topic == options.topics.dlq;
        let kept = if of_letters { options.letters_retention } else { options.retention };
        if let Some(age) = kept.age.filter(|kept| state.age() >= *kept / 2) {
            return Some(format!("the log keeps records for {} minutes only", minutes(age)));
        }
        // Asked only of a table that is late: a log that is far away takes its time.
        let bytes = kept.bytes?;
        let info = self.log.topic(&table.topic).ok()?;
        let (partition, _) = state.places.iter().find(|place| is_half_lost(&info, *place, bytes))?;
        Some(format!(
            "the log keeps {bytes} bytes of a partition only, and in partition {partition} half of that is not archived"
        ))
    }

    fn tell(&mut self, state: &State, table: &str, loss: Option<&str>) {
        let age = state.age();
        let Ok(name) = WHO.parse::<Name>() else { return };
        let (id, topics) = (&self.stream.options.id, &self.stream.options.topics);
        let why = state.trouble.as_ref().map_or_else(
            || "it is still reading what there is, or waits for storage".to_owned(),
            |(code, detail)| format!("{detail} ({code})"),
        );
        let loss_too = loss.map(|loss| format!(", and {loss}")).unwrap_or_default();
        let message = format!("table {table} is {} minutes late{loss_too}: {why}", minutes(age));
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
        let severity = if loss.is_some() { Severity::Critical } else { Severity::Warning };
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

fn minutes(time: Duration) -> u64 {
    time.as_secs() / 60
}

/// Whether what is not archived of a partition is half of the bytes after which the log deletes, or more. A log that does not know
/// its bytes is full when it has deleted something.
fn is_half_lost(info: &TopicInfo, (partition, archived): (&i32, &Option<i64>), most: u64) -> bool {
    let partition = usize::try_from(*partition).ok().and_then(|partition| info.partitions.get(partition));
    let Some(PartitionInfo { earliest, latest, bytes }) = partition.copied() else { return false };
    let Some(bytes) = bytes.or_else(|| (earliest > 0).then_some(most)) else { return false };
    let archived = archived.unwrap_or(earliest).clamp(earliest, latest.max(earliest));
    let (missing, held) = (latest.abs_diff(archived), latest.abs_diff(earliest));
    // Of records that are not known one by one, each counts the same.
    held > 0 && u128::from(missing) * u128::from(bytes) * 2 >= u128::from(held) * u128::from(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_bytes_that_the_log_keeps_is_almost_lost() {
        let check = |(earliest, latest, bytes), archived: Option<i64>, expected| {
            let info = TopicInfo { name: "t".into(), partitions: vec![PartitionInfo { earliest, latest, bytes }] };
            assert_eq!(
                is_half_lost(&info, (&0, &archived), 1000),
                expected,
                "{earliest} {latest} {bytes:?} {archived:?}"
            );
        };
        // A log that knows its bytes: 600 of 1000, of which so many are missing.
        check((0, 100, Some(600)), Some(100), false);
        check((0, 100, Some(600)), Some(20), false);
        check((0, 100, Some(600)), Some(10), true);
        check((0, 100, Some(600)), None, true);
        // A log that does not, before it deletes and after.
        check((0, 100, None), Some(0), false);
        check((40, 140, None), Some(100), false);
        check((40, 140, None), Some(90), true);
        check((40, 140, None), Some(10), true);
        check((40, 40, None), Some(40), false);
        let empty = TopicInfo { name: "t".into(), partitions: Vec::new() };
        assert!(!is_half_lost(&empty, (&0, &None), 1000), "a partition that the log does not know");
    }
}
