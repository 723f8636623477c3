//! How a table is, for those who must know while its branch waits for storage.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use phronis_archive::{Kind, TableName};
use phronis_core::Code;
use phronis_core::records::TopicName;

use super::Parts;

/// A table of a stream. It outlives the branch that fills it: a branch that fails again and again is late too.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) kind: Kind,
    pub(super) name: TableName,
    pub(super) topic: TopicName,
    state: Mutex<State>,
}

/// How it is.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    /// Everything that the log had at this moment is in it; `None` while this host owns none of its partitions.
    up_to_date_at: Option<Instant>,
    /// How far it is in each partition of this host; nowhere where that is not known.
    pub(super) places: BTreeMap<i32, Option<i64>>,
    /// Why nothing is written.
    pub(super) trouble: Option<(Code, String)>,
}

impl Table {
    /// Those of a stream.
    pub(super) fn all(parts: &Parts) -> [Self; 3] {
        let options = &parts.stream.options;
        let topics = &options.topics;
        [(Kind::Events, &topics.processed), (Kind::Alerts, &topics.alerts), (Kind::Letters, &topics.dlq)].map(
            |(kind, topic)| Self {
                kind,
                name: TableName::new(&options.id, kind),
                topic: Arc::clone(topic),
                state: Mutex::default(),
            },
        )
    }

    /// The host has partitions of it, or none.
    pub(super) fn owns(&self, some: bool) {
        let mut state = self.lock();
        state.up_to_date_at = if some { state.up_to_date_at.or_else(|| Some(Instant::now())) } else { None };
    }

    /// Everything that the log had at this moment is in it.
    pub(super) fn has_all_of(&self, moment: Instant) {
        if let Some(at) = &mut self.lock().up_to_date_at {
            *at = moment.max(*at);
        }
    }

    /// It is this far in the partitions of this host.
    pub(super) fn has(&self, places: BTreeMap<i32, Option<i64>>) {
        self.lock().places = places;
    }

    pub(super) fn note(&self, trouble: Option<(Code, String)>) {
        self.lock().trouble = trouble;
    }

    pub(super) fn state(&self) -> State {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// For how long the log has had something that is not in it.
    pub(super) fn age(&self) -> Duration {
        self.up_to_date_at.map_or(Duration::ZERO, |at| at.elapsed())
    }
}
