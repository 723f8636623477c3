//! The thread that sends: deliveries in their order, their fate, and the offsets that follow from it.
//!
//! At least once, a delivery is done when every record is acknowledged, and offsets follow every second and whenever partitions move.
//! Exactly once, deliveries are collected into a transaction for as long as more are there, and their offsets are part of it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use phronis_core::delivery::{Append, Delivery, Receipt};
use phronis_core::records::TopicName;
use rdkafka::ClientContext as _;
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::producer::{Producer as _, PurgeConfig};
use rdkafka::types::RDKafkaErrorCode;

use super::asker::Asker;
use super::bell::Bell;
use super::client::{Clients, Consumer, Producer, failed};
use super::jobs::{Job, Jobs};
use super::member::{Inbox, list};
use super::progress::Step;
use super::raw::{self, Queue, Tally};
use super::transaction::Transactions;
use crate::{Error, Result, Sink, Ticket};

/// How long a sink that is closed goes on with what it took.
const CLOSE: Duration = Duration::from_secs(10);

/// How long reports are waited for while librdkafka's queue is full.
const FULL: Duration = Duration::from_millis(10);

/// What a topic was heard to take is asked again after a refusal, when it is older than this.
const HEARD: Duration = Duration::from_secs(1);

/// How long the thread sleeps when nothing rings.
const NAP: Duration = Duration::from_millis(100);

/// A way in, with the thread behind it.
#[derive(Debug)]
pub(super) struct Entry {
    jobs: Arc<Jobs>,
    inbox: Option<Arc<Inbox>>,
    clients: Arc<Clients>,
    thread: Option<JoinHandle<()>>,
}

/// What a group's member needs of its sink, and the other way round.
pub(super) struct Membership {
    pub(super) group: Arc<str>,
    pub(super) consumer: Arc<Consumer>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) gate: Arc<Gate>,
    /// Names the transactions, where there are any.
    pub(super) transactional_id: Option<String>,
}

impl Entry {
    pub(super) fn new(clients: &Arc<Clients>, asker: &Arc<Asker>, member: Option<Membership>) -> Result<Self> {
        let jobs = Arc::new(Jobs::default());
        let inbox = member.as_ref().map(|member| Arc::clone(&member.inbox));
        let writer = Writer::new(Arc::clone(clients), Arc::clone(asker), Arc::clone(&jobs), member)?;
        let thread = std::thread::Builder::new()
            .name("kafka-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(|source| Error::Failed { doing: "starting a writer".to_owned(), source: Arc::new(source) })?;
        Ok(Self { jobs, inbox, clients: Arc::clone(clients), thread: Some(thread) })
    }

    fn job(&self, delivery: Delivery) -> Result<(Job, Ticket)> {
        let mut steps = Vec::with_capacity(delivery.commits.len());
        for commit in &delivery.commits {
            let Some(inbox) = &self.inbox else {
                return Err(Error::Invalid(format!("only a member of group {} may commit for it", commit.group)));
            };
            steps.push(inbox.progress.submit(commit)?);
        }
        let (answer, ticket) = Ticket::new();
        Ok((Job::new(delivery, steps, answer), ticket))
    }
}

impl Sink for Entry {
    fn submit(&self, delivery: Delivery) -> Result<Ticket> {
        let (job, ticket) = self.job(delivery)?;
        self.jobs.push(job)?;
        Ok(ticket)
    }

    fn try_submit(&self, delivery: Delivery) -> Result<Ticket> {
        self.clients.health.check()?;
        self.jobs.has_room(&delivery)?;
        let (job, ticket) = self.job(delivery)?;
        self.jobs.try_push(job)?;
        Ok(ticket)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.jobs.close();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("a writer of the log panicked; what it had not answered is not written");
        }
    }
}

/// Clones of one way in.
#[derive(Debug, Clone)]
pub(super) struct Shared(pub(super) Arc<Entry>);

impl Sink for Shared {
    fn submit(&self, delivery: Delivery) -> Result<Ticket> {
        self.0.submit(delivery)
    }

    fn try_submit(&self, delivery: Delivery) -> Result<Ticket> {
        self.0.try_submit(delivery)
    }
}

/// Whether transactions of an earlier life of this member are out of the way.
#[derive(Debug)]
pub(super) struct Gate {
    is_transactional: bool,
    state: Mutex<std::result::Result<(), Option<Error>>>,
    changed: Condvar,
}

impl Gate {
    pub(super) fn new(is_transactional: bool) -> Arc<Self> {
        let state = if is_transactional { Err(None) } else { Ok(()) };
        Arc::new(Self { is_transactional, state: Mutex::new(state), changed: Condvar::new() })
    }

