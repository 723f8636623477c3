//! Clients of librdkafka, all made here, so that what the log promises is configured in one place.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::AdminClient;
use rdkafka::bindings as sys;
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer as _, ProducerContext};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};

use super::health::Health;
use super::options::{ALIASES, Options, Profile, is_secret};
use super::raw::{self, Fate};
use crate::{Error, Result};

/// How long a call that waits for Kafka may take. Longer than an election of a leader, shorter than people wait.
pub(super) const CALL: Duration = Duration::from_secs(10);

/// How long an open transaction of a host that died may hold back readers; also the most that a commit may take.
pub(super) const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(15);

/// Longest wait for an answer of a producer with transactions.
const SOCKET_MS: u64 = 10_000;

/// How long a record outside of a stream's processing may wait for Kafka: someone waits for the answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// Outputs of a stream wait for Kafka without a limit: one that was given up while those behind it went through
/// would come after them when it is judged again.
const OUTPUT_WITHIN: Duration = Duration::ZERO;

/// Records that a member reads ahead, over all its partitions: each takes some 400 bytes of memory besides its own.
const READ_AHEAD: i32 = 20_000;

/// Kilobytes that a member reads ahead, over all its partitions: librdkafka counts those of each partition alone.
const READ_AHEAD_KB: i32 = 65_536;

/// How long Kafka keeps a member's fetch that finds nothing. With a full queue of 10 000 records at most, a lone busy partition
/// gives 500 000 records/s; an idle member costs 50 small requests a second.
const FETCH_WAIT_MS: &str = "20";

/// How large librdkafka makes a batch.
const BATCH_SIZE: &str = "batch.size";

/// Makes clients.
#[derive(Debug)]
pub(super) struct Clients {
    pub(super) options: Options,
    pub(super) health: Arc<Health>,
}

/// What happens to a consumer's partitions, in the order in which Kafka said it.
#[derive(Debug)]
pub(super) enum Rebalance {
    Assign(TopicPartitionList),
    /// With whether they are lost, so that nothing can be finished.
    Revoke(TopicPartitionList, bool),
}

/// Who hears of rebalances and commits.
pub(super) trait Listener: Send + Sync {
    /// Takes note; false when nobody will answer.
    fn rebalanced(&self, rebalance: Rebalance) -> bool;
    fn committed(&self, outcome: KafkaResult<()>, offsets: &TopicPartitionList);
}

/// What all clients' callbacks need.
pub(super) struct Context {
    health: Arc<Health>,
    listener: Option<Arc<dyn Listener>>,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            // That a producer's property means nothing to a consumer is no news: properties are for both.
            _ if facility == "CONFWARN" => tracing::trace!(target: "librdkafka", facility, "{message}"),
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
                // The health tells once when Kafka is away; librdkafka does so for each of its clients, again and again.
                if self.health.check().is_ok() && facility != "FAIL" {
                    tracing::warn!(target: "librdkafka", facility, "{message}");
                } else {
                    tracing::debug!(target: "librdkafka", facility, "{message}");
                }
            }
            RDKafkaLogLevel::Warning => tracing::debug!(target: "librdkafka", facility, "{message}"),
            _ => tracing::trace!(target: "librdkafka", facility, "{message}"),
        }
    }

    fn stats_raw(&self, _: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        self.health.heard(&error, reason);
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, code: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let Some(listener) = &self.listener else { return };
        // The list belongs to the event: what is kept is a copy.
        let is_heard = listener.rebalanced(match RDKafkaErrorCode::from(code) {
            RDKafkaErrorCode::AssignPartitions => Rebalance::Assign(partitions.clone()),
            _ => Rebalance::Revoke(partitions.clone(), consumer.assignment_lost()),
        });
        // A client that closes takes any answer as a farewell, and waits for ever without one.
        if !is_heard && let Err(error) = consumer.unassign() {
            tracing::debug!(%error, "closing a group member");
        }
    }

    fn commit_callback(&self, outcome: KafkaResult<()>, offsets: &TopicPartitionList) {
        if let Some(listener) = &self.listener {
            listener.committed(outcome, offsets);
        }
    }
}

