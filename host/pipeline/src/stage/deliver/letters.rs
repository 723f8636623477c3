//! The letters that a batch leaves behind: first ones, further attempts of those that came back, and settlements.
//!
//! A letter that came back and fails again keeps its id, its origin and its first failure, wherever it fails now.
//! What it brought about beside (a detector without an answer for an event that is delivered at last) is a letter of its own.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use phronis_core::decode::Rejection;
use phronis_core::letter::backoff::Policy;
use phronis_core::letter::{self, Letter, Offsets, Outcome, RANGE, REDRIVE, Returned, Settlement, Stage};
use phronis_core::plugin::FailureKind;
use phronis_core::records::{Headers, HeadersBuilder, RecordsBuilder, TopicName};
use phronis_core::time::Time;
use phronis_core::{Code, Name, code};

use super::super::again::narrowed;
use super::super::course::Letters;
use super::super::{Debt, Judged, Leaving};
use super::{Failure, Owed, Scribe, TooLarge};
use crate::plugins::Version;
use crate::status::StreamCounts;
use crate::stream::limits::Most;

/// What a range letter's headers may have; the most that names, versions and the message can come to is less.
const RANGE_HEADERS: usize = 4 << 10;

/// Why a record is a letter.
struct Reason<'a> {
    row: usize,
    stage: Stage,
    plugin: Option<&'a Arc<Version>>,
    code: Code,
    message: Cow<'a, str>,
}

/// Letters on their way into dlq.
#[derive(Default)]
struct Written {
    records: RecordsBuilder,
    /// Rows whose letter came back and failed again.
    again: BTreeSet<usize>,
    /// Records of the range letter that came back for which it goes back once more.
    back: u64,
}

