//! Batches of letters that come back: run like any batch, as far as each letter's course goes, and answered for together.
//!
//! What a batch leaves behind (events, alerts, settlements, further attempts) and the step of the retry topic are one delivery.

use std::sync::Arc;
use std::time::Duration;

use phronis_core::delivery::{Append, Delivery};
use phronis_core::id::Position as Place;
use phronis_core::letter::{Kind, Letter, Offsets, Returned};
use phronis_core::records::{HeadersBuilder, Records, RecordsBuilder, TopicName};
use phronis_core::{Id, Time};
use phronis_log::{Error as LogError, PollLimits, Position};

use super::Worker;
use super::lane::Lane;
use crate::clock::now_us;
use crate::stage::again::{Home, Parked, narrowed, sort_out};
use crate::stage::course::Letters;
use crate::stage::deliver::letters::{Source, again, write, write_range};
use crate::stage::{Judged, Times, deliver, halt};
use crate::status::StreamCounts;
use crate::{Error, Result, failpoint};

/// Bounds of one read of the records that letters are about.
const READ: PollLimits = PollLimits { records: 8192, bytes: 4 << 20 };

/// How long one such read waits: a new consumer of Kafka needs some round trips.
const READ_WAIT: Duration = Duration::from_secs(1);

/// Reads that bring nothing before the log counts as silent.
const READ_TRIES: u32 = 3;

/// Records between two wanted ones that are read and thrown away rather than skipped: a new reader costs more.
const READ_OVER: i64 = 4096;

/// How a batch is to be made to fit one delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fit {
    /// As it is, or not at all.
    Whole,
    /// It is one letter: a range letter becomes two, findings about one event are refused.
    Forced,
}

impl Worker {
    /// One batch of letters, in as many deliveries as the log can take. A range letter may stand for as many records as a batch has,
    /// so it is one.
    pub(super) fn again(&mut self, records: &Records) -> Result<()> {
        let mut from = 0;
        for row in 0..=records.len() {
            let is_range = row < records.len() && is_range(records, row);
            if (is_range || row == records.len()) && row > from {
                self.again_part(&records.slice(from, row - from))?;
                from = row;
            }
            if is_range {
                self.again_part(&records.slice(row, 1))?;
                from = row + 1;
            }
        }
        Ok(())
    }

    fn again_part(&mut self, records: &Records) -> Result<()> {
        if self.try_again(records, Fit::Whole)? {
            return Ok(());
        }
        let half = records.len() / 2;
        if half == 0 {
            return match self.try_again(records, Fit::Forced)? {
                true => Ok(()),
                false => Err(Error::Host("what one letter leaves behind is too much for the log".into())),
            };
        }
        self.again_part(&records.slice(0, half))?;
        self.again_part(&records.slice(half, records.len() - half))
    }

