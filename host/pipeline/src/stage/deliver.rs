//! What a judged batch leaves behind: processed events, alerts, letters, drops, and the step of the offset.
//!
//! One record, one terminal outcome: processed, a letter of the gate, of a halt, of an enricher or of this step, or dropped.
//! A detector's failure is a debt: the event is processed and marked, and one letter exists.
//!
//! What is larger than its topic takes would fail for ever. A processed event that is becomes a letter of this step,
//! without its alerts; an alert that is becomes a debt of its detector; a letter that is keeps less of its record.

pub(crate) mod letters;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef};
use phronis_core::alert::{self, Alert};
use phronis_core::contract::Column;
use phronis_core::delivery::{Append, Delivery};
use phronis_core::id::Id;
use phronis_core::letter::{HALTED, Origin, Stage, UNJUDGED};
use phronis_core::plugin::Added;
use phronis_core::processed::{self, ORIGIN_OFFSET, Writer};
use phronis_core::records::{HeadersBuilder, RecordsBuilder, TopicName};
use phronis_core::time::Time;
use serde_json::{Map, Value, json};

pub(crate) use self::letters::code_of;
use super::course::Course;
use super::{Found, Judged, Leaving, Waiting};
use crate::clock::now_us;
use crate::plugins::{Lineup, Version};
use crate::status::StreamCounts;
use crate::stream::Stream;
use crate::stream::limits::Most;

/// On a processed event: a detector that was not shown it, because a field that it requires is null. One header a detector.
const SKIPPED: &str = "phronis-skipped";

/// On a processed event: a plugin that it passed by, because it never had a good version, or because its breaker is open.
/// One header a plugin.
const BYPASSED: &str = "phronis-bypassed";

/// Bytes that one delivery may have: well below what a log takes at once.
pub(crate) const MOST_BYTES: usize = 48 << 20;

/// Why a batch cannot be delivered as it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// It leaves more behind than one delivery may have.
    #[error("what one event leaves behind is too much for the log")]
    TooMuch,
    /// These events are larger than their topic takes, by their index: others of their keys must wait for them.
    #[error("an event is larger than its topic takes")]
    TooLarge(BTreeMap<u32, usize>),
    /// A fault of the host.
    #[error("{0}")]
    Host(String),
}

/// Writes everything that a batch leaves behind, and counts it; the step of the offset is for the worker to add.
pub(crate) fn deliver(
    judged: &Judged,
    stream: &Stream,
    lineup: &Lineup,
    writer: &Writer,
    course: &Course,
) -> Result<(Delivery, StreamCounts), Failure> {
    let most = stream.limits.most();
    let scribe = Scribe { judged, stream, course, most, now: now_us(), left: Cell::new(MOST_BYTES) };
    let mut tally = StreamCounts::default();
    let topics = &stream.options.topics;
    let mut delivery = Delivery::default();
    let mut append = |topic: &TopicName, records: RecordsBuilder| {
        let count = records.len() as u64;
        if count > 0 {
            let partition = judged.checked.records.partition;
            delivery.appends.push(Append { topic: Arc::clone(topic), partition, records: records.finish() });
        }
        count
    };
    let alerts = scribe.write_alerts();
    let mut too_large = TooLarge::new();
    if course.delivers() {
        let processed;
        (processed, too_large) = scribe.processed(lineup, writer, &alerts.owed)?;
        if stream.options.ordered.is_some() && !too_large.is_empty() {
            return Err(Failure::TooLarge(too_large));
        }
        tally.delivered = append(&topics.processed, processed);
        tally.dropped = append(&topics.state, scribe.drops());
    }
    tally.alerts = append(&topics.alerts, scribe.alerts(&alerts, &too_large)?);
    append(&topics.dlq, scribe.letters(&alerts.owed, &too_large, &mut tally)?);
    Ok((delivery, tally))
}

/// Events whose processed record would be too large, and how large it would be.
type TooLarge = BTreeMap<u32, usize>;

/// The alerts of a batch, written, but not on their way yet.
#[derive(Debug, Default)]
struct Written {
    json: Vec<u8>,
    /// Event, plugin, and where its alert stands in the JSON.
    alerts: Vec<(u32, Arc<Version>, Range<usize>)>,
    owed: Vec<Owed>,
}

/// A detector's judgement of an event, which is too large to be told.
#[derive(Debug)]
struct Owed {
    event: u32,
    plugin: Arc<Version>,
    bytes: usize,
}

struct Scribe<'a> {
    judged: &'a Judged,
    stream: &'a Stream,
    course: &'a Course,
    most: Most,
    now: i64,
    /// Bytes that this delivery may still have.
    left: Cell<usize>,
}

