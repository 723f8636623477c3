//! A steady producer beside the hosts: each key a strict sequence, each record once, whatever happens to the broker.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use rdkafka::{ClientConfig, ClientContext, Message as _};

/// How long the broker may be away before a record counts as lost.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is written.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Decides everything that looks like chance.
    pub seed: u64,
    /// What the names of keys begin with.
    pub name: char,
    /// Keys; each has a running number.
    pub keys: u32,
    /// Events a second; 0 is as fast as the broker takes them.
    pub rate: u32,
    /// Ends by itself after so many.
    pub most: u64,
}

impl Load {
    /// What a host on a small machine takes easily.
    pub fn new(seed: u64) -> Self {
        Self { seed, name: 'K', keys: 40, rate: 1500, most: u64::MAX }
    }
}

/// What was written.
#[derive(Debug, Clone, Default)]
pub struct Written {
    /// Records that are acknowledged.
    pub sent: u64,
    /// Where they are: partition, first offset, count.
    pub acknowledged: Vec<(i32, i64, u64)>,
    /// Why others are not there, for each.
    pub refused: Vec<String>,
}

impl Written {
    /// This and what another producer wrote.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.sent += other.sent;
        self.acknowledged.extend(other.acknowledged);
        self.refused.extend(other.refused);
        self
    }

    /// # Errors
    /// When a record was refused.
    fn whole(self) -> anyhow::Result<Self> {
        match self.refused.first() {
            None => Ok(self),
            Some(first) => bail!("{} records beside {} were not written: {first}", self.refused.len(), self.sent),
        }
    }
}

/// A producer at work. Dropping it ends it.
#[derive(Debug)]
pub struct Writer {
    should_stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<anyhow::Result<Written>>>,
}

impl Writer {
    pub(super) fn start(bootstrap: &str, topic: &str, load: Load) -> anyhow::Result<Self> {
        let config = [
            ("bootstrap.servers", bootstrap),
            // As the Java client chooses.
            ("partitioner", "murmur2_random"),
            // Each record once, in order, also over a broker that is killed.
            ("enable.idempotence", "true"),
            ("message.timeout.ms", "0"),
            ("compression.codec", "lz4"),
            ("linger.ms", "2"),
        ];
        let config: ClientConfig = config.map(|(key, value)| (key.to_owned(), value.to_owned())).into_iter().collect();
        let producer: BaseProducer<Fates> = config.create_with_context(Fates::default())?;
        let (should_stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stop, count, topic) = (Arc::clone(&should_stop), Arc::clone(&sent), topic.to_owned());
        let thread = std::thread::spawn(move || {
            let total = write(&producer, &topic, load, &stop, &count)?;
            producer.flush(PATIENCE).context("the last records were not acknowledged")?;
            producer.context().written(total)
        });
        Ok(Self { should_stop, sent, thread: Some(thread) })
    }

