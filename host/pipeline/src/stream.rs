//! A stream as the pipeline runs it: configuration, topics, and what it has done so far.

pub(crate) mod condition;
pub(crate) mod lag;
pub(crate) mod limits;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use phronis_core::contract::Contract;
use phronis_core::letter::backoff::Policy;
use phronis_core::letter::order::Bounds;
use phronis_core::partition::Topics;
use phronis_core::plugin::Limits;
use phronis_core::{Name, StreamId};
use phronis_log::{PollLimits, Retention};

use self::condition::{Conditions, Spot};
use self::lag::{Progress, Tracker};
use self::limits::TopicLimits;
use crate::agents::{OnHalted, Tenant};
use crate::{meters, status};

/// How many letters of a stream are moved a second at most, so that events do not wait for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LetterRates {
    /// By themselves, when their time comes.
    pub due: u32,
    /// By a redrive that asks for no rate of its own.
    pub redrive: u32,
}

impl Default for LetterRates {
    /// Due: far more than fail in good times, and little beside what a worker does. A redrive is in nobody's way.
    fn default() -> Self {
        Self { due: 5_000, redrive: 500 }
    }
}

/// What a stream should be.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whose it is and what it is called.
    pub id: StreamId,
    /// What its events look like.
    pub contract: Arc<Contract>,
    /// Its topics.
    pub topics: Topics,
    /// Partitions of each topic.
    pub partitions: i32,
    /// Worker threads; no more than partitions are of use.
    pub workers: i32,
    /// Whether a reader that skips what is not committed sees every outcome exactly once, where the log does not do so anyway.
    pub exactly_once: bool,
    /// Bounds of a batch.
    pub batch: PollLimits,
    /// What may be deleted of raw, processed, alerts and state.
    pub retention: Retention,
    /// What may be deleted of letters; by default nothing.
    pub letters_retention: Retention,
    /// When letters are tried again.
    pub retry: Policy,
    /// How many come back at once.
    pub letter_rates: LetterRates,
    /// Whether later events of a key wait behind one that was not delivered, and how many may before the partition stands still.
    pub ordered: Option<Bounds>,
    /// Whether a plugin that never had a good version stops the stream.
    pub holds_when_missing: bool,
    /// Plugins whose findings may halt an agent.
    pub may_halt: BTreeSet<Name>,
    /// What to do with events of halted agents.
    pub on_halted: OnHalted,
    /// Limits of plugins that ask for none.
    pub limits_default: Limits,
    /// What no plugin of this stream may exceed: the host's ceiling and the tenant's.
    pub limits_ceiling: Limits,
}

impl Options {
    /// A stream with the usual settings.
    pub fn new(id: StreamId, contract: Arc<Contract>) -> Self {
        Self {
            topics: Topics::of(&id),
            id,
            contract,
            partitions: 4,
            workers: 1,
            exactly_once: false,
            batch: PollLimits { records: 8192, bytes: 4 << 20 },
            retention: Retention { age: Some(Duration::from_secs(7 * 24 * 3600)), bytes: None, compact: false },
            letters_retention: Retention::default(),
            retry: Policy::default(),
            letter_rates: LetterRates::default(),
            ordered: None,
            holds_when_missing: false,
            may_halt: BTreeSet::new(),
            on_halted: OnHalted::default(),
            limits_default: Limits::default(),
            limits_ceiling: Limits::default(),
        }
    }

    /// The consumer group of the processing branch.
    pub fn group(&self) -> Arc<str> {
        format!("phronis.{}.{}.process", self.id.tenant, self.id.stream).into()
    }
}

/// A running stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) options: Options,
    pub(crate) group: Arc<str>,
    pub(crate) counts: Counts,
    /// How large a record of an output topic may be.
    pub(crate) limits: TopicLimits,
    /// Where it is noted at which offsets this host began.
    pub(crate) starts: Option<PathBuf>,
    /// Who of its tenant is halted.
    pub(crate) agents: Arc<Tenant>,
    conditions: Mutex<Conditions>,
    /// Of the partitions that this host owns. Workers hold this lock for moments only.
    progress: Mutex<BTreeMap<i32, Progress>>,
    /// No worker ever takes this lock.
    lag: Mutex<Tracker>,
}

/// Counters that workers add to when a delivery is durable.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) received: AtomicU64,
    pub(crate) delivered: AtomicU64,
    pub(crate) gate_letters: AtomicU64,
    pub(crate) enrich_letters: AtomicU64,
    pub(crate) detect_letters: AtomicU64,
    pub(crate) deliver_letters: AtomicU64,
    pub(crate) halt_letters: AtomicU64,
    pub(crate) order_letters: AtomicU64,
    pub(crate) range_letters: AtomicU64,
    pub(crate) waiting: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) alerts: AtomicU64,
    pub(crate) retries: AtomicU64,
    pub(crate) settled: AtomicU64,
    pub(crate) settled_debts: AtomicU64,
}

