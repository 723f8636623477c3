//! A naive breaker: remembers everything, and works each answer out anew. What [`Shared`] says must be what it says.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::super::*;
use super::{BAD_OUTPUT, DEADLINE, MEMORY, OK, TRAP, error, rows, secs, slow};

/// Everything that ever happened since the state began.
struct Naive {
    settings: Settings,
    mode: Mode,
    mode_until: Option<Duration>,
    state: State,
    generation: u64,
    /// Second, counts.
    seen: Vec<(u64, Counts)>,
    /// Clean batches that nobody has looked at yet.
    clean: (u64, u64),
    streak: u64,
    trips: u32,
    closed_since: Duration,
    retry_at: Option<Duration>,
    quiet_until: Duration,
    /// Generation and start of each probe that is on its way.
    out: Vec<Duration>,
    good: u32,
}

impl Naive {
    fn new(settings: Settings) -> Self {
        Self {
            settings,
            mode: Mode::Auto,
            mode_until: None,
            state: State::Closed,
            generation: 1,
            seen: Vec::new(),
            clean: (0, 0),
            streak: 0,
            trips: 0,
            closed_since: Duration::ZERO,
            retry_at: None,
            quiet_until: Duration::ZERO,
            out: Vec::new(),
            good: 0,
        }
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.generation += 1;
        self.seen.clear();
        self.streak = 0;
        self.retry_at = None;
        self.quiet_until = Duration::ZERO;
        self.out.clear();
        self.good = 0;
    }

    fn sum(&self, now: Duration) -> Counts {
        let is_recent = |second: u64| now.as_secs() - second < self.settings.window.as_secs();
        let mut sum = Counts::default();
        self.seen.iter().filter(|(second, _)| is_recent(*second)).for_each(|(_, counts)| sum += *counts);
        sum
    }

    fn collect(&mut self, now: Duration) {
        let (calls, rows) = std::mem::take(&mut self.clean);
        if calls > 0 && self.state == State::Closed {
            self.streak = 0;
            self.seen.push((now.as_secs(), Counts { calls, rows, ..Counts::default() }));
        }
    }

    fn judge(&mut self, now: Duration) {
        let (sum, s) = (self.sum(now), &self.settings);
        let is_over = |part: u64, whole: u64, share: f64| part > 0 && part as f64 / whole as f64 >= share;
        let by_rows = match s.rows {
            Rows::Share { share, of_at_least } => sum.rows >= of_at_least && is_over(sum.failed_rows, sum.rows, share),
            Rows::Count(count) => sum.failed_rows >= count,
            Rows::Never => false,
        };
        let by_speed =
            s.slow.is_some_and(|slow| sum.calls >= slow.of_at_least && is_over(sum.slow, sum.calls, slow.share));
        let trips = self.streak >= u64::from(s.deadlines)
            || sum.trap + sum.deadline + sum.memory + sum.bad_output >= u64::from(s.failures)
            || by_rows
            || by_speed;
        if !trips || self.mode == Mode::ForcedClosed || now < self.quiet_until {
            return;
        }
        if self.mode == Mode::Shadow {
            self.seen.clear();
            self.streak = 0;
            self.quiet_until = now + self.settings.open_for;
            return;
        }
        self.open(now);
    }

    fn open(&mut self, now: Duration) {
        let until = now + self.settings.open_time(self.trips, 1u64.wrapping_add(self.generation));
        self.trips += 1;
        self.enter(State::Open);
        self.retry_at = Some(until);
    }

    fn tick(&mut self, now: Duration) {
        if self.mode_until.is_some_and(|until| now >= until) {
            self.set_mode(now, Mode::Auto, None);
        }
        match self.state {
            State::Closed => {
                if now - self.closed_since >= self.settings.forgiven_after {
                    self.trips = 0;
                }
                self.judge(now);
            }
            State::Open if self.retry_at.is_some_and(|at| now >= at) => self.enter(State::HalfOpen),
            State::Open => {}
            State::HalfOpen => {
                if self.out.first().is_some_and(|first| now - *first >= self.settings.probes_within) {
                    self.trips = self.trips.saturating_sub(1);
                    self.open(now);
                }
            }
        }
    }