    pub(super) fn is_transactional(&self) -> bool {
        self.is_transactional
    }

    /// Waits until they are.
    pub(super) fn wait(&self, within: Duration) -> Result<()> {
        let until = Instant::now() + within;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while let Err(error) = &*state {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let late = || Error::Unreachable { reason: "transactions are not ready yet".to_owned() };
                return Err(error.clone().unwrap_or_else(late));
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    pub(super) fn set(&self, state: Result<()>) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state.map_err(Some);
        self.changed.notify_all();
    }
}

/// A delivery that was handed to librdkafka.
pub(super) struct Sent {
    job: Job,
    tallies: Vec<Arc<Tally>>,
    /// Why it cannot be taken, known before anything was sent.
    refusal: Option<Error>,
}

impl Sent {
    fn is_done(&self) -> bool {
        self.tallies.iter().all(|tally| tally.is_done())
    }

    /// Records that it leaves behind.
    pub(super) fn records(&self) -> usize {
        self.job.delivery.appends.iter().map(|append| append.records.len()).sum()
    }

    pub(super) fn steps(&self) -> &[Step] {
        &self.job.steps
    }

    /// What went wrong first with it.
    pub(super) fn failure(&self) -> Option<Error> {
        self.failures().next()
    }

    /// What went wrong first with the records of each of its partitions.
    pub(super) fn failures(&self) -> impl Iterator<Item = Error> {
        let of_records =
            |(tally, append): (&Arc<Tally>, &Append)| tally.failure().map(|error| record_failed(&append.topic, error));
        let of_records = self.tallies.iter().zip(&self.job.delivery.appends).filter_map(of_records);
        self.refusal.clone().into_iter().chain(of_records)
    }

    fn receipt(&self) -> Receipt {
        Receipt { base_offsets: self.tallies.iter().map(|tally| tally.base_offset()).collect() }
    }
}

/// A librdkafka producer with what belongs to it.
pub(super) struct Outlet {
    topics: HashMap<TopicName, (raw::Topic, i32)>,
    events: Queue,
    pub(super) producer: Arc<Producer>,
    /// Bytes of its batches.
    batch: u64,
}

impl Outlet {
    fn new(producer: Producer, batch: u64, bell: &Arc<Bell>) -> Result<Self> {
        let producer = Arc::new(producer);
        let mut events = Queue::of_events(Arc::clone(&producer) as _).ok_or(Error::Closed)?;
        events.ring(Arc::clone(bell), 0);
        Ok(Self { topics: HashMap::new(), events, producer, batch })
    }

    /// Lets delivery reports come in.
    pub(super) fn serve(&self) {
        self.serve_within(Duration::ZERO);
    }

    /// The same, after a wait for the first.
    fn serve_within(&self, wait: Duration) {
        self.events.serve_reports(wait, |error, reason| self.producer.client().context().error(error, reason));
    }
}

/// The thread.
pub(super) struct Writer {
    clients: Arc<Clients>,
    asker: Arc<Asker>,
    jobs: Arc<Jobs>,
    pub(super) member: Option<Membership>,
    pub(super) outlet: Outlet,
    sent: VecDeque<Sent>,
    committed_at: Instant,
    /// Bytes of a batch that every topic takes, as far as is known.
    batch: u64,
}

impl Writer {
    fn new(clients: Arc<Clients>, asker: Arc<Asker>, jobs: Arc<Jobs>, member: Option<Membership>) -> Result<Self> {
        let batch = clients.batch();
        let outlet = Self::outlet(&clients, &jobs, member.as_ref(), batch)?;
        Ok(Self { clients, asker, jobs, member, outlet, sent: VecDeque::new(), committed_at: Instant::now(), batch })
    }

    fn outlet(clients: &Clients, jobs: &Jobs, member: Option<&Membership>, batch: u64) -> Result<Outlet> {
        let transactional_id = member.and_then(|member| member.transactional_id.as_deref());
        Outlet::new(clients.producer(transactional_id, member.is_some(), batch)?, batch, jobs.bell())
    }

    /// Begins anew with another producer, after an error that this one does not survive.
    pub(super) fn renew(&mut self) -> Result<()> {
        self.outlet = Self::outlet(&self.clients, &self.jobs, self.member.as_ref(), self.batch)?;
        Ok(())
    }

    /// Learns how large a batch a topic takes. librdkafka does not cut one that is refused: its records would be refused
    /// together for ever, although each of them fits.
    pub(super) fn narrow(&mut self, topic: &str, not_older_than: Duration) {
        if let Some(most) = self.asker.most(topic, not_older_than) {
            self.batch = self.batch.min(most.max(1));
        }
    }

