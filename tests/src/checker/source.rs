//! Where the checker's records come from: the embedded log, or a Kafka broker read by a client of the checker's own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use phronis_core::records::{HeadersBuilder, Records, RecordsBuilder};
use phronis_log::{Log, PollLimits, Position};
use rdkafka::Message as _;
use rdkafka::message::{BorrowedMessage, Headers as _};

use super::Record;
use crate::kafka::{self, Isolation};

/// Records of one partition that are looked at together.
const BATCH: usize = 8192;

/// Topics that can be read from the beginning to the end.
pub(super) trait Source {
    /// Shows all records of a topic, those of one partition in the order of their offsets.
    fn each_batch(&self, topic: &str, take: &mut dyn FnMut(&Records)) -> anyhow::Result<()>;

    /// Shows all records of a topic one by one.
    fn each(&self, topic: &str, mut take: impl FnMut(Record<'_>)) -> anyhow::Result<()>
    where
        Self: Sized,
    {
        self.each_batch(topic, &mut |records| show(records, &mut take))
    }
}

fn show(records: &Records, take: &mut impl FnMut(Record<'_>)) {
    for (row, offset) in records.offsets.values().iter().enumerate() {
        take(Record {
            partition: records.partition,
            offset: *offset,
            key: records.body.key(row),
            value: records.body.value(row),
            headers: records.body.headers(row),
        });
    }
}

/// The log of a host on one machine.
pub(super) struct Embedded<'a>(pub(super) &'a dyn Log);

impl Source for Embedded<'_> {
    fn each_batch(&self, topic: &str, take: &mut dyn FnMut(&Records)) -> anyhow::Result<()> {
        let topics = self.0.topics()?;
        let info = topics.iter().find(|info| &*info.name == topic);
        let info = info.with_context(|| format!("there is no topic {topic}"))?;
        for (partition, info) in (0i32..).zip(&info.partitions) {
            let mut reader = self.0.reader(topic, partition, Position::Earliest)?;
            while reader.position() < info.latest {
                let limits = PollLimits { records: BATCH, bytes: 8 << 20 };
                // What is there is read at once; the wait only keeps a broken log from being read for ever.
                let records = reader.next(limits, Duration::from_secs(1))?;
                let records = records.with_context(|| {
                    format!("{topic}/{partition} ends at {}, not at {}", reader.position(), info.latest)
                })?;
                take(&records);
            }
        }
        Ok(())
    }
}

/// A broker, by its address. Sees what a reader of committed records sees.
pub(super) struct Kafka<'a>(pub(super) &'a str);

impl Source for Kafka<'_> {
    fn each_batch(&self, topic: &str, take: &mut dyn FnMut(&Records)) -> anyhow::Result<()> {
        let mut batches: BTreeMap<i32, Batch> = BTreeMap::new();
        kafka::each(self.0, topic, Isolation::Committed, |message| {
            let batch = batches.entry(message.partition()).or_default();
            batch.push(message);
            if batch.offsets.len() >= BATCH {
                take(&std::mem::take(batch).finish(topic, message.partition()));
            }
        })?;
        for (partition, batch) in batches {
            take(&batch.finish(topic, partition));
        }
        Ok(())
    }
}

#[derive(Default)]
struct Batch {
    offsets: Vec<i64>,
    body: RecordsBuilder,
    headers: HeadersBuilder,
}

impl Batch {
    fn push(&mut self, message: &BorrowedMessage<'_>) {
        self.headers.clear();
        for header in message.headers().into_iter().flat_map(|headers| headers.iter()) {
            self.headers.push(header.key, header.value.unwrap_or_default());
        }
        self.offsets.push(message.offset());
        let timestamp = message.timestamp().to_millis().unwrap_or_default();
        self.body.push(timestamp, message.key(), message.payload(), self.headers.as_bytes());
    }

    fn finish(self, topic: &str, partition: i32) -> Records {
        Records { topic: Arc::from(topic), partition, offsets: self.offsets.into(), body: self.body.finish() }
    }
}