/// What a producer's callbacks need.
pub(super) struct Reports(Context);

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.log(level, facility, message);
    }

    fn stats_raw(&self, _: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(error, reason);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Fate;

    /// Called for what is under way when a producer is dropped; other reports are served in whole (`Queue::serve_reports`).
    fn delivery(&self, result: &DeliveryResult<'_>, fate: Fate) {
        use rdkafka::Message as _;
        fate.told(match result {
            Ok(message) => Ok(message.offset()),
            Err((error, _)) => Err(error.clone()),
        });
    }
}

/// A consumer.
pub(super) type Consumer = BaseConsumer<Context>;

/// A producer.
pub(super) type Producer = BaseProducer<Reports>;

impl raw::Client for Consumer {
    fn native(&self) -> *mut sys::rd_kafka_t {
        self.client().native_ptr()
    }
}

impl raw::Client for Producer {
    fn native(&self) -> *mut sys::rd_kafka_t {
        self.client().native_ptr()
    }
}

impl Clients {
    pub(super) fn new(options: Options) -> Self {
        Self { options, health: Arc::new(Health::default()) }
    }

    /// Whether librdkafka takes all properties.
    pub(super) fn check(&self) -> Result<()> {
        for config in [self.consumer_config("check"), self.producer_config(None, OUTPUT_WITHIN, self.batch())] {
            config.create_native_config().map_err(|error| refused(&error))?;
        }
        Ok(())
    }

    /// A client that asks: metadata, offsets, topics, groups. It joins no group and has the name of one all the same:
    /// without it, librdkafka 2.12 crashes when it asks where a group stands while coordinators move.
    pub(super) fn asker(&self) -> Result<Consumer> {
        let mut config = self.consumer_config(&format!("phronis.{}.asks", self.options.node_id));
        // A partition ends behind all that was written. Kafka answers a commit before it lets readers see what it holds:
        // who reads to the end has then read what was committed before.
        config.set("isolation.level", "read_uncommitted");
        self.make(&config, None)
    }

    /// A client that makes and changes topics.
    pub(super) fn admin(&self) -> Result<AdminClient<Context>> {
        let context = Context { health: Arc::clone(&self.health), listener: None };
        AdminClient::from_config_and_context(&self.common(), context).map_err(|error| refused(&error))
    }

    /// A member of a group, which may get this many partitions.
    pub(super) fn member(
        &self,
        group: &str,
        instance: &str,
        partitions: i32,
        listener: Arc<dyn Listener>,
    ) -> Result<Consumer> {
        let mut config = self.consumer_config(group);
        config.set("group.instance.id", instance);
        let ahead = (READ_AHEAD / partitions.max(1)).clamp(100, 10_000).to_string();
        let ahead_kb = (READ_AHEAD_KB / partitions.max(1)).clamp(64, 8192).to_string();
        // A client has one fetch under way with a broker. While one partition has its queue full, the fetch asks for the others,
        // and when those have nothing Kafka answers only after this wait: it bounds how fast a lone busy partition is read.
        let defaults = [
            ("queued.min.messages", ahead.as_str()),
            ("queued.max.messages.kbytes", &ahead_kb),
            ("fetch.wait.max.ms", FETCH_WAIT_MS),
        ];
        self.set_defaults(&mut config, &defaults);
        self.make(&config, Some(listener))
    }