    /// Records so far; the last ones may be under way.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Waits until so many more records were handed to the producer.
    ///
    /// # Errors
    /// When the producer cannot go on for a long time.
    pub fn writes(&self, more: u64) -> anyhow::Result<()> {
        let (goal, until) = (self.sent() + more, Instant::now() + PATIENCE);
        while self.sent() < goal && !self.thread.as_ref().is_some_and(JoinHandle::is_finished) {
            anyhow::ensure!(Instant::now() < until, "the producer stands still at {}, not {goal}", self.sent());
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Ends it, and waits until all is acknowledged.
    ///
    /// # Errors
    /// When a record was not.
    pub fn stop(self) -> anyhow::Result<Written> {
        self.stop_with_refusals()?.whole()
    }

    /// Ends it, and waits until it is known of each record what became of it. A broker with a full disk refuses some for good.
    ///
    /// # Errors
    /// When that does not become known.
    pub fn stop_with_refusals(mut self) -> anyhow::Result<Written> {
        self.should_stop.store(true, Ordering::Relaxed);
        self.join()
    }

    /// Waits until it has written all that it should.
    ///
    /// # Errors
    /// When a record was not acknowledged.
    pub fn finish(mut self) -> anyhow::Result<Written> {
        self.join()?.whole()
    }

    fn join(&mut self) -> anyhow::Result<Written> {
        let thread = self.thread.take().context("a producer")?;
        thread.join().map_err(|_| anyhow::anyhow!("the producer panicked"))?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.should_stop.store(true, Ordering::Relaxed);
    }
}

fn write(
    producer: &BaseProducer<Fates>,
    topic: &str,
    load: Load,
    should_stop: &AtomicBool,
    count: &AtomicU64,
) -> anyhow::Result<u64> {
    let mut chance = StdRng::seed_from_u64(load.seed);
    let mut seqs = vec![0_u64; usize::try_from(load.keys)?];
    let begun = Instant::now();
    let mut total = 0;
    while total < load.most && !should_stop.load(Ordering::Relaxed) {
        let due = match load.rate {
            0 => u64::MAX,
            rate => u64::try_from(begun.elapsed().as_millis())? * u64::from(rate) / 1000,
        };
        // Behind by much, after the broker was away: not all at once.
        let until = due.min(total + 500).min(load.most);
        while total < until {
            let key = chance.random_range(0..seqs.len());
            let seq = seqs.get_mut(key).context("a key")?;
            let key = format!("{}{key}", load.name);
            let value = event(&mut chance, &key, *seq);
            send(producer, topic, &key, &value)?;
            *seq += 1;
            total += 1;
        }
        count.store(total, Ordering::Relaxed);
        producer.poll(if load.rate == 0 { Duration::ZERO } else { Duration::from_millis(5) });
    }
    Ok(total)
}

/// One in a hundred is malformed, one in a hundred is above the limit.
fn event(chance: &mut StdRng, key: &str, seq: u64) -> String {
    let value = match chance.random_range(0..100) {
        0 => "\"broken\"".to_owned(),
        1 => format!("{:.1}", chance.random_range(95.0..120.0)),
        _ => format!("{:.1}", chance.random_range(10.0..70.0)),
    };
    format!("{{\"sensor_id\":\"{key}\",\"seq\":{seq},\"value\":{value}}}")
}

fn send(producer: &BaseProducer<Fates>, topic: &str, key: &str, value: &str) -> anyhow::Result<()> {
    let mut record = BaseRecord::to(topic).key(key).payload(value);
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                record = back;
                producer.poll(Duration::from_millis(10));
            }
            Err((error, _)) => bail!("writing to {topic}: {error}"),
        }
    }
}

/// What became of the records.
#[derive(Default)]
struct Fates(Mutex<Told>);

/// Where records are, and why others are nowhere.
type Told = (Vec<(i32, i64)>, Vec<String>);

impl Fates {
    fn written(&self, sent: u64) -> anyhow::Result<Written> {
        let fates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (places, failures) = &*fates;
        let (taken, refused) = (places.len() as u64, failures.len() as u64);
        anyhow::ensure!(
            taken + refused == sent,
            "it is known of {taken} and {refused} of {sent} records what became of them"
        );
        let mut places = places.clone();
        places.sort_unstable();
        let mut acknowledged: Vec<(i32, i64, u64)> = Vec::new();
        for (partition, offset) in places {
            match acknowledged.last_mut() {
                Some((p, first, count)) if *p == partition && *first + i64::try_from(*count)? == offset => *count += 1,
                _ => acknowledged.push((partition, offset, 1)),
            }
        }
        Ok(Written { sent: taken, acknowledged, refused: failures.clone() })
    }
}

impl ClientContext for Fates {}

impl ProducerContext for Fates {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let mut fates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(message) => fates.0.push((message.partition(), message.offset())),
            Err((error, _)) => fates.1.push(error.to_string()),
        }
    }
}
