//! The breaker: tables for its rules, and a naive model that it must agree with, in virtual time.

mod model;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;

pub(super) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn shared(settings: Settings) -> Arc<Shared> {
    Arc::new(Shared::new(settings, 1, Arc::default(), Duration::ZERO))
}

const OK: Outcome = Outcome {
    ok: 1,
    error: 0,
    trap: 0,
    deadline: 0,
    memory: 0,
    bad_output: 0,
    rows: 10,
    failed_rows: 0,
    busy: Duration::ZERO,
};
const TRAP: Outcome = Outcome { ok: 0, trap: 1, ..OK };
const DEADLINE: Outcome = Outcome { ok: 0, deadline: 1, ..OK };
const MEMORY: Outcome = Outcome { ok: 0, memory: 1, ..OK };
const BAD_OUTPUT: Outcome = Outcome { ok: 0, bad_output: 1, ..OK };

fn rows(failed: u32, shown: u32) -> Outcome {
    Outcome { rows: shown, failed_rows: failed, ..OK }
}

/// An error for the whole batch, which leaves these rows without an answer.
fn error(failed: u32, shown: u32) -> Outcome {
    Outcome { ok: 0, error: 1, ..rows(failed, shown) }
}

fn slow(calls: u32) -> Outcome {
    Outcome { ok: calls, busy: Duration::from_millis(20) * calls, ..OK }
}

/// Reports outcomes at their times; gives the state, and why it is what it is.
fn after(settings: Settings, outcomes: &[(u64, Outcome)]) -> (State, Option<Reason>) {
    let shared = shared(settings);
    let cell = shared.cell();
    for (at, outcome) in outcomes {
        shared.tick(secs(*at));
        if let Answer::Pass(pass) = cell.ask(|| secs(*at)) {
            pass.record(outcome, || secs(*at));
        }
    }
    let end = outcomes.last().map_or(Duration::ZERO, |(at, _)| secs(*at));
    shared.tick(end);
    let view = shared.view(end);
    (view.state, view.last_trip.map(|trip| trip.reason))
}

#[test]
fn each_rule_opens_it_at_its_bound_and_not_before() {
    let five = |outcome| (0..5).map(|at| (at, outcome)).collect::<Vec<_>>();
    let default = Settings::default;
    let count = || Settings { rows: Rows::Count(3), ..default() };
    let never = || Settings { rows: Rows::Never, ..default() };
    let slowness = Slow { above: Duration::from_millis(10), share: 0.5, of_at_least: 4 };
    let is_slow = || Settings { slow: Some(slowness), ..default() };
    type Case = (&'static str, Settings, Vec<(u64, Outcome)>, Option<Reason>);
    let tables: Vec<Case> = vec![
        ("four traps", default(), five(TRAP)[..4].to_vec(), None),
        ("five traps", default(), five(TRAP), Some(Reason::Failures)),
        (
            "five of any kind",
            default(),
            vec![(0, TRAP), (1, MEMORY), (2, BAD_OUTPUT), (3, DEADLINE), (4, TRAP)],
            Some(Reason::Failures),
        ),
        ("five, the first too old", default(), vec![(0, TRAP), (57, TRAP), (58, TRAP), (59, TRAP), (60, TRAP)], None),
        ("five in one batch", default(), vec![(0, Outcome { trap: 5, ..OK })], Some(Reason::Failures)),
        (
            "good calls between do not help",
            default(),
            five(TRAP).into_iter().flat_map(|trap| [trap, (trap.0, OK)]).collect(),
            Some(Reason::Failures),
        ),
        ("two deadlines", default(), vec![(0, DEADLINE), (1, DEADLINE)], None),
        ("three deadlines", default(), vec![(0, DEADLINE), (1, DEADLINE), (2, DEADLINE)], Some(Reason::Deadlines)),
        (
            "three deadlines far apart",
            default(),
            vec![(0, DEADLINE), (100, DEADLINE), (200, DEADLINE)],
            Some(Reason::Deadlines),
        ),
        (
            "deadlines with an answer between",
            default(),
            vec![(0, DEADLINE), (1, DEADLINE), (1, OK), (2, DEADLINE)],
            None,
        ),
        ("99 rows, all failed", default(), vec![(0, rows(99, 99))], None),
        ("100 rows, half failed", default(), vec![(0, rows(50, 100))], Some(Reason::Rows)),
        ("100 rows, fewer failed", default(), vec![(0, rows(49, 100))], None),
        ("good rows dilute", default(), vec![(0, rows(0, 500)), (1, rows(100, 100))], None),
        (
            "good rows that are too old do not",
            default(),
            vec![(0, rows(0, 500)), (1, OK), (61, rows(100, 100))],
            Some(Reason::Rows),
        ),
        ("errors count by their rows", default(), vec![(0, error(60, 60)), (1, error(40, 40))], Some(Reason::Rows)),
        ("five errors about few rows", default(), five(error(1, 1)), None),
        ("a count of rows", count(), vec![(0, rows(1, 1000)), (1, rows(2, 1000))], Some(Reason::Rows)),
        ("rows never", never(), vec![(0, rows(1000, 1000))], None),
        ("slow calls without a bound", default(), vec![(0, slow(100))], None),
        ("slow calls", is_slow(), vec![(0, OK), (1, OK), (2, slow(1)), (3, slow(1))], Some(Reason::Slow)),
        ("too few slow calls", is_slow(), vec![(0, OK), (2, slow(1)), (3, slow(1))], None),
        ("too small a share of slow calls", is_slow(), vec![(0, OK), (1, OK), (1, OK), (2, slow(2))], None),
        (
            "deadlines before failures",
            default(),
            vec![(0, Outcome { ok: 0, deadline: 7, ..OK })],
            Some(Reason::Deadlines),
        ),
    ];
    for (what, settings, outcomes, expect) in tables {
        let (state, reason) = after(settings, &outcomes);
        let expected = if expect.is_some() { State::Open } else { State::Closed };
        assert_eq!((state, reason), (expected, expect), "{what}");
    }
}

fn pass<'a>(cell: &'a Cell, at: u64) -> Option<Pass<'a>> {
    match cell.ask(|| secs(at)) {
        Answer::Pass(pass) => Some(pass),
        Answer::Refused => None,
    }
}

