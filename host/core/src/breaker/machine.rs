//! The state machine: what was reported and what time it is in, state out. It knows no thread and no clock.
//!
//! Time is a `Duration` since any fixed moment; it must come from a clock that never goes back.

use std::collections::VecDeque;
use std::time::Duration;

use super::window::Window;
use super::{Counts, Mode, Outcome, Reason, Rows, Settings, State};

/// One breaker.
#[derive(Debug)]
pub struct Machine {
    settings: Settings,
    mode: Mode,
    /// When the mode ends by itself.
    mode_until: Option<Duration>,
    phase: Phase,
    /// Rises with each change that makes earlier results void.
    generation: u64,
    window: Window,
    /// Deadlines since anything else was answered.
    streak: u64,
    /// Times in a row that it opened; forgiven by a close that lasts.
    trips: u32,
    last_trip: Option<Trip>,
    /// Until when it says nothing new, after it did not open though a rule spoke: as long as it would have been open.
    quiet_until: Duration,
    seed: u64,
    news: VecDeque<Transition>,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Closed {
        since: Duration,
    },
    /// `until` is none where a person keeps it open.
    Open {
        since: Duration,
        until: Option<Duration>,
    },
    HalfOpen {
        opened: Duration,
        probes: Probes,
    },
}

/// The probes of a half-open breaker.
#[derive(Debug, Clone, Copy, Default)]
struct Probes {
    /// Went well.
    good: u32,
    /// Are on their way.
    out: u32,
    /// Since when some are on their way.
    since: Duration,
}

/// Why and with which numbers a breaker opened, or would have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trip {
    /// The rule.
    pub reason: Reason,
    /// When.
    pub at: Duration,
    /// What stood in the window, or what the failed probe did.
    pub counts: Counts,
    /// Deadlines one after the other.
    pub streak: u64,
    /// The generation that ended.
    pub generation: u64,
}

/// Why a breaker changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// A rule opened it.
    Tripped(Reason),
    /// In shadow, a rule would have opened it.
    WouldTrip(Reason),
    /// A rule would have opened it, but the host is the suspect.
    Suppressed(Reason),
    /// Its open time is over.
    Waited,
    /// Its probes went well.
    Recovered,
    /// A person said so, or the time of what a person said is over.
    Override,
    /// The plugin has a new version or new parameters, which deserve a try.
    Renewed,
    /// It was open when the host ended.
    Restored,
}

impl Why {
    /// As it stands in the API and in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tripped(_) => "tripped",
            Self::WouldTrip(_) => "would_trip",
            Self::Suppressed(_) => "suppressed",
            Self::Waited => "waited",
            Self::Recovered => "recovered",
            Self::Override => "override",
            Self::Renewed => "renewed",
            Self::Restored => "restored",
        }
    }
}

/// A change of a breaker, with the numbers that caused it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// When.
    pub at: Duration,
    /// Why.
    pub why: Why,
    /// Before.
    pub from: State,
    /// After.
    pub to: State,
    /// Who decides, after.
    pub mode: Mode,
    /// Its generation, after.
    pub generation: u64,
    /// The numbers, where a rule spoke.
    pub trip: Option<Trip>,
    /// When it will be tried again.
    pub retry_at: Option<Duration>,
}

/// A breaker at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// What it does.
    pub state: State,
    /// Who decides.
    pub mode: Mode,
    /// When the mode ends by itself.
    pub mode_until: Option<Duration>,
    /// Its generation.
    pub generation: u64,
    /// Since when it is not closed.
    pub opened_at: Option<Duration>,
    /// When it will be tried again.
    pub retry_at: Option<Duration>,
    /// What stands in the window.
    pub counts: Counts,
    /// Deadlines one after the other.
    pub streak: u64,
    /// Times in a row that it opened.
    pub trips: u32,
    /// The last time that a rule spoke.
    pub last_trip: Option<Trip>,
    /// Probes that went well, while half-open.
    pub good_probes: u32,
}

