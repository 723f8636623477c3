//! What is known of agents, in memory: the words themselves, who is held back by them, and who listens for changes.
//!
//! No I/O and no clock of its own. A check while nobody of the tenant is halted is one atomic load.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use phronis_core::Name;
use phronis_core::agent::{Key, Record, Scope, State, merge};
use phronis_core::time::Time;
use tokio::sync::broadcast;

/// Changes that a listener may fall behind before it is cut off: a guard that begins anew costs one snapshot.
const BACKLOG: usize = 4096;

/// A change of whether an agent may act, or of why it may not.
#[derive(Debug, Clone)]
pub struct Change {
    /// Rises by one with each change of the tenant's agents.
    pub version: u64,
    /// The agent; none is everything of the tenant.
    pub agent: Option<Arc<str>>,
    /// Whether it may act from now on.
    pub state: State,
    /// Why, who, when: the halt that holds, or what ended it.
    pub record: Arc<Record>,
}

/// What is known of all agents.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    tenants: RwLock<BTreeMap<Name, Arc<Tenant>>>,
}

/// The agents of a tenant.
#[derive(Debug)]
pub(crate) struct Tenant {
    /// How many words hold someone back right now.
    halted: AtomicUsize,
    known: RwLock<Known>,
    changes: broadcast::Sender<Arc<Change>>,
}

#[derive(Debug, Default)]
struct Known {
    /// Counts changes.
    version: u64,
    whole: Option<Entry>,
    agents: HashMap<Arc<str>, Entry>,
}

/// What is known of one agent, or of everything of a tenant.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// The last word.
    pub(crate) record: Arc<Record>,
    /// A halt that the store may never have heard of: it holds until the store is known to have it.
    pub(crate) pending: Option<Arc<Record>>,
    /// Halts whose time is over. The words themselves: a time would also end a later halt, once the wall clock was set back.
    pub(crate) over: Vec<Arc<Record>>,
}

impl Entry {
    /// The halt that holds, if one does.
    pub(crate) fn halt(&self) -> Option<&Arc<Record>> {
        // Of two that hold, the one of the higher version tells why.
        self.halts().next()
    }

    /// When the last of the halts that hold ends by itself; none when one has no end, or none holds.
    pub(crate) fn ends_at(&self) -> Option<Time> {
        let ends: Option<Vec<Time>> = self.halts().map(|halt| halt.expires_at).collect();
        ends?.into_iter().max()
    }

    /// The halts that held at this look at the entry are over; one that came since is not.
    pub(crate) fn end(&mut self, seen: &Self) {
        self.over = seen.words().cloned().collect();
    }

    fn halts(&self) -> impl Iterator<Item = &Arc<Record>> {
        let is_over = |record: &Record| self.over.iter().any(|over| over.is_same_change(record));
        self.words().filter(move |record| record.state == State::Halted && !is_over(record))
    }

    fn words(&self) -> impl Iterator<Item = &Arc<Record>> {
        std::iter::once(&self.record).chain(&self.pending)
    }

    /// The store has `known`, and with it our word, or one that goes before it.
    pub(crate) fn settle(&mut self, word: &Record, known: Record) {
        if self.pending.as_ref().is_some_and(|pending| pending.is_same_change(word)) {
            self.pending = None;
        }
        self.record = match self.record.is_same_change(word) {
            true => Arc::new(known),
            false => Arc::new(merge(Record::clone(&self.record), known)),
        };
    }

    fn change(&mut self, record: Record) {
        let is_new_halt = record.state == State::Halted && !record.is_replicated;
        if is_new_halt && !self.pending.as_ref().is_some_and(|pending| pending.is_same_change(&record)) {
            let merged = match self.pending.take() {
                Some(pending) => merge(Record::clone(&pending), record.clone()),
                None => record.clone(),
            };
            self.pending = Some(Arc::new(merged));
        }
        if record.is_replicated && self.pending.as_ref().is_some_and(|pending| pending.is_same_change(&record)) {
            self.pending = None;
        }
        self.record = Arc::new(merge(Record::clone(&self.record), record));
    }
}

