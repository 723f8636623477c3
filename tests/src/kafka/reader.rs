//! A plain reader: a topic from its beginning to its end, outside of any group.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};

use crate::host::PATIENCE;

/// Which records a reader sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Those of finished transactions, and those of none; up to the first transaction that is still open.
    Committed,
    /// All, also those of transactions that were given up.
    Uncommitted,
}

/// A record as it stands in the topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Milliseconds since 1970.
    pub timestamp: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// Its headers in order; one without a value is empty.
    pub headers: Vec<(String, Vec<u8>)>,
}

/// All records of a topic; those of one partition are in the order of their offsets.
///
/// # Errors
/// When there is no such topic, or it cannot be read to its end.
pub fn read_all(bootstrap: &str, topic: &str, isolation: Isolation) -> anyhow::Result<Vec<Record>> {
    let mut records = Vec::new();
    each(bootstrap, topic, isolation, |message| {
        let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
        records.push(Record {
            partition: message.partition(),
            offset: message.offset(),
            timestamp: message.timestamp().to_millis().unwrap_or_default(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: headers.map(|h| (h.key.to_owned(), h.value.unwrap_or_default().to_vec())).collect(),
        });
    })?;
    Ok(records)
}

/// Shows every record of a topic, up to the ends that its partitions have when this begins or later.
///
/// # Errors
/// When there is no such topic, or nothing comes for [`PATIENCE`] before its end.
pub fn each(
    bootstrap: &str,
    topic: &str,
    isolation: Isolation,
    mut take: impl FnMut(&BorrowedMessage<'_>),
) -> anyhow::Result<()> {
    let consumer = consumer(bootstrap, isolation)?;
    let mut open = assign(&consumer, topic)?;
    let mut last = Instant::now();
    while !open.is_empty() {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                last = Instant::now();
                // A topic that is still written to goes on behind the end that was seen.
                if open.contains(&message.partition()) {
                    take(&message);
                }
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                last = Instant::now();
                open.remove(&partition);
            }
            Some(Err(KafkaError::MessageConsumptionFatal(code))) => bail!("reading {topic}: {code}"),
            // A broker that is away for a moment: the client tries again.
            Some(Err(error)) => ensure!(last.elapsed() < PATIENCE, "reading {topic}: {error}"),
            None => ensure!(last.elapsed() < PATIENCE, "{topic} does not end: partitions {open:?} say nothing more"),
        }
    }
    Ok(())
}

fn consumer(bootstrap: &str, isolation: Isolation) -> anyhow::Result<BaseConsumer> {
    let level = match isolation {
        Isolation::Committed => "read_committed",
        Isolation::Uncommitted => "read_uncommitted",
    };
    let config = [
        ("bootstrap.servers", bootstrap),
        // The client asks for a name; without a subscription no group is joined.
        ("group.id", "phronis-reader"),
        ("enable.auto.commit", "false"),
        ("isolation.level", level),
        ("enable.partition.eof", "true"),
        // An offset that is gone is an error, never a silent leap.
        ("auto.offset.reset", "error"),
        ("check.crcs", "true"),
        // The end of a partition is told after an empty answer.
        ("fetch.wait.max.ms", "20"),
        // The default of a second makes a reader that is faster than its queue wait.
        ("fetch.queue.backoff.ms", "2"),
    ];
    let config: ClientConfig = config.map(|(key, value)| (key.to_owned(), value.to_owned())).into_iter().collect();
    Ok(config.create()?)
}

/// Begins at the oldest record of each partition that has any; returns those.
fn assign(consumer: &BaseConsumer, topic: &str) -> anyhow::Result<BTreeSet<i32>> {
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE)?;
    let there = metadata.topics().first().filter(|there| there.error().is_none() && !there.partitions().is_empty());
    let there = there.with_context(|| format!("there is no topic {topic}"))?;
    let mut open = BTreeSet::new();
    let mut list = TopicPartitionList::new();
    for partition in there.partitions() {
        let (earliest, latest) = consumer.fetch_watermarks(topic, partition.id(), PATIENCE)?;
        if earliest < latest {
            list.add_partition_offset(topic, partition.id(), Offset::Offset(earliest))?;
            open.insert(partition.id());
        }
    }
    consumer.assign(&list)?;
    Ok(open)
}
