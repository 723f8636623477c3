//! Where a stream keeps the order of each key: what holds keys back in a partition, read from dlq and from nothing else.
//!
//! No record of a partition is judged before dlq was read to its end, when the partition is taken over and again after each
//! delivery that wrote there; batches without letters go on as in any stream. What a person gives up meanwhile is heard of
//! between two batches. A letter that waits for nobody any more is moved to retry, like one whose time has come,
//! and comes back like any other. What finds no room makes its partition stand still; its letters go on coming back.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use phronis_core::code;
use phronis_core::delivery::{Append, Delivery};
use phronis_core::letter::order::{Bounds, Key, Order};
use phronis_core::letter::{Kind, Letter, Offsets};
use phronis_core::records::Records;
use phronis_log::{Error as LogError, PollLimits, Position, Reader};

use super::lane::{Input, Lane};
use super::{AWAY, Worker};
use crate::retry::{Batch, read_letters};
use crate::stage::Judged;
use crate::stage::course::{Aim, Course, Letters};
use crate::stage::order::{Full, hold};
use crate::whole::settled;
use crate::{Result, failpoint};

/// Bounds of one read of dlq.
const READ: PollLimits = PollLimits { records: 8192, bytes: 4 << 20 };

/// How long one such read waits.
const READ_WAIT: Duration = Duration::from_secs(1);

/// Reads that bring nothing before the log counts as silent.
const READ_TRIES: u32 = 10;

/// Letters that are moved at once.
const MOVED: usize = 500;

/// What a worker knows of the order of a partition.
pub(super) struct Line {
    order: Order,
    reader: Box<dyn Reader>,
    /// Something of this worker's may stand in dlq that was not read.
    is_behind: bool,
    /// The partition stands still before a record of this key.
    stands_before: Option<Key>,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("waiting", &self.order.waiting()).finish_non_exhaustive()
    }
}

impl Line {
    /// What holds keys back.
    pub(super) fn order(&self) -> &Order {
        &self.order
    }

    /// Records before this one never come again.
    pub(super) fn passed(&mut self, next: i64) {
        self.order.passed(next);
    }

    /// Something was written to dlq.
    pub(super) fn wrote(&mut self) {
        self.is_behind = true;
    }

    /// Whether the partition stands still.
    pub(super) fn stands(&self) -> bool {
        self.stands_before.is_some()
    }

    fn may_go_on(&self, bounds: Bounds) -> bool {
        let (letters, bytes) = self.order.waiting();
        // Some room at once: a batch for each event that leaves would be dear.
        let has_room = letters <= bounds.letters / 4 * 3 && bytes <= bounds.bytes / 4 * 3 && letters < bounds.letters;
        self.stands_before.is_some_and(|key| has_room || !self.order.holds(key))
    }
}

impl Worker {
    /// Knows of each partition what holds keys back, as of now, and lets go on what may.
    pub(super) fn keep_order(&mut self) -> Result<()> {
        let Some(bounds) = self.stream.options.ordered else { return Ok(()) };
        let raw = |lane: &&Lane| lane.input == Input::Raw;
        for lane in self.partitions.keys().filter(raw).copied().collect::<Vec<_>>() {
            self.catch_up(lane.partition)?;
            self.move_due(lane.partition)?;
            let line = self.partitions.get_mut(&lane).and_then(|state| state.line.as_mut());
            if let Some(line) = line.filter(|line| line.may_go_on(bounds)) {
                line.stands_before = None;
                self.source.pause(&self.stream.options.topics.raw, lane.partition, false);
                self.stream.partition_goes_on(lane.spot());
            }
        }
        Ok(())
    }

    /// Reads dlq to its end, where something may stand there that this worker wrote; else what is there by itself.
    pub(super) fn catch_up(&mut self, partition: i32) -> Result<()> {
        let lane = Lane::raw(partition);
        let Some(state) = self.partitions.get_mut(&lane) else { return Ok(()) };
        let next = state.next;
        let is_behind = state.line.as_ref().is_none_or(|line| line.is_behind);
        if is_behind {
            // What is not durable yet would not be found.
            self.settle_all(AWAY)?;
        }
        let Some(state) = self.partitions.get_mut(&lane) else { return Ok(()) };
        let mut line = match state.line.take() {
            Some(line) => line,
            None => self.new_line(partition, next)?,
        };
        let read = match () {
            () if is_behind => self.read_to_the_end(partition, &mut line),
            () if line.order.is_quiet() => Ok(()),
            () => self.read_some(partition, &mut line, Duration::ZERO).map(|_| ()),
        };
        line.is_behind &= read.is_err();
        if let Some(state) = self.partitions.get_mut(&lane) {
            state.line = Some(line);
        }
        read
    }

    fn new_line(&self, partition: i32, next: i64) -> Result<Line> {
        let reader = self.log.reader(&self.stream.options.topics.dlq, partition, Position::Earliest)?;
        Ok(Line { order: Order::new(next), reader, is_behind: true, stands_before: None })
    }

    fn read_to_the_end(&self, partition: i32, line: &mut Line) -> Result<()> {
        let dlq = &self.stream.options.topics.dlq;
        let number = usize::try_from(partition).unwrap_or(usize::MAX);
        let end = self.log.topic(dlq)?.partitions.get(number).map_or(0, |info| info.latest);
        let mut tries = READ_TRIES;
        while line.reader.position() < end {
            if !self.read_some(partition, line, READ_WAIT)? {
                tries = tries.saturating_sub(1);
                if tries == 0 || self.should_stop() {
                    let reason = format!("{dlq}/{partition} gives no records up to offset {end}");
                    return Err(LogError::Unreachable { reason }.into());
                }
            }
        }
        Ok(())
    }

