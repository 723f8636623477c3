//! Workers whose log does not answer: they hear of their group all the same, and hold nobody up.

use super::*;

#[test]
fn a_worker_that_waits_for_the_log_hears_of_its_group() {
    // More than may be under way, and nobody answers for the first of it.
    let batches = (0..7).map(|batch| Step::Records(0, batch * 300..(batch + 1) * 300));
    let steps = [Assigned(&[0, 1])].into_iter().chain(batches).chain([Lost(&[0]), Step::Records(1, 0..4)]);
    let script = Script::new(steps).fate(0, 0, Fate::Hangs);
    script.ready();
    let done = script.play();
    assert_eq!(done.get(8..10), Some(&["lost [0]".to_owned(), "records 1 0..4 open 1".to_owned()][..]), "{done:?}");
    assert_eq!(script.stream.counts.snapshot().delivered, 4, "what another owns now is not counted here");
}

#[test]
fn a_partition_is_handed_over_without_its_last_deliveries_when_the_log_is_away() {
    let script = Script::new([
        Assigned(&[0, 1, 2]),
        Step::Records(2, 0..5),
        Step::Records(0, 0..3),
        Step::Records(1, 0..4),
        Revoked(&[1]),
        Step::Records(0, 0..3),
    ]);
    // The first answers late, so that all three are in flight when the partition is revoked.
    let script = script.fate(2, 0, Fate::Late).fate(0, 0, Fate::Fails).fate(1, 0, Fate::Hangs);
    script.ready();
    let done = script.play();
    let rewound: Vec<_> = done.iter().filter(|word| word.starts_with("rewound")).collect();
    assert_eq!(rewound, ["rewound 0 to 0"], "{done:?}");
    assert_eq!(script.stream.counts.snapshot().delivered, 5 + 3);
}

#[test]
fn a_log_that_does_not_answer_is_asked_for_one_partition_at_a_time() {
    let script = Script::new([
        Assigned(&[0, 1, 2]),
        Step::Records(2, 0..5),
        Step::Records(1, 0..4),
        Step::Records(0, 0..3),
        Revoked(&[2]),
        Step::Records(0, 0..3),
        Step::Records(1, 0..4),
    ]);
    let script = script.fate(2, 0, Fate::Late).fate(1, 0, Fate::Fails).fate(0, 0, Fate::Fails);
    script.lock().silences = 2;
    script.ready();
    let done = script.play();
    let asked: Vec<_> = done.iter().filter(|word| word.starts_with("nobody")).collect();
    assert!(asked.len() == 2 && asked[0] == asked[1], "nothing else is asked before the group was looked at: {done:?}");
    assert_eq!(script.stream.counts.snapshot().delivered, 5 + 3 + 4);
}
