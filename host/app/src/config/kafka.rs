//! `[log]` with `kind = "kafka"`: the brokers, what this host is called there, and properties of librdkafka.
//!
//! librdkafka itself checks the properties, so that a misspelt one is found here, with its line, before any host starts.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use phronis_log::kafka;

use super::problem::Problem;
use super::reader::{Effective, MASK, Property, Reader, Section};
use super::tree::Value;
use super::units::Bytes;
use super::value::{Setting, text, words};

/// Keys that only this log has.
pub(super) const KEYS: [&str; 11] = [
    "bootstrap",
    "node_id",
    "profile",
    "replication",
    "max_record_bytes",
    "commit_every",
    "transaction",
    "leave_on_stop",
    "auto_create",
    "password_file",
    "properties",
];

/// Where the properties of librdkafka are described.
const REFERENCE: &str = "all properties: https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md";

/// How Kafka is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kafka {
    /// Brokers to ask first.
    pub bootstrap: Bootstrap,
    /// The name of this host, when someone chose it.
    pub node_id: Option<NodeId>,
    /// What to optimise for.
    pub profile: Profile,
    /// Copies of each partition of the topics that are made.
    pub replication: i32,
    /// Largest record of the topics that are made.
    pub max_record_bytes: Bytes,
    /// How often what was delivered is committed.
    pub commit_every: Duration,
    /// How long a transaction may collect deliveries.
    pub transaction: Duration,
    /// Whether a host that stops leaves its groups.
    pub leave_on_stop: bool,
    /// Whether a host makes topics that are not there.
    pub auto_create: bool,
    /// Properties of librdkafka, the password among them.
    pub properties: Properties,
}

impl Kafka {
    /// The options of the log, for a host or a tool of this name.
    pub fn options(&self, node_id: &str) -> kafka::Options {
        kafka::Options {
            profile: match self.profile {
                Profile::LowLatency => kafka::Profile::LowLatency,
                Profile::Throughput => kafka::Profile::Throughput,
            },
            replication: self.replication,
            max_record_bytes: self.max_record_bytes.0,
            commit_every: self.commit_every,
            transaction: self.transaction,
            leave_on_stop: self.leave_on_stop,
            properties: self.properties.0.clone(),
            ..kafka::Options::new(self.bootstrap.0.clone(), node_id)
        }
    }
}

/// Properties by name. Passwords among them stay out of logs.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Properties(pub BTreeMap<String, String>);

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |(name, value): (&String, &String)| {
            (name.clone(), if is_secret(name) { "***".to_owned() } else { value.clone() })
        };
        f.debug_map().entries(self.0.iter().map(shown)).finish()
    }
}

words! {
    /// What to optimise for.
    pub Profile, "\"low-latency\" or \"throughput\"",
    /// Events are sent on as soon as they are judged.
    LowLatency = "low-latency",
    /// Waits some milliseconds for larger batches.
    Throughput = "throughput",
}

/// Brokers: `host:port,host:port`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bootstrap(pub String);

impl Setting for Bootstrap {
    const EXPECTED: &'static str = "brokers such as \"kafka-1:9092,kafka-2:9092\"";

    fn read(value: &Value) -> Result<Self, String> {
        let text = text(value, Self::EXPECTED)?;
        let brokers: Vec<&str> = text.split(',').map(str::trim).collect();
        match brokers.iter().find(|broker| !is_broker(broker)) {
            Some(wrong) => Err(format!("expected {}, `{wrong}` is not host:port", Self::EXPECTED)),
            None => Ok(Self(brokers.join(","))),
        }
    }

    fn show(&self) -> String {
        self.0.show()
    }
}

/// `name:port`, `1.2.3.4:port` or `[::1]:port`.
fn is_broker(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let is_name = |host: &str| {
        !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
    };
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_name(host),
    };
    is_host && port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// The name of a host in groups and transactions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeId(pub String);

impl NodeId {
    /// Longest name: with what is added to it, a group instance id stays below Kafka's 249.
    pub const LONGEST: usize = 64;

    /// Whether a name may hold this byte.
    pub fn takes(byte: u8) -> bool {
        byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
    }
}

impl Setting for NodeId {
    const EXPECTED: &'static str = "a name of 1 to 64 letters, digits, `.`, `_`, `-`";

    fn read(value: &Value) -> Result<Self, String> {
        let text = text(value, Self::EXPECTED)?;
        match (1..=Self::LONGEST).contains(&text.len()) && text.bytes().all(Self::takes) {
            true => Ok(Self(text.to_owned())),
            false => Err(format!("expected {}, this is `{text}`", Self::EXPECTED)),
        }
    }

    fn show(&self) -> String {
        self.0.show()
    }
}