    fn read_some(&self, partition: i32, line: &mut Line, wait: Duration) -> Result<bool> {
        let records = match line.reader.next(READ, wait) {
            // Retention deleted what was not read: those letters are gone.
            Err(LogError::OutOfRange { .. }) => {
                let dlq = &self.stream.options.topics.dlq;
                line.reader = self.log.reader(dlq, partition, Position::Earliest)?;
                return Ok(true);
            }
            other => other?,
        };
        let Some(records) = records else { return Ok(false) };
        for (row, offset) in records.offsets.values().iter().enumerate() {
            let headers = records.body.headers(row);
            let is_hollow = Kind::of(headers) == Kind::Letter && records.body.key(row).is_none();
            let omitted = || Letter::read(headers).filter(|letter| letter.omitted.key.is_some());
            let fetched = match is_hollow.then(omitted).flatten() {
                Some(letter) => self.of_raw(partition, letter.origin.offset)?,
                None => None,
            };
            let key = fetched.as_ref().map_or_else(|| records.body.key(row), |record| record.body.key(0));
            line.order.take(*offset, headers, key, records.body.value(row));
        }
        Ok(true)
    }

    /// The record of a letter that was too large to keep its key. Once it is gone from raw, the letter can never come back.
    fn of_raw(&self, partition: i32, offset: i64) -> Result<Option<Records>> {
        let Some(offsets) = Offsets::of([offset]) else { return Ok(None) };
        Ok(Some(self.fetch(partition, &offsets)?).filter(|records| !records.is_empty()))
    }

    /// Moves letters to retry that wait for nobody any more.
    fn move_due(&mut self, partition: i32) -> Result<()> {
        let line = self.partitions.get_mut(&Lane::raw(partition)).and_then(|state| state.line.as_mut());
        let due = line.map(|line| line.order.take_due(MOVED)).unwrap_or_default();
        if due.is_empty() {
            return Ok(());
        }
        let moved = self.send_back(partition, &due);
        if let Some(line) = self.partitions.get_mut(&Lane::raw(partition)).and_then(|state| state.line.as_mut()) {
            match &moved {
                Ok(gone) => gone.iter().for_each(|at| line.order.gone(*at)),
                Err(_) => line.order.give_back(&due),
            }
        }
        moved.map(|_| ())
    }

    /// Appends letters to retry; the answer are those that are not in dlq any more.
    fn send_back(&self, partition: i32, due: &[i64]) -> Result<Vec<i64>> {
        let topics = &self.stream.options.topics;
        let (mut sorted, mut batch) = (due.to_vec(), Batch::default());
        // A batch of retry is judged in the order of its records, whatever that of their letters.
        sorted.sort_unstable();
        let gone = read_letters(self.log.as_ref(), &topics.dlq, partition, &sorted, |records, row| {
            batch.push(records, row, None);
        })?;
        if !gone.is_empty() {
            tracing::warn!(stream = %self.stream.options.id, partition, letters = gone.len(), "letters that waited for others are not in the log any more");
        }
        let records = batch.into_records();
        if !records.is_empty() {
            failpoint::pass("order-due");
            let append = Append { topic: Arc::clone(&topics.retry), partition, records };
            settled(self.sink.submit(Delivery { appends: vec![append], commits: Vec::new() })?, &self.should_stop)?;
            failpoint::pass("order-moved");
        }
        Ok(gone)
    }

    /// Makes events of a batch wait, where the stream keeps the order of each key.
    pub(super) fn hold_order(&self, judged: &mut Judged, course: &Course) -> std::result::Result<(), Full> {
        let Some(bounds) = self.stream.options.ordered else { return Ok(()) };
        let comes_back = match (&course.letters, &course.aim) {
            (Letters::None, Aim::Delivery) => false,
            (Letters::Each(_), Aim::Delivery) => true,
            _ => return Ok(()),
        };
        let lane = Lane::raw(judged.checked.records.partition);
        let line = self.partitions.get(&lane).and_then(|state| state.line.as_ref());
        line.map_or(Ok(()), |line| hold(judged, line.order(), bounds, comes_back))
    }

    /// There is no room for what would have to wait: the partition stands still before it.
    pub(super) fn stand_still(&mut self, lane: Lane, full: Full) -> Result<()> {
        self.settle_all(AWAY)?;
        self.must_rewind(lane);
        self.rewind();
        self.check_rewound()?;
        self.source.pause(&self.stream.options.topics.raw, lane.partition, true);
        let Some(line) = self.partitions.get_mut(&lane).and_then(|state| state.line.as_mut()) else { return Ok(()) };
        line.stands_before = Some(full.key);
        let (letters, bytes) = line.order.waiting();
        let why = format!(
            "partition {} waits: {letters} events ({bytes} bytes) wait behind letters of their keys, and no more may; \
             redrive or discard those letters (PH2306)",
            lane.partition
        );
        tracing::error!(stream = %self.stream.options.id, ?lane, code = %code::ORDER_FULL, "{why}");
        self.stream.stop_partition(self.member, lane.spot(), why);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