    /// A reader of partitions that it chooses itself. librdkafka wants a group for it too; it never joins it.
    pub(super) fn reader(&self, is_to_the_end: bool) -> Result<Consumer> {
        let mut config = self.consumer_config(&format!("phronis.{}.readers", self.options.node_id));
        config.set("enable.partition.eof", "true");
        if is_to_the_end {
            // Kafka tells the end of a partition only after this wait.
            config.set("fetch.wait.max.ms", "20");
        }
        // Readers are many and short-lived.
        config.set("queued.max.messages.kbytes", "4096").set("queued.min.messages", "1000");
        self.make(&config, None)
    }

    /// Bytes of a batch, as long as no topic takes less: a batch counts against the limit of a record, which is the topic's.
    pub(super) fn batch(&self) -> u64 {
        let chosen = self.options.properties.get(BATCH_SIZE).and_then(|value| value.parse().ok());
        chosen.unwrap_or_else(|| self.options.max_record_bytes.min(1_000_000))
    }

    /// A producer of what a stream's processing leaves behind, or of what someone waits for an answer to,
    /// in batches of so many bytes at most.
    pub(super) fn producer(&self, transactional_id: Option<&str>, is_processing: bool, batch: u64) -> Result<Producer> {
        let within = if is_processing { OUTPUT_WITHIN } else { ANSWER_WITHIN };
        let config = self.producer_config(transactional_id, within, batch);
        let context = Context { health: Arc::clone(&self.health), listener: None };
        Producer::from_config_and_context(&config, Reports(context)).map_err(|error| refused(&error))
    }

    fn make(&self, config: &ClientConfig, listener: Option<Arc<dyn Listener>>) -> Result<Consumer> {
        let context = Context { health: Arc::clone(&self.health), listener };
        Consumer::from_config_and_context(config, context).map_err(|error| refused(&error))
    }

    fn common(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.options.bootstrap);
        config.set("client.id", format!("phronis-{}", self.options.node_id));
        config.set("socket.keepalive.enable", "true");
        config.set("reconnect.backoff.ms", "50").set("reconnect.backoff.max.ms", "2000");
        // A connection that swallows everything is given up after this.
        config.set("socket.timeout.ms", "20000");
        // Partitions that are added are seen this soon.
        config.set("topic.metadata.refresh.interval.ms", "15000").set("metadata.max.age.ms", "60000");
        // Topics are made by `phronis topics create`, as they should be: one that was deleted is missed, and not made by asking for it.
        config.set("allow.auto.create.topics", "false");
        config.set("log.connection.close", "false").set("enable.metrics.push", "false");
        for (name, value) in &self.options.properties {
            config.set(name, value);
        }
        config
    }

    fn consumer_config(&self, group: &str) -> ClientConfig {
        let mut config = self.common();
        let defaults = [
            ("partition.assignment.strategy", "cooperative-sticky"),
            ("max.poll.interval.ms", "300000"),
            // Members are static: they keep their partitions over a restart that is shorter than this, and lose them after it.
            ("session.timeout.ms", "15000"),
            // A member hears with its heartbeats that partitions move.
            ("heartbeat.interval.ms", "1000"),
            // Bounds of what waits in memory, in each partition; a member with many of them sets its own.
            ("queued.max.messages.kbytes", "8192"),
            ("queued.min.messages", "10000"),
            // What one fetch brings of a partition comes on top of that, and is three times as much when unpacked.
            ("fetch.message.max.bytes", "262144"),
            // The default of a second would leave a fast reader waiting most of the time.
            ("fetch.queue.backoff.ms", "5"),
            ("fetch.max.bytes", "8388608"),
            ("fetch.wait.max.ms", "500"),
        ];
        self.set_defaults(&mut config, &defaults);
        config.set("group.id", group);
        config.set("enable.auto.commit", "false").set("enable.auto.offset.store", "false");
        config.set("auto.offset.reset", "error").set("isolation.level", "read_committed");
        config
    }

    fn producer_config(&self, transactional_id: Option<&str>, within: Duration, batch: u64) -> ClientConfig {
        let mut config = self.common();
        let linger = match self.options.profile {
            Profile::LowLatency => "0",
            Profile::Throughput => "20",
        };
        let defaults = [
            ("compression.type", "lz4"),
            ("linger.ms", linger),
            ("batch.num.messages", "100000"),
            // A record that is larger than its topic takes is refused by the broker, whose limit counts.
            ("message.max.bytes", "67108864"),
            // What is under way is bounded by bytes before it comes here.
            ("queue.buffering.max.messages", "10000000"),
            ("queue.buffering.max.kbytes", "1048576"),
            // Topics are made by people and by this host, and are there before it writes.
            ("topic.metadata.propagation.max.ms", "5000"),
        ];
        self.set_defaults(&mut config, &defaults);
        config.set("enable.idempotence", "true").set("acks", "all");
        config.set(BATCH_SIZE, batch.to_string());
        match transactional_id {
            Some(id) => {
                config.set("transactional.id", id);
                // librdkafka wants it below the transaction's own timeout.
                let chosen = self.options.properties.get("socket.timeout.ms").and_then(|value| value.parse().ok());
                config.set("socket.timeout.ms", chosen.unwrap_or(SOCKET_MS).min(SOCKET_MS).to_string());
                // Kafka sends away whoever asks while the last transaction is being finished, which takes it a moment only.
                self.set_defaults(&mut config, &[("retry.backoff.ms", "5"), ("retry.backoff.max.ms", "1000")]);
                config.set("transaction.timeout.ms", TRANSACTION_TIMEOUT.as_millis().to_string());
                config
                    .set("message.timeout.ms", (TRANSACTION_TIMEOUT - Duration::from_secs(3)).as_millis().to_string());
            }
            None => {
                config.set("message.timeout.ms", within.as_millis().to_string());
            }
        }
        config
    }

    fn set_defaults(&self, config: &mut ClientConfig, defaults: &[(&str, &str)]) {
        for (name, value) in defaults {
            let alias = ALIASES.iter().find(|(usual, _)| usual == name).map_or(*name, |(_, alias)| alias);
            let chosen = &self.options.properties;
            if !chosen.contains_key(*name) && !chosen.contains_key(alias) {
                config.set(*name, *value);
            }
        }
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").finish_non_exhaustive()
    }
}

