//! An embedded log with a switch: while it is away, every call is answered as a broker that is down would be.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use phronis_core::delivery::Delivery;
use phronis_core::records::{Records, TopicName};
use phronis_log::{
    Error, Follower, Log, Member, PollLimits, Position, Reader, Result, Sink, Start, Subscription, Ticket, TopicInfo,
    TopicSettings, TopicSpec, embedded,
};

/// The log and its switch.
#[derive(Clone)]
pub struct Away {
    pub log: embedded::Log,
    pub is_away: Arc<AtomicBool>,
}

impl Away {
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
        self.sink.submit(delivery)
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