fn trip(cell: &Cell, at: u64) {
    for _ in 0..5 {
        let Some(pass) = pass(cell, at) else { return };
        pass.record(&TRAP, || secs(at));
    }
}

#[test]
fn it_recovers_through_exactly_as_many_probes_as_are_wanted() {
    let shared = shared(Settings::default());
    let cell = shared.cell();
    trip(&cell, 0);
    assert!(pass(&cell, 29).is_none());
    let probes: Vec<_> = (0..3).filter_map(|_| pass(&cell, 30)).collect();
    assert_eq!(probes.len(), 3);
    assert!(probes.iter().all(Pass::is_probe));
    assert!(pass(&cell, 30).is_none(), "a fourth");
    let mut probes = probes.into_iter();
    drop(probes.next());
    let again = pass(&cell, 31).expect("a permit that was not used is there again");
    assert!(pass(&cell, 31).is_none());
    for probe in probes.chain([again]) {
        assert_eq!(shared.view(secs(31)).state, State::HalfOpen);
        probe.record(&OK, || secs(31));
    }
    assert_eq!(shared.view(secs(31)).state, State::Closed);
    let whys: Vec<_> = shared.take_news().iter().map(|news| (news.why, news.to)).collect();
    assert_eq!(
        whys,
        [
            (Why::Tripped(Reason::Failures), State::Open),
            (Why::Waited, State::HalfOpen),
            (Why::Recovered, State::Closed)
        ]
    );
}

#[test]
fn each_failed_try_doubles_the_time_up_to_a_bound_and_a_lasting_close_forgives() {
    let settings = Settings { probes: 1, ..Settings::default() };
    let shared = shared(settings);
    let cell = shared.cell();
    trip(&cell, 0);
    let mut open = Vec::new();
    let mut now = 0;
    for _ in 0..8 {
        let retry = shared.view(secs(now)).retry_at.unwrap();
        open.push(retry - secs(now));
        now = retry.as_secs() + 1;
        pass(&cell, now).unwrap().record(&TRAP, || secs(now));
    }
    assert_eq!(open[0], secs(30));
    for (at, seen) in open.iter().enumerate().skip(1) {
        let most = secs(30) * 2u32.pow(u32::try_from(at).unwrap());
        let (low, high) = (most.min(secs(600)) * 9 / 10, (most * 11 / 10).min(secs(600)));
        assert!((low..=high).contains(seen), "{at}: {seen:?}");
    }
    let retry = shared.view(secs(now)).retry_at.unwrap().as_secs() + 1;
    pass(&cell, retry).unwrap().record(&OK, || secs(retry));
    let trips = |at: u64| {
        shared.tick(secs(at));
        shared.view(secs(at)).trips
    };
    assert_eq!(trips(retry + 599), 9, "a close that has not lasted yet");
    assert_eq!(trips(retry + 600), 0);
    trip(&cell, retry + 601);
    assert_eq!(shared.view(secs(retry + 601)).retry_at, Some(secs(retry + 631)));
}