impl Machine {
    /// A closed breaker. The seed tells it from others in its jitter.
    pub fn new(settings: Settings, seed: u64, now: Duration) -> Self {
        Self {
            settings,
            mode: Mode::Auto,
            mode_until: None,
            phase: Phase::Closed { since: now },
            generation: 1,
            window: Window::default(),
            streak: 0,
            trips: 0,
            last_trip: None,
            quiet_until: Duration::ZERO,
            seed,
            news: VecDeque::new(),
        }
    }

    /// What it does right now.
    pub fn state(&self) -> State {
        match self.phase {
            Phase::Closed { .. } => State::Closed,
            Phase::Open { .. } => State::Open,
            Phase::HalfOpen { .. } => State::HalfOpen,
        }
    }

    /// Its generation: results of another one are void.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What holds now.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Other settings, from now on; what was counted stays. Another number of probes begins a half-open state again.
    pub fn set_settings(&mut self, settings: Settings) {
        if settings.probes != self.settings.probes
            && let Phase::HalfOpen { probes, .. } = &mut self.phase
        {
            *probes = Probes::default();
            self.generation += 1;
        }
        self.settings = settings;
    }

    /// Batches that were clean, put together: calls and rows since the last time.
    pub fn clean(&mut self, now: Duration, calls: u64, rows: u64) {
        if calls == 0 || self.state() != State::Closed {
            return;
        }
        self.streak = 0;
        self.window.add(now, Counts { calls, rows, ..Counts::default() });
    }

    /// A probe is on its way.
    pub fn probe_begun(&mut self, now: Duration, generation: u64) {
        let is_same = generation == self.generation;
        if let (Phase::HalfOpen { probes, .. }, true) = (&mut self.phase, is_same) {
            if probes.out == 0 {
                probes.since = now;
            }
            probes.out += 1;
        }
    }

    /// A probe came to nothing: its permit was given back.
    pub fn probe_given_back(&mut self, generation: u64) {
        let is_same = generation == self.generation;
        if let (Phase::HalfOpen { probes, .. }, true) = (&mut self.phase, is_same) {
            probes.out = probes.out.saturating_sub(1);
        }
    }

    /// One batch's outcome; one of an earlier generation is void. `may_trip` is the host's guard.
    pub fn record(&mut self, now: Duration, generation: u64, outcome: &Outcome, may_trip: impl FnOnce() -> bool) {
        if generation != self.generation {
            return;
        }
        let is_slow = self.settings.slow.is_some_and(|slow| outcome.is_slower_than(slow.above.as_nanos()));
        let counts = Counts::of(outcome, is_slow);
        match self.phase {
            Phase::Closed { .. } => {
                let others = outcome.calls().saturating_sub(outcome.deadline);
                // The order of calls within a batch is not known: one that did not run out of time ends the row.
                self.streak = if others > 0 { 0 } else { self.streak + u64::from(outcome.deadline) };
                self.window.add(now, counts);
                self.judge(now, may_trip);
            }
            Phase::HalfOpen { opened, probes } => {
                let probes = Probes { good: probes.good + 1, out: probes.out.saturating_sub(1), ..probes };
                if self.has_failed(&counts) {
                    self.open(now, Reason::Probe, counts);
                } else if probes.good >= self.settings.probes {
                    self.close(now, Why::Recovered);
                } else {
                    self.phase = Phase::HalfOpen { opened, probes };
                }
            }
            Phase::Open { .. } => {}
        }
    }

    /// What time alone changes. Called a few times a second, and before anyone is refused.
    pub fn tick(&mut self, now: Duration, may_trip: impl FnOnce() -> bool) {
        if self.mode_until.is_some_and(|until| now >= until) {
            self.set_mode(now, Mode::Auto, None);
        }
        match self.phase {
            Phase::Closed { since } => {
                if now.saturating_sub(since) >= self.settings.forgiven_after {
                    self.trips = 0;
                }
                self.judge(now, may_trip);
            }
            Phase::Open { since, until: Some(until) } if now >= until => self.half_open(now, since, Why::Waited),
            Phase::Open { .. } => {}
            Phase::HalfOpen { probes, .. } => {
                if probes.out > 0 && now.saturating_sub(probes.since) >= self.settings.probes_within {
                    // Nobody failed: it is open as long as the last time.
                    self.trips = self.trips.saturating_sub(1);
                    self.open(now, Reason::ProbesTimeout, Counts::default());
                }
            }
        }
    }

