//! One client that asks: what topics there are, how they are set up, where they begin and end, where groups stand.
//!
//! Its questions go out in one request for many partitions; a question a partition would take minutes on a large cluster.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use phronis_core::records::TopicName;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode;

use super::client::{CALL, Clients, Consumer, Context, failed};
use super::raw::{groups, topics};
use crate::{Error, PartitionInfo, Result, Retention, Start, TopicInfo, TopicSettings, TopicSpec};

/// How long the regular question whether Kafka is there may take.
const PULSE: Duration = Duration::from_secs(3);

/// How long a partition may be without a leader before whoever asks is told.
const ELECTION: Duration = Duration::from_secs(10);

/// Regular questions without an answer, one after the other, that say that Kafka is away: a broker may pause for a while.
const MISSES: u32 = 2;

/// The setting of a topic that bounds how far the time of a record may be ahead of the broker's clock.
const AHEAD: &str = "message.timestamp.after.max.ms";

/// The part of `max.message.bytes` that Kafka's own framing may take.
const FRAMING: u64 = 512;

/// Asks Kafka.
pub(super) struct Asker {
    consumer: Arc<Consumer>,
    admin: AdminClient<Context>,
    clients: Arc<Clients>,
    /// Partitions of topics, as far as someone asked.
    known: Mutex<HashMap<TopicName, i32>>,
    /// The largest records that topics take, as far as someone asked; `None` where Kafka did not say.
    limits: Mutex<HashMap<TopicName, (Option<u64>, Instant)>>,
    /// Regular questions without an answer, since the last answer.
    missed: AtomicU32,
}

impl Asker {
    pub(super) fn new(clients: Arc<Clients>) -> Result<Self> {
        let consumer = Arc::new(clients.asker()?);
        let admin = clients.admin()?;
        let (known, limits, missed) = (Mutex::default(), Mutex::default(), AtomicU32::new(0));
        Ok(Self { consumer, admin, clients, known, limits, missed })
    }

    /// Asks something small, and notes whether an answer came.
    pub(super) fn pulse(&self) {
        self.hear();
        match self.consumer.fetch_metadata(Some("phronis.config"), PULSE) {
            Ok(_) => {
                self.missed.store(0, Ordering::Relaxed);
                self.clients.health.answered();
            }
            Err(error) => {
                let missed = self.missed.fetch_add(1, Ordering::Relaxed) + 1;
                if missed >= MISSES || self.clients.health.check().is_err() {
                    self.clients.health.silent(format!("{}: {error}", self.clients.options.bootstrap));
                }
            }
        }
    }

    /// Lets this client tell its errors and logs: nobody else polls it.
    fn hear(&self) {
        while self.consumer.poll(Duration::ZERO).is_some() {}
    }

    /// An error of a question, with what the client knows of the reason.
    fn failed(&self, doing: &str, error: KafkaError) -> Error {
        self.hear();
        match (failed(doing, error), self.clients.health.check()) {
            (Error::Unreachable { .. }, Err(known @ Error::Unreachable { .. })) => known,
            (error, _) => error,
        }
    }