#[test]
fn probes_that_do_not_end_open_it_again_and_a_quiet_plugin_is_not_blamed() {
    let shared = shared(Settings::default());
    let cell = shared.cell();
    trip(&cell, 0);
    pass(&cell, 30).unwrap().record(&OK, || secs(30));
    shared.tick(secs(500));
    assert_eq!(shared.view(secs(500)).state, State::HalfOpen, "nothing is on its way");
    let lost = pass(&cell, 500).unwrap();
    shared.tick(secs(559));
    assert_eq!(shared.view(secs(559)).state, State::HalfOpen);
    shared.tick(secs(560));
    let view = shared.view(secs(560));
    assert_eq!((view.state, view.retry_at), (State::Open, Some(secs(590))), "as long as the last time");
    lost.record(&OK, || secs(600));
    assert_eq!(shared.view(secs(600)).state, State::Open, "it comes too late");
}

#[test]
fn late_results_of_an_earlier_state_change_nothing() {
    let shared = shared(Settings::default());
    let (slow, fast) = (shared.cell(), shared.cell());
    let late = pass(&slow, 0).unwrap();
    let clean = pass(&slow, 0).unwrap();
    trip(&fast, 1);
    let mut probes: Vec<_> = (0..3).filter_map(|_| pass(&fast, 31)).collect();
    late.record(&TRAP, || secs(31));
    assert_eq!(shared.view(secs(31)).state, State::HalfOpen, "a probe did not fail, an old call did");
    for probe in probes.drain(..) {
        probe.record(&OK, || secs(32));
    }
    clean.record(&OK, || secs(33));
    let view = shared.view(secs(33));
    assert_eq!((view.state, view.counts), (State::Closed, Counts::default()));
}

#[test]
fn people_overrule_it_for_a_while() {
    let shared = shared(Settings::default());
    let cell = shared.cell();
    shared.set_mode(secs(1), Mode::ForcedOpen, Some(secs(100)));
    assert!(pass(&cell, 99).is_none(), "no probe while a person keeps it open");
    assert!(shared.is_open());
    shared.tick(secs(100));
    let view = shared.view(secs(100));
    assert_eq!((view.state, view.mode), (State::HalfOpen, Mode::Auto), "it is tried before it is trusted");
    shared.set_mode(secs(101), Mode::ForcedClosed, None);
    trip(&cell, 102);
    let view = shared.view(secs(102));
    assert_eq!((view.state, view.counts.trap), (State::Closed, 5), "it counts all the same");
    shared.set_mode(secs(103), Mode::Auto, None);
    shared.tick(secs(103));
    assert_eq!(shared.view(secs(103)).state, State::Closed, "what came before is not held against it");
}

#[test]
fn a_shadow_says_what_it_would_have_done_once_and_never_opens() {
    let shared = shared(Settings::default());
    let cell = shared.cell();
    shared.set_mode(secs(0), Mode::Shadow, None);
    shared.take_news();
    (0..10).for_each(|at| trip(&cell, at));
    let said: Vec<_> = shared.take_news().iter().map(|news| (news.at, news.why, news.to)).collect();
    assert_eq!(said, [(secs(0), Why::WouldTrip(Reason::Failures), State::Closed)]);
    trip(&cell, 30);
    assert_eq!(shared.take_news().len(), 1, "it would be closed again by now, and open again");
    assert!(!shared.is_open());
}

#[test]
fn another_version_is_tried_at_once() {
    let shared = shared(Settings::default());
    let cell = shared.cell();
    trip(&cell, 0);
    shared.renew(secs(1));
    assert_eq!(shared.view(secs(1)).state, State::HalfOpen);
    for _ in 0..4 {
        if let Some(probe) = pass(&cell, 1) {
            probe.record(&OK, || secs(1));
        }
    }
    for _ in 0..4 {
        pass(&cell, 2).unwrap().record(&TRAP, || secs(2));
    }
    shared.renew(secs(3));
    pass(&cell, 3).unwrap().record(&TRAP, || secs(3));
    assert_eq!(shared.view(secs(3)).state, State::Closed, "four of the five are of the version before");
}