impl Counts {
    /// Adds what one delivery did.
    pub(crate) fn add(&self, tally: &status::StreamCounts) {
        let add = |counter: &AtomicU64, n: u64| {
            if n > 0 {
                counter.fetch_add(n, Ordering::Relaxed);
            }
        };
        add(&self.received, tally.received);
        add(&self.delivered, tally.delivered);
        add(&self.gate_letters, tally.gate_letters);
        add(&self.enrich_letters, tally.enrich_letters);
        add(&self.detect_letters, tally.detect_letters);
        add(&self.deliver_letters, tally.deliver_letters);
        add(&self.halt_letters, tally.halt_letters);
        add(&self.order_letters, tally.order_letters);
        add(&self.range_letters, tally.range_letters);
        add(&self.waiting, tally.waiting);
        add(&self.dropped, tally.dropped);
        add(&self.alerts, tally.alerts);
        add(&self.retries, tally.retries);
        add(&self.settled, tally.settled);
        add(&self.settled_debts, tally.settled_debts);
    }

    pub(crate) fn snapshot(&self) -> status::StreamCounts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        status::StreamCounts {
            received: get(&self.received),
            delivered: get(&self.delivered),
            gate_letters: get(&self.gate_letters),
            enrich_letters: get(&self.enrich_letters),
            detect_letters: get(&self.detect_letters),
            deliver_letters: get(&self.deliver_letters),
            halt_letters: get(&self.halt_letters),
            order_letters: get(&self.order_letters),
            range_letters: get(&self.range_letters),
            waiting: get(&self.waiting),
            dropped: get(&self.dropped),
            alerts: get(&self.alerts),
            retries: get(&self.retries),
            settled: get(&self.settled),
            settled_debts: get(&self.settled_debts),
        }
    }
}

impl Stream {
    pub(crate) fn new(options: Options, agents: Arc<Tenant>) -> Self {
        Self {
            agents,
            group: options.group(),
            counts: Counts::default(),
            limits: TopicLimits::default(),
            starts: None,
            conditions: Mutex::new(Conditions::of(options.workers.min(options.partitions))),
            progress: Mutex::default(),
            lag: Mutex::default(),
            options,
        }
    }

    /// The same, with notes of its starts in a folder of its own in this one.
    pub(crate) fn noting_starts_in(mut self, folder: &Path) -> Self {
        self.starts = Some(folder.join(self.options.id.to_string()));
        self
    }

    /// What the stream as a whole does.
    pub(crate) fn condition(&self) -> (status::StreamState, Option<String>) {
        lock(&self.conditions).merged()
    }

    /// A worker says what it does.
    pub(crate) fn set_condition(&self, worker: i32, state: status::StreamState, detail: Option<String>) {
        lock(&self.conditions).set(worker, state, detail);
    }

    /// A worker ends, whatever the reason: what it knew of its partitions holds no more.
    pub(crate) fn forget_worker(&self, worker: i32, partitions: impl IntoIterator<Item = i32>) {
        for spot in lock(&self.conditions).forget(worker) {
            meters::partition_stopped(&self.options.id, spot, false);
        }
        let mut progress = lock(&self.progress);
        for partition in partitions {
            progress.remove(&partition);
        }
    }

    /// A partition stands still until someone does something.
    pub(crate) fn stop_partition(&self, worker: i32, spot: Spot, why: String) {
        lock(&self.conditions).stop(worker, spot, why);
        meters::partition_stopped(&self.options.id, spot, true);
    }

    /// A stopped partition goes on, or is another's now.
    pub(crate) fn partition_goes_on(&self, spot: Spot) {
        lock(&self.conditions).go_on(spot);
        meters::partition_stopped(&self.options.id, spot, false);
    }

    /// A worker has the next records of a partition in its hands.
    pub(crate) fn set_pending(&self, partition: i32, pending: i64) {
        if let Some(progress) = lock(&self.progress).get_mut(&partition) {
            progress.pending = Some(pending);
        }
    }

    /// How far a partition is; `None` when it is this host's no more.
    pub(crate) fn set_progress(&self, partition: i32, progress: Option<Progress>) {
        let mut known = lock(&self.progress);
        match progress {
            Some(progress) => drop(known.insert(partition, progress)),
            None => drop(known.remove(&partition)),
        }
    }
}

/// A lock that a panicking holder cannot poison: what it guards is replaced whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
