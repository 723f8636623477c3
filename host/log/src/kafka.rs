//! The log on Apache Kafka, over librdkafka.
//!
//! A member of a group has a consumer and a producer with a thread of its own; everything that asks or reads outside of groups shares few clients.
//! Nothing here waits for Kafka when it is made: what cannot be reached is an error of the call that needs it, and may be tried again.
//! A client at the level of Kafka's record batches could stand beside this one behind the same port.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use phronis_core::records::TopicName;

use crate::{
    Error, Follower, Member, Position, Reader, Result, Sink, Start, Subscription, TopicInfo, TopicSettings, TopicSpec,
};

mod asker;
mod bell;
mod client;
mod health;
mod jobs;
mod lanes;
mod member;
mod options;
mod progress;
mod raw;
mod reader;
mod transaction;
mod writer;

pub use options::{OURS, Options, Profile};

use asker::Asker;
use client::Clients;
use member::Inbox;
use writer::{Entry, Gate, Membership, Shared};

/// How often Kafka is asked whether it is there.
const PULSE_EVERY: Duration = Duration::from_secs(1);

/// The log on Kafka. Clones are the same log.
#[derive(Debug, Clone)]
pub struct Log(Arc<Open>);

/// What clones of a log hold together.
struct Open {
    clients: Arc<Clients>,
    asker: Arc<Asker>,
    entry: Mutex<Option<Arc<Entry>>>,
    should_stop: Arc<AtomicBool>,
    pulse: Mutex<Option<JoinHandle<()>>>,
}

impl Log {
    /// A log on these brokers. Does not wait for them.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a property that librdkafka refuses.
    pub fn open(options: Options) -> Result<Self> {
        options.check()?;
        let clients = Arc::new(Clients::new(options));
        let asker = Arc::new(Asker::new(Arc::clone(&clients))?);
        let entry = Arc::new(Entry::new(&clients, &asker, None)?);
        let should_stop = Arc::new(AtomicBool::new(false));
        let (asks, stop) = (Arc::clone(&asker), Arc::clone(&should_stop));
        let pulse = std::thread::Builder::new()
            .name("kafka-pulse".to_owned())
            .spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    asks.pulse();
                    std::thread::park_timeout(PULSE_EVERY);
                }
            })
            .map_err(|source| Error::Failed { doing: "starting a thread".to_owned(), source: Arc::new(source) })?;
        let (entry, pulse) = (Mutex::new(Some(entry)), Mutex::new(Some(pulse)));
        Ok(Self(Arc::new(Open { clients, asker, entry, should_stop, pulse })))
    }

    /// Sends what is queued and lets go of Kafka. Does nothing the second time.
    pub fn close(&self) {
        self.0.close();
    }

    fn shared_sink(&self) -> Result<Arc<Entry>> {
        let entry = self.0.entry.lock().unwrap_or_else(PoisonError::into_inner);
        entry.clone().ok_or(Error::Closed)
    }
}

impl Open {
    fn close(&self) {
        self.should_stop.store(true, Ordering::Relaxed);
        drop(self.entry.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(pulse) = self.pulse.lock().unwrap_or_else(PoisonError::into_inner).take() {
            pulse.thread().unpark();
            if pulse.join().is_err() {
                tracing::error!("the thread that looks after Kafka panicked");
            }
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.close();
    }
}

impl crate::Log for Log {
    fn create_topic(&self, topic: &TopicSpec) -> Result<()> {
        self.0.asker.create(topic)
    }

    fn grow_topic(&self, topic: &str, partitions: i32) -> Result<()> {
        self.0.asker.grow(topic, partitions)
    }

    fn describe_topic(&self, topic: &str) -> Result<TopicSettings> {
        self.0.asker.describe(topic)
    }

    fn topic_identity(&self, topic: &str) -> Result<String> {
        self.0.asker.identity(topic)
    }

    fn topics(&self) -> Result<Vec<TopicInfo>> {
        self.0.asker.infos(self.0.asker.topics(None)?)
    }

    fn topic(&self, topic: &str) -> Result<TopicInfo> {
        let infos = self.0.asker.infos(self.0.asker.topics(Some(topic))?)?;
        infos.into_iter().next().ok_or_else(|| Error::UnknownTopic(topic.to_owned()))
    }

    fn partitions(&self, topic: &str) -> Result<i32> {
        let topics = self.0.asker.topics(Some(topic))?;
        topics.get(topic).copied().ok_or_else(|| Error::UnknownTopic(topic.to_owned()))
    }

    fn join(&self, subscription: &Subscription) -> Result<Member> {
        let Subscription { group, topics, beside, member, members, start, exactly_once } = subscription;
        let Open { clients, asker, .. } = &*self.0;
        let (inbox, gate) = (Arc::new(Inbox::default()), Gate::new(*exactly_once));
        // The group's name, the host's and the member's number: stable over restarts, and nobody else's.
        let node_id = &clients.options.node_id;
        let name = group.strip_prefix("phronis.").unwrap_or(group);
        let name = name.strip_suffix(".process").unwrap_or(name);
        let instance = format!("phronis.{node_id}.{name}.{member}");
        let mut partitions = 0;
        for topic in topics {
            partitions += asker.partitions(topic)?;
        }
        let consumer =
            Arc::new(clients.member(group, &instance, partitions / (*members).max(1), Arc::clone(&inbox) as _)?);
        let sink = Entry::new(
            clients,
            asker,
            Some(Membership {
                group: Arc::clone(group),
                consumer: Arc::clone(&consumer),
                inbox: Arc::clone(&inbox),
                gate: Arc::clone(&gate),
                transactional_id: exactly_once.then_some(instance),
            }),
        )?;
        let beside = member::Beside::new(topics, beside);
        let source = member::Member::new(
            consumer,
            inbox,
            Arc::clone(asker),
            gate,
            Arc::clone(group),
            topics,
            beside,
            *start,
            clients.options.leave_on_stop,
        )?;
        Ok(Member { source: Box::new(source), sink: Box::new(sink) })
    }

    fn sink(&self) -> Result<Box<dyn Sink>> {
        Ok(Box::new(Shared(self.shared_sink()?)))
    }

    fn reader(&self, topic: &str, partition: i32, from: Position) -> Result<Box<dyn Reader>> {
        Ok(Box::new(reader::One::new(&self.0.clients, &self.0.asker, topic, partition, from)?))
    }

    fn follow(&self, topics: &[TopicName], from: Start) -> Result<Box<dyn Follower>> {
        Ok(Box::new(reader::Many::new(&self.0.clients, &self.0.asker, topics, from)?))
    }

    fn committed(&self, group: &str, topic: &str) -> Result<Vec<Option<i64>>> {
        self.0.asker.committed(group, topic)
    }

    fn health(&self) -> Result<()> {
        self.0.clients.health.check()
    }
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Open").field("bootstrap", &self.clients.options.bootstrap).finish_non_exhaustive()
    }
}