/// What a listener begins with, and how it goes on.
#[derive(Debug)]
pub struct Watch {
    /// The number of the last change.
    pub version: u64,
    /// All halts that hold.
    pub halted: Vec<Arc<Record>>,
    /// What changes from then on.
    pub changes: broadcast::Receiver<Arc<Change>>,
}

impl Memory {
    /// The agents of a tenant.
    pub(crate) fn tenant(&self, name: &Name) -> Arc<Tenant> {
        if let Some(tenant) = read(&self.tenants).get(name) {
            return Arc::clone(tenant);
        }
        Arc::clone(write(&self.tenants).entry(name.clone()).or_default())
    }

    /// All tenants of whom something is known.
    pub(crate) fn tenants(&self) -> Vec<(Name, Arc<Tenant>)> {
        read(&self.tenants).iter().map(|(name, tenant)| (name.clone(), Arc::clone(tenant))).collect()
    }

    /// Takes a word, and says what changed by it.
    pub(crate) fn take(&self, record: Record) -> Option<Arc<Change>> {
        let key = record.key();
        self.tenant(&key.tenant).alter(&key.scope, |entry| match entry {
            Some(entry) => entry.change(record),
            None => *entry = Some(Entry::new(record)),
        })
    }

    /// Changes what is known of an agent, and says what changed for those who ask whether it may act.
    pub(crate) fn alter(&self, key: &Key, alter: impl FnOnce(&mut Option<Entry>)) -> Option<Arc<Change>> {
        self.tenant(&key.tenant).alter(&key.scope, alter)
    }

    /// What is known of an agent.
    pub(crate) fn entry(&self, key: &Key) -> Option<Entry> {
        self.tenant(&key.tenant).entry(&key.scope)
    }

    /// Everything that is known, as far as it passes.
    pub(crate) fn entries(&self, mut passes: impl FnMut(&Entry) -> bool) -> Vec<Entry> {
        let mut all = Vec::new();
        for (_, tenant) in self.tenants() {
            let known = read(&tenant.known);
            all.extend(known.whole.iter().chain(known.agents.values()).filter(|entry| passes(entry)).cloned());
        }
        all
    }

    /// How many halts hold.
    pub(crate) fn halted(&self) -> usize {
        self.tenants().iter().map(|(_, tenant)| tenant.halted.load(Ordering::Relaxed)).sum()
    }
}

impl Entry {
    fn new(record: Record) -> Self {
        let is_new_halt = record.state == State::Halted && !record.is_replicated;
        let record = Arc::new(record);
        Self { pending: is_new_halt.then(|| Arc::clone(&record)), record, over: Vec::new() }
    }
}

impl Default for Tenant {
    fn default() -> Self {
        let (changes, _) = broadcast::channel(BACKLOG);
        Self { halted: AtomicUsize::new(0), known: RwLock::default(), changes }
    }
}

impl Tenant {
    /// Whether nobody is halted: one load, so that asking costs nothing while all is well.
    pub(crate) fn is_quiet(&self) -> bool {
        self.halted.load(Ordering::Acquire) == 0
    }

