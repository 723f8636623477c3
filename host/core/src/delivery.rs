//! The last two stages: what a batch leaves behind, and the proof that it is durable.

use std::sync::Arc;

use crate::records::{NewRecords, TopicName};

/// Records for one partition of one topic.
#[derive(Debug, Clone)]
pub struct Append {
    /// Where to.
    pub topic: TopicName,
    /// Which partition.
    pub partition: i32,
    /// The records, in order.
    pub records: NewRecords,
}

/// A consumer group's step forward in one partition.
///
/// `from` makes it a compare-and-set: a delivery whose predecessor failed can never move the offset over the gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The consumer group.
    pub group: Arc<str>,
    /// The topic that was read.
    pub topic: TopicName,
    /// The partition that was read.
    pub partition: i32,
    /// The committed offset that this step starts from.
    pub from: i64,
    /// The next offset to read.
    pub next: i64,
}

/// All that one batch leaves behind, made durable together or not at all.
#[derive(Debug, Clone, Default)]
pub struct Delivery {
    /// Records to append.
    pub appends: Vec<Append>,
    /// Offsets to move.
    pub commits: Vec<Commit>,
}

/// The proof that a delivery is durable.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Receipt {
    /// The offset of the first record of each append, in the order of [`Delivery::appends`].
    pub base_offsets: Vec<i64>,
}