/// What librdkafka did not take, in words.
fn refused(error: &KafkaError) -> Error {
    match error {
        KafkaError::ClientConfig(_, reason, name, value) if is_secret(name) => {
            Error::Invalid(format!("the property `{name}` is refused: {reason}").replace(value.as_str(), "***"))
        }
        KafkaError::ClientConfig(_, reason, name, value) => {
            Error::Invalid(format!("the property `{name} = {value}` is refused: {reason}"))
        }
        other => Error::Invalid(format!("the Kafka client cannot be made: {other}")),
    }
}

/// An error of librdkafka as one of this crate.
pub(super) fn failed(doing: &str, error: KafkaError) -> Error {
    let code = error.rdkafka_error_code().or(match &error {
        KafkaError::AdminOp(code) => Some(*code),
        _ => None,
    });
    if code.is_some_and(is_away) {
        return Error::Unreachable { reason: format!("{doing}: {error}") };
    }
    Error::Failed { doing: doing.to_owned(), source: Arc::new(error) }
}

/// Whether an error says that Kafka, or the part of it that is asked, cannot be reached for now.
pub(super) fn is_away(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as E;
    matches!(
        code,
        E::BrokerTransportFailure
            | E::AllBrokersDown
            | E::Resolve
            | E::OperationTimedOut
            | E::RequestTimedOut
            | E::MessageTimedOut
            | E::NetworkException
            | E::CoordinatorNotAvailable
            | E::NotCoordinator
            | E::CoordinatorLoadInProgress
            | E::LeaderNotAvailable
            | E::NotLeaderForPartition
            | E::BrokerNotAvailable
            | E::WaitingForCoordinator
    )
}