impl Scribe<'_> {
    /// All letters and settlements of the batch.
    pub(super) fn letters(
        &self,
        owed: &[Owed],
        too_large: &TooLarge,
        tally: &mut StreamCounts,
    ) -> Result<RecordsBuilder, Failure> {
        let mut written = Written::default();
        let Judged { checked, leaving, .. } = self.judged;
        for Rejection { row, code, message, .. } in &checked.rejected {
            let (row, message) = (*row as usize, Cow::from(message));
            self.letter(&mut written, Reason { row, stage: Stage::Gate, plugin: None, code: *code, message }, tally)?;
        }
        for (event, leaving) in leaving {
            let row = checked.events.record(*event as usize);
            let reason = match leaving {
                Leaving::Dropped { .. } | Leaving::Waits | Leaving::Known => continue,
                Leaving::Behind { offset } => {
                    let message = format!("waits behind the event at offset {offset}, which has the same key").into();
                    Reason { row, stage: Stage::Order, plugin: None, code: code::WAITS_BEHIND, message }
                }
                Leaving::TooLarge { bytes } => self.too_large(row, *bytes),
                Leaving::Failed { plugin, failure } => {
                    let (code, message) = (code_of(failure.kind), Cow::from(&failure.message));
                    Reason { row, stage: Stage::Enrich, plugin: Some(plugin), code, message }
                }
                Leaving::Halted { agent } => {
                    let (code, message) = (code::AGENT_HALTED, halted(agent).into());
                    Reason { row, stage: Stage::Halt, plugin: None, code, message }
                }
            };
            self.letter(&mut written, reason, tally)?;
        }
        for (event, bytes) in too_large {
            let row = checked.events.record(*event as usize);
            self.letter(&mut written, self.too_large(row, *bytes), tally)?;
        }
        self.debts(owed, too_large, &mut written, tally)?;
        self.waiting(too_large, &mut written, tally)?;
        self.settle(&mut written, tally);
        Ok(written.records)
    }

    fn too_large(&self, row: usize, bytes: usize) -> Reason<'static> {
        let topic = &self.stream.options.topics.processed;
        let message = larger("the processed event has", bytes, topic, self.most.processed).into();
        Reason { row, stage: Stage::Deliver, plugin: None, code: code::RECORD_TOO_LARGE, message }
    }

    /// Letters of detectors. An event that is a letter as a whole owes nothing beside.
    fn debts(
        &self,
        owed: &[Owed],
        too_large: &TooLarge,
        written: &mut Written,
        tally: &mut StreamCounts,
    ) -> Result<(), Failure> {
        let (stage, events) = (Stage::Detect, &self.judged.checked.events);
        let is_delivered = |event: &u32| too_large.is_empty() || !too_large.contains_key(event);
        for Debt { event, plugin, failure } in self.judged.debts.iter().filter(|debt| is_delivered(&debt.event)) {
            let (row, code) = (events.record(*event as usize), code_of(failure.kind));
            let (plugin, message) = (Some(plugin), Cow::from(&failure.message));
            self.letter(written, Reason { row, stage, plugin, code, message }, tally)?;
        }
        for Owed { event, plugin, bytes } in owed.iter().filter(|owed| is_delivered(&owed.event)) {
            let row = events.record(*event as usize);
            let message = larger("an alert has", *bytes, &self.stream.options.topics.alerts, self.most.alert).into();
            let (plugin, code) = (Some(plugin), code::RECORD_TOO_LARGE);
            self.letter(written, Reason { row, stage, plugin, code, message }, tally)?;
        }
        Ok(())
    }

    /// Writes a letter: a first one, which counts, or what takes the place of the one that came back.
    fn letter(&self, written: &mut Written, reason: Reason<'_>, tally: &mut StreamCounts) -> Result<(), Failure> {
        let Reason { row, mut stage, plugin, code, message } = reason;
        let mut message = message.into_owned();
        let mut plugin = plugin.map(|version| letter::Plugin {
            name: version.id.name.clone(),
            version: version.component.manifest().version.clone(),
            digest: version.component.digest().to_owned(),
        });
        let returned = self.course.returned(row);
        if !self.course.delivers() && stage != Stage::Detect {
            // The event was delivered long ago: what its detector is missing now is the detector's letter.
            message = format!("{}: {message}", stage.as_str());
            (stage, plugin) = (Stage::Detect, returned.and_then(|returned| returned.letter.plugin.clone()));
        }
        // Detectors of an event that is delivered at last fail for the first time.
        let comes_back = stage != Stage::Detect || !self.course.delivers();
        let returned = self.course.letter(row).filter(|_| comes_back);
        let body = &self.judged.checked.records.body;
        let source = Source { key: body.key(row), value: body.value(row), headers: body.headers(row) };
        let now = Time(self.now);
        let letter = match returned {
            Some(_) if !written.again.insert(row) => return Ok(()),
            Some(returned) => {
                // Nobody was asked where a breaker is open, or where an earlier event is in the way: that is no attempt.
                let tries = u32::from(code != code::BREAKER_OPEN && code != code::WAITS_BEHIND);
                let attempt = returned.letter.attempt.saturating_add(tries);
                let failed = Letter { stage, plugin, code, message, attempt, ..returned.letter.clone() };
                again(failed, returned, &self.stream.options.retry, now)
            }
            None => {
                let id = &self.stream.options.id;
                let letter = Letter::new(id, stage, plugin, self.origin(row), code, &message, source.headers, now);
                *count_of(tally, stage) += 1;
                let attempt = u32::from(stage != Stage::Order);
                Letter { attempt, due_at: self.stream.options.retry.due(letter.id, stage, code, 1, now), ..letter }
            }
        };
        self.spend(write(&mut written.records, letter, source, returned, &self.most, self.now))
    }

    /// What plugins were not shown, because their breakers are open. Records that stand in raw share one range letter;
    /// a range letter that came back for its plugin goes back, and a letter of one record stays one.
    fn waiting(&self, too_large: &TooLarge, written: &mut Written, tally: &mut StreamCounts) -> Result<(), Failure> {
        let bypassed = self.judged.bypassed.iter().filter(|_| !self.course.delivers());
        // An event that was delivered long ago cannot pass by: its letter waits on.
        let bypassed = bypassed.map(|(event, plugin)| (plugin, Stage::Detect, std::slice::from_ref(event)));
        let ranges = self.judged.ranges.iter().map(|waiting| (&waiting.plugin, waiting.stage, &*waiting.events));
        type Rows<'a> = (&'a Arc<Version>, Vec<usize>);
        let mut all: BTreeMap<(&Name, Stage), Rows<'_>> = BTreeMap::new();
        for (plugin, stage, events) in ranges.chain(bypassed) {
            let (_, rows) = all.entry((&plugin.id.name, stage)).or_insert_with(|| (plugin, Vec::new()));
            // An event that is a letter as a whole owes nothing beside.
            let waits = events.iter().filter(|event| !too_large.contains_key(event));
            rows.extend(waits.map(|event| self.judged.checked.events.record(*event as usize)));
        }
        for ((name, stage), (plugin, rows)) in all {
            let message = format!("the breaker of {name} is open");
            if let Letters::Each(_) = self.course.letters {
                for row in rows {
                    let (plugin, code, message) = (Some(plugin), code::BREAKER_OPEN, Cow::from(&message));
                    self.letter(written, Reason { row, stage, plugin, code, message }, tally)?;
                }
                continue;
            }
            let Some(offsets) = Offsets::of(rows.into_iter().map(|row| self.offset(row))) else { continue };
            match &self.course.letters {
                Letters::Range { letter, .. } if self.is_its_own(letter, name, stage) => {
                    written.back = offsets.records();
                    self.back(letter, offsets, written)?;
                }
                _ => self.range(plugin, stage, offsets, &message, written, tally)?,
            }
        }
        Ok(())
    }

    /// Whether a range letter came back for this plugin: alone, or as the one that it waits for.
    fn is_its_own(&self, returned: &Returned, plugin: &Name, stage: Stage) -> bool {
        let waits_for = returned.letter.plugin.as_ref().map(|plugin| &plugin.name);
        !self.course.delivers() || (waits_for == Some(plugin) && returned.letter.stage == stage)
    }

    /// A range letter goes back, with what still waits. It has not been tried.
    fn back(&self, returned: &Returned, offsets: Offsets, written: &mut Written) -> Result<(), Failure> {
        let mut range = narrowed(&returned.letter, offsets);
        range.letter.previous = Some(returned.at);
        range.letter.due_at = self.stream.options.retry.due(
            range.letter.id,
            range.letter.stage,
            code::BREAKER_OPEN,
            range.letter.attempt,
            Time(self.now),
        );
        let (count, json) = (range.offsets.records(), range.offsets.to_json());
        self.spend(json.len() + RANGE_HEADERS)?;
        write_range(&mut written.records, &range.letter, count, &json, returned, self.now);
        Ok(())
    }

    /// First range letters: several where one would be too large.
    fn range(
        &self,
        plugin: &Arc<Version>,
        stage: Stage,
        offsets: Offsets,
        message: &str,
        written: &mut Written,
        tally: &mut StreamCounts,
    ) -> Result<(), Failure> {
        if stage == Stage::Enrich {
            tally.waiting += offsets.records();
        }
        for part in offsets.split(self.most.letter.saturating_sub(RANGE_HEADERS)) {
            tally.range_letters += 1;
            let row = self.judged.checked.records.offsets.values().partition_point(|at| *at < part.first());
            let name = letter::Plugin {
                name: plugin.id.name.clone(),
                version: plugin.component.manifest().version.clone(),
                digest: plugin.component.digest().to_owned(),
            };
            let (id, now) = (&self.stream.options.id, Time(self.now));
            let range = letter::Range::new(id, stage, name, self.origin(row), part, message, now);
            let (mut headers, value) = (HeadersBuilder::default(), range.offsets.to_json());
            range.write(&mut headers);
            self.spend(value.len() + headers.as_bytes().len())?;
            written.records.push(self.now / 1000, None, Some(&value), headers.as_bytes());
        }
        Ok(())
    }

    /// Says how the letters ended that did not fail again.
    fn settle(&self, written: &mut Written, tally: &mut StreamCounts) {
        let rows = self.judged.checked.records.len() as u64;
        let is_debt = !self.course.delivers();
        let ended = match &self.course.letters {
            Letters::None => {
                tally.received = rows;
                return;
            }
            Letters::Range { letter, is_partial } => {
                tally.retries += 1;
                let outcome = if is_debt { Outcome::Judged } else { Outcome::Delivered };
                if !is_partial && written.back == 0 {
                    settlement(&mut written.records, letter, outcome, self.now);
                }
                rows.saturating_sub(written.back)
            }
            Letters::Each(letters) => {
                tally.retries += letters.len() as u64;
                let dropped = self.dropped();
                for (row, returned) in letters.iter().enumerate().filter(|(row, _)| !written.again.contains(row)) {
                    let outcome = match () {
                        () if dropped.contains(&row) => Outcome::Dropped,
                        () if is_debt => Outcome::Judged,
                        () => Outcome::Delivered,
                    };
                    settlement(&mut written.records, returned, outcome, self.now);
                }
                (letters.len() - written.again.len()) as u64
            }
        };
        *(if is_debt { &mut tally.settled_debts } else { &mut tally.settled }) += ended;
    }

    fn dropped(&self) -> BTreeSet<usize> {
        let leaving = self.judged.leaving.iter();
        let dropped = leaving.filter(|(_, leaving)| matches!(leaving, Leaving::Dropped { .. }));
        dropped.map(|(event, _)| self.judged.checked.events.record(*event as usize)).collect()
    }
}