    /// All topics that are not Kafka's own, or these, with their partitions.
    pub(super) fn topics(&self, only: Option<&str>) -> Result<BTreeMap<TopicName, i32>> {
        let metadata =
            self.consumer.fetch_metadata(only, CALL).map_err(|error| self.failed("listing topics", error))?;
        let mut topics = BTreeMap::new();
        for topic in metadata.topics() {
            match topic.error().map(RDKafkaErrorCode::from) {
                None | Some(RDKafkaErrorCode::LeaderNotAvailable) => {}
                Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                    self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(topic.name());
                    continue;
                }
                // What is wrong with somebody else's topic is not this host's business.
                Some(code) if only.is_none() => {
                    tracing::debug!(topic = topic.name(), %code, "a topic is left out");
                    continue;
                }
                Some(code) => {
                    return Err(failed(
                        &format!("asking about topic {}", topic.name()),
                        KafkaError::MetadataFetch(code),
                    ));
                }
            }
            let partitions = i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX);
            if partitions > 0 && (only.is_some() || !topic.name().starts_with("__")) {
                topics.insert(topic.name().into(), partitions);
            }
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(topics.iter().map(|(name, partitions)| (Arc::clone(name), *partitions)));
        Ok(topics)
    }

    /// The number of partitions of a topic, as last known or asked.
    pub(super) fn partitions(&self, topic: &str) -> Result<i32> {
        if let Some(known) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(topic) {
            return Ok(*known);
        }
        self.topics(Some(topic))?.get(topic).copied().ok_or_else(|| Error::UnknownTopic(topic.to_owned()))
    }

    /// Forgets what is known of a topic, after it turned out to be wrong.
    pub(super) fn forget(&self, topic: &str) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(topic);
    }

    /// The largest record, and so the largest batch, that a topic takes: as last heard, where that is not older than this, or asked.
    pub(super) fn most(&self, topic: &str, not_older_than: Duration) -> Option<u64> {
        let heard = self.limits.lock().unwrap_or_else(PoisonError::into_inner).get(topic).copied();
        if let Some((most, at)) = heard
            && at.elapsed() <= not_older_than
        {
            return most;
        }
        let most = self.describe(topic).ok().map(|settings| settings.max_record_bytes);
        self.heard(topic, most);
        most
    }

    fn heard(&self, topic: &str, most: Option<u64>) {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner).insert(topic.into(), (most, Instant::now()));
    }

    /// Where partitions begin or end, in their order.
    pub(super) fn ends(&self, partitions: &[(TopicName, i32)], which: Start) -> Result<Vec<i64>> {
        let offset = if which == Start::Earliest { Offset::Beginning } else { Offset::End };
        self.offsets(partitions, offset)
    }

    /// The first offset with this time or a later one; the end where there is none.
    pub(super) fn at_time(&self, topic: &TopicName, partition: i32, at: i64) -> Result<i64> {
        let place = [(Arc::clone(topic), partition)];
        match self.offsets(&place, Offset::Offset(at.max(0)))?.first() {
            Some(offset) if *offset >= 0 => Ok(*offset),
            _ => Ok(self.ends(&place, Start::Latest)?.first().copied().unwrap_or(0)),
        }
    }

    /// Waits for leaders that are being elected, as those of a new topic, while Kafka as a whole is there.
    fn offsets(&self, partitions: &[(TopicName, i32)], which: Offset) -> Result<Vec<i64>> {
        let until = Instant::now() + ELECTION;
        loop {
            match self.offsets_now(partitions, which) {
                Err(Error::Unreachable { .. }) if self.clients.health.check().is_ok() && Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                outcome => return outcome,
            }
        }
    }

    /// Kafka answers the question for a time also for two that mean the beginning and the end.
    fn offsets_now(&self, partitions: &[(TopicName, i32)], which: Offset) -> Result<Vec<i64>> {
        let doing = "asking for offsets";
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for (topic, partition) in partitions {
            list.add_partition_offset(topic, *partition, which).map_err(|error| failed(doing, error))?;
        }
        let answer = self.consumer.offsets_for_times(list, CALL).map_err(|error| failed(doing, error))?;
        let found: HashMap<(String, i32), Offset> = answer.to_topic_map();
        let mut offsets = Vec::with_capacity(partitions.len());
        for element in answer.elements() {
            element.error().map_err(|error| match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::UnknownTopicOrPartition) => Error::UnknownTopic(element.topic().to_owned()),
                _ => failed(doing, error),
            })?;
        }
        for (topic, partition) in partitions {
            offsets.push(match found.get(&(topic.to_string(), *partition)) {
                Some(Offset::Offset(at)) => *at,
                _ => -1,
            });
        }
        Ok(offsets)
    }

    /// What topics hold; those that vanished since they were listed are left out.
    pub(super) fn infos(&self, mut topics: BTreeMap<TopicName, i32>) -> Result<Vec<TopicInfo>> {
        loop {
            match self.infos_now(&topics) {
                Err(Error::UnknownTopic(gone)) if topics.remove(gone.as_str()).is_some() => {}
                outcome => return outcome,
            }
        }
    }

    fn infos_now(&self, topics: &BTreeMap<TopicName, i32>) -> Result<Vec<TopicInfo>> {
        let partitions: Vec<(TopicName, i32)> =
            topics.iter().flat_map(|(name, count)| (0..*count).map(|number| (Arc::clone(name), number))).collect();
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let (earliest, latest) = (self.ends(&partitions, Start::Earliest)?, self.ends(&partitions, Start::Latest)?);
        let mut ends = earliest.into_iter().zip(latest);
        let info = |(name, count): (&TopicName, &i32)| TopicInfo {
            name: Arc::clone(name),
            partitions: ends
                .by_ref()
                .take(usize::try_from(*count).unwrap_or(0))
                .map(|(earliest, latest)| PartitionInfo { earliest, latest, bytes: None })
                .collect(),
        };
        Ok(topics.iter().map(info).collect())
    }

    /// Where a group stands in all partitions of a topic.
    pub(super) fn committed(&self, group: &str, topic: &str) -> Result<Vec<Option<i64>>> {
        let partitions = self.topics(Some(topic))?.get(topic).copied();
        let partitions = partitions.ok_or_else(|| Error::UnknownTopic(topic.to_owned()))?;
        groups::committed(Arc::clone(&self.consumer) as _, group, topic, partitions, CALL)
    }

    /// The id that Kafka gave a topic when it was made.
    pub(super) fn identity(&self, topic: &str) -> Result<String> {
        topics::identity(Arc::clone(&self.consumer) as _, topic, CALL)
    }

    /// Makes a topic, or checks it and sets its retention.
    pub(super) fn create(&self, spec: &TopicSpec) -> Result<()> {
        crate::topic::check(spec)?;
        let settings = self.settings_of(spec.retention);
        let mut topic =
            NewTopic::new(&spec.name, spec.partitions, TopicReplication::Fixed(self.clients.options.replication));
        for (key, value) in &settings {
            topic = topic.set(key, value);
        }
        let doing = format!("making topic {}", spec.name);
        let made = futures(self.admin.create_topics([&topic], &options()));
        match made.map_err(|error| failed(&doing, error))?.into_iter().next() {
            Some(Ok(_)) => {
                self.await_leaders(spec);
                Ok(())
            }
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => self.adjust_when_there(spec),
            Some(Err((_, code))) => Err(failed(&doing, KafkaError::AdminOp(code))),
            None => Ok(()),
        }
    }

    /// A new topic can be written to a moment after it was made.
    fn await_leaders(&self, spec: &TopicSpec) {
        for _ in 0..100 {
            let there = self.topics(Some(&spec.name)).ok().and_then(|topics| topics.get(&spec.name).copied());
            if there == Some(spec.partitions) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Somebody else made it, perhaps just now: brokers learn of it one after the other.
    fn adjust_when_there(&self, spec: &TopicSpec) -> Result<()> {
        for _ in 0..100 {
            match self.adjust(spec) {
                Err(Error::UnknownTopic(_)) => std::thread::sleep(Duration::from_millis(50)),
                outcome => return outcome,
            }
        }
        self.adjust(spec)
    }

    fn adjust(&self, spec: &TopicSpec) -> Result<()> {
        let there = self.describe(&spec.name)?;
        if there.partitions != spec.partitions {
            let topic = spec.name.to_string();
            return Err(Error::PartitionsDiffer { topic, actual: there.partitions, wanted: spec.partitions });
        }
        if there.retention == spec.retention && there.ahead.is_none() {
            return Ok(());
        }
        // Kafka replaces all settings of the topic by those sent: those that someone else made are sent along.
        let mut settings = self.own_settings(&spec.name)?;
        settings.extend(self.settings_of(spec.retention).into_iter().filter(|(key, _)| key != "max.message.bytes"));
        let mut change = AlterConfig::new(ResourceSpecifier::Topic(&spec.name));
        for (key, value) in &settings {
            change = change.set(key, value);
        }
        let doing = format!("changing topic {}", spec.name);
        let changed =
            futures(self.admin.alter_configs([&change], &options())).map_err(|error| failed(&doing, error))?;
        match changed.into_iter().next() {
            Some(Err((_, code))) => Err(failed(&doing, KafkaError::AdminOp(code))),
            _ => Ok(()),
        }
    }

    /// Adds partitions.
    pub(super) fn grow(&self, topic: &str, partitions: i32) -> Result<()> {
        let doing = format!("adding partitions to topic {topic}");
        let count = usize::try_from(partitions).unwrap_or(0);
        let grown = futures(self.admin.create_partitions([&NewPartitions::new(topic, count)], &options()));
        self.forget(topic);
        match grown.map_err(|error| failed(&doing, error))?.into_iter().next() {
            Some(Err((_, code))) => Err(failed(&doing, KafkaError::AdminOp(code))),
            _ => Ok(()),
        }
    }

    /// How a topic is set up.
    pub(super) fn describe(&self, topic: &str) -> Result<TopicSettings> {
        let metadata = self
            .consumer
            .fetch_metadata(Some(topic), CALL)
            .map_err(|error| self.failed("describing a topic", error))?;
        let found = metadata.topics().iter().find(|found| found.name() == topic && !found.partitions().is_empty());
        let found = found.ok_or_else(|| Error::UnknownTopic(topic.to_owned()))?;
        let replication = found.partitions().first().map_or(0, |partition| partition.replicas().len());
        let settings = self.all_settings(topic)?;
        let number = |key: &str| settings.get(key).and_then(|(value, _)| value.parse::<i64>().ok());
        let positive = |key: &str| number(key).and_then(|value| u64::try_from(value).ok());
        let policy = settings.get("cleanup.policy").map(|(value, _)| value.as_str()).unwrap_or_default();
        let deletes = policy.split(',').any(|word| word.trim() == "delete");
        let compact = policy.split(',').any(|word| word.trim() == "compact");
        let retention = Retention {
            age: positive("retention.ms").filter(|_| deletes).map(Duration::from_millis),
            bytes: positive("retention.bytes").filter(|_| deletes),
            compact,
        };
        let max_record_bytes = positive("max.message.bytes").unwrap_or(1 << 20).saturating_sub(FRAMING);
        self.heard(topic, Some(max_record_bytes));
        Ok(TopicSettings {
            partitions: i32::try_from(found.partitions().len()).unwrap_or(i32::MAX),
            replication: i32::try_from(replication).ok(),
            retention,
            max_record_bytes,
            // Kafka's own word for no bound is the largest number.
            ahead: positive(AHEAD).filter(|ms| *ms < i64::MAX.unsigned_abs()).map(Duration::from_millis),
        })
    }

    /// All settings of a topic, with whether they were made for it.
    fn all_settings(&self, topic: &str) -> Result<BTreeMap<String, (String, bool)>> {
        use rdkafka::admin::ConfigSource;
        let doing = format!("describing topic {topic}");
        let described = futures(self.admin.describe_configs([&ResourceSpecifier::Topic(topic)], &options()));
        let described = described.map_err(|error| failed(&doing, error))?.into_iter().next();
        match described {
            Some(Ok(resource)) => Ok(resource
                .entries
                .into_iter()
                .filter_map(|entry| {
                    let is_own = entry.source == ConfigSource::DynamicTopic;
                    Some((entry.name, (entry.value?, is_own)))
                })
                .collect()),
            Some(Err(RDKafkaErrorCode::UnknownTopicOrPartition)) => Err(Error::UnknownTopic(topic.to_owned())),
            Some(Err(code)) => Err(failed(&doing, KafkaError::AdminOp(code))),
            None => Ok(BTreeMap::new()),
        }
    }

    fn own_settings(&self, topic: &str) -> Result<BTreeMap<String, String>> {
        let all = self.all_settings(topic)?.into_iter();
        Ok(all.filter(|(_, (_, is_own))| *is_own).map(|(name, (value, _))| (name, value)).collect())
    }

    fn settings_of(&self, retention: Retention) -> BTreeMap<String, String> {
        let Retention { age, bytes, compact } = retention;
        let bound = |bound: Option<String>| bound.unwrap_or_else(|| "-1".to_owned());
        let is_bound = age.is_some() || bytes.is_some();
        let policy = match (compact, is_bound) {
            (true, true) => "compact,delete",
            (true, false) => "compact",
            (false, _) => "delete",
        };
        let mut settings = BTreeMap::from([
            ("cleanup.policy".to_owned(), policy.to_owned()),
            ("retention.ms".to_owned(), bound(age.map(|age| age.as_millis().to_string()))),
            ("retention.bytes".to_owned(), bound(bytes.map(|bytes| bytes.to_string()))),
        ]);
        let most = self.clients.options.max_record_bytes.saturating_add(FRAMING);
        settings.insert("max.message.bytes".to_owned(), most.to_string());
        // Outputs keep the time of their event, and a clock may be ahead; Kafka would refuse more than an hour.
        settings.insert(AHEAD.to_owned(), i64::MAX.to_string());
        settings
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(CALL)).operation_timeout(Some(CALL))
}

/// Waits for an answer of the admin client, which a thread of its own brings.
fn futures<T>(answer: impl Future<Output = T>) -> T {
    futures::executor::block_on(answer)
}

#[cfg(test)]
mod tests;
