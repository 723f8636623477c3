//! A breaker as workers hold it: one word to ask, a cell of its own to count in, and the machine behind a lock for the rest.
//!
//! The lock is taken when something failed, when the breaker is not closed, and by whoever ticks: never by a healthy call.
//! Each worker's cell is written by that worker alone, so counting needs no atomic read-modify-write and shares no cache line.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::word::{self, Word};
use super::{Guard, Machine, Mode, Outcome, Settings, State, Transition, Trip, View};

/// One plugin's breaker, shared by its workers.
#[derive(Debug)]
pub struct Shared {
    word: Word,
    /// Nanoseconds; a mean call above is slow.
    slow_above: AtomicU64,
    inner: Mutex<Inner>,
    guard: Arc<Mutex<Guard>>,
    /// What the guard knows this plugin by.
    seed: u64,
}

#[derive(Debug)]
struct Inner {
    machine: Machine,
    cells: Vec<Watched>,
}

/// A cell, and what of it the machine knows already.
#[derive(Debug)]
struct Watched {
    tally: Arc<Tally>,
    calls: u64,
    rows: u64,
}

/// Clean batches of one worker. Alone in its cache lines (two: the prefetcher fetches them in pairs).
#[derive(Debug, Default)]
#[repr(align(128))]
struct Tally {
    calls: AtomicU64,
    rows: AtomicU64,
}

/// A worker's way to the breaker.
#[derive(Debug)]
pub struct Cell {
    shared: Arc<Shared>,
    tally: Arc<Tally>,
}

/// Whether the plugin may be asked.
#[derive(Debug)]
pub enum Answer<'a> {
    /// Yes.
    Pass(Pass<'a>),
    /// No: its policy says what becomes of the batch.
    Refused,
}

/// Permission to ask the plugin once. Dropped without a record, it was not used: a probe's permit goes back.
#[derive(Debug)]
#[must_use = "an outcome that is not recorded is not counted"]
pub struct Pass<'a> {
    cell: &'a Cell,
    generation: u64,
    kind: Kind,
}

/// As wide as a register: a byte that is written alone and then moved together with its neighbours costs more than all the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
enum Kind {
    Usual,
    Probe,
}

impl Shared {
    /// A closed breaker. The seed is its own among the guard's.
    pub fn new(settings: Settings, seed: u64, guard: Arc<Mutex<Guard>>, now: Duration) -> Self {
        let shared = Self {
            word: Word::new(),
            slow_above: AtomicU64::new(slow_above(&settings)),
            inner: Mutex::new(Inner { machine: Machine::new(settings, seed, now), cells: Vec::new() }),
            guard,
            seed,
        };
        shared.change(|_| {});
        shared
    }

    /// A worker's cell.
    pub fn cell(self: &Arc<Self>) -> Cell {
        let tally = Arc::new(Tally::default());
        lock(&self.inner).cells.push(Watched { tally: Arc::clone(&tally), calls: 0, rows: 0 });
        Cell { shared: Arc::clone(self), tally }
    }

    /// Whether a batch that came now would be refused. One load.
    pub fn is_open(&self) -> bool {
        let seen = self.word.load();
        match seen.state() {
            word::OPEN => true,
            word::HALF_OPEN => seen.permits() == 0,
            _ => false,
        }
    }

    /// Puts the workers' counts together and does what time does. True when something changed.
    pub fn tick(&self, now: Duration) -> bool {
        self.change(|inner| {
            inner.collect(now);
            inner.machine.tick(now, || self.may_trip(now));
        })
    }

    /// Other settings; what was counted stays.
    pub fn set_settings(&self, settings: Settings) {
        self.slow_above.store(slow_above(&settings), Ordering::Relaxed);
        self.change(|inner| inner.machine.set_settings(settings));
    }

    /// A person decides. True when something changed.
    pub fn set_mode(&self, now: Duration, mode: Mode, until: Option<Duration>) -> bool {
        self.change(|inner| {
            inner.collect(now);
            inner.machine.set_mode(now, mode, until);
        })
    }

    /// The plugin has another version or other parameters. True when something changed.
    pub fn renew(&self, now: Duration) -> bool {
        self.change(|inner| {
            inner.collect(now);
            inner.machine.renew(now);
        })
    }

    /// Opens it for the rest of the time that it was open when the host ended.
    pub fn restore(&self, now: Duration, remaining: Duration, trips: u32, last_trip: Option<Trip>) -> bool {
        self.change(|inner| inner.machine.restore(now, remaining, trips, last_trip))
    }

    /// What there is to see.
    pub fn view(&self, now: Duration) -> View {
        let mut inner = lock(&self.inner);
        inner.collect(now);
        inner.machine.view(now)
    }

    /// The settings that hold.
    pub fn settings(&self) -> Settings {
        lock(&self.inner).machine.settings().clone()
    }

    /// What has changed since the last time, oldest first. To be taken by one thread, so that the order holds.
    pub fn take_news(&self) -> Vec<Transition> {
        lock(&self.inner).machine.take_news().collect()
    }

