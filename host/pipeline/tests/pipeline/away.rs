//! An embedded log with switches: while it is away, every call is answered as a broker that is down would be;
//! and it may lose its answers to writes to one topic, as a broker that goes down in that moment does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use phronis_core::delivery::Delivery;
use phronis_core::records::{Records, TopicName};
use phronis_log::{
    Error, Follower, Log, Member, PollLimits, Position, Reader, Result, Sink, Start, Subscription, Ticket, TopicInfo,
    TopicSettings, TopicSpec, embedded,
};

/// The log and its switches.
#[derive(Clone)]
pub struct Away {
    pub log: embedded::Log,
    pub is_away: Arc<AtomicBool>,
    /// What is written to this topic is taken, and nobody learns it. Then no delivery of several appends is one write.
    pub silent: Arc<Mutex<Option<TopicName>>>,
}

impl Away {
    pub fn new(log: embedded::Log) -> Self {
        Self { log, is_away: Arc::default(), silent: Arc::default() }
    }

    /// Loses the answers to writes to this topic from now on.
    pub fn be_silent(&self, about: Option<&str>) {
        *self.silent.lock().unwrap() = about.map(Into::into);
    }

    fn there(&self) -> Result<&embedded::Log> {
        match self.is_away.load(Ordering::Relaxed) {
            true => Err(Error::Unreachable { reason: "no broker answers".to_owned() }),
            false => Ok(&self.log),
        }
    }
}

impl Log for Away {
    fn create_topic(&self, topic: &TopicSpec) -> Result<()> {
        self.there()?.create_topic(topic)
    }

    fn describe_topic(&self, topic: &str) -> Result<TopicSettings> {
        self.there()?.describe_topic(topic)
    }

    fn topic_identity(&self, topic: &str) -> Result<String> {
        self.there()?.topic_identity(topic)
    }

    fn topics(&self) -> Result<Vec<TopicInfo>> {
        self.there()?.topics()
    }

    fn join(&self, subscription: &Subscription) -> Result<Member> {
        self.there()?.join(subscription)
    }

    fn sink(&self) -> Result<Box<dyn Sink>> {
        // As with a producer: made at once, whoever answers.
        Ok(Box::new(AwaySink { sink: self.log.sink()?, away: self.clone() }))
    }

    fn delivers_whole(&self) -> bool {
        self.silent.lock().unwrap().is_none() && self.log.delivers_whole()
    }

    fn reader(&self, topic: &str, partition: i32, from: Position) -> Result<Box<dyn Reader>> {
        self.there()?.reader(topic, partition, from)
    }

    fn follow(&self, topics: &[TopicName], from: Start) -> Result<Box<dyn Follower>> {
        let follower = self.there()?.follow(topics, from)?;
        Ok(Box::new(AwayFollower { follower, away: self.clone() }))
    }

    fn committed(&self, group: &str, topic: &str) -> Result<Vec<Option<i64>>> {
        self.there()?.committed(group, topic)
    }

    fn health(&self) -> Result<()> {
        self.there().map(|_| ())
    }
}

struct AwaySink {
    sink: Box<dyn Sink>,
    away: Away,
}

impl Sink for AwaySink {
    fn submit(&self, delivery: Delivery) -> Result<Ticket> {
        self.away.there()?;
        let silent = self.away.silent.lock().unwrap().clone();
        let is_silent = silent.is_some_and(|topic| delivery.appends.iter().any(|append| append.topic == topic));
        let ticket = self.sink.submit(delivery)?;
        if !is_silent {
            return Ok(ticket);
        }
        ticket.wait()?;
        let (answer, ticket) = Ticket::new();
        answer.send(Err(Error::Unreachable { reason: "no broker answered".to_owned() })).unwrap();
        Ok(ticket)
    }

    fn try_submit(&self, delivery: Delivery) -> Result<Ticket> {
        self.away.there()?;
        self.sink.try_submit(delivery)
    }
}

struct AwayFollower {
    follower: Box<dyn Follower>,
    away: Away,
}

impl Follower for AwayFollower {
    fn next(&mut self, limits: PollLimits, wait: Duration) -> Result<Option<Records>> {
        if let Err(error) = self.away.there() {
            thread::sleep(wait);
            return Err(error);
        }
        self.follower.next(limits, wait)
    }
}