    /// The generation of a pass, and whether it is a probe.
    fn ask(&mut self, now: Duration) -> Option<(u64, bool)> {
        if self.state != State::Closed {
            self.tick(now);
        }
        match self.state {
            State::Closed => Some((self.generation, false)),
            State::Open => None,
            State::HalfOpen => {
                let taken = u32::try_from(self.out.len()).unwrap() + self.good;
                (taken < self.settings.probes).then(|| {
                    // Since when some are on their way: later ones wait as long as the first.
                    self.out.push(self.out.first().copied().unwrap_or(now));
                    (self.generation, true)
                })
            }
        }
    }

    fn record(&mut self, now: Duration, (generation, is_probe): (u64, bool), outcome: &Outcome) {
        let is_slow = self.settings.slow.is_some_and(|slow| outcome.busy > slow.above * outcome.calls());
        if !is_probe && outcome.is_clean() && !is_slow {
            if generation == self.generation {
                self.clean.0 += u64::from(outcome.ok);
                self.clean.1 += u64::from(outcome.rows);
            }
            return;
        }
        self.collect(now);
        if generation != self.generation {
            return;
        }
        let counts = Counts::of(outcome, is_slow);
        if self.state == State::HalfOpen {
            self.out.pop();
            let by_rows = match self.settings.rows {
                Rows::Share { share, .. } => {
                    counts.failed_rows > 0 && counts.failed_rows as f64 / counts.rows as f64 >= share
                }
                Rows::Count(count) => {
                    counts.failed_rows > 0 && (counts.failed_rows >= count || counts.failed_rows == counts.rows)
                }
                Rows::Never => false,
            };
            self.good += 1;
            if counts.hard() > 0 || by_rows || is_slow {
                self.open(now);
            } else if self.good == self.settings.probes {
                self.enter(State::Closed);
                self.closed_since = now;
            }
            return;
        }
        if outcome.calls() == outcome.deadline {
            self.streak += u64::from(outcome.deadline);
        } else {
            self.streak = 0;
        }
        self.seen.push((now.as_secs(), counts));
        self.judge(now);
    }

    fn give_back(&mut self, (generation, is_probe): (u64, bool)) {
        if is_probe && generation == self.generation {
            self.out.pop();
        }
    }

    fn set_mode(&mut self, now: Duration, mode: Mode, until: Option<Duration>) {
        self.mode_until = until;
        let before = std::mem::replace(&mut self.mode, mode);
        if before == mode {
            return;
        }
        match (mode, self.state) {
            (Mode::ForcedOpen, _) => self.enter(State::Open),
            (Mode::Auto, State::Open) => self.enter(State::HalfOpen),
            (Mode::Auto, _) if before == Mode::Shadow => {}
            (Mode::Auto | Mode::ForcedClosed | Mode::Shadow, _) => {
                if mode != Mode::Auto {
                    self.trips = 0;
                }
                self.enter(State::Closed);
                self.closed_since = now;
            }
        }
    }

    fn renew(&mut self) {
        self.seen.clear();
        self.streak = 0;
        if self.mode == Mode::Auto {
            self.trips = 0;
            if self.state != State::Closed {
                self.enter(State::HalfOpen);
                return;
            }
        }
        self.generation += 1;
    }
}

