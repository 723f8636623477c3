//! A member of a consumer group, and a reader outside of any.
//!
//! The log serves one process, so there is no coordinator: partitions are split by member number, once, as Kafka's range assignor does.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use phronis_core::records::{Records, TopicName};

use super::Shared;
use super::catalog::{Bell, Partition};
use super::cursor::{Cursor, Disk};
use crate::{Error, Follower, PollLimits, Polled, Reader, Result, Source};

/// Several partitions that take turns.
#[derive(Debug)]
pub(super) struct Turns {
    shared: Arc<Shared>,
    disk: Disk,
    bell: Arc<Bell>,
    cursors: Vec<Cursor>,
    /// Whose turn it is.
    turn: usize,
    /// Whose turns are left out.
    paused: BTreeSet<usize>,
}

impl Turns {
    pub(super) fn new(shared: Arc<Shared>, cursors: Vec<Cursor>) -> Self {
        let bell = Arc::new(Bell::default());
        for cursor in &cursors {
            cursor.partition.attach(&bell);
        }
        Self { shared, disk: Disk::default(), bell, cursors, turn: 0, paused: BTreeSet::new() }
    }

    /// The next records of any partition.
    fn next(&mut self, limits: PollLimits, wait: Duration) -> Result<Option<Records>> {
        let until = deadline(wait);
        loop {
            self.shared.open()?;
            let seen = self.bell.count();
            for _ in 0..self.cursors.len() {
                self.turn = (self.turn + 1) % self.cursors.len();
                let Some(cursor) = self.cursors.get_mut(self.turn) else { break };
                if self.paused.contains(&self.turn) {
                    continue;
                }
                if let Some(records) = cursor.next(&self.shared.options.folder, &mut self.disk, limits)? {
                    return Ok(Some(records));
                }
            }
            if !self.bell.wait(seen, until) {
                return Ok(None);
            }
        }
    }
}

impl Follower for Turns {
    fn next(&mut self, limits: PollLimits, wait: Duration) -> Result<Option<Records>> {
        let outcome = Self::next(self, limits, wait);
        if let (Err(Error::OutOfRange { earliest, .. }), Some(cursor)) = (&outcome, self.cursors.get_mut(self.turn)) {
            cursor.seek(*earliest);
        }
        outcome
    }
}

/// A member of a consumer group.
#[derive(Debug)]
pub(super) struct Member {
    group: Arc<str>,
    turns: Turns,
    assigned: bool,
}

impl Member {
    /// A member that reads these partitions from where its group stands.
    pub(super) fn new(shared: Arc<Shared>, group: Arc<str>, partitions: Vec<(Arc<Partition>, i64)>) -> Self {
        let cursors = partitions.into_iter().map(|(partition, position)| Cursor::new(partition, position));
        Self { group, turns: Turns::new(shared, cursors.collect()), assigned: false }
    }
}

impl Source for Member {
    fn poll(&mut self, limits: PollLimits, wait: Duration) -> Result<Polled> {
        if !self.assigned {
            self.assigned = true;
            let place = |cursor: &Cursor| -> (TopicName, i32, i64) {
                (Arc::clone(&cursor.partition.topic), cursor.partition.number, cursor.position)
            };
            return Ok(Polled::Assigned(self.turns.cursors.iter().map(place).collect()));
        }
        if limits.records == 0 {
            std::thread::sleep(wait);
            return Ok(Polled::Idle);
        }
        Ok(self.turns.next(limits, wait)?.map_or(Polled::Idle, Polled::Records))
    }

    fn rewind(&mut self, topic: &str, partition: i32) -> Result<i64> {
        let of_this = |cursor: &&mut Cursor| &*cursor.partition.topic == topic && cursor.partition.number == partition;
        let cursor = self
            .turns
            .cursors
            .iter_mut()
            .find(of_this)
            .ok_or_else(|| Error::Invalid(format!("{topic}/{partition} does not belong to this member")))?;
        let committed = self
            .turns
            .shared
            .catalog
            .committed(&self.group, &cursor.partition)
            .ok_or_else(|| Error::Invalid(format!("group `{}` is not registered any more", self.group)))?;
        cursor.seek(committed);
        Ok(committed)
    }

    fn pause(&mut self, topic: &str, partition: i32, is_paused: bool) {
        let of_this = |cursor: &Cursor| &*cursor.partition.topic == topic && cursor.partition.number == partition;
        if let Some(turn) = self.turns.cursors.iter().position(of_this) {
            if is_paused {
                self.turns.paused.insert(turn)
            } else {
                self.turns.paused.remove(&turn)
            };
        }
    }
}

/// A reader of one partition.
#[derive(Debug)]
pub(super) struct Browser {
    shared: Arc<Shared>,
    disk: Disk,
    bell: Arc<Bell>,
    cursor: Cursor,
}

impl Browser {
    /// A reader from this position on; `disk` may be open already.
    pub(super) fn new(shared: Arc<Shared>, cursor: Cursor, disk: Disk) -> Self {
        let bell = Arc::new(Bell::default());
        cursor.partition.attach(&bell);
        Self { shared, disk, bell, cursor }
    }
}

impl Reader for Browser {
    fn next(&mut self, limits: PollLimits, wait: Duration) -> Result<Option<Records>> {
        let until = deadline(wait);
        loop {
            self.shared.open()?;
            let seen = self.bell.count();
            let records = self.cursor.next(&self.shared.options.folder, &mut self.disk, limits)?;
            if records.is_some() || !self.bell.wait(seen, until) {
                return Ok(records);
            }
        }
    }

    fn position(&self) -> i64 {
        self.cursor.position
    }
}

/// Splits partitions over members as Kafka's range assignor does.
pub(super) fn share(partitions: usize, member: usize, members: usize) -> std::ops::Range<usize> {
    let (each, more) = (partitions / members, partitions % members);
    let from = member * each + member.min(more);
    from..from + each + usize::from(member < more)
}

fn deadline(wait: Duration) -> Instant {
    let now = Instant::now();
    // A wait that no clock can hold is a day: the caller polls again.
    now.checked_add(wait).unwrap_or(now + Duration::from_secs(86_400))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_partition_belongs_to_one_member() {
        for partitions in 0..20 {
            for members in 1..8 {
                let shares: Vec<usize> = (0..members).flat_map(|member| share(partitions, member, members)).collect();
                assert_eq!(shares, (0..partitions).collect::<Vec<_>>());
            }
        }
        assert_eq!((share(5, 0, 2), share(5, 1, 2)), (0..3, 3..5));
    }
}
