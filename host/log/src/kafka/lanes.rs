//! The partitions that a consumer reads: a queue each, taken in turn, straight into columns.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use arrow_array::Int64Array;
use phronis_core::records::{HeadersBuilder, Records, RecordsBuilder, TopicName};
use rdkafka::types::RDKafkaErrorCode;

use super::bell::Bell;
use super::client::Consumer;
use super::raw::{Queue, Room, Taken};
use crate::{Error, PollLimits, Result};

/// The place of the consumer's own events on the bell.
const EVENTS: u32 = u32::MAX;

/// The partitions of one consumer.
pub(super) struct Lanes {
    bell: Arc<Bell>,
    lanes: HashMap<u32, Lane>,
    /// Partition → its place on the bell.
    places: HashMap<(TopicName, i32), u32>,
    next_place: u32,
    room: Room,
    headers: HeadersBuilder,
    events: Queue,
    consumer: Arc<Consumer>,
}

/// One partition.
#[derive(Debug)]
struct Lane {
    topic: TopicName,
    partition: i32,
    queue: Queue,
    /// What was taken from the queue and did not fit the limits.
    left: Option<Records>,
    /// What the partition said behind what is left. librdkafka says it once.
    fault: Option<Fault>,
    /// The next offset to be handed out.
    position: i64,
    /// The end of the partition was reached here, behind what is left.
    end: Option<i64>,
    /// Everything up to the end of the partition, as of the last look, was handed out.
    is_at_end: bool,
    /// Its turns are left out; its messages wait where they are.
    is_paused: bool,
}

/// What a turn brings.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "records are what a turn nearly always brings, and are moved once")]
pub(super) enum Turn {
    Records(Records),
    /// A partition was read to its end.
    End,
    /// The consumer has events to serve.
    Events,
    /// Nothing is there now.
    Nothing,
}

impl Lanes {
    pub(super) fn new(consumer: &Arc<Consumer>) -> Result<Self> {
        let bell = Arc::new(Bell::default());
        let client: Arc<dyn super::raw::Client> = Arc::clone(consumer) as _;
        let mut events = Queue::of_consumer(client).ok_or(Error::Closed)?;
        events.ring(Arc::clone(&bell), EVENTS);
        // What happened before the bell hung would never ring.
        bell.ring(EVENTS);
        Ok(Self {
            bell,
            lanes: HashMap::new(),
            places: HashMap::new(),
            next_place: 0,
            room: Room::default(),
            headers: HeadersBuilder::default(),
            events,
            consumer: Arc::clone(consumer),
        })
    }

    /// Whether a partition is open.
    pub(super) fn has(&self, topic: &TopicName, partition: i32) -> bool {
        self.places.contains_key(&(Arc::clone(topic), partition))
    }

    /// Opens a partition, before it is assigned.
    pub(super) fn open(&mut self, topic: &TopicName, partition: i32, position: i64) -> Result<()> {
        self.close(topic, partition);
        let client: Arc<dyn super::raw::Client> = Arc::clone(&self.consumer) as _;
        let mut queue = Queue::of_partition(client, topic, partition)
            .ok_or_else(|| Error::Invalid(format!("there is no queue for {topic}/{partition}")))?;
        let place = self.next_place;
        self.next_place = self.next_place.wrapping_add(1) % EVENTS;
        queue.ring(Arc::clone(&self.bell), place);
        // Messages that came in the meantime have rung for nobody.
        self.bell.ring(place);
        let topic = Arc::clone(topic);
        self.places.insert((Arc::clone(&topic), partition), place);
        let (left, fault, end, is_at_end, is_paused) = (None, None, None, false, false);
        self.lanes.insert(place, Lane { topic, partition, queue, left, fault, position, end, is_at_end, is_paused });
        Ok(())
    }

    /// Opens a partition of this consumer anew; one that is paused stays so.
    pub(super) fn reopen(&mut self, topic: &TopicName, partition: i32, position: i64) -> Result<()> {
        let place = self.places.get(&(Arc::clone(topic), partition));
        let is_paused = place.and_then(|place| self.lanes.get(place)).is_some_and(|lane| lane.is_paused);
        self.open(topic, partition, position)?;
        self.pause(topic, partition, is_paused);
        Ok(())
    }

