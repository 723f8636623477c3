//! Keeps the copies of what memory knows up to date: the file at once, the control topic and the store as soon as they answer.
//! Lets halts go whose time is over, never before the wall clock and a steady clock both say so.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use phronis_core::Time;
use phronis_core::agent::{Key, Record, State};
use phronis_store::agents::Set;

use super::change::BY_ITSELF;
use super::memory::Entry;
use super::{Registry, Written, control, file, now};
use crate::clock::now_ms;
use crate::whole::settled;

/// How often halts are looked through for those whose time is over; also how soon a thread notices that it should stop.
const TICK: Duration = Duration::from_millis(100);

/// Between two tries at a copy that is away.
const AGAIN: Duration = Duration::from_secs(1);

/// Words in one write to the control topic.
const AT_ONCE: usize = 1000;

/// How long one turn asks the store about words that it may not have, and how long it tells it of ends: at least one of each,
/// so that a slow store holds up neither what else the thread does, nor one of the two the other.
const ASK_FOR: Duration = Duration::from_millis(100);

/// The thread behind a registry.
pub(crate) struct Keeper {
    pub(crate) registry: Arc<Registry>,
    pub(crate) should_stop: Arc<AtomicBool>,
}

/// What it remembers between two turns.
#[derive(Default)]
struct Memory {
    /// When each halt is over by the steady clock, and by which time of the wall.
    ends: HashMap<Key, (Time, Instant)>,
    /// Whether all of the store's halts were taken since it last was away.
    is_loaded: bool,
    is_away: bool,
    not_before: Option<Instant>,
    say_not_before: Option<Instant>,
}

impl Keeper {
    /// Goes on until told to stop.
    pub(crate) fn run(self) {
        let mut memory = Memory::default();
        while !self.should_stop.load(Ordering::Relaxed) {
            self.let_go(&mut memory, now(), Instant::now());
            self.speak(&mut memory);
            self.see_to_the_store(&mut memory);
            self.wait(&memory);
        }
    }

