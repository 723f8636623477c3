//! Topics of a bench: made anew before each run, and watched from outside while it runs.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use futures::executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication, TopicResult};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

/// How long the broker may take for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a run writes, without the prefix. The first two hold exactly one record for each event.
pub(crate) const OUTPUTS: [&str; 4] = ["processed", "dlq", "alerts", "state"];

/// Makes, deletes and watches topics.
pub(crate) struct Topics {
    admin: AdminClient<DefaultClientContext>,
    options: AdminOptions,
    watcher: BaseConsumer,
}

impl Topics {
    /// Speaks to the broker at this address.
    pub(crate) fn new(bootstrap: &str) -> Result<Self> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", bootstrap);
        let admin = config.create()?;
        // Committed records only: in a transaction, what is not committed has not arrived.
        config.set("group.id", "phronis-bench").set("isolation.level", "read_committed");
        let options = AdminOptions::new().request_timeout(Some(PATIENCE)).operation_timeout(Some(PATIENCE));
        Ok(Self { admin, options, watcher: config.create()? })
    }

    /// Makes a topic and waits until it has its leaders.
    pub(crate) fn create(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) -> Result<()> {
        let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        for (key, value) in settings {
            new = new.set(key, value);
        }
        done(block_on(self.admin.create_topics([&new], &self.options))?)?;
        self.until(topic, usize::try_from(partitions)?)
    }

    /// Gives a run new, empty outputs, whose records carry the time at which the broker appended them.
    pub(crate) fn renew_outputs(&self, prefix: &str, partitions: i32) -> Result<()> {
        let raw = format!("{prefix}.raw");
        let metadata = self.admin.inner().fetch_metadata(None, PATIENCE)?;
        let old: Vec<&str> = metadata.topics().iter().map(|topic| topic.name()).collect();
        let of_run = |topic: &&&str| topic.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.'));
        for topic in old.iter().filter(of_run).filter(|topic| **topic != raw) {
            done(block_on(self.admin.delete_topics(&[topic], &self.options))?)?;
            self.until(topic, 0)?;
        }
        for output in OUTPUTS {
            self.create(&format!("{prefix}.{output}"), partitions, &[("message.timestamp.type", "LogAppendTime")])?;
        }
        Ok(())
    }

    /// How far each of these topics reaches: the sum of the end offsets of its partitions.
    pub(crate) fn ends(&self, topics: &[&str], partitions: i32) -> Result<Vec<i64>> {
        let mut asked = TopicPartitionList::new();
        for topic in topics {
            for partition in 0..partitions {
                asked.add_partition_offset(topic, partition, Offset::End)?;
            }
        }
        let deadline = Instant::now() + PATIENCE;
        let answer = loop {
            match self.watcher.offsets_for_times(asked.clone(), PATIENCE) {
                Ok(answer) => break answer,
                // A topic that was made anew: the client still knows the old one, and asks again.
                Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
                Err(error) => bail!("asking for the ends of {topics:?}: {error}"),
            }
        };
        let end = |topic: &str| {
            answer
                .elements_for_topic(topic)
                .iter()
                .map(|partition| partition.offset().to_raw().unwrap_or(0).max(0))
                .sum()
        };
        Ok(topics.iter().map(|topic| end(topic)).collect())
    }

    /// How far a partition reaches.
    pub(crate) fn end(&self, topic: &str, partition: i32) -> Result<i64> {
        Ok(self.watcher.fetch_watermarks(topic, partition, PATIENCE)?.1)
    }

    /// Waits until the broker shows a topic with this many partitions, each with a leader; 0: no topic.
    fn until(&self, topic: &str, partitions: usize) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let metadata = self.admin.inner().fetch_metadata(None, PATIENCE)?;
            let there = metadata.topics().iter().find(|there| there.name() == topic && there.error().is_none());
            let led = there.map_or(0, |there| there.partitions().iter().filter(|p| p.leader() >= 0).count());
            if led == partitions {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{topic} has {led} partitions with a leader, not {partitions}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn done(results: Vec<TopicResult>) -> Result<()> {
    results.into_iter().try_for_each(|result| result.map(drop).map_err(|(topic, code)| anyhow!("{topic}: {code}")))
}
