//! Reads a topic whole, outside of any group, and knows where it stands: settings and what hosts say.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use phronis_core::delivery::Receipt;
use phronis_core::records::{Records, TopicName};
use phronis_log::{Error, Follower, Log, PollLimits, Position, Result, Start, Ticket};

/// Bounds of one read.
const READ: PollLimits = PollLimits { records: 1000, bytes: 1 << 20 };

/// How long a read waits; also how soon its thread notices that it should stop.
const WAIT: Duration = Duration::from_millis(200);

/// When nothing came for so long from a log that can be reached, the end may be reached:
/// the last offsets of a topic may be gaps (markers of transactions, compaction). A reader of its own then tells.
const SILENCE: Duration = Duration::from_secs(3);

/// How long a small write of the host's own may take before it counts as failed.
const SETTLE: Duration = Duration::from_secs(10);

/// First and longest time between two looks at a ticket.
const LOOK: (Duration, Duration) = (Duration::from_micros(200), Duration::from_millis(20));

/// A topic that is read whole.
pub(crate) struct Whole {
    topic: TopicName,
    follower: Box<dyn Follower>,
    /// The next offset of each partition that something came of.
    next: BTreeMap<i32, i64>,
}

impl Whole {
    /// Begins at the oldest record.
    pub(crate) fn open(log: &dyn Log, topic: &str) -> Result<Self> {
        let topic: TopicName = topic.into();
        let follower = log.follow(std::slice::from_ref(&topic), Start::Earliest)?;
        Ok(Self { topic, follower, next: BTreeMap::new() })
    }

    /// The next records, if some come within a short wait.
    pub(crate) fn next(&mut self) -> Result<Option<Records>> {
        let records = match self.follower.next(READ, WAIT) {
            // What was deleted unread was older than what is left: settings and hosts alike are whole records.
            Err(Error::OutOfRange { .. }) => None,
            other => other?,
        };
        if let Some((records, next)) = records.as_ref().and_then(|records| Some((records, records.next_offset()?))) {
            self.next.insert(records.partition, next);
        }
        Ok(records)
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
        while ends.iter().any(|(partition, end)| self.next.get(partition).is_none_or(|next| next < end)) {
            if should_stop.load(Ordering::Relaxed) {
                return Err(Error::Closed);
            }
            match self.next()? {
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
            let next = self.next.get(partition).copied();
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

    /// Whether the topic ends before where this one, or the one before it, had read: it was made anew.
    pub(crate) fn was_remade(&self, log: &dyn Log, before: &BTreeMap<i32, i64>) -> Result<bool> {
        let partitions = log.topic(&self.topic)?.partitions;
        Ok((0..).zip(partitions).any(|(number, info)| before.get(&number).is_some_and(|next| info.latest < *next)))
    }

    /// The next offset of each partition.
    pub(crate) fn positions(&self) -> &BTreeMap<i32, i64> {
        &self.next
    }
}

/// Waits for a small write, but not for ever: a log that is away must not hold up its thread.
pub(crate) fn settled(mut ticket: Ticket, should_stop: &AtomicBool) -> Result<Receipt> {
    let until = Instant::now() + SETTLE;
    let mut pause = LOOK.0;
    loop {
        if let Some(outcome) = ticket.try_wait() {
            return outcome;
        }
        if Instant::now() >= until || should_stop.load(Ordering::Relaxed) {
            let reason = format!("a write was not answered within {SETTLE:?}; it may be taken or not");
            return Err(Error::Unreachable { reason });
        }
        thread::sleep(pause);
        pause = (pause * 2).min(LOOK.1);
    }
}
