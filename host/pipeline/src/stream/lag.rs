//! How far a stream is behind, a partition at a time: in records, and in seconds since the oldest of them came.
//!
//! Records are a subtraction. Seconds need the time of the first record that is not answered for, and on Kafka reading
//! one record costs a consumer. So what is known anyway is asked first: what the worker has in hand, what was read before,
//! and when the end of the partition passed that offset. Only a partition that stands still is read, once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use metrics::gauge;
use phronis_log::{Log, PollLimits, Position};

use super::{Stream, lock};
use crate::clock::now_ms;
use crate::status::PartitionLag;

/// Between two measurements for the metrics.
const EVERY: Duration = Duration::from_secs(5);

/// Between two looks at how large records may be: someone may have raised a limit.
const LIMITS_EVERY: Duration = Duration::from_secs(60);

/// How soon the end is noticed.
const WINK: Duration = Duration::from_millis(100);

/// How long a read of one record may take: a new consumer of Kafka needs some round trips.
const READ_WAIT: Duration = Duration::from_millis(500);

/// Before a record that could not be read is tried for again.
const READ_AGAIN: Duration = Duration::from_secs(60);

/// Records that one measurement reads: each costs a consumer. The next measurement reads the next ones.
const READS: usize = 2;

/// What is remembered of a partition's end: with [`EVERY`] between, ten minutes. What is older is read.
const SAMPLES: usize = 120;

/// What a worker knows of a partition that it owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Everything before this offset is durably answered for; the log may learn of it a little later.
    pub(crate) delivered: i64,
    /// Timestamp (milliseconds since 1970) of the oldest record in the worker's hands.
    pub(crate) pending: Option<i64>,
}

/// What a partition is right now.
#[derive(Debug, Clone, Copy)]
struct Fact {
    partition: i32,
    earliest: i64,
    latest: i64,
    committed: Option<i64>,
    /// The first offset that is not answered for.
    done: i64,
    pending: Option<i64>,
}

/// What is remembered between two measurements.
#[derive(Debug, Default)]
pub(crate) struct Tracker {
    facts: Vec<Fact>,
    seen: BTreeMap<i32, Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Where the partition ended, and when; rising.
    ends: VecDeque<End>,
    read: Option<Read>,
    /// Where `done` stood at the measurement before.
    before: Option<i64>,
}

/// A record was looked for.
#[derive(Debug, Clone, Copy)]
struct Read {
    offset: i64,
    /// The record's own; none when it could not be read.
    timestamp: Option<i64>,
    /// When, in milliseconds since 1970.
    at: i64,
}

/// The partition ended at `latest` from `first` to `last`, in milliseconds since 1970.
#[derive(Debug, Clone, Copy)]
struct End {
    first: i64,
    last: i64,
    latest: i64,
}

/// Measures a stream; while the log is away, what was known last.
pub(crate) fn measure(log: &dyn Log, stream: &Stream) -> Vec<PartitionLag> {
    if log.health().is_ok()
        && let Some(facts) = facts(log, stream)
    {
        let wanted = lock(&stream.lag).update(facts, now_ms());
        // Nobody waits for these reads but who asked.
        for (partition, offset) in wanted {
            let timestamp = timestamp_at(log, &stream.options.topics.raw, partition, offset);
            lock(&stream.lag).was_read(partition, Read { offset, timestamp, at: now_ms() });
        }
    }
    lock(&stream.lag).lags(now_ms())
}

/// Publishes the lag of all streams every few seconds, also of those that stand still.
pub(crate) fn watch(
    log: Arc<dyn Log>,
    streams: Vec<Arc<Stream>>,
    should_stop: Arc<AtomicBool>,
) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("lag".to_owned()).spawn(move || {
        let (mut measure_at, mut learn_at) = (Instant::now(), Instant::now());
        while !should_stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            if now >= measure_at && log.health().is_ok() {
                let learns = now >= learn_at;
                for stream in &streams {
                    publish(stream, &measure(log.as_ref(), stream));
                    if learns {
                        stream.limits.learn(log.as_ref(), &stream.options.topics);
                    }
                }
                measure_at = now + EVERY;
                learn_at = if learns { now + LIMITS_EVERY } else { learn_at };
            }
            std::thread::sleep(WINK);
        }
    })
}

