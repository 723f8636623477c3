//! A plain producer: each record durable when the call returns.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::bail;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use rdkafka::{ClientConfig, ClientContext};

use crate::host::PATIENCE;

/// A record to be written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewRecord {
    /// Its key; it says the partition unless one is given.
    pub key: Option<Vec<u8>>,
    /// Its value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// Its headers.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Milliseconds since 1970; `None` is now.
    pub timestamp: Option<i64>,
    /// Where it goes, whatever its key.
    pub partition: Option<i32>,
}

impl<K: AsRef<[u8]>, V: AsRef<[u8]>> From<(K, V)> for NewRecord {
    fn from((key, value): (K, V)) -> Self {
        Self { key: Some(key.as_ref().to_vec()), value: Some(value.as_ref().to_vec()), ..Self::default() }
    }
}

/// Writes records in their order, to the partitions that the Java client would choose; returns how many.
/// Where an answer gets lost (a cut, a killed broker), a record may stand there twice.
///
/// # Errors
/// When one of them was not acknowledged.
pub fn produce<R: Into<NewRecord>>(
    bootstrap: &str,
    topic: &str,
    records: impl IntoIterator<Item = R>,
) -> anyhow::Result<u64> {
    let config = [
        ("bootstrap.servers", bootstrap),
        ("partitioner", "murmur2_random"),
        // An idempotent producer waits half a second for its id; one request at a time keeps the order too.
        ("enable.idempotence", "false"),
        ("max.in.flight.requests.per.connection", "1"),
        ("acks", "all"),
        ("compression.codec", "lz4"),
        ("linger.ms", "2"),
        ("message.timeout.ms", "60000"),
    ];
    let config: ClientConfig = config.map(|(key, value)| (key.to_owned(), value.to_owned())).into_iter().collect();
    let producer: BaseProducer<Failures> = config.create_with_context(Failures::default())?;
    let mut count = 0;
    for record in records {
        let record = record.into();
        send(&producer, topic, &record)?;
        count += 1;
        producer.poll(Duration::ZERO);
    }
    producer.flush(PATIENCE)?;
    let failures = producer.context().0.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(first) = failures.first() {
        bail!("{} of {count} records were not written to {topic}: {first}", failures.len());
    }
    Ok(count)
}

fn send(producer: &BaseProducer<Failures>, topic: &str, record: &NewRecord) -> anyhow::Result<()> {
    let mut message = BaseRecord::<[u8], [u8]>::to(topic);
    message.key = record.key.as_deref();
    message.payload = record.value.as_deref();
    message.timestamp = record.timestamp;
    message.partition = record.partition;
    if !record.headers.is_empty() {
        let headers = OwnedHeaders::new_with_capacity(record.headers.len());
        let add = |all: OwnedHeaders, (key, value): &(String, Vec<u8>)| all.insert(Header { key, value: Some(value) });
        message.headers = Some(record.headers.iter().fold(headers, add));
    }
    loop {
        match producer.send(message) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                message = back;
                producer.poll(Duration::from_millis(10));
            }
            Err((error, _)) => bail!("writing to {topic}: {error}"),
        }
    }
}

/// What was not acknowledged, and why.
#[derive(Default)]
struct Failures(Mutex<Vec<String>>);

impl ClientContext for Failures {}

impl ProducerContext for Failures {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(error.to_string());
        }
    }
}
