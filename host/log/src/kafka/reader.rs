//! Reading without a group: one partition from a position on, or whole topics.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use phronis_core::records::{Records, TopicName};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;

use super::asker::Asker;
use super::client::{CALL, Clients, Consumer, failed};
use super::lanes::{Lanes, Turn};
use super::member::list;
use super::progress::Place;
use crate::{Error, Follower, PollLimits, Position, Reader, Result, Start};

/// How often a follower looks for partitions that were added.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// A consumer with partitions that it chose itself.
struct Chosen {
    lanes: Lanes,
    consumer: Arc<Consumer>,
}

impl Chosen {
    fn new(clients: &Clients, is_to_the_end: bool) -> Result<Self> {
        let consumer = Arc::new(clients.reader(is_to_the_end)?);
        Ok(Self { lanes: Lanes::new(&consumer)?, consumer })
    }

    fn assign(&mut self, places: &[Place]) -> Result<()> {
        if places.is_empty() {
            return Ok(());
        }
        for (topic, partition, at) in places {
            self.lanes.open(topic, *partition, *at)?;
        }
        let list = list(places)?;
        self.consumer.incremental_assign(&list).map_err(|error| failed("reading partitions", error))
    }

    /// The next records that come before this time; also returns when a partition was read to its end.
    fn next(&mut self, limits: PollLimits, until: Instant) -> Result<Option<Records>> {
        loop {
            self.serve_events();
            match self.lanes.turn(limits)? {
                Turn::Records(records) => return Ok(Some(records)),
                Turn::End => return Ok(None),
                Turn::Events => continue,
                Turn::Nothing => {}
            }
            if !self.lanes.wait(until) {
                return Ok(None);
            }
        }
    }

    fn serve_events(&self) {
        let mut is_first = true;
        while std::mem::take(&mut is_first) || self.lanes.events() > 0 {
            if let Some(Err(error)) = self.consumer.poll(Duration::ZERO)
                && !matches!(error, KafkaError::PartitionEOF(_))
            {
                tracing::debug!(%error, "a reader");
            }
        }
    }
}

/// Reads one partition.
pub(super) struct One {
    chosen: Chosen,
    asker: Arc<Asker>,
}

impl One {
    pub(super) fn new(
        clients: &Clients,
        asker: &Arc<Asker>,
        topic: &str,
        partition: i32,
        from: Position,
    ) -> Result<Self> {
        let count = asker.topics(Some(topic))?.get(topic).copied();
        let count = count.ok_or_else(|| Error::UnknownTopic(topic.to_owned()))?;
        if !(0..count).contains(&partition) {
            return Err(Error::Invalid(format!("topic `{topic}` has no partition {partition}, it has {count}")));
        }
        let topic: TopicName = topic.into();
        let place = [(Arc::clone(&topic), partition)];
        let end = |which| Ok::<_, Error>(asker.ends(&place, which)?.first().copied().unwrap_or(0));
        let at = match from {
            Position::Earliest => end(Start::Earliest)?,
            Position::Latest => end(Start::Latest)?,
            Position::Timestamp(at) => asker.at_time(&topic, partition, at)?,
            Position::Offset(offset) => {
                let (earliest, latest) = (end(Start::Earliest)?, end(Start::Latest)?);
                if !(earliest..=latest).contains(&offset) {
                    let topic = topic.to_string();
                    return Err(Error::OutOfRange { topic, partition, offset, earliest, latest });
                }
                offset
            }
        };
        let mut chosen = Chosen::new(clients, true)?;
        chosen.assign(&[(topic, partition, at)])?;
        Ok(Self { chosen, asker: Arc::clone(asker) })
    }
}