    /// Works on the machine, and shows its state in the word where that became another. True when there are news.
    fn change(&self, work: impl FnOnce(&mut Inner)) -> bool {
        let mut inner = lock(&self.inner);
        work(&mut inner);
        let machine = &inner.machine;
        if self.word.load().generation() != machine.generation() {
            let (state, permits) = match machine.state() {
                State::Closed => (word::CLOSED, 0),
                State::Open => (word::OPEN, 0),
                State::HalfOpen => (word::HALF_OPEN, u64::from(machine.settings().probes)),
            };
            self.word.set(state, permits, machine.generation());
        }
        machine.has_news()
    }

    fn may_trip(&self, now: Duration) -> bool {
        self.guard.lock().unwrap_or_else(PoisonError::into_inner).may_trip(now, self.seed)
    }
}

impl Inner {
    /// Tells the machine what the cells counted since the last time.
    fn collect(&mut self, now: Duration) {
        let (mut calls, mut rows) = (0, 0);
        for Watched { tally, calls: known_calls, rows: known_rows } in &mut self.cells {
            let (new_calls, new_rows) = (tally.calls.load(Ordering::Relaxed), tally.rows.load(Ordering::Relaxed));
            calls += new_calls.wrapping_sub(std::mem::replace(known_calls, new_calls));
            rows += new_rows.wrapping_sub(std::mem::replace(known_rows, new_rows));
        }
        self.machine.clean(now, calls, rows);
    }
}

impl Cell {
    /// Whether the plugin may be asked. One load while the breaker is closed; the clock is read only when it is not.
    #[inline]
    pub fn ask(&self, now: impl FnOnce() -> Duration) -> Answer<'_> {
        let seen = self.shared.word.load();
        if seen.state() == word::CLOSED {
            return Answer::Pass(Pass { cell: self, generation: seen.generation(), kind: Kind::Usual });
        }
        self.ask_carefully(now())
    }

    #[cold]
    fn ask_carefully(&self, now: Duration) -> Answer<'_> {
        let shared = &self.shared;
        shared.change(|inner| inner.machine.tick(now, || shared.may_trip(now)));
        if let Some(generation) = shared.word.acquire() {
            lock(&shared.inner).machine.probe_begun(now, generation);
            return Answer::Pass(Pass { cell: self, generation, kind: Kind::Probe });
        }
        let seen = shared.word.load();
        match seen.state() {
            word::CLOSED => Answer::Pass(Pass { cell: self, generation: seen.generation(), kind: Kind::Usual }),
            _ => Answer::Refused,
        }
    }

    /// The breaker.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        lock(&self.shared.inner).cells.retain(|watched| !Arc::ptr_eq(&watched.tally, &self.tally));
    }
}

impl Pass<'_> {
    /// Whether this is one of the few that try whether the plugin can be asked again.
    pub fn is_probe(&self) -> bool {
        self.kind == Kind::Probe
    }

    /// Counts how it went, once. True when something changed that should be told.
    #[inline]
    pub fn record(mut self, outcome: &Outcome, now: impl FnOnce() -> Duration) -> bool {
        let shared = &self.cell.shared;
        let kind = std::mem::replace(&mut self.kind, Kind::Usual);
        if kind == Kind::Usual && outcome.is_clean() && !shared.is_slow(outcome) {
            if shared.word.load().generation() == self.generation {
                let Tally { calls, rows } = &*self.cell.tally;
                // Nobody else writes here.
                calls.store(calls.load(Ordering::Relaxed).wrapping_add(outcome.ok.into()), Ordering::Relaxed);
                rows.store(rows.load(Ordering::Relaxed).wrapping_add(outcome.rows.into()), Ordering::Relaxed);
            }
            return false;
        }
        self.record_carefully(outcome, now())
    }

    #[cold]
    fn record_carefully(&self, outcome: &Outcome, now: Duration) -> bool {
        let shared = &self.cell.shared;
        shared.change(|inner| {
            inner.collect(now);
            inner.machine.record(now, self.generation, outcome, || shared.may_trip(now));
        })
    }
}

impl Shared {
    #[inline]
    fn is_slow(&self, outcome: &Outcome) -> bool {
        let above = self.slow_above.load(Ordering::Relaxed);
        above != u64::MAX && outcome.is_slower_than(above.into())
    }

    /// A probe's permit was not used.
    #[cold]
    fn give_back(&self, generation: u64) {
        // The machine first: a permit that is there again may be taken at once.
        lock(&self.inner).machine.probe_given_back(generation);
        self.word.release(generation);
    }
}

impl Drop for Pass<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.is_probe() {
            self.cell.shared.give_back(self.generation);
        }
    }
}

fn slow_above(settings: &Settings) -> u64 {
    settings.slow.map_or(u64::MAX, |slow| u64::try_from(slow.above.as_nanos()).unwrap_or(u64::MAX))
}

/// A lock that a panicking holder cannot poison: the machine is whole between any two of its steps.
fn lock(mutex: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
