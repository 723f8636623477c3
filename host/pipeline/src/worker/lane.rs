//! The partitions of a worker, by what they hold.

use phronis_core::partition::Topics;
use phronis_core::records::TopicName;

use crate::stream::condition::Spot;

/// What a partition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Input {
    /// What came in.
    Raw,
    /// Letters that come back, from the partition of raw with the same number.
    Retry,
}

/// One partition that a worker may own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Lane {
    pub(super) input: Input,
    pub(super) partition: i32,
}

impl Lane {
    pub(super) fn raw(partition: i32) -> Self {
        Self { input: Input::Raw, partition }
    }

    pub(super) fn retry(partition: i32) -> Self {
        Self { input: Input::Retry, partition }
    }

    /// The lane of a partition that the log names.
    pub(super) fn of(topics: &Topics, topic: &str, partition: i32) -> Self {
        if *topic == *topics.retry { Self::retry(partition) } else { Self::raw(partition) }
    }

    /// The topic that it is a partition of.
    pub(super) fn topic(self, topics: &Topics) -> &TopicName {
        match self.input {
            Input::Raw => &topics.raw,
            Input::Retry => &topics.retry,
        }
    }

    pub(super) fn spot(self) -> Spot {
        (self.partition, self.input == Input::Retry)
    }
}
