//! How far a group is, asked of the broker by a client of the tests' own.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::host::PATIENCE;

/// A partition and how far a group is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The partition.
    pub partition: i32,
    /// The next offset to be read; the group has never committed one where it is not there.
    pub committed: Option<i64>,
    /// The oldest record that is there.
    pub earliest: i64,
    /// What the next record will get.
    pub latest: i64,
}

impl Place {
    /// Records that are not committed; what never was counts from the oldest that is there.
    pub fn lag(&self) -> i64 {
        (self.latest - self.committed.unwrap_or(self.earliest)).max(0)
    }
}

/// Where a group stands in a topic.
///
/// # Errors
/// When the broker does not answer.
pub fn places(bootstrap: &str, group: &str, topic: &str) -> anyhow::Result<Vec<Place>> {
    let consumer = consumer(bootstrap, group)?;
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE)?;
    let there = metadata.topics().first().filter(|there| there.error().is_none());
    let there = there.with_context(|| format!("there is no topic {topic}"))?;
    let mut list = TopicPartitionList::new();
    for partition in there.partitions() {
        list.add_partition(topic, partition.id());
    }
    let committed = consumer.committed_offsets(list, PATIENCE)?;
    let place = |element: rdkafka::topic_partition_list::TopicPartitionListElem<'_>| {
        let (earliest, latest) = consumer.fetch_watermarks(topic, element.partition(), PATIENCE)?;
        let committed = match element.offset() {
            Offset::Offset(next) => Some(next),
            _ => None,
        };
        Ok(Place { partition: element.partition(), committed, earliest, latest })
    };
    committed.elements().into_iter().map(place).collect()
}

/// Moves a group that no host uses any more, as an operator does: the broker refuses until it has missed the last of
/// its static members.
///
/// # Errors
/// When the broker refuses.
pub fn reset(bootstrap: &str, group: &str, topic: &str, partition: i32, to: i64) -> anyhow::Result<()> {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(to))?;
    let since = Instant::now();
    loop {
        match consumer(bootstrap, group)?.commit(&list, CommitMode::Sync) {
            Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::UnknownMemberId)) if since.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(200));
            }
            done => return Ok(done?),
        }
    }
}

/// A client that names the group and does not join it.
fn consumer(bootstrap: &str, group: &str) -> anyhow::Result<BaseConsumer> {
    let mut config = ClientConfig::new();
    Ok(config.set("bootstrap.servers", bootstrap).set("group.id", group).create()?)
}