#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    /// A worker asks and keeps what it gets.
    Ask(bool),
    /// One of the passes is used.
    Record(usize, Outcome),
    /// One of the passes is dropped.
    Drop(usize),
    Tick,
    Mode(Mode, Option<u64>),
    Renew,
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        4 => Just(OK),
        3 => Just(TRAP),
        3 => Just(DEADLINE),
        1 => Just(MEMORY),
        1 => Just(BAD_OUTPUT),
        1 => (0u32..50).prop_map(|failed| rows(failed, 50)),
        1 => (1u32..50).prop_map(|failed| error(failed, 50)),
        1 => (1u32..4).prop_map(slow),
        1 => Just(Outcome { ok: 1, deadline: 2, ..OK }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let mode = prop_oneof![1 => Just(Mode::ForcedOpen), 1 => Just(Mode::ForcedClosed), 1 => Just(Mode::Shadow), 3 => Just(Mode::Auto)];
    prop_oneof![
        3 => prop_oneof![0u64..2_000, 0u64..60_000].prop_map(Step::Wait),
        8 => any::<bool>().prop_map(Step::Ask),
        8 => (0usize..8, outcome()).prop_map(|(at, outcome)| Step::Record(at, outcome)),
        1 => (0usize..8).prop_map(Step::Drop),
        2 => Just(Step::Tick),
        1 => (mode, proptest::option::of(1u64..50_000)).prop_map(|(mode, until)| Step::Mode(mode, until)),
        1 => Just(Step::Renew),
    ]
}

fn settings() -> impl Strategy<Value = Settings> {
    let rows = prop_oneof![
        Just(Rows::Share { share: 0.5, of_at_least: 100 }),
        (1u64..60).prop_map(Rows::Count),
        Just(Rows::Never)
    ];
    let slow = proptest::option::of(Just(Slow { above: Duration::from_millis(10), share: 0.5, of_at_least: 5 }));
    (1u64..90, 1u32..6, 1u32..5, 1u32..4, rows, slow).prop_map(|(window, failures, deadlines, probes, rows, slow)| {
        Settings { window: secs(window), failures, deadlines, probes, rows, slow, ..Settings::default() }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn it_does_what_the_naive_model_does(settings in settings(), steps in proptest::collection::vec(step(), 1..150)) {
        let shared = Arc::new(Shared::new(settings.clone(), 1, Arc::default(), Duration::ZERO));
        let cells = [shared.cell(), shared.cell()];
        let mut naive = Naive::new(settings.clone());
        let mut now = Duration::ZERO;
        let mut passes: Vec<(Pass<'_>, (u64, bool))> = Vec::new();
        for step in steps {
            match step {
                Step::Wait(ms) => now += Duration::from_millis(ms),
                Step::Ask(which) => {
                    let pass = match cells[usize::from(which)].ask(|| now) {
                        Answer::Pass(pass) => Some(pass),
                        Answer::Refused => None,
                    };
                    let expect = naive.ask(now);
                    prop_assert_eq!(pass.as_ref().map(Pass::is_probe), expect.map(|(_, is_probe)| is_probe));
                    passes.extend(pass.zip(expect));
                }
                Step::Record(at, outcome) if at < passes.len() => {
                    let (pass, theirs) = passes.remove(at);
                    pass.record(&outcome, || now);
                    naive.record(now, theirs, &outcome);
                }
                Step::Drop(at) if at < passes.len() => {
                    let (pass, theirs) = passes.remove(at);
                    drop(pass);
                    naive.give_back(theirs);
                }
                Step::Record(..) | Step::Drop(_) => {}
                Step::Tick => {
                    shared.tick(now);
                    naive.collect(now);
                    naive.tick(now);
                }
                Step::Mode(mode, until) => {
                    let until = until.map(|ms| now + Duration::from_millis(ms));
                    shared.set_mode(now, mode, until);
                    naive.collect(now);
                    naive.set_mode(now, mode, until);
                }
                Step::Renew => {
                    shared.renew(now);
                    naive.collect(now);
                    naive.renew();
                }
            }
            // Looking puts the cells together, as it does for the machine.
            naive.collect(now);
            let view = shared.view(now);
            prop_assert_eq!((view.state, view.mode, view.trips), (naive.state, naive.mode, naive.trips));
            prop_assert_eq!((view.retry_at, view.streak), (naive.retry_at, naive.streak));
            prop_assert_eq!(view.counts, naive.sum(now));
            let out = passes.iter().filter(|(_, (generation, probe))| *probe && *generation == naive.generation).count();
            prop_assert!(out as u64 + u64::from(view.good_probes) <= u64::from(settings.probes), "permits exceeded");
        }
    }
}