#[test]
fn other_settings_hold_at_once_and_lose_nothing() {
    let shared = shared(Settings::default());
    let cell = shared.cell();
    for at in 0..3 {
        pass(&cell, at).unwrap().record(&TRAP, || secs(at));
    }
    shared.set_settings(Settings { failures: 4, window: secs(120), ..Settings::default() });
    assert_eq!(shared.view(secs(3)).counts.trap, 3);
    pass(&cell, 4).unwrap().record(&TRAP, || secs(4));
    assert_eq!(shared.view(secs(4)).state, State::Open);
    shared.tick(secs(40));
    drop(pass(&cell, 40));
    // More probes than there were permits: it must not wait for ever.
    shared.set_settings(Settings { probes: 5, ..Settings::default() });
    for _ in 0..5 {
        pass(&cell, 41).unwrap().record(&OK, || secs(41));
    }
    assert_eq!(shared.view(secs(41)).state, State::Closed);
}

#[test]
fn what_was_open_stays_open_for_the_rest_of_its_time() {
    for (remaining, expect) in [(20, 20), (100_000, 600)] {
        let shared = shared(Settings::default());
        let cell = shared.cell();
        shared.restore(secs(5), secs(remaining), 2, None);
        assert!(pass(&cell, 5 + expect - 1).is_none());
        assert!(pass(&cell, 5 + expect).is_some(), "a clock that jumped does not keep it open for ever");
        assert_eq!(shared.view(secs(5)).trips, 2);
    }
}

#[test]
fn when_most_plugins_trip_the_host_is_suspected_and_no_more_do() {
    let guard = Arc::new(Mutex::new(Guard::new()));
    guard.lock().unwrap().set_plugins(4);
    let all: Vec<_> = (0..4)
        .map(|seed| Arc::new(Shared::new(Settings::default(), seed, Arc::clone(&guard), Duration::ZERO)))
        .collect();
    let cells: Vec<_> = all.iter().map(Shared::cell).collect();
    (0u64..).zip(&cells).for_each(|(at, cell)| trip(cell, at));
    let states: Vec<_> = all.iter().map(|shared| shared.view(secs(4)).state).collect();
    assert_eq!(states, [State::Open, State::Open, State::Closed, State::Closed]);
    let why = all[2].take_news().first().map(|news| news.why);
    assert_eq!(why, Some(Why::Suppressed(Reason::Failures)));
    assert_eq!(guard.lock().unwrap().suspected_since(), Some(secs(2)));
    // One goes on failing: when the others wished nothing for a minute, the host is trusted again, and that one trips.
    trip(&cells[2], 30);
    assert_eq!(all[2].view(secs(30)).state, State::Closed);
    guard.lock().unwrap().tick(secs(59));
    assert_eq!(guard.lock().unwrap().suspected_since(), Some(secs(2)));
    guard.lock().unwrap().tick(secs(63));
    assert_eq!(guard.lock().unwrap().suspected_since(), None);
    trip(&cells[2], 64);
    assert_eq!(all[2].view(secs(64)).state, State::Open);
}

#[test]
fn few_plugins_say_nothing_about_the_host() {
    let mut guard = Guard::new();
    guard.set_plugins(2);
    assert!(guard.may_trip(secs(0), 0));
    assert!(guard.may_trip(secs(1), 1));
    guard.set_plugins(100);
    assert!((0..50).all(|plugin| guard.may_trip(secs(2), plugin)), "not more than half");
    assert!(!guard.may_trip(secs(2), 99));
}

#[test]
fn settings_that_make_no_sense_are_refused_by_name() {
    let check = |change: fn(&mut Settings)| {
        let mut settings = Settings::default();
        change(&mut settings);
        settings.check().err().map(|(field, _)| field)
    };
    assert_eq!(check(|_| {}), None);
    assert_eq!(check(|s| s.window = Duration::ZERO), Some("window"));
    assert_eq!(check(|s| s.window = secs(601)), Some("window"));
    assert_eq!(check(|s| s.failures = 0), Some("failures"));
    assert_eq!(check(|s| s.probes = 0), Some("probes"));
    assert_eq!(check(|s| s.probes = 1001), Some("probes"));
    assert_eq!(check(|s| s.rows = Rows::Share { share: 1.5, of_at_least: 1 }), Some("rows_share"));
    assert_eq!(check(|s| s.rows = Rows::Count(0)), Some("rows"));
    assert_eq!(check(|s| s.open_most = secs(1)), Some("open_most"));
    assert_eq!(check(|s| s.open_for = Duration::from_millis(999)), Some("open_for"));
    assert_eq!(check(|s| s.open_for = secs(1)), None);
}
