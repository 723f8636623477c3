//! The kill switch: who may not act, on this host within microseconds, and durably before anyone is told so.
//!
//! Memory ([`memory`]) answers every question. Behind it stand three copies: the store, which is the truth;
//! `phronis.control`, by which other hosts learn of a change within milliseconds; and a file of this host's own ([`mod@file`]),
//! from which a start restores its halts when all else is away; who else is asked first says [`asked`].
//!
//! A halt is in force here at once, then made durable ([`change`]). A reset is the other way round: the store first.
//! So whatever fails in between, an agent is halted that need not be, never the reverse.
//! What a copy missed is made up for by [`keeper`], which also lets halts go whose time is over.
//! [`trip`] halts agents because alerts say so.

mod asked;
mod change;
mod control;
mod face;
mod file;
mod keeper;
mod memory;
#[cfg(test)]
mod tests;
mod trip;
mod truth;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use phronis_core::agent::{Key, Record, Scope, State};
use phronis_core::records::Records;
use phronis_core::{Id, Name, Time};
use phronis_log::Sink;
use phronis_store::Store;
use serde_json::json;
use tokio::sync::{broadcast, watch};

use crate::clock::{Careful, now_us, rest};
use crate::live;
use asked::Asked;
pub use change::{Halt, Outcome, Refusal, Reset};
pub use face::Agents;
pub(crate) use keeper::Keeper;
pub(crate) use memory::Tenant;
pub use memory::{Change, Watch};
pub(crate) use trip::Trip;

/// How soon those who wait for the first word about halts hear it.
const NOTICE: Duration = Duration::from_millis(5);

/// What a host does with events of halted agents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnHalted {
    /// Judges and delivers them like any other.
    #[default]
    Pass,
    /// Judges and delivers them, with the header `phronis-halted`.
    Mark,
    /// Makes letters of them, which no plugin is shown.
    Drop,
}

/// An agent, or everything of a tenant, as it is right now.
#[derive(Debug, Clone)]
pub struct Status {
    /// The last word about it; none when nothing was ever said.
    pub record: Option<Arc<Record>>,
    /// The halt that holds it back: its own, or that of its whole tenant.
    pub halt: Option<Arc<Record>>,
}

impl Status {
    /// Whether it may act.
    pub fn state(&self) -> State {
        if self.halt.is_some() { State::Halted } else { State::Running }
    }

    /// The number of the last word.
    pub fn version(&self) -> u64 {
        self.record.as_ref().map_or(0, |record| record.version)
    }
}

/// Who is halted.
pub(crate) struct Registry {
    memory: memory::Memory,
    /// This start of this host: changes are numbered within it.
    epoch: String,
    /// What guards are told of the time.
    clock: Careful,
    store: Store,
    sink: Arc<dyn Sink>,
    live: broadcast::Sender<Arc<live::Event>>,
    file: Copy,
    work: Mutex<Work>,
    wake: Condvar,
    asked: Asked,
}

/// What the keeper must see to.
#[derive(Debug, Default)]
struct Work {
    /// Words that `phronis.control` does not have, or not last.
    unsaid: BTreeSet<Key>,
    /// Words that the store may not have, or has newer ones of.
    unsure: BTreeSet<Key>,
    /// Halts whose time is over, which the store does not know yet.
    over: BTreeSet<Key>,
    /// Halts that nothing but memory had when they were last tried to be written down.
    unwritten: BTreeSet<Key>,
    /// Alerts that have halted since this host started.
    handled: Handled,
    /// Whether `phronis.control` was read to its end.
    is_current: bool,
    /// What it said last about each, until its end is reached; and what holds by all that it said.
    heard: HashMap<Key, Record>,
    replay: memory::Memory,
    /// Whether the store's halts are to be compared with what is known since.
    must_load: bool,
}

/// An alert, and the time of the record that it is about.
type Alert = (Id, Option<Time>);

/// The last alerts that have halted; the store knows all of them.
#[derive(Debug, Default)]
struct Handled {
    known: HashSet<Alert>,
    order: VecDeque<Alert>,
}

impl Handled {
    /// An alert is read again soon or never: after a rebalance, or a commit that failed.
    const MOST: usize = 10_000;

    fn contains(&self, alert: &Alert) -> bool {
        self.known.contains(alert)
    }