    /// The same after a refusal.
    pub(super) fn narrow_after(&mut self, error: &Error) {
        if let Error::TooLarge { topic, .. } = error {
            self.narrow(topic, HEARD);
        }
    }

    /// Whether a topic takes less than this producer's batches: it must be renewed, when nothing is under way.
    pub(super) fn is_too_wide(&self) -> bool {
        self.outlet.batch > self.batch
    }

    fn run(mut self) {
        let mut transactions = self
            .member
            .as_ref()
            .filter(|member| member.gate.is_transactional())
            .map(|member| Transactions::new(Arc::clone(&member.gate), self.clients.options.transaction));
        let mut closing: Option<Instant> = None;
        loop {
            match &mut transactions {
                Some(transactions) => transactions.step(&mut self),
                None => self.step(),
            }
            if self.jobs.is_closed() {
                let since = *closing.get_or_insert_with(Instant::now);
                let is_idle = self.sent.is_empty() && self.jobs.is_empty();
                if is_idle || since.elapsed() > CLOSE {
                    break;
                }
            }
            if self.is_too_wide() || self.jobs.is_empty() {
                self.rest();
            }
        }
        let left = std::mem::take(&mut self.sent);
        left.into_iter().for_each(|sent| self.answer(sent, Err(Error::Closed)));
        while let Some(job) = self.jobs.take() {
            // Who waits learns it; nobody waiting is fine.
            drop(job.answer.send(Err(Error::Closed)));
        }
    }

    /// Waits until something happens.
    pub(super) fn rest(&self) {
        self.jobs.rest(NAP);
        self.outlet.serve();
    }

    /// Without transactions: sends what waits, answers for what is done, commits now and then.
    fn step(&mut self) {
        if let Some((_, reason)) = self.outlet.producer.client().fatal_error() {
            self.replace(&reason);
        }
        if self.is_too_wide()
            && self.sent.is_empty()
            && let Err(error) = self.renew()
        {
            tracing::error!(%error, "no producer can be made");
        }
        while let Some(job) = self.next_job() {
            let sent = self.send(job);
            self.sent.push_back(sent);
            self.outlet.serve();
        }
        self.outlet.serve();
        while let Some(sent) = self.sent.pop_front_if(|sent| sent.is_done()) {
            let outcome = sent.failure().map_or_else(|| self.durable(&sent), Err);
            if let Err(error) = &outcome {
                self.narrow_after(error);
            }
            self.answer(sent, outcome);
        }
        if self.committed_at.elapsed() >= self.clients.options.commit_every {
            self.commit();
        }
    }

    /// A producer that Kafka does not listen to any more is given up with what it had under way, of which some may be written;
    /// whoever waits for that goes back to what is certain.
    fn replace(&mut self, reason: &str) {
        tracing::warn!(reason, "a producer cannot go on and is replaced");
        self.outlet.producer.purge(PurgeConfig::default().queue().inflight());
        self.outlet.serve();
        for sent in std::mem::take(&mut self.sent) {
            let lost = || Error::Unreachable { reason: format!("a producer was replaced: {reason}") };
            let outcome = match sent.failure() {
                None if sent.is_done() => self.durable(&sent),
                failure => Err(failure.unwrap_or_else(lost)),
            };
            self.answer(sent, outcome);
        }
        if let Err(error) = self.renew() {
            tracing::error!(%error, "no producer can be made");
            std::thread::sleep(NAP);
        }
    }

    /// Moves on what follows from a delivery whose records are all durable.
    pub(super) fn durable(&self, sent: &Sent) -> Result<Receipt> {
        if let Some(member) = &self.member {
            for step in &sent.job.steps {
                if !member.inbox.progress.durable(step) {
                    return Err(member.inbox.progress.fenced(&member.group, step));
                }
            }
        }
        Ok(sent.receipt())
    }

    pub(super) fn answer(&self, sent: Sent, outcome: Result<Receipt>) {
        if let (Err(_), Some(member)) = (&outcome, &self.member) {
            sent.job.steps.iter().for_each(|step| member.inbox.progress.failed(step));
        }
        self.jobs.done(&sent.job);
        // Nobody waiting is fine: the delivery stands.
        drop(sent.job.answer.send(outcome));
    }

    /// The next delivery that waits, if this producer's batches suit the topics that it goes to.
    pub(super) fn next_job(&mut self) -> Option<Job> {
        let job = self.jobs.take()?;
        for append in &job.delivery.appends {
            if !self.outlet.topics.contains_key(&append.topic) {
                self.narrow(&append.topic, Duration::MAX);
            }
        }
        if self.is_too_wide() {
            self.jobs.put_back(job);
            return None;
        }
        Some(job)
    }