    /// Looks at all halts at one moment.
    pub(crate) fn halts(&self) -> Halts<'_> {
        Halts(read(&self.known))
    }

    pub(crate) fn entry(&self, scope: &Scope) -> Option<Entry> {
        let known = read(&self.known);
        match scope {
            Scope::Tenant => known.whole.clone(),
            Scope::Agent(agent) => known.agents.get(agent.as_str()).cloned(),
        }
    }

    /// Everything that is known of the tenant's agents.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        let known = read(&self.known);
        known.whole.iter().chain(known.agents.values()).cloned().collect()
    }

    /// The halts that hold now, and all changes from now on: nothing falls between.
    pub(crate) fn watch(&self) -> Watch {
        let known = read(&self.known);
        let halted = known.whole.iter().chain(known.agents.values()).filter_map(Entry::halt).cloned().collect();
        Watch { version: known.version, halted, changes: self.changes.subscribe() }
    }

    fn alter(&self, scope: &Scope, alter: impl FnOnce(&mut Option<Entry>)) -> Option<Arc<Change>> {
        let mut known = write(&self.known);
        let known = &mut *known;
        let mut entry = match scope {
            Scope::Tenant => known.whole.take(),
            Scope::Agent(agent) => known.agents.remove(agent.as_str()),
        };
        let before = entry.as_ref().and_then(Entry::halt).cloned();
        alter(&mut entry);
        let after = entry.as_ref().and_then(Entry::halt).cloned();
        let last = entry.as_ref().map(|entry| Arc::clone(&entry.record));
        let agent: Option<Arc<str>> = match scope {
            Scope::Tenant => None,
            Scope::Agent(agent) => Some(agent.as_str().into()),
        };
        if let Some(entry) = entry {
            match &agent {
                None => known.whole = Some(entry),
                Some(agent) => drop(known.agents.insert(Arc::clone(agent), entry)),
            }
        }
        match (&before, &after) {
            (None, Some(_)) => drop(self.halted.fetch_add(1, Ordering::Release)),
            (Some(_), None) => drop(self.halted.fetch_sub(1, Ordering::Release)),
            _ => {}
        }
        let is_news = match (&before, &after) {
            (None, None) => false,
            (Some(before), Some(after)) => !before.is_same_change(after),
            _ => true,
        };
        let record = after.clone().or(last).filter(|_| is_news)?;
        known.version += 1;
        let state = if after.is_some() { State::Halted } else { State::Running };
        let change = Arc::new(Change { version: known.version, agent, state, record });
        // Sent under the lock, so that listeners see changes in the order of their numbers. Nobody listening is fine.
        drop(self.changes.send(Arc::clone(&change)));
        Some(change)
    }
}

/// All halts of a tenant at one moment. Held for a batch at most: changes wait for it.
pub(crate) struct Halts<'a>(RwLockReadGuard<'a, Known>);

