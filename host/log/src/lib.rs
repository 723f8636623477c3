//! The event log: a port, and the logs behind it.
//!
//! A log holds topics of partitions of records. It is written so that Kafka fits behind it:
//! groups and their rebalances, compare-and-set commits (a transaction there), headers, producer timestamps, offsets with gaps.
//! Calls here may block and belong on data-plane threads, never on a tokio worker; only a [`Ticket`] may be awaited.

use std::sync::Arc;
use std::time::Duration;

use phronis_core::delivery::{Delivery, Receipt};
use phronis_core::records::{Records, TopicName};

#[cfg(feature = "conformance")]
pub mod conformance;
pub mod embedded;
mod error;

pub use error::Error;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An event log.
pub trait Log: Send + Sync {
    /// Makes a topic, or checks that the one that is there has as many partitions.
    ///
    /// Retention settings of an existing topic are changed to those given.
    fn create_topic(&self, topic: &TopicSpec) -> Result<()>;

    /// All topics with their partitions.
    fn topics(&self) -> Result<Vec<TopicInfo>>;

    /// Joins a consumer group.
    fn source(&self, subscription: &Subscription) -> Result<Box<dyn Source>>;

    /// Opens a way to append and to move offsets. Clones of one log share one writer.
    fn sink(&self) -> Result<Box<dyn Sink>>;

    /// Reads one partition outside of any group.
    fn reader(&self, topic: &str, partition: i32, from: Position) -> Result<Box<dyn Reader>>;

    /// The committed offset of a group, if it ever committed (or was registered by [`Log::source`]).
    fn committed(&self, group: &str, topic: &str, partition: i32) -> Result<Option<i64>>;
}

/// What a topic should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    /// The name: letters, digits, `.`, `_`, `-`, at most 249 bytes, as in Kafka.
    pub name: TopicName,
    /// Number of partitions, at least 1.
    pub partitions: i32,
    /// What may be deleted.
    pub retention: Retention,
}

/// What a log may delete of a topic. Never what a registered group has not committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// Records older than this (by append time); `None` keeps them for ever.
    pub age: Option<Duration>,
    /// The oldest records of a partition while it holds more bytes than this; `None` is no bound.
    pub bytes: Option<u64>,
    /// Keeps only the last record of a key (what it deletes is not bound to groups).
    pub compact: bool,
}

/// What a topic is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicInfo {
    /// The name.
    pub name: TopicName,
    /// Its partitions, from 0.
    pub partitions: Vec<PartitionInfo>,
}

/// What a partition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionInfo {
    /// Offset of the oldest record that is still there.
    pub earliest: i64,
    /// Offset that the next record will get.
    pub latest: i64,
    /// Bytes stored.
    pub bytes: u64,
}

/// A member's wish to read a topic with a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The consumer group.
    pub group: Arc<str>,
    /// The topics, all with the same number of partitions.
    pub topics: Vec<TopicName>,
    /// Which member this is, from 0; for logs without a coordinator.
    pub member: i32,
    /// How many members there are; for logs without a coordinator.
    pub members: i32,
    /// Where to begin where the group has no offset.
    pub start: Start,
}

/// Where a new group begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the oldest record.
    Earliest,
    /// After the newest record.
    Latest,
}

/// Bounds of one poll. At least one record is returned, however large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PollLimits {
    /// Most records.
    pub records: usize,
    /// Most bytes of keys, values and headers.
    pub bytes: usize,
}

/// What a poll brings.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "records are what a poll nearly always brings, and are moved once")]
pub enum Polled {
    /// Records of one partition, following on what this member polled before.
    Records(Records),
    /// These partitions (topic, partition, next offset) are now this member's.
    Assigned(Vec<(TopicName, i32, i64)>),
    /// These are to be handed over: finish and commit what was polled, then poll again.
    Revoked(Vec<(TopicName, i32)>),
    /// These are someone else's already: forget what was polled and not committed.
    Lost(Vec<(TopicName, i32)>),
    /// Nothing came within the wait.
    Idle,
}

/// A member of a consumer group.
pub trait Source: Send {
    /// Takes the next batch. Partitions take turns, so that none starves.
    fn poll(&mut self, limits: PollLimits, wait: Duration) -> Result<Polled>;

    /// Goes back to the committed offset of a partition, after a delivery of it failed.
    fn rewind(&mut self, topic: &str, partition: i32) -> Result<()>;
}

/// The way in. Deliveries of one sink become durable in the order in which they were submitted.
pub trait Sink: Send + Sync {
    /// Hands over a delivery and returns at once, or blocks while too much is under way.
    ///
    /// # Errors
    /// [`Error::Full`] when the log has no room: nothing was taken, try again later.
    fn submit(&self, delivery: Delivery) -> Result<Ticket>;

    /// Hands over a delivery like [`Sink::submit`], but never waits for others.
    ///
    /// # Errors
    /// [`Error::Full`] also while too much is under way: nothing was taken, try again soon.
    fn try_submit(&self, delivery: Delivery) -> Result<Ticket>;
}

/// A delivery under way. Dropping it does not undo the delivery.
#[derive(Debug)]
pub struct Ticket(tokio::sync::oneshot::Receiver<Result<Receipt>>);

impl Ticket {
    /// A ticket and the way to fulfil it.
    pub fn new() -> (tokio::sync::oneshot::Sender<Result<Receipt>>, Self) {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        (sender, Self(receiver))
    }

    /// Blocks until the delivery is durable or failed.
    pub fn wait(self) -> Result<Receipt> {
        self.0.blocking_recv().unwrap_or(Err(Error::Closed))
    }

    /// Waits until the delivery is durable or failed.
    ///
    /// # Cancel safety
    /// Cancelling loses only the answer; the delivery goes on.
    pub async fn durable(self) -> Result<Receipt> {
        self.0.await.unwrap_or(Err(Error::Closed))
    }

    /// The outcome, if it is there already.
    pub fn try_wait(&mut self) -> Option<Result<Receipt>> {
        match self.0.try_recv() {
            Ok(outcome) => Some(outcome),
            Err(tokio::sync::oneshot::error::TryRecvError::Empty) => None,
            Err(tokio::sync::oneshot::error::TryRecvError::Closed) => Some(Err(Error::Closed)),
        }
    }
}

/// Where a reader begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// At the oldest record.
    Earliest,
    /// After the newest record.
    Latest,
    /// At this offset; an older one than the oldest is [`Error::OutOfRange`].
    Offset(i64),
    /// At the first record with this timestamp (milliseconds since 1970) or a later one.
    Timestamp(i64),
}

/// A reader of one partition, outside of any group.
pub trait Reader: Send {
    /// The next records; empty when nothing came within the wait.
    fn next(&mut self, limits: PollLimits, wait: Duration) -> Result<Option<Records>>;

    /// The offset of the next record to be read.
    fn position(&self) -> i64;
}