fn publish(stream: &Stream, lags: &[PartitionLag]) {
    let name = stream.options.id.to_string();
    for lag in lags {
        let labels = [("stream", name.clone()), ("partition", lag.partition.to_string())];
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float; 2^53 records behind is behind enough")]
        gauge!("phronis_stream_lag_records", &labels).set(lag.lag_records as f64);
        gauge!("phronis_stream_lag_seconds", &labels).set(lag.lag_seconds);
    }
}

/// One look at the topic and one at the group.
fn facts(log: &dyn Log, stream: &Stream) -> Option<Vec<Fact>> {
    let raw = &stream.options.topics.raw;
    let asked = log.topic(raw).and_then(|topic| Ok((topic, log.committed(&stream.group, raw)?)));
    let (topic, committed) =
        asked.inspect_err(|error| tracing::debug!(topic = %raw, %error, "the lag is not known")).ok()?;
    let progress = lock(&stream.progress).clone();
    let fact = |(partition, info): (i32, &phronis_log::PartitionInfo)| {
        let at = usize::try_from(partition).ok();
        let committed = at.and_then(|at| committed.get(at).copied().flatten());
        let known = progress.get(&partition);
        let done = committed.into_iter().chain(known.map(|known| known.delivered)).max().unwrap_or(info.earliest);
        Fact {
            partition,
            earliest: info.earliest,
            latest: info.latest,
            committed,
            done: done.max(info.earliest),
            pending: known.and_then(|known| known.pending),
        }
    };
    Some((0..).zip(&topic.partitions).map(fact).collect())
}

fn timestamp_at(log: &dyn Log, topic: &str, partition: i32, offset: i64) -> Option<i64> {
    let mut reader = log.reader(topic, partition, Position::Offset(offset)).ok()?;
    let records = reader.next(PollLimits { records: 1, bytes: 1 }, READ_WAIT).ok()??;
    records.body.timestamps.values().first().copied()
}

impl Tracker {
    /// Takes new facts in, and says which records to read: (partition, offset).
    fn update(&mut self, facts: Vec<Fact>, now: i64) -> Vec<(i32, i64)> {
        let mut wanted = Vec::new();
        for fact in &facts {
            let seen = self.seen.entry(fact.partition).or_default();
            seen.ends_at(fact.latest, now);
            // One that moves is known soon enough; one that stands still is read once.
            let stands = seen.before.is_none_or(|before| before == fact.done);
            if stands && wanted.len() < READS && fact.is_behind() && seen.should_read(fact, now) {
                wanted.push((fact.partition, fact.done));
            }
            seen.before = Some(fact.done);
        }
        self.facts = facts;
        wanted
    }

    fn was_read(&mut self, partition: i32, read: Read) {
        self.seen.entry(partition).or_default().read = Some(read);
    }

    fn lags(&self, now: i64) -> Vec<PartitionLag> {
        let lag = |fact: &Fact| {
            let seen = self.seen.get(&fact.partition).filter(|_| fact.is_behind());
            let oldest = seen.map_or(now, |seen| seen.oldest(fact, now).unwrap_or_else(|guess| guess));
            PartitionLag {
                partition: fact.partition,
                earliest: fact.earliest,
                latest: fact.latest,
                committed: fact.committed,
                lag_records: u64::try_from(fact.latest.saturating_sub(fact.done)).unwrap_or(0),
                lag_seconds: millis(now.saturating_sub(oldest)).as_secs_f64(),
            }
        };
        self.facts.iter().map(lag).collect()
    }
}

impl Fact {
    fn is_behind(&self) -> bool {
        self.latest > self.done
    }
}

impl Seen {
    fn ends_at(&mut self, latest: i64, now: i64) {
        match self.ends.back_mut() {
            Some(end) if end.latest == latest => end.last = now,
            // The topic was made anew.
            Some(end) if end.latest > latest => self.ends.clear(),
            // Whoever asks often must not push out what was long ago.
            Some(end) if millis(now.saturating_sub(end.first)) < EVERY => return,
            _ => {}
        }
        if self.ends.back().is_none_or(|end| end.latest != latest) {
            self.ends.push_back(End { first: now, last: now, latest });
        }
        if self.ends.len() > SAMPLES {
            self.ends.pop_front();
        }
    }

    fn should_read(&self, fact: &Fact, now: i64) -> bool {
        let was_tried =
            self.read.is_some_and(|read| read.offset == fact.done && millis(now.saturating_sub(read.at)) < READ_AGAIN);
        !was_tried && self.oldest(fact, now).is_err()
    }