    /// Forgets a partition.
    pub(super) fn close(&mut self, topic: &str, partition: i32) {
        let found = self.places.keys().find(|(name, number)| &**name == topic && *number == partition).cloned();
        if let Some(place) = found.and_then(|key| self.places.remove(&key)) {
            self.lanes.remove(&place);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Goes elsewhere; what was taken ahead is forgotten. librdkafka drops what it had queued at the seek.
    pub(super) fn moved(&mut self, topic: &str, partition: i32, position: i64) {
        for lane in self.lanes.values_mut() {
            if &*lane.topic == topic && lane.partition == partition {
                (lane.left, lane.fault, lane.end) = (None, None, None);
                lane.position = position;
                lane.is_at_end = false;
            }
        }
    }

    /// Leaves out a partition's turns, or not any more.
    pub(super) fn pause(&mut self, topic: &str, partition: i32, is_paused: bool) {
        for (place, lane) in &mut self.lanes {
            if &*lane.topic == topic && lane.partition == partition {
                lane.is_paused = is_paused;
                // What rang meanwhile has rung for nobody.
                self.bell.ring(*place);
            }
        }
    }

    /// Where the only partition is: the next offset, and whether that is its end.
    pub(super) fn only(&self) -> (i64, bool) {
        self.lanes.values().next().map_or((0, true), |lane| (lane.position, lane.is_at_end))
    }

    /// Events that wait to be served.
    pub(super) fn events(&self) -> usize {
        self.events.len()
    }

    /// Waits until something is there; false when the time is up.
    pub(super) fn wait(&self, until: Instant) -> bool {
        self.bell.wait(until)
    }

    /// Says that there is something to look at.
    pub(super) fn ring_events(&self) {
        self.bell.ring(EVENTS);
    }

    /// The next batch, of the partition whose turn it is.
    ///
    /// # Errors
    /// What a partition says of itself, after the messages that came before it.
    pub(super) fn turn(&mut self, limits: PollLimits) -> Result<Turn> {
        while let Some(place) = self.bell.take() {
            if place == EVENTS {
                return Ok(Turn::Events);
            }
            let Some(lane) = self.lanes.get_mut(&place).filter(|lane| !lane.is_paused) else { continue };
            let taken = lane.take(&mut self.room, &mut self.headers, limits);
            if lane.left.is_some() || lane.fault.is_some() || lane.queue.len() > 0 {
                self.bell.ring(place);
            }
            if let Some(records) = taken? {
                return Ok(Turn::Records(records));
            }
            if lane.is_at_end {
                return Ok(Turn::End);
            }
        }
        Ok(Turn::Nothing)
    }
}

impl Lane {
    fn take(&mut self, room: &mut Room, headers: &mut HeadersBuilder, limits: PollLimits) -> Result<Option<Records>> {
        let collected = match (self.left.take(), self.fault.take()) {
            (Some(records), fault) => {
                self.fault = fault;
                Some(records)
            }
            (None, Some(fault)) => return Err(self.error(fault)),
            (None, None) => self.collect(room, headers, limits)?,
        };
        let records = collected.map(|records| {
            let fits = fitting(&records, limits);
            self.left = (fits < records.len()).then(|| records.slice(fits, records.len() - fits));
            records.slice(0, fits)
        });
        if let Some(next) = records.as_ref().and_then(Records::next_offset) {
            self.position = self.position.max(next);
            self.is_at_end = false;
        }
        if self.left.is_none()
            && let Some(end) = self.end.take()
        {
            self.position = self.position.max(end);
            self.is_at_end = true;
        }
        Ok(records)
    }

    /// Messages from the queue as columns: about as many as the limits allow, perhaps some more.
    fn collect(
        &mut self,
        room: &mut Room,
        headers: &mut HeadersBuilder,
        limits: PollLimits,
    ) -> Result<Option<Records>> {
        let there = self.queue.len().min(limits.records);
        let mut batch = Batch::with_capacity(there);
        let mut fault = None;
        while batch.offsets.len() < limits.records && batch.bytes < limits.bytes {
            let taken = self.queue.take(room, limits.records - batch.offsets.len());
            if taken.len() == 0 {
                break;
            }
            fault = batch.add(&taken, headers);
            if fault.is_some() {
                break;
            }
        }
        let records = batch.finish(&self.topic, self.partition);
        match fault {
            None => {}
            Some(Fault { code: RDKafkaErrorCode::PartitionEOF, offset, .. }) => {
                self.end = Some(offset);
            }
            Some(fault) if records.is_none() => return Err(self.error(fault)),
            // What came before it is good. Whoever hears of the fault hears nothing more of this partition.
            Some(fault) => self.fault = Some(fault),
        }
        Ok(records)
    }

    fn error(&self, fault: Fault) -> Error {
        let topic = self.topic.to_string();
        match fault.code {
            RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange => Error::OutOfRange {
                topic,
                partition: self.partition,
                offset: if fault.offset >= 0 { fault.offset } else { self.position },
                earliest: -1,
                latest: -1,
            },
            RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => Error::UnknownTopic(topic),
            code => Error::Failed {
                doing: format!("reading {topic}/{}: {}", self.partition, fault.text),
                source: Arc::new(rdkafka::error::KafkaError::MessageConsumption(code)),
            },
        }
    }
}

/// What a partition said instead of a message.
#[derive(Debug)]
struct Fault {
    code: RDKafkaErrorCode,
    offset: i64,
    text: String,
}

/// Columns in the making.
struct Batch {
    offsets: Vec<i64>,
    body: RecordsBuilder,
    bytes: usize,
}

impl Batch {
    fn with_capacity(records: usize) -> Self {
        let body = RecordsBuilder::with_capacity(records, records.saturating_mul(96));
        Self { offsets: Vec::with_capacity(records), body, bytes: 0 }
    }

    fn add(&mut self, taken: &Taken<'_>, headers: &mut HeadersBuilder) -> Option<Fault> {
        let mut fault = None;
        for message in taken.iter() {
            if let Some(code) = message.error() {
                let text = String::from_utf8_lossy(message.value().unwrap_or_default()).into_owned();
                // The end of the partition is no news when more messages follow it.
                fault = Some(Fault { code, offset: message.offset(), text });
                continue;
            }
            if fault.as_ref().is_some_and(|fault| fault.code == RDKafkaErrorCode::PartitionEOF) {
                fault = None;
            }
            headers.clear();
            message.headers(headers);
            let (key, value) = (message.key(), message.value());
            self.bytes += key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len) + headers.as_bytes().len();
            self.offsets.push(message.offset());
            self.body.push(message.timestamp().unwrap_or(0), key, value, headers.as_bytes());
        }
        fault
    }

    fn finish(self, topic: &TopicName, partition: i32) -> Option<Records> {
        (!self.offsets.is_empty()).then(|| Records {
            topic: Arc::clone(topic),
            partition,
            offsets: Int64Array::from(self.offsets),
            body: self.body.finish(),
        })
    }
}

/// How many of these records fit the limits; at least one.
fn fitting(records: &Records, limits: PollLimits) -> usize {
    let most = records.len().min(limits.records.max(1));
    if records.slice(0, most).body.bytes() <= limits.bytes {
        return most;
    }
    let (mut fits, mut beyond) = (1, most);
    while beyond - fits > 1 {
        let middle = fits.midpoint(beyond);
        if records.slice(0, middle).body.bytes() <= limits.bytes { fits = middle } else { beyond = middle }
    }
    fits
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use phronis_core::delivery::{Append, Delivery};
    use rdkafka::consumer::Consumer as _;
    use rdkafka::mocking::MockCluster;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::super::client::Clients;
    use super::super::member::list;
    use super::*;
    use crate::Log as _;
    use crate::kafka::{Log, Options};

    #[test]
    fn what_a_partition_says_of_itself_comes_after_the_records_before_it() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("t", 1, 1).unwrap();
        let options = Options::new(cluster.bootstrap_servers(), "a");
        let log = Log::open(options.clone()).unwrap();
        let mut records = RecordsBuilder::default();
        (0..3).for_each(|_| records.push(0, None, Some(b"good"), &[]));
        let append = Append { topic: "t".into(), partition: 0, records: records.finish() };
        let delivery = Delivery { appends: vec![append], commits: Vec::new() };
        log.sink().unwrap().submit(delivery).unwrap().wait().unwrap();

        let consumer = Arc::new(Clients::new(options).reader(true).unwrap());
        let mut lanes = Lanes::new(&consumer).unwrap();
        let topic: TopicName = "t".into();
        lanes.open(&topic, 0, 0).unwrap();
        consumer.incremental_assign(&list(&[(topic, 0, 0)]).unwrap()).unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        // The records are there, and then what a broker says that has lost its end.
        while lanes.lanes.values().map(|lane| lane.queue.len()).sum::<usize>() < 4 {
            assert!(Instant::now() < until, "the records never come");
            drop(consumer.poll(Duration::from_millis(1)));
        }
        let gone = RDKafkaRespErr::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE;
        cluster.request_errors(RDKafkaApiKey::Fetch, &[gone]);

        let mut told: Vec<String> = Vec::new();
        // The limits cut in two what is taken at once: what is left comes before the fault, too.
        let limits = PollLimits { records: 10, bytes: 2 * b"good".len() };
        while told.last().is_none_or(|last| !last.starts_with("out of range")) {
            assert!(Instant::now() < until, "only {told:?}");
            match lanes.turn(limits) {
                Ok(Turn::Records(records)) => told.push(format!("{} records", records.len())),
                Err(Error::OutOfRange { offset, .. }) => told.push(format!("out of range at {offset}")),
                Ok(Turn::Events | Turn::End | Turn::Nothing) => drop(consumer.poll(Duration::from_millis(1))),
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(told, ["2 records", "1 records", "out of range at 3"]);
        log.close();
    }
}
