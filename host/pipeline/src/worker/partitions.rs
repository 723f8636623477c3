//! The partitions that a worker owns: how they come, what must be known before they are judged, and how they go.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use phronis_core::contract::Deduplicate;
use phronis_core::records::TopicName;
use phronis_log::{Error as LogError, PollLimits, Position};

use super::lane::{Input, Lane};
use super::order::Line;
use super::{AWAY, Worker, unanswered};
use crate::stage::deduplicate::{Window, deduplicate};
use crate::stage::{Judged, Times};
use crate::stream::lag::Progress;
use crate::{Error, Result};

/// Bounds of one read of what de-duplication must remember.
const READ_BACK: PollLimits = PollLimits { records: 8192, bytes: 4 << 20 };

/// How long one such read waits: a new consumer of Kafka needs some round trips.
const READ_BACK_WAIT: Duration = Duration::from_secs(1);

/// Reads that bring nothing before the end is taken for reached: the last offsets may be no records.
const READ_BACK_TRIES: u32 = 3;

/// What a worker knows of a partition that it owns.
#[derive(Debug)]
pub(super) struct Partition {
    /// Where the next delivery's commit starts.
    pub(super) next: i64,
    /// Latest event time, in microseconds since 1970.
    pub(super) watermark: i64,
    pub(super) window: Option<Window>,
    /// What holds keys back, where the stream keeps their order.
    pub(super) line: Option<Line>,
    /// A delivery failed: nothing may be judged before the partition is read again from its committed offset.
    pub(super) must_rewind: bool,
    /// The log does not have the next records any more: no record comes until the partition is assigned anew or rewound.
    pub(super) is_stopped: bool,
}

/// Partitions for a log line: raw and retry of one number go together.
fn numbers(partitions: impl Iterator<Item = i32>) -> BTreeSet<i32> {
    partitions.collect()
}

impl Worker {
    /// Takes partitions over.
    pub(super) fn take_over(&mut self, partitions: &[(TopicName, i32, i64)]) {
        self.stream.limits.learn(self.log.as_ref(), &self.stream.options.topics);
        tracing::info!(stream = %self.stream.options.id, partitions = ?numbers(partitions.iter().map(|(_, number, _)| *number)), "partitions taken over");
        for (topic, partition, next) in partitions {
            let (lane, next) = (self.lane(topic, *partition), *next);
            let (watermark, window, line) = (i64::MIN, None, None);
            let state = Partition { next, watermark, window, line, must_rewind: false, is_stopped: false };
            self.partitions.insert(lane, state);
            self.watch.take_over(lane, next);
            self.stream.partition_goes_on(lane.spot());
            self.set_progress(lane, Some(Progress { delivered: next, pending: None }));
        }
    }

    /// What the log calls this partition.
    pub(super) fn lane(&self, topic: &str, partition: i32) -> Lane {
        Lane::of(&self.stream.options.topics, topic, partition)
    }

    /// The stream's progress is that of raw.
    pub(super) fn set_progress(&self, lane: Lane, progress: Option<Progress>) {
        if lane.input == Input::Raw {
            self.stream.set_progress(lane.partition, progress);
        }
    }

    /// Hands partitions over, after what is in flight of them. Whatever became of that, they are their new owner's;
    /// an error says that another partition must be read again.
    pub(super) fn hand_over(&mut self, partitions: &[(TopicName, i32)]) -> Result<()> {
        tracing::info!(stream = %self.stream.options.id, partitions = ?numbers(partitions.iter().map(|(_, number)| *number)), "partitions handed over");
        let lanes: Vec<Lane> = partitions.iter().map(|(topic, number)| self.lane(topic, *number)).collect();
        let settled = self.settle_those(&lanes);
        let must_rewind = |lane: &&Lane| self.partitions.get(lane).is_some_and(|p| p.must_rewind);
        let failed: Vec<&Lane> = lanes.iter().filter(must_rewind).collect();
        if let (Err(error), false) = (&settled, failed.is_empty()) {
            tracing::error!(stream = %self.stream.options.id, partitions = ?failed, %error, "a last delivery before the partitions are handed over was not taken, their new owner reads them again");
        }
        self.forget(&lanes);
        let is_over = self.partitions.values().all(|partition| !partition.must_rewind);
        if is_over { Ok(()) } else { settled }
    }

    /// Waits for what is in flight of some partitions, and of all before it, as long as others may be kept waiting for them,
    /// and as the log is there: what is not durable by then is theirs to do again.
    fn settle_those(&mut self, lanes: &[Lane]) -> Result<()> {
        let (until, mut first) = (Instant::now() + AWAY, Ok(()));
        while lanes.iter().any(|lane| self.in_flight.oldest(*lane).is_some()) {
            let outcome = self.in_flight.settle(until).ok_or_else(unanswered);
            let outcome = outcome.and_then(|settled| self.settled(settled));
            let is_away = matches!(&outcome, Err(Error::Log(LogError::Unreachable { .. })));
            first = first.and(outcome);
            if is_away {
                let open: Vec<Lane> =
                    lanes.iter().filter(|lane| self.in_flight.oldest(**lane).is_some()).copied().collect();
                open.into_iter().for_each(|lane| self.must_rewind(lane));
                self.in_flight.abandon(|lane| lanes.contains(&lane));
            }
        }
        first
    }

    /// Lets partitions go that are someone else's already: what is in flight of them is theirs to do again.
    pub(super) fn lose(&mut self, partitions: &[(TopicName, i32)]) {
        let lanes: Vec<Lane> = partitions.iter().map(|(topic, number)| self.lane(topic, *number)).collect();
        tracing::warn!(stream = %self.stream.options.id, partitions = ?lanes, "lost partitions to another host: what is in flight of them will be judged again there");
        self.in_flight.abandon(|lane| lanes.contains(&lane));
        self.forget(&lanes);
    }