    /// One batch of letters, course by course; false when what it leaves behind is too much for one delivery.
    fn try_again(&mut self, records: &Records, fit: Fit) -> Result<bool> {
        let lane = Lane::retry(records.partition);
        let Some(next) = records.next_offset() else { return Ok(true) };
        self.goes_on(lane)?;
        if self.stream.options.ordered.is_some() {
            self.catch_up(lane.partition)?;
        }
        let home = Home {
            stream: &self.stream.options.id,
            raw: &self.stream.options.topics.raw,
            partition: records.partition,
            lineup: &self.crew.lineup,
            order: self
                .partitions
                .get(&Lane::raw(records.partition))
                .and_then(|state| Some(state.line.as_ref()?.order())),
        };
        let sorted = sort_out(records, &home, &mut |offsets| self.fetch(records.partition, offsets))?;
        if sorted.ignored > 0 {
            let topic = lane.topic(&self.stream.options.topics);
            tracing::error!(stream = %self.stream.options.id, %topic, ?lane, records = sorted.ignored, "records that are no letters stand in the retry topic; they are passed over: only hosts may write there");
            self.meters.ignored(sorted.ignored);
        }
        let watermark = self.partitions.get(&Lane::raw(lane.partition)).map_or(i64::MIN, |state| state.watermark);
        let (mut delivery, mut tally, mut judged_whole) = (Delivery::default(), StreamCounts::default(), Vec::new());
        for (course, records) in sorted.runs {
            let polled = now_us();
            let checked = self.decoder.check(records);
            let times = Times { polled, checked: now_us(), judged: 0 };
            let mut judged = Judged::new(checked, watermark, times);
            let is_refused = fit == Fit::Forced && judged.checked.records.len() == 1;
            halt::hold(&mut judged, &self.stream.agents, self.stream.options.on_halted);
            // What is a letter already has its room.
            let _never_full = self.judge(&mut judged, &course, is_refused)?;
            match self.deliver(&mut judged, &course) {
                Ok(Err(_)) => return Err(Error::Host("a letter that comes back found no room to wait".into())),
                Ok(Ok((more, counts))) => {
                    delivery.appends.extend(more.appends);
                    tally += counts;
                    if let Letters::Range { letter, .. } = &course.letters
                        && judged.ranges.is_empty()
                        && judged.bypassed.is_empty()
                    {
                        judged_whole.extend(letter.letter.plugin.as_ref().map(|plugin| plugin.name.clone()));
                    }
                }
                Err(deliver::Failure::TooMuch) => match (&course.letters, fit) {
                    (Letters::Range { letter, .. }, Fit::Forced) if judged.checked.records.len() > 1 => {
                        let halves = self.halves(letter, &judged.checked.records);
                        delivery.appends.push(self.dlq(lane, halves));
                    }
                    _ => return Ok(false),
                },
                Err(failure) => return Err(Error::Host(failure.to_string())),
            }
        }
        if !sorted.parked.is_empty() {
            tally.retries += sorted.parked.len() as u64;
            let parked = self.park(&sorted.parked);
            delivery.appends.push(self.dlq(lane, parked));
        }
        let bytes: usize = delivery.appends.iter().map(|append| append.records.bytes()).sum();
        if bytes > deliver::MOST_BYTES && fit == Fit::Whole {
            return Ok(false);
        }
        failpoint::pass("letters-judged");
        self.submit(lane, delivery, next, tally, (0, 0))?;
        failpoint::pass("letters-answered");
        self.crew.ranges_settled(&judged_whole);
        Ok(true)
    }

    pub(super) fn dlq(&self, lane: Lane, records: RecordsBuilder) -> Append {
        let topic = Arc::clone(&self.stream.options.topics.dlq);
        Append { topic, partition: lane.partition, records: records.finish() }
    }

    /// Letters that cannot run go back with the reason. They have not been tried, so they keep their attempt.
    pub(super) fn park(&self, parked: &[Parked]) -> RecordsBuilder {
        let (mut records, now) = (RecordsBuilder::default(), now_us());
        let (policy, most) = (&self.stream.options.retry, self.stream.limits.most());
        for Parked { returned, code, message, offsets, record } in parked {
            tracing::warn!(stream = %self.stream.options.id, letter = %returned.letter.id, %code, reason = %message, "a letter is parked");
            let letter = Letter { code: *code, message: message.clone(), ..returned.letter.clone() };
            let letter = again(letter, returned, policy, Time(now));
            match offsets {
                Some(offsets) => {
                    let range = narrowed(&letter, offsets.clone());
                    let (count, json) = (offsets.records(), offsets.to_json());
                    write_range(&mut records, &range.letter, count, &json, returned, now);
                }
                None => {
                    let source = Source { key: record.key(0), value: record.value(0), headers: record.headers(0) };
                    write(&mut records, letter, source, Some(returned), &most, now);
                }
            }
        }
        records
    }

    /// A range letter whose outcome is too much for one delivery, as two that are due at once.
    fn halves(&self, returned: &Returned, records: &Records) -> RecordsBuilder {
        let (mut written, now) = (RecordsBuilder::default(), now_us());
        let offsets = records.offsets.values();
        let (first, second) = offsets.split_at(offsets.len() / 2);
        for half in [first, second] {
            let Some(half) = Offsets::of(half.iter().copied()) else { continue };
            let (count, json) = (half.records(), half.to_json());
            let mut range = narrowed(&returned.letter, half);
            range.letter.previous = Some(returned.at);
            range.letter.due_at = Some(Time(now));
            if range.offsets.first() != returned.letter.origin.offset {
                let plugin = range.letter.plugin.as_ref().map(|plugin| plugin.name.clone());
                let (letter, origin) = (&mut range.letter, &returned.letter.origin);
                if let Some(plugin) = plugin {
                    let position = Place { offset: letter.origin.offset, ..origin.position() };
                    letter.id = Id::of_range(&letter.stream, letter.stage, &plugin, position);
                }
            }
            write_range(&mut written, &range.letter, count, &json, returned, now);
        }
        written
    }

