//! A log in memory for measuring the pipeline alone: hands out prepared batches, counts what comes out.
//!
//! It keeps nothing and must never be used for anything but measuring.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrow_array::Int64Array;
use phronis_core::delivery::{Delivery, Receipt};
use phronis_core::records::{NewRecords, Records, TopicName};
use phronis_log::{
    Follower, Log, Member, PartitionInfo, PollLimits, Polled, Position, Reader, Result, Retention, Sink, Source, Start,
    Subscription, Ticket, TopicInfo, TopicSettings, TopicSpec,
};

/// What came out, counted at the sink.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) processed: AtomicU64,
    pub(crate) processed_bytes: AtomicU64,
    pub(crate) alerts: AtomicU64,
    pub(crate) letters: AtomicU64,
    /// Nanoseconds since `started`, plus one, of the first poll and of the last delivery.
    pub(crate) first_poll: AtomicU64,
    pub(crate) last_delivery: AtomicU64,
}

/// The log: `batch` again and again, `batches` times.
#[derive(Debug, Clone)]
pub(crate) struct MemoryLog {
    pub(crate) batch: NewRecords,
    pub(crate) batches: u64,
    pub(crate) raw: TopicName,
    pub(crate) counts: Arc<Counts>,
    pub(crate) started: Instant,
}

impl MemoryLog {
    fn since_start(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX).saturating_add(1)
    }
}

impl Log for MemoryLog {
    fn create_topic(&self, _: &TopicSpec) -> Result<()> {
        Ok(())
    }

    fn topic_identity(&self, topic: &str) -> Result<String> {
        Ok(topic.to_owned())
    }

    fn topics(&self) -> Result<Vec<TopicInfo>> {
        let partitions = vec![PartitionInfo { earliest: 0, latest: 0, bytes: None }];
        Ok(vec![TopicInfo { name: Arc::clone(&self.raw), partitions }])
    }

    fn topic(&self, topic: &str) -> Result<TopicInfo> {
        Ok(TopicInfo { name: topic.into(), partitions: vec![PartitionInfo { earliest: 0, latest: 0, bytes: None }] })
    }

    fn describe_topic(&self, _: &str) -> Result<TopicSettings> {
        let retention = Retention::default();
        Ok(TopicSettings { partitions: 1, replication: None, retention, max_record_bytes: u64::MAX, ahead: None })
    }

    fn join(&self, subscription: &Subscription) -> Result<Member> {
        let is_ours = subscription.topics.contains(&self.raw);
        let source =
            Batches { log: self.clone(), left: if is_ours { self.batches } else { 0 }, next: 0, is_assigned: false };
        Ok(Member { source: Box::new(source), sink: self.sink()? })
    }

    fn sink(&self) -> Result<Box<dyn Sink>> {
        Ok(Box::new(Counter(self.clone())))
    }

    fn reader(&self, _: &str, _: i32, _: Position) -> Result<Box<dyn Reader>> {
        Ok(Box::new(Nothing))
    }

    fn follow(&self, _: &[TopicName], _: Start) -> Result<Box<dyn Follower>> {
        Ok(Box::new(Nothing))
    }

    fn committed(&self, _: &str, _: &str) -> Result<Vec<Option<i64>>> {
        Ok(vec![Some(0)])
    }
}

struct Batches {
    log: MemoryLog,
    left: u64,
    next: i64,
    is_assigned: bool,
}

impl Source for Batches {
    fn poll(&mut self, limits: PollLimits, wait: Duration) -> Result<Polled> {
        if !self.is_assigned {
            self.is_assigned = true;
            return Ok(Polled::Assigned(vec![(Arc::clone(&self.log.raw), 0, 0)]));
        }
        if self.left == 0 || limits.records == 0 {
            std::thread::sleep(wait);
            return Ok(Polled::Idle);
        }
        if self.log.counts.first_poll.load(Ordering::Relaxed) == 0 {
            self.log.counts.first_poll.store(self.log.since_start(), Ordering::Relaxed);
        }
        self.left -= 1;
        let first = self.next;
        self.next += i64::try_from(self.log.batch.len()).unwrap_or(0);
        Ok(Polled::Records(Records {
            topic: Arc::clone(&self.log.raw),
            partition: 0,
            offsets: Int64Array::from_iter_values(first..self.next),
            body: self.log.batch.clone(),
        }))
    }

    fn rewind(&mut self, _: &str, _: i32) -> Result<i64> {
        Ok(self.next)
    }

    fn pause(&mut self, _: &str, _: i32, _: bool) {}
}

struct Counter(MemoryLog);

impl Sink for Counter {
    fn submit(&self, delivery: Delivery) -> Result<Ticket> {
        let counts = &self.0.counts;
        for append in &delivery.appends {
            let records = append.records.len() as u64;
            if append.topic.ends_with("processed") {
                counts.processed.fetch_add(records, Ordering::Relaxed);
                counts.processed_bytes.fetch_add(append.records.bytes() as u64, Ordering::Relaxed);
            } else if append.topic.ends_with("alerts") {
                counts.alerts.fetch_add(records, Ordering::Relaxed);
            } else if append.topic.ends_with("dlq") {
                counts.letters.fetch_add(records, Ordering::Relaxed);
            }
        }
        counts.last_delivery.store(self.0.since_start(), Ordering::Relaxed);
        let (sender, ticket) = Ticket::new();
        drop(sender.send(Ok(Receipt { base_offsets: vec![0; delivery.appends.len()] })));
        Ok(ticket)
    }

    fn try_submit(&self, delivery: Delivery) -> Result<Ticket> {
        self.submit(delivery)
    }
}

struct Nothing;

impl Reader for Nothing {
    fn next(&mut self, _: PollLimits, wait: Duration) -> Result<Option<Records>> {
        std::thread::sleep(wait);
        Ok(None)
    }

    fn position(&self) -> i64 {
        0
    }
}

impl Follower for Nothing {
    fn next(&mut self, _: PollLimits, wait: Duration) -> Result<Option<Records>> {
        std::thread::sleep(wait);
        Ok(None)
    }
}