impl Reader for One {
    /// What is in Kafka already is waited for, however short the wait: no answer means the end of the partition.
    fn next(&mut self, limits: PollLimits, wait: Duration) -> Result<Option<Records>> {
        let started = Instant::now();
        let mut is_first = true;
        loop {
            let (_, is_at_end) = self.chosen.lanes.only();
            let patience = if is_at_end { wait } else { wait.max(CALL) };
            let left = patience.min(Duration::from_secs(86_400)).saturating_sub(started.elapsed());
            if left.is_zero() && !std::mem::take(&mut is_first) {
                return if is_at_end {
                    Ok(None)
                } else {
                    Err(Error::Unreachable { reason: "a partition was not answered for in time".to_owned() })
                };
            }
            is_first = false;
            match self.chosen.next(limits, Instant::now() + left) {
                Ok(Some(records)) => return Ok(Some(records)),
                Ok(None) => {}
                Err(error) => return Err(explained(error, &self.asker)),
            }
        }
    }

    fn position(&self) -> i64 {
        self.chosen.lanes.only().0
    }
}

/// Follows whole topics.
pub(super) struct Many {
    chosen: Chosen,
    asker: Arc<Asker>,
    topics: Vec<TopicName>,
    known: HashSet<(TopicName, i32)>,
    looked: Instant,
}

impl Many {
    pub(super) fn new(clients: &Clients, asker: &Arc<Asker>, topics: &[TopicName], from: Start) -> Result<Self> {
        let chosen = Chosen::new(clients, false)?;
        let (asker, topics) = (Arc::clone(asker), topics.to_vec());
        let mut many = Self { chosen, asker, topics, known: HashSet::new(), looked: Instant::now() };
        many.look(from)?;
        Ok(many)
    }

    /// Adds partitions that are not followed yet.
    fn look(&mut self, from: Start) -> Result<()> {
        self.looked = Instant::now();
        let mut new = Vec::new();
        for topic in &self.topics {
            let count = self.asker.topics(Some(topic))?.get(topic).copied();
            let count = count.ok_or_else(|| Error::UnknownTopic(topic.to_string()))?;
            let all = (0..count).map(|partition| (Arc::clone(topic), partition));
            new.extend(all.filter(|place| !self.known.contains(place)));
        }
        if new.is_empty() {
            return Ok(());
        }
        let ends = self.asker.ends(&new, from)?;
        let places = new.iter().cloned().zip(ends).map(|((topic, partition), at)| (topic, partition, at));
        self.chosen.assign(&places.collect::<Vec<_>>())?;
        self.known.extend(new);
        Ok(())
    }

    /// Takes a partition up again at its oldest record.
    fn reopen(&mut self, topic: &str, partition: i32, at: i64) -> Result<()> {
        let place = [(TopicName::from(topic), partition, at)];
        let list = list(&place)?;
        let doing = "reading a partition again";
        self.chosen.consumer.incremental_unassign(&list).map_err(|error| failed(doing, error))?;
        self.chosen.assign(&place)
    }
}

impl Follower for Many {
    fn next(&mut self, limits: PollLimits, wait: Duration) -> Result<Option<Records>> {
        if self.looked.elapsed() >= LOOK_EVERY
            && let Err(error) = self.look(Start::Earliest)
        {
            // It reads what it knows meanwhile.
            tracing::debug!(%error, "looking for new partitions");
        }
        let until = Instant::now() + wait.min(Duration::from_secs(86_400));
        loop {
            match self.chosen.next(limits, until) {
                Ok(None) if Instant::now() < until => {}
                Ok(records) => return Ok(records),
                Err(error) => {
                    let error = explained(error, &self.asker);
                    if let Error::OutOfRange { topic, partition, earliest, .. } = &error {
                        self.reopen(topic, *partition, (*earliest).max(0))?;
                    }
                    return Err(error);
                }
            }
        }
    }
}

/// An error of a partition, with what is known of its log.
fn explained(error: Error, asker: &Asker) -> Error {
    let Error::OutOfRange { topic, partition, offset, .. } = error else { return error };
    let place = [(TopicName::from(topic.as_str()), partition)];
    let end = |which| asker.ends(&place, which).ok().and_then(|ends| ends.first().copied()).unwrap_or(-1);
    Error::OutOfRange { partition, offset, earliest: end(Start::Earliest), latest: end(Start::Latest), topic }
}

impl fmt::Debug for One {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("One").field("position", &self.position()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Many {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Many").field("topics", &self.topics).finish_non_exhaustive()
    }
}