impl Scribe<'_> {
    fn spend(&self, bytes: usize) -> Result<(), Failure> {
        self.left.set(self.left.get().checked_sub(bytes).ok_or(Failure::TooMuch)?);
        Ok(())
    }

    fn processed(
        &self,
        lineup: &Lineup,
        writer: &Writer,
        owed: &[Owed],
    ) -> Result<(RecordsBuilder, TooLarge), Failure> {
        let Judged { checked, added, leaving, .. } = self.judged;
        let body = &checked.records.body;
        let batch = writer.batch(added).map_err(Failure::Host)?;
        let marks = Marks::of(self.judged, owed, lineup);
        let mut too_large = TooLarge::new();
        let mut records = RecordsBuilder::with_capacity(checked.events.len(), body.bytes().saturating_mul(2));
        let (mut value, mut headers, mut number) = (Vec::new(), HeadersBuilder::default(), itoa::Buffer::new());
        for event in 0..checked.events.len() {
            if !leaving.is_empty() && leaving.contains_key(&index(event)) {
                continue;
            }
            let row = checked.events.record(event);
            let Some(payload) = body.value(row) else { continue };
            value.clear();
            batch.write(&mut value, payload, checked.events.has_undeclared(event), event);
            headers.clear();
            headers.extend(body.headers(row));
            headers.push(ORIGIN_OFFSET, number.format(self.offset(row)).as_bytes());
            if records.is_empty() {
                went_through(lineup, &mut headers);
            }
            marks.write(event, &mut headers);
            let (bytes, key) = (value.len() + headers.as_bytes().len(), body.key(row));
            if bytes + key.map_or(0, <[u8]>::len) > self.most.processed {
                too_large.insert(index(event), bytes + key.map_or(0, <[u8]>::len));
                continue;
            }
            self.spend(bytes)?;
            records.push(self.timestamp(row), key, Some(&value), headers.as_bytes());
        }
        Ok((records, too_large))
    }

    /// Writes all alerts. Of a detector that has one too large about an event, none is told: it owes all of them.
    fn write_alerts(&self) -> Written {
        let mut written = Written::default();
        for found in &self.judged.found {
            let (from, plugin) = (written.json.len(), Arc::clone(&found.by.version));
            self.alert(found).write_json(&mut written.json);
            let bytes = written.json.len() - from + self.key_of(found.event).map_or(0, <[u8]>::len);
            if bytes > self.most.alert {
                written.json.truncate(from);
                written.owed.push(Owed { event: found.event, plugin, bytes });
            } else {
                written.alerts.push((found.event, plugin, from..written.json.len()));
            }
        }
        let mut owing = BTreeSet::new();
        written.owed.retain(|owed| owing.insert((owed.event, owed.plugin.id.clone())));
        if !owing.is_empty() {
            written.alerts.retain(|(event, plugin, _)| !owing.contains(&(*event, plugin.id.clone())));
        }
        written
    }

    fn alerts(&self, written: &Written, too_large: &TooLarge) -> Result<RecordsBuilder, Failure> {
        let mut records = RecordsBuilder::default();
        for (event, _, at) in &written.alerts {
            if !too_large.is_empty() && too_large.contains_key(event) {
                continue;
            }
            let json = written.json.get(at.clone()).unwrap_or_default();
            self.spend(json.len())?;
            records.push(self.now / 1000, self.key_of(*event), Some(json), &[]);
        }
        Ok(records)
    }

    fn alert(&self, found: &Found) -> Alert {
        let events = &self.judged.checked.events;
        let event = found.event as usize;
        let row = events.record(event);
        let version = &found.by.version;
        let origin = self.origin(row);
        let times = &self.judged.times;
        let columns: Vec<_> = found.by.columns.iter().map(|column| self.cell(column, event)).collect();
        let key = events.key(event).or_else(|| self.judged.checked.records.body.key(row).map(Into::into));
        let text = |key: std::borrow::Cow<'_, [u8]>| String::from_utf8_lossy(&key).into_owned();
        let attributes: Map<String, Value> =
            found.finding.attributes.iter().map(|(name, value)| (name.clone(), Value::String(value.clone()))).collect();
        let id = &self.stream.options.id;
        Alert {
            id: Id::of_alert(id, &version.id.name, &found.finding.rule, origin.position()),
            tenant: id.tenant.clone(),
            stream: id.stream.clone(),
            plugin: alert::Plugin {
                name: version.id.name.clone(),
                version: version.component.manifest().version.clone(),
                digest: version.component.digest().to_owned(),
            },
            rule: found.finding.rule.clone(),
            severity: found.finding.severity,
            message: found.finding.message.clone(),
            agent: events.agent(event).map(std::borrow::Cow::into_owned),
            key: key.map(text),
            attributes,
            event: alert::event(&version.fields, &columns, 0),
            origin: (&origin).into(),
            event_time: events.event_time(event),
            detected_at: Time(times.judged),
            halt: found.finding.halt && version.may_halt,
            stages: alert::Stages {
                received: Time(times.polled),
                checked: Time(times.checked),
                judged: Time(times.judged),
                delivered: Time(self.now),
            },
        }
    }

    /// One event's value of a column, as a column of one row.
    fn cell(&self, column: &Column, event: usize) -> ArrayRef {
        let one = self.judged.checked.events.slice(event, 1);
        let added: Vec<_> = self.judged.added.iter().map(|column| column.slice(event, 1)).collect();
        one.project(column, &self.judged.checked.records, &added)
    }

    /// A record of what a rule dropped, so that a reader of the topics can account for every event.
    fn drops(&self) -> RecordsBuilder {
        let mut records = RecordsBuilder::default();
        for (event, leaving) in &self.judged.leaving {
            let Leaving::Dropped { by, reason } = leaving else { continue };
            let origin = self.origin(self.judged.checked.events.record(*event as usize));
            let key = format!("dropped/{}/{}", origin.partition, origin.offset);
            let value = json!({"dropped_by": by.as_ref(), "reason": reason, "at": Time(self.now)}).to_string();
            records.push(self.now / 1000, Some(key.as_bytes()), Some(value.as_bytes()), &[]);
        }
        records
    }

    fn origin(&self, row: usize) -> Origin {
        let records = &self.judged.checked.records;
        Origin {
            topic: Arc::clone(&records.topic),
            partition: records.partition,
            offset: self.offset(row),
            timestamp: self.timestamp(row),
        }
    }

    /// The key of an event's record.
    fn key_of(&self, event: u32) -> Option<&[u8]> {
        self.judged.checked.records.body.key(self.judged.checked.events.record(event as usize))
    }

    fn offset(&self, row: usize) -> i64 {
        self.judged.checked.records.offsets.values().get(row).copied().unwrap_or(-1)
    }

    fn timestamp(&self, row: usize) -> i64 {
        self.judged.checked.records.body.timestamps.values().get(row).copied().unwrap_or(0)
    }
}

