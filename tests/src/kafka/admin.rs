//! Topics of a broker: made, changed, looked at, deleted, each visible when the call returns.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use futures::executor::block_on;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication, TopicResult,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::host::PATIENCE;

/// A client that changes topics.
pub struct Admin {
    client: AdminClient<DefaultClientContext>,
    options: AdminOptions,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

impl Admin {
    /// Speaks to the broker at this address.
    ///
    /// # Errors
    /// When the client cannot be made; a broker that is not there is noticed later.
    pub fn new(bootstrap: &str) -> anyhow::Result<Self> {
        let client = ClientConfig::new().set("bootstrap.servers", bootstrap).create()?;
        let options = AdminOptions::new().request_timeout(Some(PATIENCE)).operation_timeout(Some(PATIENCE));
        Ok(Self { client, options })
    }

    /// Makes a topic with settings such as `("cleanup.policy", "compact")`.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn create(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) -> anyhow::Result<()> {
        let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        if settings.iter().all(|(key, _)| !key.starts_with("retention.")) {
            // Tests write records of long ago, which Kafka would delete half a minute after its start.
            new = new.set("retention.ms", "-1");
        }
        for (key, value) in settings {
            new = new.set(key, value);
        }
        done(block_on(self.client.create_topics([&new], &self.options))?)?;
        self.until(topic, Some(partitions))
    }

    /// Deletes a topic.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn delete(&self, topic: &str) -> anyhow::Result<()> {
        done(block_on(self.client.delete_topics(&[topic], &self.options))?)?;
        self.until(topic, None)
    }

    /// Gives a topic more partitions, `total` with those that it has.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn add_partitions(&self, topic: &str, total: i32) -> anyhow::Result<()> {
        let new = NewPartitions::new(topic, usize::try_from(total)?);
        done(block_on(self.client.create_partitions([&new], &self.options))?)?;
        self.until(topic, Some(total))
    }

    /// Deletes the records of a partition below an offset, as retention would.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn delete_records(&self, topic: &str, partition: i32, below: i64) -> anyhow::Result<()> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(below))?;
        let answer = block_on(self.client.delete_records(&list, &self.options))?;
        answer.elements().iter().try_for_each(|place| Ok(place.error()?))
    }

    /// The settings of a topic, defaults among them.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn settings(&self, topic: &str) -> anyhow::Result<BTreeMap<String, String>> {
        let resource = ResourceSpecifier::Topic(topic);
        let answer = block_on(self.client.describe_configs([&resource], &self.options))?;
        let described = answer.into_iter().next().context("an answer")?.map_err(|code| anyhow::anyhow!("{code}"))?;
        Ok(described.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))).collect())
    }

    /// Replaces the settings of a topic: what is not named goes back to its default.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn alter(&self, topic: &str, settings: &[(&str, &str)]) -> anyhow::Result<()> {
        let mut alter = AlterConfig::new(ResourceSpecifier::Topic(topic));
        for (key, value) in settings {
            alter = alter.set(key, value);
        }
        let answer = block_on(self.client.alter_configs([&alter], &self.options))?;
        answer.into_iter().try_for_each(|one| one.map(drop).map_err(|(_, code)| anyhow::anyhow!("{topic}: {code}")))?;
        // The controller has taken it; the broker shows it a moment later.
        let until = Instant::now() + PATIENCE;
        loop {
            let there = self.settings(topic)?;
            if settings.iter().all(|(key, value)| there.get(*key).is_some_and(|set| set == value)) {
                return Ok(());
            }
            if Instant::now() > until {
                bail!("{topic} does not show its new settings {settings:?}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The number of partitions of each topic that is there, the broker's own left out.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub fn topics(&self) -> anyhow::Result<BTreeMap<String, i32>> {
        let metadata = self.client.inner().fetch_metadata(None, PATIENCE)?;
        let own = metadata.topics().iter().filter(|topic| !topic.name().starts_with("__"));
        own.map(|topic| Ok((topic.name().to_owned(), i32::try_from(topic.partitions().len())?))).collect()
    }

    /// Waits until the broker shows a topic with this many partitions, each with a leader; `None`: no topic.
    fn until(&self, topic: &str, partitions: Option<i32>) -> anyhow::Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let metadata = self.client.inner().fetch_metadata(None, PATIENCE)?;
            let there = metadata.topics().iter().find(|there| there.name() == topic && there.error().is_none());
            let led = there.map(|there| there.partitions().iter().filter(|p| p.leader() >= 0).count());
            if led == partitions.and_then(|count| usize::try_from(count).ok()) {
                return Ok(());
            }
            if Instant::now() > until {
                bail!("{topic} has {led:?} partitions with a leader, not {partitions:?}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn done(results: Vec<TopicResult>) -> anyhow::Result<()> {
    let refused = |(topic, code): (String, RDKafkaErrorCode)| anyhow::anyhow!("{topic}: {code}");
    results.into_iter().try_for_each(|result| result.map(drop).map_err(refused))
}