    /// Hands a delivery to librdkafka; what it cannot take is noted as a failure.
    pub(super) fn send(&mut self, job: Job) -> Sent {
        let mut sent = Sent { tallies: Vec::with_capacity(job.delivery.appends.len()), job, refusal: None };
        sent.refusal = self.check(&sent.job).err();
        if sent.refusal.is_some() {
            return sent;
        }
        for append in &sent.job.delivery.appends {
            let tally = Tally::new(append.records.clone());
            sent.tallies.push(Arc::clone(&tally));
            let Some((topic, _)) = self.outlet.topics.get(&append.topic) else { continue };
            topic.send(&tally, append.partition, || self.outlet.serve_within(FULL));
        }
        sent
    }

    /// Whether a delivery may be sent: where to is known, and nothing before it failed.
    fn check(&mut self, job: &Job) -> Result<()> {
        if let Some(member) = &self.member
            && let Some(step) = job.steps.iter().find(|step| !member.inbox.progress.may_send(step))
        {
            return Err(member.inbox.progress.fenced(&member.group, step));
        }
        for append in &job.delivery.appends {
            let is_known = |(_, count): &(raw::Topic, i32)| (0..*count).contains(&append.partition);
            if self.outlet.topics.get(&append.topic).is_some_and(is_known) {
                continue;
            }
            self.asker.forget(&append.topic);
            let count = self.asker.partitions(&append.topic)?;
            if !(0..count).contains(&append.partition) {
                return Err(Error::Invalid(format!(
                    "topic `{}` has no partition {}, it has {count}: `phronis topics check` tells what is missing",
                    append.topic, append.partition
                )));
            }
            let topic = raw::Topic::new(Arc::clone(&self.outlet.producer) as _, &append.topic).ok_or(Error::Closed)?;
            self.outlet.topics.insert(Arc::clone(&append.topic), (topic, count));
        }
        Ok(())
    }

    /// Asks Kafka to note how far this member is; the answer comes to whoever polls.
    fn commit(&mut self) {
        self.committed_at = Instant::now();
        let Some(member) = &self.member else { return };
        let places = member.inbox.progress.uncommitted(None);
        if places.is_empty() {
            return;
        }
        let asked = list(&places).and_then(|list| {
            let asked = member.consumer.commit(&list, CommitMode::Async);
            asked.map_err(|error| failed("committing offsets", error))
        });
        if let Err(error) = asked {
            tracing::warn!(group = %member.group, %error, "an offset commit was not taken");
        }
    }

    /// Waits until the fate of everything in a transaction is known; false when that takes too long.
    pub(super) fn await_all(&self, sent: &[Sent], until: Instant) -> bool {
        while !sent.iter().all(Sent::is_done) {
            if Instant::now() >= until {
                return false;
            }
            self.rest();
        }
        true
    }
}

/// Why a record was not taken.
fn record_failed(topic: &TopicName, error: &KafkaError) -> Error {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::MessageSizeTooLarge) => Error::TooLarge { topic: topic.to_string(), bytes: 0, most: 0 },
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
            Error::UnknownTopic(topic.to_string())
        }
        _ => failed(&format!("writing to {topic}"), error.clone()),
    }
}

#[cfg(test)]
mod tests {
    use phronis_core::records::RecordsBuilder;
    use rdkafka::mocking::MockCluster;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::*;
    use crate::kafka::{Log, Options};
    use crate::{Log as _, Position};

    fn delivery(value: &str) -> Delivery {
        let mut records = RecordsBuilder::default();
        records.push(0, None, Some(value.as_bytes()), &[]);
        let append = Append { topic: "t".into(), partition: 0, records: records.finish() };
        Delivery { appends: vec![append], commits: Vec::new() }
    }

    #[test]
    fn a_producer_that_kafka_gave_up_is_replaced() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("t", 1, 1).unwrap();
        let log = Log::open(Options::new(cluster.bootstrap_servers(), "a")).unwrap();
        let sink = log.sink().unwrap();
        assert!(sink.submit(delivery("one")).unwrap().wait().is_ok());
        // What a broker says that has lost records which it had acknowledged.
        let lost = RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
        cluster.request_errors(RDKafkaApiKey::Produce, &[lost]);
        assert!(sink.submit(delivery("two")).unwrap().wait().is_err());
        let until = Instant::now() + Duration::from_secs(30);
        while sink.submit(delivery("three")).unwrap().wait().is_err() {
            assert!(Instant::now() < until, "it never writes again");
        }
        let mut reader = log.reader("t", 0, Position::Latest).unwrap();
        drop(reader.next(crate::PollLimits { records: 1, bytes: 1 }, Duration::ZERO));
        assert!(reader.position() >= 2);
    }
}
