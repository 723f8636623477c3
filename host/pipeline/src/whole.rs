//! Reads a topic whole, outside of any group, and knows where it stands: settings and what hosts say.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use phronis_core::delivery::Receipt;
use phronis_core::records::{Records, TopicName};
use phronis_log::{Error, Follower, Log, PartitionInfo, PollLimits, Position, Result, Start, Ticket};

/// Bounds of one read.
const READ: PollLimits = PollLimits { records: 1000, bytes: 1 << 20 };

/// How long a read, and one look at a ticket, waits: so soon a thread notices that it should stop.
const WAIT: Duration = Duration::from_millis(200);

/// When nothing came for so long from a log that can be reached, the end may be reached:
/// the last offsets of a topic may be gaps (markers of transactions, compaction). A reader of its own then tells.
const SILENCE: Duration = Duration::from_secs(3);

/// How long a small write of the host's own may take before it counts as failed.
const SETTLE: Duration = Duration::from_secs(10);

/// How often it is looked whether the topic is still the one that is read.
const IDENTIFY_EVERY: Duration = Duration::from_secs(10);

/// A topic that is read whole.
pub(crate) struct Whole {
    topic: TopicName,
    follower: Box<dyn Follower>,
    place: Place,
    identified: Instant,
}

/// How far a topic was read, and which topic that was.
#[derive(Debug)]
pub(crate) struct Place {
    identity: String,
    /// The next offset of each partition that something came of.
    next: BTreeMap<i32, i64>,
}

impl Whole {
    /// Begins at the oldest record.
    pub(crate) fn open(log: &dyn Log, topic: &str) -> Result<Self> {
        let topic: TopicName = topic.into();
        let place = Place { identity: log.topic_identity(&topic)?, next: BTreeMap::new() };
        let follower = log.follow(std::slice::from_ref(&topic), Start::Earliest)?;
        Ok(Self { topic, follower, place, identified: Instant::now() })
    }

    /// The next records, if some come within a short wait.
    ///
    /// # Errors
    /// The log's; [`Error::UnknownTopic`] also when another topic has its name by now.
    pub(crate) fn next(&mut self, log: &dyn Log) -> Result<Option<Records>> {
        self.identify(log)?;
        let records = match self.follower.next(READ, WAIT) {
            // What was deleted unread was older than what is left: settings and hosts alike are whole records.
            Err(Error::OutOfRange { .. }) => None,
            other => other?,
        };
        if let Some((records, next)) = records.as_ref().and_then(|records| Some((records, records.next_offset()?))) {
            self.place.next.insert(records.partition, next);
        }
        Ok(records)
    }

    /// A reader does not always hear that its topic was deleted, and would wait for ever for what comes to the next one.
    fn identify(&mut self, log: &dyn Log) -> Result<()> {
        if self.identified.elapsed() < IDENTIFY_EVERY || log.health().is_err() {
            return Ok(());
        }
        self.identified = Instant::now();
        match log.topic_identity(&self.topic) {
            Ok(now) if now != self.place.identity => Err(Error::UnknownTopic(self.topic.to_string())),
            Err(error @ Error::UnknownTopic(_)) => Err(error),
            // What else is wrong, reading tells.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Reads to where the topic ends now.
    pub(crate) fn read_to_end(
        &mut self,
        log: &dyn Log,
        should_stop: &AtomicBool,
        mut take: impl FnMut(Records),
    ) -> Result<()> {
        let ends: Vec<(i32, i64)> = (0..)
            .zip(log.topic(&self.topic)?.partitions)
            .filter(|(_, p)| p.latest > p.earliest)
            .map(|(n, p)| (n, p.latest))
            .collect();
        let mut heard = Instant::now();
        while ends.iter().any(|(partition, end)| self.place.next.get(partition).is_none_or(|next| next < end)) {
            if should_stop.load(Ordering::Relaxed) {
                return Err(Error::Closed);
            }
            match self.next(log)? {
                Some(records) => {
                    heard = Instant::now();
                    take(records);
                }
                None => {
                    log.health()?;
                    if heard.elapsed() >= SILENCE {
                        if self.is_at_end(log, &ends)? {
                            break;
                        }
                        heard = Instant::now();
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether no record is left before these ends.
    fn is_at_end(&self, log: &dyn Log, ends: &[(i32, i64)]) -> Result<bool> {
        for (partition, end) in ends {
            let next = self.place.next.get(partition).copied();
            if next.is_some_and(|next| next >= *end) {
                continue;
            }
            let from = next.map_or(Position::Earliest, Position::Offset);
            let mut reader = log.reader(&self.topic, *partition, from)?;
            if reader.next(READ, Duration::ZERO)?.is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether this is another topic than the one that was read before, if any was.
    pub(crate) fn was_remade(&self, log: &dyn Log, before: Option<&Place>) -> Result<bool> {
        let Some(before) = before else { return Ok(false) };
        let partitions = log.topic(&self.topic)?.partitions;
        // A log that was put back in place of a lost one may have the same topics, with less in them.
        let ends_earlier =
            |(number, info): (i32, PartitionInfo)| before.next.get(&number).is_some_and(|next| info.latest < *next);
        Ok(self.place.identity != before.identity || (0..).zip(partitions).any(ends_earlier))
    }

    /// Where it stands.
    pub(crate) fn into_place(self) -> Place {
        self.place
    }
}

/// Waits for a small write, but not for ever: a log that is away must not hold up its thread.
pub(crate) fn settled(mut ticket: Ticket, should_stop: &AtomicBool) -> Result<Receipt> {
    let until = Instant::now() + SETTLE;
    loop {
        if let Some(outcome) = ticket.wait_until(until.min(Instant::now() + WAIT)) {
            return outcome;
        }
        if Instant::now() >= until || should_stop.load(Ordering::Relaxed) {
            let reason = format!("a write was not answered within {SETTLE:?}; it may be taken or not");
            return Err(Error::Unreachable { reason });
        }
    }
}