fn count_of(tally: &mut StreamCounts, stage: Stage) -> &mut u64 {
    match stage {
        Stage::Gate => &mut tally.gate_letters,
        Stage::Enrich => &mut tally.enrich_letters,
        Stage::Detect => &mut tally.detect_letters,
        Stage::Deliver => &mut tally.deliver_letters,
        Stage::Halt => &mut tally.halt_letters,
        Stage::Order => &mut tally.order_letters,
    }
}

fn halted(agent: &str) -> String {
    if agent.is_empty() {
        "everything of its tenant is halted".to_owned()
    } else {
        format!("agent `{agent}` is halted")
    }
}

/// What a letter keeps of its record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    /// The record's own.
    pub(crate) headers: Headers<'a>,
}

/// What takes the place of a letter that came back: its next time follows from how it stands now.
pub(crate) fn again(letter: Letter, returned: &Returned, policy: &Policy, now: Time) -> Letter {
    let due_at = policy.due(letter.id, letter.stage, letter.code, letter.attempt, now);
    Letter { due_at, previous: Some(returned.at), omitted: letter::Omitted::default(), ..letter }
}

/// Writes a letter, and returns its bytes. What does not fit its topic is left out, the largest use first:
/// a letter that cannot be written would stop the partition.
pub(crate) fn write(
    records: &mut RecordsBuilder,
    mut letter: Letter,
    source: Source<'_>,
    returned: Option<&Returned>,
    most: &Most,
    now: i64,
) -> usize {
    let Source { mut key, mut value, headers: original } = source;
    let mut headers = HeadersBuilder::default();
    let redrive = returned.and_then(|returned| returned.redrive.as_deref());
    let put = |letter: &Letter, headers: &mut HeadersBuilder| {
        headers.clear();
        letter.write(original, headers);
        if let Some(redrive) = redrive {
            headers.push(REDRIVE, redrive.as_bytes());
        }
    };
    put(&letter, &mut headers);
    let size = |part: Option<&[u8]>| part.map_or(0, <[u8]>::len);
    while size(key) + size(value) + headers.as_bytes().len() > most.letter {
        let omitted = &mut letter.omitted;
        if omitted.value.is_none() {
            // Empty rather than none: a tombstone would delete in a compacted topic.
            omitted.value = Some(size(value.replace(&[])) as u64);
        } else if omitted.headers.is_none() {
            omitted.headers = Some(original.bytes() as u64);
        } else if omitted.key.is_none() {
            omitted.key = Some(size(key.take()) as u64);
        } else {
            break;
        }
        put(&letter, &mut headers);
    }
    records.push(now / 1000, key, value, headers.as_bytes());
    size(value) + headers.as_bytes().len()
}