    /// A person decides, until a moment if one is given. Says nothing when nothing changes.
    pub fn set_mode(&mut self, now: Duration, mode: Mode, until: Option<Duration>) {
        self.mode_until = until;
        let before = std::mem::replace(&mut self.mode, mode);
        if before == mode {
            return;
        }
        match (mode, self.phase) {
            (Mode::ForcedOpen, phase) => {
                let since = match phase {
                    Phase::Open { since, .. } | Phase::HalfOpen { opened: since, .. } => since,
                    Phase::Closed { .. } => now,
                };
                self.enter(now, Phase::Open { since, until: None }, Why::Override, None);
            }
            (Mode::ForcedClosed | Mode::Shadow, _) => {
                self.trips = 0;
                self.close(now, Why::Override);
            }
            (Mode::Auto, Phase::Open { since, .. }) => self.half_open(now, since, Why::Override),
            (Mode::Auto, _) if before == Mode::Shadow => self.say(now, self.state(), Why::Override, None),
            (Mode::Auto, _) => self.close(now, Why::Override),
        }
    }

    /// The plugin has another version or other parameters: what the old one did counts no more, and an open breaker tries it.
    pub fn renew(&mut self, now: Duration) {
        self.window.clear();
        self.streak = 0;
        if self.mode != Mode::Auto {
            self.generation += 1;
            return;
        }
        self.trips = 0;
        match self.phase {
            Phase::Closed { .. } => self.generation += 1,
            Phase::Open { since, .. } | Phase::HalfOpen { opened: since, .. } => {
                self.half_open(now, since, Why::Renewed);
            }
        }
    }

    /// Opens a fresh breaker for the rest of the time that it was open when the host ended, at most as long as it could be.
    pub fn restore(&mut self, now: Duration, remaining: Duration, trips: u32, last_trip: Option<Trip>) {
        if !matches!(self.phase, Phase::Closed { .. }) || self.mode != Mode::Auto {
            return;
        }
        self.trips = trips;
        self.last_trip = last_trip;
        let until = now + remaining.min(self.settings.open_most);
        self.enter(now, Phase::Open { since: now, until: Some(until) }, Why::Restored, last_trip);
    }

    /// What there is to see.
    pub fn view(&mut self, now: Duration) -> View {
        self.window.forget(now, self.settings.window);
        let (opened_at, good_probes) = match self.phase {
            Phase::Closed { .. } => (None, 0),
            Phase::Open { since, .. } => (Some(since), 0),
            Phase::HalfOpen { opened, probes } => (Some(opened), probes.good),
        };
        View {
            state: self.state(),
            mode: self.mode,
            mode_until: self.mode_until,
            generation: self.generation,
            opened_at,
            retry_at: self.retry_at(),
            counts: self.window.sum(),
            streak: self.streak,
            trips: self.trips,
            last_trip: self.last_trip,
            good_probes,
        }
    }

    /// What has changed since the last time, oldest first.
    pub fn take_news(&mut self) -> impl Iterator<Item = Transition> {
        self.news.drain(..)
    }

    /// Whether something has changed since news were taken.
    pub fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    fn retry_at(&self) -> Option<Duration> {
        match self.phase {
            Phase::Open { until, .. } => until,
            Phase::Closed { .. } | Phase::HalfOpen { .. } => None,
        }
    }

