//! The event log: a port, and the logs behind it.
//!
//! A log holds topics of partitions of records. It is written so that Kafka fits behind it:
//! groups and their rebalances, compare-and-set commits (a transaction there), headers, producer timestamps, offsets with gaps.
//! Calls here may block and belong on data-plane threads, never on a tokio worker; only a [`Ticket`] may be awaited.

use std::sync::Arc;
use std::time::Duration;

use phronis_core::delivery::Delivery;
use phronis_core::records::{Records, TopicName};

#[cfg(feature = "conformance")]
pub mod conformance;
pub mod embedded;
mod error;
pub mod kafka;
mod ticket;
mod topic;

pub use error::Error;
pub use ticket::Ticket;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An event log.
pub trait Log: Send + Sync {
    /// Makes a topic, or checks that the one that is there has as many partitions.
    ///
    /// Retention settings of an existing topic are changed to those given.
    fn create_topic(&self, topic: &TopicSpec) -> Result<()>;

    /// Adds partitions to a topic. Keys of later records may go elsewhere, so their order does not hold across this.
    fn grow_topic(&self, topic: &str, partitions: i32) -> Result<()> {
        let actual = self.describe_topic(topic)?.partitions;
        Err(Error::PartitionsDiffer { topic: topic.to_owned(), actual, wanted: partitions })
    }

    /// How a topic is set up.
    fn describe_topic(&self, topic: &str) -> Result<TopicSettings>;

    /// Which topic a name means now: never the same for two topics, also where one was made anew under the name of the other.
    fn topic_identity(&self, topic: &str) -> Result<String>;

    /// All topics with their partitions.
    fn topics(&self) -> Result<Vec<TopicInfo>>;

    /// One topic with its partitions.
    fn topic(&self, topic: &str) -> Result<TopicInfo> {
        let found = self.topics()?.into_iter().find(|info| &*info.name == topic);
        found.ok_or_else(|| Error::UnknownTopic(topic.to_owned()))
    }

    /// How many partitions a topic has. Asks nothing about what is in them.
    fn partitions(&self, topic: &str) -> Result<i32> {
        Ok(i32::try_from(self.topic(topic)?.partitions.len()).unwrap_or(i32::MAX))
    }

    /// Joins a consumer group.
    fn join(&self, subscription: &Subscription) -> Result<Member>;

    /// Opens a way to append, outside of any group: it refuses commits where only members may commit.
    fn sink(&self) -> Result<Box<dyn Sink>>;

    /// Whether all appends of one delivery become durable together or not at all, also those of [`Log::sink`].
    fn delivers_whole(&self) -> bool {
        false
    }

    /// Reads one partition outside of any group.
    fn reader(&self, topic: &str, partition: i32, from: Position) -> Result<Box<dyn Reader>>;

    /// Reads whole topics outside of any group, all their partitions, also those that are added later.
    fn follow(&self, topics: &[TopicName], from: Start) -> Result<Box<dyn Follower>>;

    /// The committed offset of a group in each partition of a topic; `None` where it never committed (or was registered by [`Log::join`]).
    fn committed(&self, group: &str, topic: &str) -> Result<Vec<Option<i64>>>;

    /// Whether the log can be reached right now, as far as it knows; asks nobody.
    fn health(&self) -> Result<()> {
        Ok(())
    }
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

/// How a topic is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSettings {
    /// Number of partitions.
    pub partitions: i32,
    /// Copies of each partition, where the log has copies.
    pub replication: Option<i32>,
    /// What may be deleted.
    pub retention: Retention,
    /// The largest record that it takes: key, value and headers, in bytes.
    pub max_record_bytes: u64,
    /// How far the time of a record may be ahead of the log's clock, where there is a bound.
    pub ahead: Option<Duration>,
}

/// What a topic holds.
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
    /// Bytes stored, where the log knows.
    pub bytes: Option<u64>,
}

/// A member's wish to read a topic with a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The consumer group.
    pub group: Arc<str>,
    /// The topics, all with the same number of partitions.
    pub topics: Vec<TopicName>,
    /// Topics whose partition `p` belongs to whoever owns `p` of the first topic: it comes, goes, and is committed with it.
    /// They have as many partitions.
    pub beside: Vec<TopicName>,
    /// Which member this is, from 0; for logs without a coordinator.
    pub member: i32,
    /// How many members there are; for logs without a coordinator.
    pub members: i32,
    /// Where to begin where the group has no offset.
    pub start: Start,
    /// Makes appends and commits of a delivery visible together or not at all, where a log does not do so anyway.
    pub exactly_once: bool,
}

/// A member of a consumer group: what it reads, and the way in that may commit for it.
#[expect(missing_debug_implementations, reason = "its parts are trait objects")]
pub struct Member {
    /// What it reads.
    pub source: Box<dyn Source>,
    /// Takes its deliveries. It outlives no longer than the source what it may commit.
    pub sink: Box<dyn Sink>,
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

/// What a member of a consumer group reads.
pub trait Source: Send {
    /// Takes the next batch. Partitions take turns, so that none starves.
    ///
    /// With room for no records it takes none, and only keeps its place in the group.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] stops this partition until it is assigned anew or rewound; the others go on.
    fn poll(&mut self, limits: PollLimits, wait: Duration) -> Result<Polled>;

    /// Goes back to where the deliveries of a partition reach without a gap, and returns that offset.
    fn rewind(&mut self, topic: &str, partition: i32) -> Result<i64>;

    /// Takes no more records of a partition until told otherwise; the others go on.
    /// It goes on where it stood, or where it was rewound to. One that is assigned anew is not paused.
    fn pause(&mut self, topic: &str, partition: i32, is_paused: bool);
}

/// The way in. Deliveries of one sink become durable in the order in which they were submitted.
///
/// A ticket that is good says that the appends are durable, and that the commits will be unless this process ends first;
/// in a log that takes both together, and with `exactly_once`, both are.
pub trait Sink: Send + Sync {
    /// Hands over a delivery and returns at once, or blocks while too much is under way.
    ///
    /// # Errors
    /// [`Error::Full`] when the log has no room, or none comes for long: nothing was taken, try again later.
    fn submit(&self, delivery: Delivery) -> Result<Ticket>;

    /// Hands over a delivery like [`Sink::submit`], but never waits for others.
    ///
    /// # Errors
    /// [`Error::Full`] also while too much is under way: nothing was taken, try again soon.
    fn try_submit(&self, delivery: Delivery) -> Result<Ticket>;
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

/// A reader of whole topics, outside of any group.
pub trait Follower: Send {
    /// The next records, of one partition; `None` when nothing came within the wait.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] once when records were deleted before they were read; it then goes on with the oldest.
    fn next(&mut self, limits: PollLimits, wait: Duration) -> Result<Option<Records>>;
}