    fn forget(&mut self, lanes: &[Lane]) {
        for lane in lanes {
            self.watch.let_go(*lane);
            if let Some(state) = self.partitions.remove(lane) {
                if state.is_stopped || state.line.is_some_and(|line| line.stands()) {
                    self.stream.partition_goes_on(lane.spot());
                }
                self.set_progress(*lane, None);
            }
        }
    }

    /// A partition's next records are not there: it stands still, loudly, and the others go on. Nothing is skipped.
    pub(super) fn stop_partition(&mut self, lane: Lane, error: &LogError) {
        if let Some(state) = self.partitions.get_mut(&lane)
            && std::mem::replace(&mut state.is_stopped, true)
        {
            // A log that says so at each poll would have us spin.
            std::thread::sleep(super::IDLE_WAIT);
            return;
        }
        let why = stopped(lane, error, &self.stream.group);
        tracing::error!(stream = %self.stream.options.id, ?lane, code = %error.code(), "{why}");
        self.stream.stop_partition(self.member, lane.spot(), why);
    }

    /// Reads back what de-duplication must remember; nothing is judged before that is done for all partitions.
    pub(super) fn make_ready(&mut self) -> Result<()> {
        let Some(rule) = self.stream.options.contract.deduplicate() else { return Ok(()) };
        let new = |(lane, state): (&Lane, &Partition)| {
            (lane.input == Input::Raw && state.window.is_none()).then_some((*lane, state.next))
        };
        let waiting: Vec<(Lane, i64)> = self.partitions.iter().filter_map(new).collect();
        for (lane, next) in waiting {
            let window = self.remembered(lane.partition, next, rule)?;
            if let Some(state) = self.partitions.get_mut(&lane) {
                state.window = Some(window);
            }
        }
        Ok(())
    }

    /// The keys of the last records before an offset, as far back as the window reaches and retention has left.
    fn remembered(&mut self, partition: i32, next: i64, rule: Deduplicate) -> Result<Window> {
        let mut window = Window::new(rule.window);
        let depth = i64::try_from(rule.window).unwrap_or(i64::MAX);
        let raw = Arc::clone(&self.stream.options.topics.raw);
        let mut from = Position::Offset(next.saturating_sub(depth).max(0));
        'reading: loop {
            let mut reader = match self.log.reader(&raw, partition, from) {
                Err(LogError::OutOfRange { .. }) => self.log.reader(&raw, partition, Position::Earliest)?,
                other => other?,
            };
            let mut tries = READ_BACK_TRIES;
            while reader.position() < next && tries > 0 && !self.should_stop() {
                let records = match reader.next(READ_BACK, READ_BACK_WAIT) {
                    Ok(Some(records)) => records,
                    Ok(None) => {
                        tries -= 1;
                        continue;
                    }
                    Err(LogError::OutOfRange { .. }) => {
                        from = Position::Earliest;
                        continue 'reading;
                    }
                    Err(error) => return Err(error.into()),
                };
                let ahead = records.offsets.values().iter().take_while(|offset| **offset < next).count();
                let mut seen = Judged::new(self.decoder.check(records.slice(0, ahead)), i64::MIN, Times::default());
                deduplicate(&mut seen, rule.field, &mut window);
            }
            return Ok(window);
        }
    }

    /// Reads each partition of which a delivery failed again from its committed offset, once nothing is in flight:
    /// what is may become durable yet.
    pub(super) fn rewind(&mut self) {
        if !self.in_flight.is_empty() {
            return;
        }
        for (lane, state) in self.partitions.iter_mut().filter(|(_, state)| state.must_rewind) {
            match self.source.rewind(lane.topic(&self.stream.options.topics), lane.partition) {
                Ok(next) => {
                    state.next = next;
                    state.must_rewind = false;
                    if lane.input == Input::Raw {
                        self.stream.set_progress(lane.partition, Some(Progress { delivered: next, pending: None }));
                    }
                }
                Err(error) => {
                    tracing::error!(stream = %self.stream.options.id, ?lane, %error, "the committed offset cannot be read");
                    // Each question takes its time while the log is away, and nobody looks at the group meanwhile.
                    let is_away = matches!(error, LogError::Unreachable { .. });
                    if is_away || self.should_stop.load(Ordering::Relaxed) {
                        return;
                    }
                }
            }
        }
    }

    /// The partition must be read again before anything of it is judged.
    pub(super) fn must_rewind(&mut self, lane: Lane) {
        if let Some(state) = self.partitions.get_mut(&lane) {
            state.must_rewind = true;
        }
    }

    /// An error when a partition waits to be read again.
    pub(super) fn check_rewound(&self) -> Result<()> {
        if self.partitions.values().any(|partition| partition.must_rewind) {
            return Err(Error::Host("a partition could not be read again from its committed offset".into()));
        }
        Ok(())
    }
}

/// What a person reads of a partition that stands still.
fn stopped(lane: Lane, error: &LogError, group: &str) -> String {
    let partition = match lane.input {
        Input::Raw => lane.partition.to_string(),
        Input::Retry => format!("{} of retry", lane.partition),
    };
    let what = match error {
        LogError::OutOfRange { offset, earliest, .. } if offset < earliest => {
            format!("{} records are gone before they were judged", earliest - offset)
        }
        _ => "the log ends before it: records were lost, or the topic was made anew".to_owned(),
    };
    format!(
        "partition {partition} stopped: {error}; {what}; to go on with the oldest that is there, stop all hosts of the \
         stream and reset the offset of group `{group}` (PH3002)"
    )
}
