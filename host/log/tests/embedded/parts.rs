//! What the tests of the embedded log share.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use phronis_core::records::TopicName;
use phronis_log::conformance::{ALL, Subject, append, numbers, read};
use phronis_log::embedded::{Clock, Log, Options};
use phronis_log::{Log as _, PartitionInfo, Position, Retention, TopicSpec};

/// A clock that a test sets, in seconds.
#[derive(Clone, Default)]
pub(crate) struct Hands(Arc<AtomicI64>);

impl Hands {
    pub(crate) fn set(&self, seconds: i64) {
        self.0.store(seconds * 1000, Ordering::SeqCst);
    }

    pub(crate) fn clock(&self) -> Clock {
        let hands = self.clone();
        Clock::new(move || hands.0.load(Ordering::SeqCst))
    }
}

/// The log with what it promises.
pub(crate) fn subject(log: &Log) -> Subject<'_> {
    Subject { log, exactly_once: false, is_atomic: true, is_immediate: true }
}

/// A log that looks for housekeeping all the time, and keeps nothing in memory.
pub(crate) fn busy(folder: &std::path::Path, hands: &Hands) -> Log {
    let housekeeping_every = Duration::from_millis(1);
    Log::open(Options { housekeeping_every, clock: hands.clock(), hot_tail_bytes: 0, ..Options::new(folder) }).unwrap()
}

pub(crate) fn make(log: &Log, name: &str, retention: Retention) -> TopicName {
    let name: TopicName = name.into();
    log.create_topic(&TopicSpec { name: Arc::clone(&name), partitions: 1, retention }).unwrap();
    name
}

pub(crate) fn put(log: &Log, topic: &TopicName, values: std::ops::Range<i64>) {
    log.sink().unwrap().submit(append(topic, 0, numbers(values))).unwrap().wait().unwrap();
}

pub(crate) fn info(log: &Log, topic: &str) -> PartitionInfo {
    log.topics().unwrap().iter().find(|info| &*info.name == topic).unwrap().partitions[0]
}

/// All numbers of a topic.
pub(crate) fn all(log: &Log, topic: &str, partition: i32) -> Vec<i64> {
    let mut reader = log.reader(topic, partition, Position::Earliest).unwrap();
    let mut seen = Vec::new();
    while let Some(records) = reader.next(ALL, Duration::ZERO).unwrap() {
        seen.extend(read(&records));
    }
    seen
}

/// Waits for what another thread does; fails when it does not within a time that no machine needs.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
