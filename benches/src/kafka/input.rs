//! The seeded input: about 74 bytes of JSON an event, 1 % cut short, 1 % above 99, each event with a second of its own.
//!
//! An event follows from its number alone, so the reader knows what must have become of it.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};

/// Keys.
pub(crate) const SENSORS: u64 = 1000;
/// 2026-01-01T00:00:00Z in seconds since 1970: the time of the event number 0.
const START: i64 = 1_767_225_600;
/// How long the last records may take to become durable.
const PATIENCE: Duration = Duration::from_secs(120);

/// One event.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Event {
    nth: u64,
    /// Who measured.
    pub(crate) sensor: u64,
    /// What was measured, in hundredths: 0 to 9 999.
    pub(crate) hundredths: u64,
    /// Cut short: no JSON.
    pub(crate) is_malformed: bool,
    noise: u64,
}

impl Event {
    /// The event of this number, the same at each run.
    pub(crate) fn new(nth: u64) -> Self {
        let noise = mixed(nth);
        Self {
            nth,
            sensor: noise % SENSORS,
            hundredths: (noise >> 16) % 10_000,
            is_malformed: (noise >> 32).is_multiple_of(100),
            noise,
        }
    }

    /// Above 99: an alert is due.
    pub(crate) fn is_hot(&self) -> bool {
        self.hundredths > 9_900
    }

    /// The grade that is due.
    pub(crate) fn severity(&self) -> &'static str {
        if self.hundredths > 9_000 { "warning" } else { "ok" }
    }

    fn write(&self, json: &mut String) -> Result<()> {
        json.clear();
        let ts = jiff::Timestamp::from_second(START + i64::try_from(self.nth)?)?;
        let (whole, rest) = (self.hundredths / 100, self.hundredths % 100);
        write!(json, r#"{{"sensor_id":"s{:04}","value":{whole}.{rest:02},"ts":"{ts}","unit":"C"}}"#, self.sensor)?;
        if self.is_malformed {
            // At least the first character stays, at least the last is lost.
            let longest = u64::try_from(json.len())? - 1;
            json.truncate(usize::try_from(1 + (self.noise >> 48) % longest)?);
        }
        Ok(())
    }
}

/// The number of the event with this time.
pub(crate) fn number_of(ts: &str) -> Result<u64> {
    let at: jiff::Timestamp = ts.parse().with_context(|| format!("`{ts}` is no time of an event"))?;
    u64::try_from(at.as_second() - START).with_context(|| format!("`{ts}` is before the first event"))
}

/// Writes the first `count` events, in their order, the partition by the key as the Java client does it.
pub(crate) fn load(bootstrap: &str, topic: &str, count: u64) -> Result<()> {
    let producer = producer(bootstrap, "20")?;
    let (mut key, mut json) = (String::new(), String::new());
    for nth in 0..count {
        let event = Event::new(nth);
        key.clear();
        write!(key, "s{:04}", event.sensor)?;
        event.write(&mut json)?;
        send(&producer, topic, &key, &json)?;
    }
    producer.flush(PATIENCE)?;
    Ok(())
}

/// A producer of ordered, durable, compressed records, which waits this long for company.
pub(crate) fn producer(bootstrap: &str, linger_ms: &str) -> Result<ThreadedProducer<DefaultProducerContext>> {
    let config = [
        ("bootstrap.servers", bootstrap),
        ("partitioner", "murmur2_random"),
        ("compression.codec", "lz4"),
        ("acks", "all"),
        ("enable.idempotence", "true"),
        ("linger.ms", linger_ms),
        ("batch.size", "131072"),
        ("queue.buffering.max.messages", "500000"),
    ];
    let config: ClientConfig = config.map(|(key, value)| (key.to_owned(), value.to_owned())).into_iter().collect();
    Ok(config.create()?)
}

/// Hands a record to the client; waits while its queue is full.
pub(crate) fn send(
    producer: &ThreadedProducer<DefaultProducerContext>,
    topic: &str,
    key: &str,
    value: &str,
) -> Result<()> {
    let mut record = BaseRecord::to(topic).key(key).payload(value);
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                record = back;
                std::thread::sleep(Duration::from_millis(5));
            }
            Err((error, _)) => bail!("writing to {topic}: {error}"),
        }
    }
}

/// SplitMix64, by Steele, Lea and Flood (2014): eight lines that no new version of a crate can change under old figures.
fn mixed(nth: u64) -> u64 {
    const SEED: u64 = 42;
    let mut z = nth.wrapping_add(SEED).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