    /// Closed: whether a rule speaks, in the order of the room's front page.
    fn judge(&mut self, now: Duration, may_trip: impl FnOnce() -> bool) {
        self.window.forget(now, self.settings.window);
        if self.mode == Mode::ForcedClosed || now < self.quiet_until {
            return;
        }
        let counts = self.window.sum();
        let Some(reason) = self.reason(&counts) else { return };
        if self.mode == Mode::Auto && may_trip() {
            self.open(now, reason, counts);
            return;
        }
        let trip = Trip { reason, at: now, counts, streak: self.streak, generation: self.generation };
        let why = match self.mode {
            Mode::Shadow => Why::WouldTrip(reason),
            Mode::Auto | Mode::ForcedOpen | Mode::ForcedClosed => Why::Suppressed(reason),
        };
        self.quiet_until = now + self.settings.open_time(0, 0);
        self.last_trip = Some(trip);
        self.window.clear();
        self.streak = 0;
        self.say(now, State::Closed, why, Some(trip));
    }

    fn reason(&self, counts: &Counts) -> Option<Reason> {
        let settings = &self.settings;
        if self.streak >= u64::from(settings.deadlines) {
            return Some(Reason::Deadlines);
        }
        if counts.hard() >= u64::from(settings.failures) {
            return Some(Reason::Failures);
        }
        let is_full = match settings.rows {
            Rows::Share { share, of_at_least } => {
                counts.rows >= of_at_least.max(1) && has_share(counts.failed_rows, counts.rows, share)
            }
            Rows::Count(count) => counts.failed_rows >= count,
            Rows::Never => false,
        };
        if is_full {
            return Some(Reason::Rows);
        }
        let slow = settings.slow?;
        let is_slow = counts.calls >= slow.of_at_least.max(1) && has_share(counts.slow, counts.calls, slow.share);
        is_slow.then_some(Reason::Slow)
    }

    /// Whether a probe has failed: any hard failure; rows and slow calls by share, however few there are.
    fn has_failed(&self, counts: &Counts) -> bool {
        let is_failed_by_rows = match self.settings.rows {
            Rows::Share { share, .. } => has_share(counts.failed_rows, counts.rows, share),
            Rows::Count(count) => {
                counts.failed_rows > 0 && (counts.failed_rows >= count || counts.failed_rows == counts.rows)
            }
            Rows::Never => false,
        };
        let is_slow = self.settings.slow.is_some_and(|slow| has_share(counts.slow, counts.calls, slow.share));
        counts.hard() > 0 || is_failed_by_rows || is_slow
    }

    fn open(&mut self, now: Duration, reason: Reason, counts: Counts) {
        let trip = Trip { reason, at: now, counts, streak: self.streak, generation: self.generation };
        let since = match self.phase {
            Phase::Closed { .. } => now,
            Phase::Open { since, .. } | Phase::HalfOpen { opened: since, .. } => since,
        };
        let until = now + self.settings.open_time(self.trips, self.seed.wrapping_add(self.generation));
        self.trips = self.trips.saturating_add(1);
        self.last_trip = Some(trip);
        self.enter(now, Phase::Open { since, until: Some(until) }, Why::Tripped(reason), Some(trip));
    }

    fn half_open(&mut self, now: Duration, opened: Duration, why: Why) {
        self.enter(now, Phase::HalfOpen { opened, probes: Probes::default() }, why, None);
    }

    fn close(&mut self, now: Duration, why: Why) {
        self.enter(now, Phase::Closed { since: now }, why, None);
    }

    fn enter(&mut self, now: Duration, phase: Phase, why: Why, trip: Option<Trip>) {
        let from = self.state();
        self.phase = phase;
        self.generation += 1;
        self.window.clear();
        self.streak = 0;
        self.quiet_until = Duration::ZERO;
        self.say(now, from, why, trip);
    }

    fn say(&mut self, at: Duration, from: State, why: Why, trip: Option<Trip>) {
        let (to, mode, generation) = (self.state(), self.mode, self.generation);
        let retry_at = self.retry_at();
        self.news.push_back(Transition { at, why, from, to, mode, generation, trip, retry_at });
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share needs no more than 52 bits of a count")]
fn has_share(part: u64, whole: u64, share: f64) -> bool {
    part > 0 && part as f64 >= share * whole as f64
}