    fn extend(&mut self, alerts: impl IntoIterator<Item = Alert>) {
        for alert in alerts {
            if !self.known.insert(alert) {
                continue;
            }
            self.order.push_back(alert);
            if self.order.len() > Self::MOST
                && let Some(oldest) = self.order.pop_front()
            {
                self.known.remove(&oldest);
            }
        }
    }
}

/// The file of this host, and how far it is.
struct Copy {
    path: PathBuf,
    wanted: Mutex<u64>,
    wake: Condvar,
    written: watch::Sender<Written>,
}

/// What became of writing the file.
#[derive(Debug, Clone, Default)]
struct Written {
    /// All changes up to this one were tried.
    upto: u64,
    /// Why the last try failed.
    error: Option<String>,
}

impl Registry {
    /// Who was halted when this host ended, as its file has it; so it is from the first moment on.
    pub(crate) fn open(
        path: PathBuf,
        epoch: String,
        store: Store,
        sink: Arc<dyn Sink>,
        live: broadcast::Sender<Arc<live::Event>>,
    ) -> Self {
        let found = file::read(&path);
        let asked = Asked::new(matches!(found, file::Found::Records(_)));
        let registry = Self {
            memory: memory::Memory::default(),
            epoch,
            clock: Careful::new(),
            store,
            sink,
            live,
            file: Copy { path, wanted: Mutex::default(), wake: Condvar::new(), written: watch::Sender::default() },
            work: Mutex::default(),
            wake: Condvar::new(),
            asked,
        };
        match found {
            file::Found::Nothing => {}
            file::Found::Records(records) => {
                if !records.is_empty() {
                    tracing::info!(halts = records.len(), "halts of agents restored from this host's file");
                }
                registry.lock().unsure.extend(records.iter().map(Record::key));
                for record in records {
                    registry.memory.take(record);
                }
            }
            file::Found::Damaged { reason, aside } => {
                let aside = aside.map(|aside| aside.display().to_string());
                tracing::error!(
                    code = %phronis_core::code::AGENTS_UNKNOWN, file = %registry.file.path.display(), reason, aside,
                    "this host's file of halted agents cannot be used: who is halted is asked of the store and the log"
                );
            }
        }
        registry
    }

    /// This start of this host.
    pub(crate) fn epoch(&self) -> &str {
        &self.epoch
    }

    /// Whether it is known who is halted.
    pub(crate) fn is_known(&self) -> bool {
        self.asked.is_enough(self.asked.since())
    }

    /// Waits until it is known who is halted; false when told to stop before.
    /// The log is there when someone waits, so it is given its time however late it came.
    pub(crate) fn wait_until_known(&self, should_stop: &AtomicBool) -> bool {
        let began = Instant::now();
        while !self.asked.is_enough(began.elapsed()) {
            if should_stop.load(Ordering::Relaxed) {
                return false;
            }
            rest(NOTICE, should_stop);
        }
        true
    }

    /// The agents of a tenant.
    pub(crate) fn tenant(&self, name: &Name) -> Arc<Tenant> {
        self.memory.tenant(name)
    }

    /// Whether an agent may act, and why.
    pub(crate) fn status(&self, key: &Key) -> Status {
        let tenant = self.memory.tenant(&key.tenant);
        let own = tenant.entry(&key.scope);
        let whole = || tenant.entry(&Scope::Tenant).and_then(|entry| entry.halt().cloned());
        Status {
            halt: own.as_ref().and_then(|entry| entry.halt().cloned()).or_else(whole),
            record: own.map(|entry| entry.record),
        }
    }

    /// All agents of a tenant of whom something was said.
    pub(crate) fn agents(&self, tenant: &Name) -> Vec<Status> {
        let of = |entry: memory::Entry| Status { halt: entry.halt().cloned(), record: Some(entry.record) };
        self.memory.tenant(tenant).entries().into_iter().map(of).collect()
    }

    /// All that is read of `phronis.control`.
    pub(crate) fn hear(&self, records: &Records) {
        let said: Vec<Record> = control::said(records).collect();
        if said.is_empty() {
            return;
        }
        let mut work = self.lock();
        if !work.is_current {
            // Older words come first: none of them may hold for a moment what a later one has ended.
            for record in said {
                work.heard.insert(record.key(), record.clone());
                work.replay.take(record);
            }
            return;
        }
        drop(work);
        for record in said {
            self.hear_now(&record.key(), record);
        }
    }

