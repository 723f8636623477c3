//! A guest that misbehaves on one row, on every row, at every call: who is blamed, who is not.

use phronis_core::plugin::{FailureKind, Limits};
use serde_json::json;

use super::support::*;

/// The guest misbehaves when the marked row is in the call: that row is named with this kind, and every other row is
/// judged as if nothing had happened.
#[track_caller]
fn only_the_guilty_row(behaviour: &str, kind: FailureKind, says: &str) {
    only_the_guilty_row_within(limits(), behaviour, kind, says);
}

#[track_caller]
fn only_the_guilty_row_within(limits: Limits, behaviour: &str, kind: FailureKind, says: &str) {
    let mut runner = marked(behaviour, limits);
    let values: Vec<f64> = (0..1000).map(|n| if n == 700 { MARK } else { f64::from(n) }).collect();
    let judged = detect(&mut runner, values.iter().copied());
    assert_eq!(failed(&judged), [(700, kind)], "{behaviour}");
    let message = &judged.judgement.failures[0].message;
    assert!(message.contains(says), "{behaviour}: {message}");
    assert_eq!(found(&judged), (501..1000).filter(|row| *row != 700).collect::<Vec<_>>());
    assert_eq!((judged.calls.ok, judged.calls.failed()), (0, 1), "the call counts once, whatever the search cost");
    // The runner goes on as if nothing had happened.
    let judged = detect(&mut runner, [1.0, 501.0]);
    assert_eq!((found(&judged), failed(&judged), judged.calls.ok), (vec![1], vec![], 1));
}

#[test]
fn a_trapped_batch_loses_only_the_guilty_row() {
    only_the_guilty_row("trap", FailureKind::Trap, "marked row");
    only_the_guilty_row("abort", FailureKind::Trap, "");
}

#[test]
fn an_endless_loop_loses_only_the_guilty_row() {
    only_the_guilty_row_within(hasty(), "loop", FailureKind::Deadline, "deadline");
}

#[test]
fn exit_is_a_trap_of_the_guilty_row() {
    only_the_guilty_row("exit", FailureKind::Trap, "exit");
}

#[test]
fn a_stack_overflow_loses_only_the_guilty_row() {
    only_the_guilty_row("stack", FailureKind::Trap, "stack");
}

#[test]
fn memory_growth_loses_only_the_guilty_row() {
    only_the_guilty_row("memory", FailureKind::Memory, "64 MiB");
}

#[test]
fn an_error_for_the_batch_loses_only_the_guilty_row() {
    only_the_guilty_row("error", FailureKind::Error, "the whole batch is bad");
}

#[test]
fn output_that_breaks_the_contract_loses_only_the_guilty_row() {
    for (behaviour, says) in [
        ("row-out-of-range", "of a batch with"),
        ("bad-rule", "Not A Rule"),
        ("same-rule-twice", "twice"),
        ("giant-output", "cannot be read"),
        ("huge-error", "cannot be read"),
        ("not-utf8", "cannot be read"),
    ] {
        only_the_guilty_row(behaviour, FailureKind::BadOutput, says);
    }
}

#[test]
fn a_million_findings_lose_only_the_guilty_row() {
    // With memory enough for the guest to make them, and a deadline to match.
    let patient = Limits { deadline_ms: 10_000, ..limits() };
    let roomy = Limits { memory: 512 << 20, ..patient };
    only_the_guilty_row_within(roomy, "million-findings", FailureKind::BadOutput, "cannot be read");
    only_the_guilty_row_within(patient, "million-findings", FailureKind::Memory, "64 MiB");
}

#[test]
fn too_many_findings_for_the_limit_are_no_findings_of_the_guilty_row_only() {
    let mut runner = always("honest", Limits { output_rows: 100, ..limits() });
    // 150 findings in one call are too many, in two calls they are not: nobody is blamed.
    let judged = detect(&mut runner, (0..200).map(|n| if n < 150 { 900.0 } else { 0.0 }));
    assert_eq!((found(&judged).len(), failed(&judged)), (150, vec![]));
    assert_eq!(judged.calls.bad_output, 1);
}

