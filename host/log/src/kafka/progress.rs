//! How far a member's deliveries reach, partition by partition.
//!
//! The source says where a partition begins for this member and when it is gone; the sink says what became durable.
//! Each assignment has a number of its own: what was delivered for an earlier one cannot move a later one.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use phronis_core::delivery::Commit;
use phronis_core::records::TopicName;

use crate::{Error, Result};

/// The partitions of a member.
#[derive(Debug, Default)]
pub(super) struct Progress(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    partitions: HashMap<(TopicName, i32), Reach>,
    assignments: u64,
}

/// How far one partition is.
#[derive(Debug, Clone, Copy)]
struct Reach {
    /// Which assignment this is.
    assignment: u64,
    /// Where the next delivery must start.
    submitted: i64,
    /// Everything before it is durable.
    durable: i64,
    /// What Kafka was told.
    committed: i64,
    /// A delivery failed: nothing behind it may be sent before this member goes back.
    has_failed: bool,
}

/// A step that was submitted.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) topic: TopicName,
    pub(super) partition: i32,
    from: i64,
    pub(super) next: i64,
    assignment: u64,
}

/// Where a partition should be committed.
pub(super) type Place = (TopicName, i32, i64);

impl Progress {
    /// A partition is this member's, from here on.
    pub(super) fn assigned(&self, topic: &TopicName, partition: i32, at: i64) {
        let mut state = self.lock();
        state.assignments += 1;
        let assignment = state.assignments;
        let reach = Reach { assignment, submitted: at, durable: at, committed: at, has_failed: false };
        state.partitions.insert((TopicName::clone(topic), partition), reach);
    }

    /// A partition is not this member's any more.
    pub(super) fn gone(&self, topic: &TopicName, partition: i32) {
        self.lock().partitions.remove(&(TopicName::clone(topic), partition));
    }

    /// Notes a step that is on its way, if it starts where the last one ended.
    pub(super) fn submit(&self, commit: &Commit) -> Result<Step> {
        let mut state = self.lock();
        let reach = state.partitions.get_mut(&(TopicName::clone(&commit.topic), commit.partition));
        let fenced = |actual| Error::Fenced {
            group: commit.group.to_string(),
            topic: commit.topic.to_string(),
            partition: commit.partition,
            expected: commit.from,
            actual,
        };
        let Some(reach) = reach else { return Err(fenced(-1)) };
        if reach.submitted != commit.from {
            return Err(fenced(reach.submitted));
        }
        reach.submitted = commit.next;
        let (from, next, assignment) = (commit.from, commit.next, reach.assignment);
        Ok(Step { topic: TopicName::clone(&commit.topic), partition: commit.partition, from, next, assignment })
    }

    /// Whether a step may still be sent: nothing before it failed, and the partition is still this member's.
    pub(super) fn may_send(&self, step: &Step) -> bool {
        self.lock().find(step).is_some_and(|reach| !reach.has_failed)
    }

    /// A step failed.
    pub(super) fn failed(&self, step: &Step) {
        if let Some(reach) = self.lock().find(step) {
            reach.has_failed = true;
        }
    }

    /// The error of a step that cannot be taken any more.
    pub(super) fn fenced(&self, group: &str, step: &Step) -> Error {
        Error::Fenced {
            group: group.to_owned(),
            topic: step.topic.to_string(),
            partition: step.partition,
            expected: step.from,
            actual: self.lock().find(step).map_or(-1, |reach| reach.durable),
        }
    }

    /// A step is durable. Steps of one partition come in their order.
    pub(super) fn durable(&self, step: &Step) -> bool {
        let mut state = self.lock();
        let Some(reach) = state.find(step).filter(|reach| reach.durable == step.from) else { return false };
        reach.durable = step.next;
        true
    }

    /// Goes back to what is durable.
    pub(super) fn rewind(&self, topic: &str, partition: i32) -> Result<i64> {
        let mut state = self.lock();
        let mut reaches = state.partitions.iter_mut();
        let reach = reaches.find(|((name, number), _)| &**name == topic && *number == partition);
        let (_, reach) =
            reach.ok_or_else(|| Error::Invalid(format!("{topic}/{partition} does not belong to this member")))?;
        (reach.submitted, reach.has_failed) = (reach.durable, false);
        Ok(reach.durable)
    }

    /// What is durable and Kafka was not told, of these partitions or of all.
    pub(super) fn uncommitted(&self, of: Option<&[(TopicName, i32)]>) -> Vec<Place> {
        let state = self.lock();
        let wanted = state
            .partitions
            .iter()
            .filter(|(key, reach)| reach.durable != reach.committed && of.is_none_or(|of| of.contains(key)));
        wanted.map(|((topic, partition), reach)| (TopicName::clone(topic), *partition, reach.durable)).collect()
    }

    /// Kafka took a commit.
    pub(super) fn committed(&self, topic: &str, partition: i32, at: i64) {
        for ((name, number), reach) in &mut self.lock().partitions {
            if &**name == topic && *number == partition {
                reach.committed = reach.committed.max(at);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn find(&mut self, step: &Step) -> Option<&mut Reach> {
        let reach = self.partitions.get_mut(&(TopicName::clone(&step.topic), step.partition));
        reach.filter(|reach| reach.assignment == step.assignment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(from: i64, next: i64) -> Commit {
        Commit { group: "g".into(), topic: "t".into(), partition: 0, from, next }
    }

    #[test]
    fn what_follows_a_failed_step_cannot_become_durable() {
        let progress = Progress::default();
        let topic: TopicName = "t".into();
        progress.assigned(&topic, 0, 5);
        let first = progress.submit(&commit(5, 7)).unwrap();
        let second = progress.submit(&commit(7, 9)).unwrap();
        let third = progress.submit(&commit(9, 11)).unwrap();
        assert!(matches!(progress.submit(&commit(10, 12)), Err(Error::Fenced { actual: 11, .. })));
        assert!(progress.durable(&first));
        progress.failed(&second);
        assert!(!progress.may_send(&third) && !progress.durable(&third));
        assert_eq!(progress.uncommitted(None), [(TopicName::clone(&topic), 0, 7)]);
        assert_eq!(progress.rewind("t", 0).unwrap(), 7);
        let again = progress.submit(&commit(7, 9)).unwrap();
        assert!(progress.may_send(&again));
        // A late answer to the first attempt would be the same records: it may count once.
        assert!(progress.durable(&again) && !progress.durable(&second));
        progress.committed("t", 0, 9);
        assert!(progress.uncommitted(None).is_empty());
    }

    #[test]
    fn an_earlier_assignment_moves_nothing() {
        let progress = Progress::default();
        let topic: TopicName = "t".into();
        progress.assigned(&topic, 0, 0);
        let old = progress.submit(&commit(0, 3)).unwrap();
        progress.gone(&topic, 0);
        assert!(progress.submit(&commit(3, 4)).is_err() && !progress.durable(&old));
        progress.assigned(&topic, 0, 0);
        assert!(!progress.durable(&old), "the partition came back, but another may have had it in between");
    }
}
