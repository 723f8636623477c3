//! What can go wrong with a log.

use std::path::PathBuf;
use std::sync::Arc;

use phronis_core::{Code, code};

/// An error of the log. Cheap to clone: one failed write answers many tickets.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No room: by the configured size, or the disk is (nearly) full. Nothing was taken.
    #[error("the log is full ({reason}): free space, raise the limit, or shorten retention")]
    Full {
        /// What is full.
        reason: String,
    },
    /// Another process holds the log.
    #[error("{} is used by another process ({holder}): stop it, or choose another data folder", path.display())]
    Locked {
        /// The log's folder.
        path: PathBuf,
        /// What the holder wrote about itself.
        holder: String,
    },
    /// No such topic.
    #[error("there is no topic `{0}`")]
    UnknownTopic(String),
    /// The topic exists with another number of partitions.
    #[error("topic `{topic}` has {actual} partitions, {wanted} are wanted: partitions cannot be changed in place")]
    PartitionsDiffer {
        /// The topic.
        topic: String,
        /// What it has.
        actual: i32,
        /// What was asked for.
        wanted: i32,
    },
    /// The offset is not there (any more).
    #[error("offset {offset} of {topic}/{partition} is out of range, the log holds {earliest} to {latest}")]
    OutOfRange {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// What was asked for.
        offset: i64,
        /// The oldest that is there.
        earliest: i64,
        /// The next that will be written.
        latest: i64,
    },
    /// A commit did not start where the group stands: another worker moved it, or an earlier delivery failed.
    #[error("{group} stands at {actual} in {topic}/{partition}, not at {expected}: the delivery was not taken")]
    Fenced {
        /// The group.
        group: String,
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// Where the delivery thought the group stood.
        expected: i64,
        /// Where it stands.
        actual: i64,
    },
    /// A group has put this member out for good: only a new member goes on.
    #[error("{group} has put this member out: {reason}")]
    ShutOut {
        /// The group.
        group: String,
        /// Why.
        reason: String,
    },
    /// The log cannot be reached right now.
    #[error("the log cannot be reached: {reason}")]
    Unreachable {
        /// What is known.
        reason: String,
    },
    /// A record is larger than its topic takes.
    #[error("{}", too_large(topic, *bytes, *most))]
    TooLarge {
        /// The topic.
        topic: String,
        /// The record's size; 0 when the log does not say.
        bytes: u64,
        /// The topic's limit; 0 when the log does not say.
        most: u64,
    },
    /// A name or number that this log cannot take.
    #[error("{0}")]
    Invalid(String),
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
    /// The store below failed.
    #[error("{doing}: {source}")]
    Failed {
        /// What was being done.
        doing: String,
        /// Why it failed.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
}

fn too_large(topic: &str, bytes: u64, most: u64) -> String {
    if bytes == 0 {
        return format!("a record, or the batch that it was sent in, is larger than topic `{topic}` takes");
    }
    format!("a record of {bytes} bytes is larger than the {most} that topic `{topic}` takes")
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Full { .. } => code::LOG_FULL,
            Self::Locked { .. } => code::LOG_LOCKED,
            Self::UnknownTopic(_) => code::UNKNOWN_TOPIC,
            Self::OutOfRange { .. } => code::OFFSET_OUT_OF_RANGE,
            Self::Unreachable { .. } => code::LOG_UNREACHABLE,
            Self::TooLarge { .. } => code::RECORD_TOO_LARGE,
            Self::PartitionsDiffer { .. }
            | Self::Fenced { .. }
            | Self::ShutOut { .. }
            | Self::Invalid(_)
            | Self::Closed
            | Self::Failed { .. } => code::LOG_FAILED,
        }
    }

    /// Whether the same call may succeed later without anyone changing anything else.
    pub fn is_retriable(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::Unreachable { .. } | Self::Failed { .. })
    }
}