    /// Records of raw at these offsets; what retention has deleted is missing.
    ///
    /// The range letters of an outage stand for a few records each, side by side. A reader takes some round trips to Kafka, and
    /// what it reads is more than it was asked for: that is looked at before there is another.
    pub(super) fn fetch(&self, partition: i32, offsets: &Offsets) -> Result<Records> {
        let raw = &self.stream.options.topics.raw;
        let mut last = self.read_last.borrow_mut();
        if let Some(last) = last.as_ref().filter(|last| holds(last, partition, offsets)) {
            return Ok(chosen(raw, partition, std::slice::from_ref(last), offsets));
        }
        let mut found: Vec<Records> = Vec::new();
        let mut runs = offsets.runs().iter().cloned().peekable();
        while let Some(mut run) = runs.next() {
            while let Some(more) = runs.next_if(|more| more.start - run.end <= READ_OVER) {
                run.end = more.end;
            }
            self.read(partition, run, &mut |records| found.push(records))?;
        }
        let records = chosen(raw, partition, &found, offsets);
        *last = found.pop();
        Ok(records)
    }

    /// Where a partition of raw ends.
    fn latest(&self, partition: i32) -> Result<i64> {
        let info = self.log.topic(&self.stream.options.topics.raw)?;
        let partition = usize::try_from(partition).ok().and_then(|partition| info.partitions.get(partition).copied());
        Ok(partition.map_or(0, |partition| partition.latest))
    }

    /// Reads raw from an offset up to another.
    fn read(&self, partition: i32, run: std::ops::Range<i64>, take: &mut dyn FnMut(Records)) -> Result<()> {
        let raw = &self.stream.options.topics.raw;
        let mut from = Position::Offset(run.start);
        'reading: loop {
            let mut reader = match self.log.reader(raw, partition, from) {
                Err(LogError::OutOfRange { latest, .. }) if latest >= 0 && latest <= run.start => return Ok(()),
                Err(LogError::OutOfRange { .. }) => self.log.reader(raw, partition, Position::Earliest)?,
                other => other?,
            };
            let mut tries = READ_TRIES;
            while reader.position() < run.end {
                match reader.next(READ, READ_WAIT) {
                    Ok(Some(records)) => take(records),
                    // A letter may name what never was: a topic that was made anew is shorter.
                    Ok(None) if reader.position() >= self.latest(partition)? => return Ok(()),
                    Ok(None) if tries > 0 && !self.should_stop() => tries -= 1,
                    Ok(None) => {
                        let reason = format!("{raw}/{partition} gives no records up to offset {}", run.end);
                        return Err(LogError::Unreachable { reason }.into());
                    }
                    Err(LogError::OutOfRange { .. }) => {
                        from = Position::Earliest;
                        continue 'reading;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            return Ok(());
        }
    }
}

fn is_range(records: &Records, row: usize) -> bool {
    Kind::of(records.body.headers(row)) == Kind::Range
}

/// Whether records that follow one another in a partition reach over all of these offsets.
pub(super) fn holds(records: &Records, partition: i32, offsets: &Offsets) -> bool {
    let (Some(first), Some(next)) = (records.offsets.values().first(), records.next_offset()) else { return false };
    let is_within = |run: &std::ops::Range<i64>| *first <= run.start && run.end <= next;
    records.partition == partition && offsets.runs().iter().all(is_within)
}

/// Of what was read, the records that are wanted, each once.
fn chosen(topic: &TopicName, partition: i32, found: &[Records], wanted: &Offsets) -> Records {
    let mut records = RecordsBuilder::default();
    let mut offsets: Vec<i64> = Vec::new();
    let mut headers = HeadersBuilder::default();
    for batch in found {
        for (row, offset) in batch.offsets.values().iter().enumerate() {
            if !wanted.contains(*offset) || offsets.last().is_some_and(|last| last >= offset) {
                continue;
            }
            headers.clear();
            headers.extend(batch.body.headers(row));
            let timestamp = batch.body.timestamps.values().get(row).copied().unwrap_or_default();
            records.push(timestamp, batch.body.key(row), batch.body.value(row), headers.as_bytes());
            offsets.push(*offset);
        }
    }
    let topic = Arc::clone(topic);
    Records { topic, partition, offsets: offsets.into(), body: records.finish() }
}