/// Says on the first event which plugins it and those after it went through, and what these add.
fn went_through(lineup: &Lineup, headers: &mut HeadersBuilder) {
    let plugins: Vec<String> = lineup.enrichers.iter().chain(&lineup.detectors).map(|p| p.version.label()).collect();
    headers.push(processed::PLUGINS, plugins.join(",").as_bytes());
    if !lineup.added.is_empty() {
        headers.push(processed::ADDED, Added::list(&lineup.added).as_bytes());
    }
}

/// Which detectors have not judged which events, by event.
struct Marks<'a> {
    /// Sorted by event.
    marks: Vec<(u32, &'static str, &'a str)>,
    bypassed: Vec<&'a str>,
}

impl<'a> Marks<'a> {
    fn of(judged: &'a Judged, owed: &'a [Owed], lineup: &'a Lineup) -> Self {
        let debts = judged.debts.iter().map(|debt| (debt.event, UNJUDGED, debt.plugin.id.name.as_str()));
        let owed = owed.iter().map(|owed| (owed.event, UNJUDGED, owed.plugin.id.name.as_str()));
        let skipped = judged.skipped.iter().map(|(event, plugin)| (*event, SKIPPED, plugin.id.name.as_str()));
        let halted = judged.halted.iter().map(|(event, agent)| (*event, HALTED, agent.as_str()));
        let waiting = judged.ranges.iter().filter(|waiting| waiting.stage == Stage::Detect);
        let waiting = waiting.flat_map(|Waiting { plugin, events, .. }| {
            events.iter().map(|event| (*event, UNJUDGED, plugin.id.name.as_str()))
        });
        let bypassed = judged.bypassed.iter().map(|(event, plugin)| (*event, BYPASSED, plugin.id.name.as_str()));
        let mut marks: Vec<_> = debts.chain(owed).chain(skipped).chain(halted).chain(waiting).chain(bypassed).collect();
        marks.sort_unstable();
        Self { marks, bypassed: lineup.bypassed.iter().map(|name| name.as_str()).collect() }
    }

    fn write(&self, event: usize, headers: &mut HeadersBuilder) {
        for name in &self.bypassed {
            headers.push(BYPASSED, name.as_bytes());
        }
        if self.marks.is_empty() {
            return;
        }
        let event = index(event);
        let first = self.marks.partition_point(|mark| mark.0 < event);
        for (_, header, name) in self.marks.iter().skip(first).take_while(|mark| mark.0 == event) {
            headers.push(header, name.as_bytes());
        }
    }
}

fn index(event: usize) -> u32 {
    u32::try_from(event).unwrap_or(u32::MAX)
}
