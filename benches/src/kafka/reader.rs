//! A plain reader of committed records, outside of any group.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

/// How long a topic may say nothing before its end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Begins at the oldest record of each partition.
pub(crate) fn open(bootstrap: &str, topic: &str, partitions: i32) -> Result<BaseConsumer> {
    let config = [
        ("bootstrap.servers", bootstrap),
        // The client asks for a name; without a subscription no group is joined.
        ("group.id", "phronis-bench-reader"),
        ("enable.auto.commit", "false"),
        ("isolation.level", "read_committed"),
        ("enable.partition.eof", "true"),
        ("auto.offset.reset", "error"),
        ("check.crcs", "true"),
        ("fetch.wait.max.ms", "100"),
        // The default of a second makes a reader that is faster than its queue wait.
        ("fetch.queue.backoff.ms", "2"),
    ];
    let config: ClientConfig = config.map(|(key, value)| (key.to_owned(), value.to_owned())).into_iter().collect();
    let consumer: BaseConsumer = config.create()?;
    let mut all = TopicPartitionList::new();
    for partition in 0..partitions {
        all.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&all)?;
    Ok(consumer)
}

/// Shows each record of a topic, those of one partition in their order, until every partition is at its end.
pub(crate) fn each(
    bootstrap: &str,
    topic: &str,
    partitions: i32,
    mut take: impl FnMut(&BorrowedMessage<'_>) -> Result<()>,
) -> Result<()> {
    let consumer = open(bootstrap, topic, partitions)?;
    let mut unread = partitions;
    let mut last = Instant::now();
    while unread > 0 {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => take(&message)?,
            Some(Err(KafkaError::PartitionEOF(_))) => unread -= 1,
            Some(Err(error)) => bail!("reading {topic}: {error}"),
            None => {
                ensure!(last.elapsed() < PATIENCE, "{topic} does not end");
                continue;
            }
        }
        last = Instant::now();
    }
    Ok(())
}