#[test]
fn a_plugin_that_always_loops_costs_ten_deadlines_and_every_row_is_accounted_for() {
    let mut runner = always("loop", Limits { deadline_ms: 20, ..limits() });
    let judged = detect(&mut runner, (0..5000).map(f64::from));
    let kinds = failed(&judged);
    assert_eq!(kinds.iter().map(|(row, _)| *row).collect::<Vec<_>>(), (0..5000).collect::<Vec<_>>());
    assert!(kinds.iter().all(|(_, kind)| matches!(kind, FailureKind::Deadline | FailureKind::Budget)));
    assert_eq!(kinds[4999].1, FailureKind::Budget);
    assert_eq!(judged.calls.deadline, 1);
}

#[test]
fn a_plugin_that_always_traps_stays_within_its_budget() {
    let mut runner = always("trap", limits());
    let judged = detect(&mut runner, (0..3000).map(f64::from));
    assert_eq!(failed(&judged).len(), 3000);
    assert_eq!(failed(&judged)[0].1, FailureKind::Trap);
    assert_eq!(failed(&judged)[2999].1, FailureKind::Budget);
}

#[test]
fn a_plugin_that_fails_every_row_is_not_an_instance_that_dies() {
    let mut runner = always("fail-every-row", limits());
    let judged = detect(&mut runner, (0..2000).map(f64::from));
    assert_eq!(failed(&judged), (0..2000).map(|row| (row, FailureKind::Row)).collect::<Vec<_>>());
    assert_eq!((judged.calls.ok, judged.calls.failed()), (2, 0));
}

#[test]
fn one_failed_row_in_a_thousand_is_named_wherever_the_batch_is_cut() {
    let mut runner = always("fail-one-in-a-thousand", limits());
    let judged = detect(&mut runner, (1..=5000).map(f64::from));
    let rows = [999, 1999, 2999, 3999, 4999];
    assert_eq!(failed(&judged), rows.map(|row| (row, FailureKind::Row)));
    assert_eq!(judged.judgement.failures[1].message, "cannot judge 2000");
}

#[test]
fn slow_but_honest_is_judged() {
    let mut runner = always("slow", Limits { deadline_ms: 10_000, ..limits() });
    let judged = detect(&mut runner, [501.0]);
    assert_eq!((found(&judged), failed(&judged)), (vec![0], vec![]));
}

#[test]
fn a_trapped_instance_is_never_used_again() {
    let calls = |runner: &mut phronis_engine::Runner| {
        let judged = detect(runner, [1.0]);
        judged.judgement.findings[0].message.clone()
    };
    let mut runner = always("count-calls", limits());
    assert_eq!([calls(&mut runner), calls(&mut runner), calls(&mut runner)], ["1", "2", "3"]);
    let with =
        |runner: &phronis_engine::Runner, behaviour: &str| params(runner.component(), &json!({"behaviour": behaviour}));
    let trap = with(&runner, "trap");
    runner.configure(&trap).unwrap();
    assert_eq!(failed(&detect(&mut runner, [1.0])), [(0, FailureKind::Trap)]);
    let count = with(&runner, "count-calls");
    runner.configure(&count).unwrap();
    assert_eq!(calls(&mut runner), "1", "the memory of the trapped instance is gone");
}

#[test]
fn a_plugin_that_leaks_is_replaced_before_it_traps() {
    let mut runner = always("leak", Limits { memory: 16 << 20, ..limits() });
    for _ in 0..100 {
        let judged = detect(&mut runner, [501.0]);
        assert_eq!((found(&judged), judged.calls.ok), (vec![0], 1));
        assert!(runner.memory() < 16 << 20);
    }
}

#[test]
fn a_flood_of_log_lines_is_dropped_and_harms_nobody() {
    for behaviour in ["log-flood", "print-flood", "escapes"] {
        let mut runner = always(behaviour, Limits { deadline_ms: 10_000, ..limits() });
        let judged = detect(&mut runner, [501.0]);
        assert_eq!((found(&judged), failed(&judged)), (vec![0], vec![]), "{behaviour}");
    }
}

#[test]
fn many_plugins_at_once_do_not_disturb_each_other() {
    let threads: Vec<_> = ["loop", "trap", "memory", "honest", "honest"]
        .into_iter()
        .map(|behaviour| {
            std::thread::spawn(move || {
                let mut runner = marked(behaviour, if behaviour == "loop" { hasty() } else { limits() });
                (0..3).map(|_| found(&detect(&mut runner, [1.0, 501.0, MARK]))).collect::<Vec<_>>()
            })
        })
        .collect();
    let threads: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert!(threads.iter().flatten().all(|rows| *rows == [1]), "{threads:?}");
}
