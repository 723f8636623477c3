//! What the log knows in memory: topics, the visible end of each partition with its hot tail, groups, and who waits for records.
//!
//! Only the writer changes it, and only after the transaction is committed: what stands here can be read from the file too.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Instant;

use phronis_core::records::{Records, TopicName};

use crate::{Error, PartitionInfo, Result, Retention};

/// Topics and groups.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    pub(super) topics: RwLock<HashMap<TopicName, Arc<Topic>>>,
    /// Group → partition's id → committed offset.
    pub(super) groups: Mutex<HashMap<Arc<str>, HashMap<i64, i64>>>,
}

impl Catalog {
    pub(super) fn topic(&self, name: &str) -> Result<Arc<Topic>> {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        topics.get(name).cloned().ok_or_else(|| Error::UnknownTopic(name.to_owned()))
    }

    pub(super) fn all(&self) -> Vec<Arc<Topic>> {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = topics.values().cloned().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    pub(super) fn insert(&self, topic: Topic) {
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        topics.insert(Arc::clone(&topic.name), Arc::new(topic));
    }

    pub(super) fn committed(&self, group: &str, partition: &Partition) -> Option<i64> {
        lock(&self.groups).get(group)?.get(&partition.id).copied()
    }

    /// What no registered group has behind it, the retention must keep.
    pub(super) fn floor(&self, partition: &Partition) -> i64 {
        let groups = lock(&self.groups);
        groups.values().filter_map(|positions| positions.get(&partition.id)).copied().min().unwrap_or(i64::MAX)
    }
}

/// A topic.
#[derive(Debug)]
pub(super) struct Topic {
    pub(super) id: i64,
    pub(super) name: TopicName,
    /// Made with the topic, at random.
    pub(super) identity: String,
    pub(super) retention: Mutex<Retention>,
    pub(super) partitions: Vec<Arc<Partition>>,
}

impl Topic {
    pub(super) fn partition(&self, number: i32) -> Result<&Arc<Partition>> {
        usize::try_from(number).ok().and_then(|number| self.partitions.get(number)).ok_or_else(|| {
            Error::Invalid(format!("topic `{}` has no partition {number}, it has {}", self.name, self.partitions.len()))
        })
    }
}

/// A partition.
#[derive(Debug)]
pub(super) struct Partition {
    pub(super) id: i64,
    pub(super) topic: TopicName,
    pub(super) number: i32,
    pub(super) view: Mutex<View>,
    pub(super) bells: Mutex<Vec<Weak<Bell>>>,
}

impl Partition {
    pub(super) fn info(&self) -> PartitionInfo {
        let view = lock(&self.view);
        PartitionInfo { earliest: view.earliest, latest: view.latest, bytes: Some(view.bytes) }
    }

    pub(super) fn bytes(&self) -> u64 {
        lock(&self.view).bytes
    }

    pub(super) fn out_of_range(&self, offset: i64) -> Error {
        let PartitionInfo { earliest, latest, .. } = self.info();
        Error::OutOfRange { topic: self.topic.to_string(), partition: self.number, offset, earliest, latest }
    }

    /// Rings this bell whenever records come.
    pub(super) fn attach(&self, bell: &Arc<Bell>) {
        let mut bells = lock(&self.bells);
        bells.retain(|bell| bell.strong_count() > 0);
        bells.push(Arc::downgrade(bell));
    }

    pub(super) fn ring(&self) {
        for bell in lock(&self.bells).iter().filter_map(Weak::upgrade) {
            bell.ring();
        }
    }
}

/// What readers see of a partition.
#[derive(Debug)]
pub(super) struct View {
    pub(super) earliest: i64,
    pub(super) latest: i64,
    /// Bytes stored.
    pub(super) bytes: u64,
    /// Where the last compaction ended, and how many records later the next is worth it.
    pub(super) compacted: (i64, i64),
    /// The last batches, without a gap up to `latest`.
    pub(super) tail: VecDeque<Arc<Records>>,
}

impl View {
    /// Drops what the hot tail holds below an offset.
    pub(super) fn trim(&mut self, below: i64) {
        while self.tail.front().and_then(|batch| batch.next_offset()).is_some_and(|next| next <= below) {
            self.tail.pop_front();
        }
    }
}

/// Wakes one reader. Counts, so that what rings between a look and a wait is not missed.
#[derive(Debug, Default)]
pub(super) struct Bell {
    rung: Mutex<u64>,
    heard: Condvar,
}

impl Bell {
    pub(super) fn ring(&self) {
        *lock(&self.rung) += 1;
        self.heard.notify_all();
    }

    pub(super) fn count(&self) -> u64 {
        *lock(&self.rung)
    }

    /// Waits until it rang since `seen`; false when the time is over.
    pub(super) fn wait(&self, seen: u64, until: Instant) -> bool {
        let wait = until.saturating_duration_since(Instant::now());
        let (_guard, result) = self
            .heard
            .wait_timeout_while(lock(&self.rung), wait, |rung| *rung == seen)
            .unwrap_or_else(PoisonError::into_inner);
        !result.timed_out()
    }
}

/// Locks; what a panicking thread left behind is whole, because every critical section here is a few assignments.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
