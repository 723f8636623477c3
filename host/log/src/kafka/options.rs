//! How the log on Kafka works: what an operator chooses, and what follows from it for librdkafka.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::{Error, Result};

/// How the log on Kafka works.
#[derive(Clone, PartialEq, Eq)]
pub struct Options {
    /// Brokers to ask first: `host:port,host:port`.
    pub bootstrap: String,
    /// Names this host in groups and transactions; stable over restarts, and no two live hosts have the same.
    pub node_id: String,
    /// What to optimise for.
    pub profile: Profile,
    /// Copies of each partition of the topics that are made.
    pub replication: i32,
    /// Largest record of the topics that are made.
    pub max_record_bytes: u64,
    /// How often an at-least-once member commits what is delivered.
    pub commit_every: Duration,
    /// How long a transaction may collect deliveries while there is more to do.
    pub transaction: Duration,
    /// Whether a member that stops leaves its groups, so that others take its partitions at once. If not, they stay its own for
    /// the session timeout, and a host that is back by then goes on without a rebalance.
    pub leave_on_stop: bool,
    /// Properties of librdkafka, over those that follow from the rest: security, rack, buffers, anything but [`OURS`].
    pub properties: BTreeMap<String, String>,
}

/// What to optimise for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// An event is sent on as soon as it is judged; batches form by themselves under load.
    #[default]
    LowLatency,
    /// Waits some milliseconds for larger batches: less CPU time a record, in the broker too.
    Throughput,
}

/// Properties that the promises of this log rest on, with the reason why they cannot be set.
pub const OURS: &[(&str, &str)] = &[
    ("bootstrap.servers", "is `log.bootstrap`"),
    ("metadata.broker.list", "is `log.bootstrap`"),
    ("group.id", "follows from the stream"),
    ("group.instance.id", "follows from `log.node_id`"),
    ("transactional.id", "follows from `log.node_id` and the stream"),
    ("enable.idempotence", "is on: without it a retry would double or reorder records"),
    ("acks", "is `all`: what is acknowledged must survive a broker"),
    ("request.required.acks", "is `all`: what is acknowledged must survive a broker"),
    ("enable.auto.commit", "is off: offsets are committed after what follows from them is durable"),
    ("enable.auto.offset.store", "is off: offsets are committed after what follows from them is durable"),
    ("auto.offset.reset", "is `error`: an offset that is gone must not be skipped silently"),
    ("isolation.level", "is `read_committed`: an aborted transaction never happened"),
    ("enable.partition.eof", "is for this log's own use"),
    ("message.timeout.ms", "follows from who waits for the record: none is given up while those behind it go through"),
    ("delivery.timeout.ms", "follows from who waits for the record: none is given up while those behind it go through"),
    ("transaction.timeout.ms", "bounds how long a host that died holds back readers"),
    ("retries", "is unlimited: a record that is given up while those behind it go through would come after them"),
    (
        "message.send.max.retries",
        "is unlimited: a record that is given up while those behind it go through would come after them",
    ),
    (
        "partition.assignment.strategy",
        "is `cooperative-sticky`: partitions are handed over one by one, after their work",
    ),
    ("group.protocol", "is `classic`: members answer for each rebalance themselves"),
    ("delivery.report.only.error", "is off: every record's fate is awaited"),
    ("partitioner", "is not used: partitions are chosen as the Java client does"),
];

/// Properties with two names: a default for one must not fight with a value for the other.
pub(super) const ALIASES: &[(&str, &str)] = &[
    ("compression.type", "compression.codec"),
    ("linger.ms", "queue.buffering.max.ms"),
    ("fetch.message.max.bytes", "max.partition.fetch.bytes"),
];

/// Whether the value of a property must not be shown.
pub(super) fn is_secret(property: &str) -> bool {
    ["password", "secret", "passphrase", ".pem", "oauthbearer.config"].iter().any(|part| property.contains(part))
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.properties.iter().map(|(name, value)| (name, if is_secret(name) { "***" } else { value }));
        f.debug_struct("Options")
            .field("bootstrap", &self.bootstrap)
            .field("node_id", &self.node_id)
            .field("profile", &self.profile)
            .field("properties", &shown.collect::<BTreeMap<_, _>>())
            .finish_non_exhaustive()
    }
}

impl Options {
    /// The usual settings for these brokers.
    pub fn new(bootstrap: impl Into<String>, node_id: impl Into<String>) -> Self {
        Self {
            bootstrap: bootstrap.into(),
            node_id: node_id.into(),
            profile: Profile::default(),
            replication: 1,
            max_record_bytes: 1 << 20,
            commit_every: Duration::from_secs(1),
            transaction: Duration::from_millis(100),
            leave_on_stop: true,
            properties: BTreeMap::new(),
        }
    }

    /// Whether librdkafka takes these properties, and none is one of [`OURS`]. Contacts nobody.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the property and says why.
    pub fn check(&self) -> Result<()> {
        for name in self.properties.keys() {
            if let Some((_, reason)) = OURS.iter().find(|(ours, _)| ours == name) {
                return Err(Error::Invalid(format!("the property `{name}` cannot be set: it {reason}")));
            }
        }
        super::client::Clients::new(self.clone()).check()
    }
}