pub(super) fn read(reader: &mut Reader, section: &mut Section<'_>) -> Kafka {
    let bootstrap = section.required::<Bootstrap>(reader, "bootstrap").unwrap_or_default();
    let node_id = section.optional::<NodeId>(reader, "node_id");
    if node_id.is_none() {
        section.derived(reader, "node_id", "# made at the first start, kept in the data folder".to_owned());
    }
    let mut log = Kafka {
        bootstrap,
        node_id,
        profile: section.or(reader, "profile", Profile::LowLatency),
        replication: i32::try_from(section.or(reader, "replication", 1_u32)).unwrap_or(i32::MAX),
        max_record_bytes: section.or(reader, "max_record_bytes", Bytes(1 << 20)),
        commit_every: section.or(reader, "commit_every", Duration::from_secs(1)),
        transaction: section.or(reader, "transaction", Duration::from_millis(100)),
        leave_on_stop: section.or(reader, "leave_on_stop", true),
        auto_create: section.or(reader, "auto_create", false),
        properties: Properties::default(),
    };
    check_bounds(reader, section, &log);
    let password = read_password(reader, section);
    let given = section.properties(reader, "properties");
    for (index, property) in given.iter().enumerate() {
        if given.iter().skip(index + 1).any(|later| later.name == property.name) {
            continue;
        }
        let key = property.name.clone().show();
        let value = if is_secret(&property.name) { MASK.to_owned() } else { property.value.clone().show() };
        let header = format!("[{}]", section.path_of("properties"));
        reader.effective.push(Effective { header, key, value: Some(value), origin: property.origin.clone() });
    }
    for property in &given {
        let twin = given.iter().find(|other| other.name == property.name && other.path != property.path);
        let is_override = matches!(property.origin, super::Origin::Env(_));
        if let Some(twin) = twin.filter(|twin| !is_override && !matches!(twin.origin, super::Origin::Env(_))) {
            let message = format!("stands twice: also as {}", twin.path);
            reader.problems.push(Problem::new(&property.origin, property.path.clone(), message));
        }
        log.properties.0.insert(property.name.clone(), property.value.clone());
    }
    if let Some(password) = password {
        let message = "is given twice: by this file and by `sasl.password`";
        if log.properties.0.insert(PASSWORD.to_owned(), password).is_some() {
            reader.problems.push(section.problem("password_file", message));
        }
    }
    check_properties(reader, section, &log, &given);
    log
}

/// The property that `password_file` fills.
const PASSWORD: &str = "sasl.password";

/// Whether a property must not be shown.
fn is_secret(name: &str) -> bool {
    ["password", "secret", "passphrase", "key.pem", "oauthbearer.config"].iter().any(|part| name.contains(part))
}

fn check_bounds(reader: &mut Reader, section: &Section<'_>, log: &Kafka) {
    /// What librdkafka takes as `message.max.bytes`.
    const RECORD: std::ops::RangeInclusive<u64> = 1_000..=1_000_000_000;
    /// Oftener costs the broker more than it saves anyone; more seldom doubles minutes of work after a crash.
    const COMMIT: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(60);
    /// A shorter one is all overhead; a longer one holds back readers, and comes near the timeout of transactions.
    const TRANSACTION: std::ops::RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(10);
    /// Kafka counts copies in 16 bits; no cluster has a hundred copies.
    const MOST_COPIES: i32 = 100;
    let mut wrong = |key: &str, message: String| reader.problems.push(section.problem(key, message));
    if log.replication > MOST_COPIES {
        wrong("replication", format!("{} copies are more than any cluster has; 3 is usual", log.replication));
    }
    if !RECORD.contains(&log.max_record_bytes.0) {
        wrong("max_record_bytes", format!("{} is not between \"1KB\" and \"1GB\"", log.max_record_bytes.show()));
    }
    if !COMMIT.contains(&log.commit_every) {
        wrong("commit_every", format!("{} is not between \"10ms\" and \"60s\"", log.commit_every.show()));
    }
    if !TRANSACTION.contains(&log.transaction) {
        wrong("transaction", format!("{} is not between \"1ms\" and \"10s\"", log.transaction.show()));
    }
}

fn read_password(reader: &mut Reader, section: &mut Section<'_>) -> Option<String> {
    let path = section.file(reader, "password_file")?;
    let message = match std::fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => return Some(text.trim_end_matches(['\r', '\n']).to_owned()),
        Ok(_) => format!("{} is empty", path.display()),
        Err(error) => format!("cannot read {}: {error}", path.display()),
    };
    reader.problems.push(section.problem("password_file", message));
    None
}

/// Lets librdkafka judge the properties, again without each that it refuses, so that one run tells all problems.
fn check_properties(reader: &mut Reader, section: &Section<'_>, log: &Kafka, given: &[Property]) {
    let mut left = log.clone();
    for property in given {
        if let Some((_, reason)) = kafka::OURS.iter().find(|(ours, _)| *ours == property.name) {
            let message = format!("cannot be set: it {reason}");
            reader.problems.push(Problem::new(&property.origin, property.path.clone(), message));
            left.properties.0.remove(&property.name);
        }
    }
    if left.bootstrap.0.is_empty() {
        // Its absence is told already; any broker does for checking the rest.
        left.bootstrap.0.push_str("localhost:9092");
    }
    while let Err(error) = left.options("check").check() {
        let message = masked(&error.to_string(), &log.properties);
        let is_named =
            |property: &&Property| left.properties.0.contains_key(&property.name) && message.contains(&property.name);
        let Some(guilty) = given.iter().filter(is_named).max_by_key(|property| property.name.len()) else {
            let path = section.path_of("properties");
            reader.problems.push(Problem::new(section.origin(), path, message).help(REFERENCE));
            return;
        };
        reader.problems.push(Problem::new(&guilty.origin, guilty.path.clone(), message.clone()).help(REFERENCE));
        left.properties.0.remove(&guilty.name);
    }
}

/// librdkafka repeats the value that it refuses.
fn masked(message: &str, properties: &Properties) -> String {
    let secrets = properties.0.iter().filter(|(name, value)| is_secret(name) && !value.is_empty());
    secrets.fold(message.to_owned(), |message, (_, value)| message.replace(value.as_str(), "***"))
}