    /// When the oldest record came that is not answered for, in milliseconds since 1970. An error is a guess:
    /// it is as old as the last that was read, or as the first look.
    fn oldest(&self, fact: &Fact, now: i64) -> Result<i64, i64> {
        if let Some(pending) = fact.pending {
            return Ok(pending);
        }
        if let Some(Read { offset, timestamp: Some(timestamp), .. }) = self.read
            && offset == fact.done
        {
            return Ok(timestamp);
        }
        let after = self.ends.partition_point(|end| end.latest <= fact.done);
        let current = End { first: now, last: now, latest: fact.latest };
        let until = self.ends.get(after).unwrap_or(&current);
        let Some(from) = after.checked_sub(1).and_then(|before| self.ends.get(before)) else {
            return Err(self.read.and_then(|read| read.timestamp).map_or(until.first, |read| read.min(until.first)));
        };
        // Records are taken to have come evenly between two looks.
        let (came, all) = (fact.done - from.latest + 1, (until.latest - from.latest).max(1));
        Ok(from.last + (until.first - from.last).max(0).saturating_mul(came) / all)
    }
}

fn millis(millis: i64) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(latest: i64, done: i64, pending: Option<i64>) -> Fact {
        Fact { partition: 0, earliest: 0, latest, committed: Some(done), done, pending }
    }

    fn seconds(tracker: &Tracker, now: i64) -> f64 {
        tracker.lags(now).first().map_or(-1.0, |lag| lag.lag_seconds)
    }

    #[test]
    fn a_partition_that_stands_still_is_read_once() {
        let mut tracker = Tracker::default();
        assert_eq!(tracker.update(vec![fact(10, 4, None)], 100_000), [(0, 4)]);
        assert_eq!(seconds(&tracker, 100_000), 0.0, "not known yet");
        tracker.was_read(0, Read { offset: 4, timestamp: Some(40_000), at: 100_000 });
        assert_eq!(seconds(&tracker, 100_000), 60.0);
        assert_eq!(tracker.update(vec![fact(90, 4, None)], 130_000), []);
        assert_eq!(seconds(&tracker, 130_000), 90.0);
    }

    #[test]
    fn a_partition_that_moves_is_never_read() {
        let mut tracker = Tracker::default();
        assert_eq!(tracker.update(vec![fact(10, 10, None)], 100_000), []);
        assert_eq!(seconds(&tracker, 100_000), 0.0);
        // Ten records came in ten seconds, two are not answered for: the older of them came two seconds ago.
        assert_eq!(tracker.update(vec![fact(20, 17, None)], 110_000), []);
        assert_eq!(seconds(&tracker, 110_000), 2.0);
        // What is long gone: the log grew while nobody looked.
        let mut tracker = Tracker::default();
        assert_eq!(tracker.update(vec![fact(1000, 4, Some(90_000))], 100_000), []);
        assert_eq!(seconds(&tracker, 100_000), 10.0, "the worker has it in its hands");
        assert_eq!(tracker.update(vec![fact(1000, 500, None)], 105_000), []);
        assert_eq!(seconds(&tracker, 105_000), 5.0, "at least as old as the first look");
        assert_eq!(tracker.update(vec![fact(1000, 500, None)], 110_000), [(0, 500)], "it does not move any more");
    }

    #[test]
    fn one_measurement_reads_few_records_and_the_next_ones_the_others() {
        let facts: Vec<Fact> = (0..5).map(|partition| Fact { partition, ..fact(10, 4, None) }).collect();
        let mut tracker = Tracker::default();
        let mut read = Vec::new();
        for now in [100_000, 105_000, 110_000, 115_000] {
            for (partition, offset) in tracker.update(facts.clone(), now) {
                tracker.was_read(partition, Read { offset, timestamp: None, at: now });
                read.push(partition);
            }
        }
        assert_eq!(read, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn what_is_asked_often_does_not_push_out_what_was_long_ago() {
        let mut tracker = Tracker::default();
        for now in 0..20_000 {
            tracker.update(vec![fact(now, 3, None)], now);
        }
        let ends = tracker.seen.values().next().map_or(0, |seen| seen.ends.len());
        assert_eq!(ends, 4);
        tracker.update(vec![fact(5, 5, None)], 20_000);
        assert_eq!(tracker.seen.values().next().map_or(0, |seen| seen.ends.len()), 1, "the topic was made anew");
    }
}