    fn hear_now(&self, key: &Key, record: Record) {
        let was_pending = self.memory.entry(key).is_some_and(|entry| entry.pending.is_some());
        self.take(record.clone());
        let Some(entry) = self.memory.entry(key) else { return };
        let mut work = self.lock();
        if *entry.record != record {
            // Whoever reads the topic after compaction must find the word that holds.
            work.unsaid.insert(key.clone());
        }
        if entry.pending.is_some() && (was_pending || !record.is_replicated) {
            work.unsure.insert(key.clone());
        }
        drop(work);
        self.wake.notify_all();
    }

    /// `phronis.control` was read to its end: what it does not have, it is told.
    pub(crate) fn is_current(&self) {
        let mut work = self.lock();
        let (heard, replay) = (std::mem::take(&mut work.heard), std::mem::take(&mut work.replay));
        (work.is_current, work.must_load) = (true, true);
        drop(work);
        for entry in replay.entries(|_| true) {
            for word in [Some(entry.record), entry.pending].into_iter().flatten() {
                self.take(Record::clone(&word));
            }
        }
        let unsaid = self.memory.entries(|entry| heard.get(&entry.record.key()) != Some(&*entry.record));
        let unsure = self.memory.entries(|entry| entry.pending.is_some());
        let mut work = self.lock();
        work.unsaid.extend(unsaid.iter().map(|entry| entry.record.key()));
        work.unsure.extend(unsure.iter().map(|entry| entry.record.key()));
        drop(work);
        self.asked.log();
        self.wake.notify_all();
    }

    /// `phronis.control` was made anew, or is read again from the beginning.
    pub(crate) fn begins_anew(&self) {
        let mut work = self.lock();
        work.is_current = false;
        (work.heard, work.replay) = Default::default();
    }

    /// Takes a word, and tells everyone here who listens.
    fn take(&self, record: Record) -> Option<Arc<Change>> {
        let tenant = record.tenant.clone();
        let change = self.memory.take(record)?;
        self.tell(&tenant, &change);
        Some(change)
    }

    fn tell(&self, tenant: &Name, change: &Change) {
        let Change { version, agent, state, record } = change;
        let whom = agent.as_deref().unwrap_or("everything of the tenant");
        match state {
            State::Halted => {
                tracing::warn!(%tenant, agent = whom, reason = %record.reason, actor = %record.actor, "halted");
            }
            State::Running => {
                tracing::info!(%tenant, agent = whom, reason = %record.reason, actor = %record.actor, "may act again");
            }
        }
        metrics::counter!("phronis_agent_changes_total", "state" => state.as_str()).increment(1);
        metrics::gauge!("phronis_agents_halted").set(u32::try_from(self.memory.halted()).unwrap_or(u32::MAX));
        self.touch_file();
        let Ok(stream) = "agents".parse() else { return };
        let json = json!({
            "tenant": tenant, "agent": agent, "state": state, "reason": record.reason, "actor": record.actor,
            "cause": record.cause, "at": record.at, "expires_at": record.expires_at, "version": record.version,
        });
        let event = live::Event {
            kind: live::Kind::Agent,
            // Agents belong to no stream; listeners that want one alone mean the stream of their events.
            stream: phronis_core::StreamId { tenant: tenant.clone(), stream },
            id: format!("agent-{}-{version}", self.epoch).into(),
            json: json.to_string().into(),
        };
        // Nobody listening is fine.
        drop(self.live.send(Arc::new(event)));
    }

    /// What the file must have by now; the answer is the number to wait for.
    fn touch_file(&self) -> u64 {
        let mut wanted = self.file.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        *wanted += 1;
        self.file.wake.notify_all();
        *wanted
    }

    /// Whether the file has everything up to this number, or why not, after a bounded wait.
    async fn file_has(&self, number: u64, patience: Duration) -> Result<(), String> {
        let mut written = self.file.written.subscribe();
        let waited = tokio::time::timeout(patience, written.wait_for(|written| written.upto >= number)).await;
        match waited {
            Ok(Ok(written)) => written.error.clone().map_or(Ok(()), Err),
            Ok(Err(_)) => Err("the host is ending".to_owned()),
            Err(_) => Err(format!("not written within {patience:?}")),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("halted", &self.memory.halted()).finish_non_exhaustive()
    }
}

/// The time of now, as records have it.
fn now() -> Time {
    Time(now_us())
}