    fn wait(&self, memory: &Memory) {
        let work = self.registry.lock();
        let is_free = |not_before: Option<Instant>| not_before.is_none_or(|at| at <= Instant::now());
        let can_speak = work.is_current && !work.unsaid.is_empty() && is_free(memory.say_not_before);
        let can_ask = !(work.unsure.is_empty() && work.over.is_empty() && memory.is_loaded && !work.must_load)
            && is_free(memory.not_before);
        if !can_speak && !can_ask {
            drop(self.registry.wake.wait_timeout(work, TICK).unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Ends halts whose time is over, by the wall and by a steady clock.
    fn let_go(&self, memory: &mut Memory, wall: Time, steady: Instant) {
        let mut seen = BTreeSet::new();
        for entry in self.registry.memory.entries(|entry| entry.ends_at().is_some()) {
            let Some(ends) = entry.ends_at() else { continue };
            let key = entry.record.key();
            let left = Duration::from_micros(u64::try_from(ends.0.saturating_sub(wall.0)).unwrap_or(0));
            let known = memory.ends.get(&key).copied().filter(|(of, _)| *of == ends);
            // A time that no clock can hold never comes while this process lives.
            let (_, at) = known.unwrap_or_else(|| (ends, steady.checked_add(left).unwrap_or_else(|| far(steady))));
            memory.ends.insert(key.clone(), (ends, at));
            seen.insert(key.clone());
            // A wall clock that jumps ahead alone ends nothing.
            if ends > wall || at > steady {
                continue;
            }
            let change = self.registry.memory.alter(&key, |known| {
                if let Some(known) = known {
                    known.end(&entry);
                }
            });
            if let Some(change) = change {
                self.registry.tell(&key.tenant, &change);
            }
            self.registry.lock().over.insert(key);
        }
        memory.ends.retain(|key, _| seen.contains(key));
    }

    /// Says on the control topic what it does not have.
    fn speak(&self, memory: &mut Memory) {
        if memory.say_not_before.is_some_and(|at| at > Instant::now()) {
            return;
        }
        let keys: Vec<Key> = {
            let mut work = self.registry.lock();
            if !work.is_current {
                return;
            }
            let keys: Vec<Key> = work.unsaid.iter().take(AT_ONCE).cloned().collect();
            work.unsaid.retain(|key| keys.binary_search(key).is_err());
            keys
        };
        let words: Vec<Arc<Record>> =
            keys.iter().filter_map(|key| self.registry.memory.entry(key)).map(|entry| entry.record).collect();
        if words.is_empty() {
            return;
        }
        let delivery = control::delivery(words.iter().map(|word| &**word), now_ms());
        let said = self.registry.sink.try_submit(delivery).and_then(|ticket| settled(ticket, &self.should_stop));
        if let Err(error) = said {
            tracing::debug!(%error, words = words.len(), "words about agents were not taken by the log, saying them again");
            self.registry.lock().unsaid.extend(keys);
            memory.say_not_before = Some(Instant::now() + AGAIN);
        }
    }

    fn see_to_the_store(&self, memory: &mut Memory) {
        if memory.not_before.is_some_and(|at| at > Instant::now()) {
            return;
        }
        memory.is_loaded &= !std::mem::take(&mut self.registry.lock().must_load);
        let store = self.registry.store.clone();
        let outcome = store.wait(async {
            if !memory.is_loaded {
                self.load().await?;
                memory.is_loaded = true;
            }
            self.make_sure(ASK_FOR).await
        });
        self.registry.asked.store_was_tried();
        match outcome {
            Ok(()) => {
                memory.not_before = None;
                if memory.is_away && self.registry.lock().unsure.is_empty() {
                    memory.is_away = false;
                    tracing::info!("the store answers again and has every halt of this host");
                }
            }
            Err(error) => {
                memory.not_before = Some(Instant::now() + AGAIN);
                memory.is_loaded = false;
                if !std::mem::replace(&mut memory.is_away, true) {
                    tracing::warn!(%error, code = %error.code(), "who is halted cannot be asked of the store: what is known here holds");
                }
            }
        }
    }

    /// Takes all halts of the store; of those that it does not have it is asked one by one.
    async fn load(&self) -> phronis_store::Result<()> {
        let halts = self.registry.store.halts().await?;
        let known: HashMap<Key, u64> = halts.iter().map(|record| (record.key(), record.version)).collect();
        let count = halts.len();
        for record in halts {
            let key = record.key();
            let before = self.registry.memory.entry(&key);
            let is_same = before.as_ref().is_some_and(|entry| entry.record.is_same_change(&record));
            self.registry.take(record);
            // Whoever reads the control topic later must find it there too.
            if !is_same {
                self.registry.lock().unsaid.insert(key);
            }
        }
        let unsure = self.registry.memory.entries(|entry| {
            let is_newer = known.get(&entry.record.key()).is_none_or(|version| *version < entry.record.version);
            entry.pending.is_some() || (entry.record.state == State::Halted && is_newer)
        });
        self.registry.lock().unsure.extend(unsure.iter().map(|entry| entry.record.key()));
        if self.registry.asked.store() {
            tracing::info!(halts = count, "halts of agents restored from the store");
        }
        Ok(())
    }

    /// Asks the store about some of the words that it may not have, and tells it of some ends, each for about so long.
    async fn make_sure(&self, at_most: Duration) -> phronis_store::Result<()> {
        let is_enough = |since: Instant| since.elapsed() >= at_most || self.should_stop.load(Ordering::Relaxed);
        let began = Instant::now();
        while let Some(key) = self.registry.next(|work| &mut work.unsure) {
            if let Err(error) = self.registry.settle(&key).await {
                self.registry.lock().unsure.insert(key);
                return Err(error);
            }
            if is_enough(began) {
                break;
            }
        }
        let began = Instant::now();
        while let Some(key) = self.registry.next(|work| &mut work.over) {
            if let Err(error) = self.record_end(&key).await {
                self.registry.lock().over.insert(key);
                return Err(error);
            }
            if is_enough(began) {
                break;
            }
        }
        Ok(())
    }

    /// Writes down that a halt is over. Every host tries; one is first.
    async fn record_end(&self, key: &Key) -> phronis_store::Result<()> {
        let Some(current) = self.registry.settle(key).await? else { return Ok(()) };
        if !current.is_expired(now()) {
            return Ok(());
        }
        let ended = Record {
            state: State::Running,
            version: current.version.saturating_add(1),
            reason: "the time of the halt is over".to_owned(),
            actor: BY_ITSELF.to_owned(),
            cause: None,
            cause_at: None,
            at: now(),
            expires_at: None,
            ..current.clone()
        };
        match self.registry.store.set_agent(&ended, current.version).await? {
            Set::Stored => {
                self.registry.take(ended.clone());
                self.registry.lock().unsaid.insert(key.clone());
                self.registry.note("agent.expire", &ended).await;
            }
            Set::Stale(Some(other)) => drop(self.registry.take(*other)),
            Set::Stale(None) | Set::Handled => {}
        }
        Ok(())
    }
}

impl Registry {
    fn next(&self, of: impl Fn(&mut super::Work) -> &mut BTreeSet<Key>) -> Option<Key> {
        of(&mut self.lock()).pop_first()
    }

    /// Writes the file whenever something changed, until told to stop and nothing is left to write.
    pub(crate) fn keep_file(&self, should_stop: &AtomicBool) {
        let mut done = 0;
        let mut is_failing = false;
        loop {
            let wanted = self.wanted(done);
            if wanted == done {
                if should_stop.load(Ordering::Relaxed) {
                    return;
                }
                continue;
            }
            let outcome = self.write_file();
            let error = outcome.as_ref().err().map(|error| format!("{}: {error}", self.file.path.display()));
            self.file.written.send_replace(Written { upto: wanted, error: error.clone() });
            match outcome {
                Ok(()) => {
                    done = wanted;
                    is_failing = false;
                }
                Err(_) if should_stop.load(Ordering::Relaxed) => return,
                Err(_) => {
                    if !std::mem::replace(&mut is_failing, true) {
                        tracing::error!(error, "this host's file of halted agents cannot be written, trying again");
                    }
                    thread::sleep(TICK);
                }
            }
        }
    }

    /// The newest number, if it is another within a moment.
    fn wanted(&self, done: u64) -> u64 {
        let wanted = self.file.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        if *wanted != done {
            return *wanted;
        }
        *self.file.wake.wait_timeout(wanted, TICK).unwrap_or_else(PoisonError::into_inner).0
    }

    fn write_file(&self) -> std::io::Result<()> {
        let is_halt = |entry: &Entry| entry.record.state == State::Halted || entry.pending.is_some();
        let entries = self.memory.entries(is_halt);
        let words = entries.iter().flat_map(|entry| {
            let known = Some(&entry.record).filter(|record| record.state == State::Halted);
            let pending = entry.pending.as_ref().filter(|pending| **pending != entry.record);
            known.into_iter().chain(pending)
        });
        file::write(&self.file.path, words.map(|word| &**word))
    }
}

fn far(from: Instant) -> Instant {
    from + Duration::from_secs(86_400 * 365)
}

#[cfg(test)]
mod tests;