impl Halts<'_> {
    /// Whether an agent may not act: it is halted, or everything of its tenant is. An event without an agent is the tenant's.
    pub(crate) fn hold(&self, agent: Option<&str>) -> bool {
        let is_held = |entry: Option<&Entry>| entry.is_some_and(|entry| entry.halt().is_some());
        is_held(self.0.whole.as_ref()) || agent.is_some_and(|agent| is_held(self.0.agents.get(agent)))
    }
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(agent: Option<&str>, state: State, version: u64, is_replicated: bool) -> Record {
        Record {
            tenant: "default".parse().unwrap(),
            scope: agent.map_or(Scope::Tenant, |agent| Scope::Agent(agent.into())),
            state,
            version,
            reason: format!("word {version}"),
            actor: "ann".into(),
            cause: None,
            cause_at: None,
            at: Time(i64::try_from(version).unwrap()),
            expires_at: None,
            is_replicated,
        }
    }

    fn tenant(memory: &Memory) -> Arc<Tenant> {
        memory.tenant(&"default".parse().unwrap())
    }

    #[test]
    fn who_is_halted_is_held_and_nobody_else_and_a_tenant_holds_all() {
        let memory = Memory::default();
        let tenant = tenant(&memory);
        assert!(tenant.is_quiet());
        memory.take(word(Some("a"), State::Halted, 1, true));
        assert!(!tenant.is_quiet() && tenant.halts().hold(Some("a")));
        assert!(!tenant.halts().hold(Some("b")) && !tenant.halts().hold(None));
        memory.take(word(None, State::Halted, 1, true));
        assert!(tenant.halts().hold(Some("b")) && tenant.halts().hold(None));
        memory.take(word(None, State::Running, 2, true));
        memory.take(word(Some("a"), State::Running, 2, true));
        assert!(tenant.is_quiet() && !tenant.halts().hold(Some("a")));
        memory.take(word(Some("a"), State::Halted, 1, true));
        assert!(tenant.is_quiet(), "an older word is no news");
    }

    #[test]
    fn listeners_get_every_change_once_and_in_order() {
        let memory = Memory::default();
        memory.take(word(Some("a"), State::Halted, 1, true));
        let mut watch = tenant(&memory).watch();
        assert_eq!((watch.version, watch.halted.len()), (1, 1));
        memory.take(word(Some("a"), State::Halted, 1, true));
        memory.take(word(Some("b"), State::Halted, 1, false));
        memory.take(word(Some("b"), State::Halted, 1, true));
        memory.take(word(Some("a"), State::Running, 2, true));
        let mut seen = Vec::new();
        while let Ok(change) = watch.changes.try_recv() {
            seen.push((change.version, change.agent.clone().unwrap().to_string(), change.state));
        }
        assert_eq!(seen, [(2, "b".to_owned(), State::Halted), (3, "a".to_owned(), State::Running)]);
        assert_eq!(tenant(&memory).watch().version, 3);
    }

    #[test]
    fn a_halt_that_the_store_never_heard_of_holds_against_a_higher_version() {
        let memory = Memory::default();
        let tenant = tenant(&memory);
        memory.take(word(Some("a"), State::Halted, 5, false));
        memory.take(word(Some("a"), State::Running, 8, true));
        assert!(tenant.halts().hold(Some("a")));
        memory.take(Record { version: 9, is_replicated: true, ..word(Some("a"), State::Halted, 5, false) });
        assert!(tenant.halts().hold(Some("a")));
        memory.take(word(Some("a"), State::Running, 10, true));
        assert!(!tenant.halts().hold(Some("a")), "who reset it now had heard of it");
    }

    #[test]
    fn a_halt_is_over_when_all_that_hold_are_and_a_later_one_is_not() {
        let until = |record: Record, at: i64| Record { expires_at: Some(Time(at)), ..record };
        let memory = Memory::default();
        let key = Key::agent("default".parse().unwrap(), "a");
        memory.take(until(word(Some("a"), State::Halted, 1, true), 10));
        let entry = || memory.entry(&key).unwrap();
        assert_eq!(entry().ends_at(), Some(Time(10)));
        memory.take(until(word(Some("a"), State::Halted, 2, false), 20));
        assert_eq!(entry().ends_at(), Some(Time(20)));
        let seen = entry();
        let change = memory.alter(&key, |entry| entry.as_mut().unwrap().end(&seen));
        assert_eq!(change.unwrap().state, State::Running);
        assert!(entry().ends_at().is_none() && tenant(&memory).is_quiet());
        memory.take(until(word(Some("a"), State::Halted, 1, true), 10));
        memory.take(until(word(Some("a"), State::Halted, 2, true), 20));
        assert!(tenant(&memory).is_quiet(), "what is over stays over, whoever says it again");

        // The wall clock was set back: it ends before what is over did.
        memory.take(until(word(Some("a"), State::Halted, 3, false), 5));
        assert_eq!((tenant(&memory).is_quiet(), entry().ends_at()), (false, Some(Time(5))));
        memory.take(word(Some("a"), State::Halted, 4, true));
        assert_eq!(entry().ends_at(), None, "it has no end");
        // One that comes between a look and the end is not over.
        let memory = Memory::default();
        memory.take(until(word(Some("a"), State::Halted, 1, true), 10));
        let seen = memory.entry(&key).unwrap();
        memory.take(until(word(Some("a"), State::Halted, 2, true), 30));
        memory.alter(&key, |entry| entry.as_mut().unwrap().end(&seen));
        assert!(!tenant(&memory).is_quiet());
    }
}