/// Writes a range letter that takes the place of the one that came back.
pub(crate) fn write_range(
    records: &mut RecordsBuilder,
    letter: &Letter,
    count: u64,
    offsets: &[u8],
    returned: &Returned,
    now: i64,
) {
    let (none, mut headers) = (Headers::default(), HeadersBuilder::default());
    letter.write(none, &mut headers);
    headers.push(RANGE, count.to_string().as_bytes());
    if let Some(redrive) = &returned.redrive {
        headers.push(REDRIVE, redrive.as_bytes());
    }
    records.push(now / 1000, None, Some(offsets), headers.as_bytes());
}

/// Writes how a letter ended.
pub(crate) fn settlement(records: &mut RecordsBuilder, returned: &Returned, outcome: Outcome, now: i64) {
    let settlement = Settlement::of(&returned.letter, returned.at, outcome, returned.redrive.clone());
    let mut headers = HeadersBuilder::default();
    settlement.write(&mut headers);
    records.push(now / 1000, None, None, headers.as_bytes());
}

pub(crate) fn code_of(kind: FailureKind) -> Code {
    match kind {
        FailureKind::Row => code::ROW_FAILED,
        FailureKind::Error => code::PLUGIN_ERROR,
        FailureKind::Trap => code::PLUGIN_TRAP,
        FailureKind::Deadline => code::PLUGIN_DEADLINE,
        FailureKind::Memory => code::PLUGIN_MEMORY,
        FailureKind::BadOutput => code::PLUGIN_BAD_OUTPUT,
        FailureKind::Budget => code::PLUGIN_BUDGET,
    }
}

fn larger(what: &str, bytes: usize, topic: &TopicName, most: usize) -> String {
    format!("{what} {bytes} bytes, topic `{topic}` takes {most}")
}
