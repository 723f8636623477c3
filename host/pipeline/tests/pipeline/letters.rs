//! Letters come back when their time comes, across restarts, and people redrive, discard and edit them.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use phronis_core::delivery::{Append, Delivery};
use phronis_core::letter::index::{Filter, State};
use phronis_core::letter::{Letter, Origin, Outcome, Plugin, Returned, Settlement, Stage};
use phronis_core::records::{Headers, HeadersBuilder, Records, RecordsBuilder};
use phronis_core::{Time, code};
use phronis_log::{Log, PollLimits, Start};
use phronis_pipeline::letters::{
    Action, At, Cancel, Edit, Edited, Impossible, JobState, Order, Refused, Selection, Verdict,
};
use phronis_pipeline::{Handle, Options, Pipeline, Role};

use crate::room::{Room, eventually, plugin, sensors};

const CLASS: &str = "detect/PH2003/hot@1.0";

fn now() -> Time {
    Time(i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap())
}

/// A letter about the raw record at an offset.
fn letter(about: i64, due_at: Option<Time>, previous: Option<i64>) -> Letter {
    let plugin = Plugin { name: "hot".parse().unwrap(), version: "1.0".into(), digest: "ab".into() };
    let origin = Origin { topic: "phronis.raw.events".into(), partition: 0, offset: about, timestamp: 7 };
    let first = Letter::new(
        &sensors(),
        Stage::Detect,
        Some(plugin),
        origin,
        code::PLUGIN_TRAP,
        "it crashed",
        Headers::default(),
        Time(1_000_000),
    );
    Letter { due_at, previous, attempt: if previous.is_some() { 2 } else { 1 }, ..first }
}

/// Writes records into dlq, in one delivery.
fn write(room: &Room, letters: &[Letter]) {
    append(room, records(letters));
}

fn records(letters: &[Letter]) -> RecordsBuilder {
    let (mut headers, mut records) = (HeadersBuilder::default(), RecordsBuilder::default());
    for letter in letters {
        headers.clear();
        letter.write(Headers::default(), &mut headers);
        records.push(9, Some(b"S1"), Some(br#"{"sensor_id":"S1","value":99}"#), headers.as_bytes());
    }
    records
}

/// Writes a letter, at this offset, and its end: nobody sees the one without the other.
fn write_settled(room: &Room, letter: &Letter, at: i64) {
    let (mut headers, mut records) = (HeadersBuilder::default(), records(std::slice::from_ref(letter)));
    Settlement::of(letter, at, Outcome::Judged, None).write(&mut headers);
    records.push(9, None, None, headers.as_bytes());
    append(room, records);
}

fn append(room: &Room, records: RecordsBuilder) {
    let append = Append { topic: "phronis.dlq".into(), partition: 0, records: records.finish() };
    let sink = room.away.log.sink().unwrap();
    sink.submit(Delivery { appends: vec![append], commits: Vec::new() }).unwrap().wait().unwrap();
}

/// What stands in retry, in order.
fn returned(room: &Room) -> Vec<Returned> {
    let mut follower = room.away.log.follow(&["phronis.retry".into()], Start::Earliest).unwrap();
    let mut all = Vec::new();
    while let Some(records) = follower.next(PollLimits { records: 4096, bytes: 8 << 20 }, Duration::ZERO).unwrap() {
        let read = |records: &Records, row| Returned::read(records.body.headers(row)).unwrap();
        all.extend((0..records.len()).map(|row| read(&records, row)));
    }
    all
}

fn places(room: &Room) -> Vec<i64> {
    returned(room).into_iter().map(|letter| letter.at).collect()
}

/// A host that keeps time and judges nothing.
fn keeper(room: &Room) -> Options {
    Options { roles: BTreeSet::from([Role::Retry]), ..room.options("a") }
}

fn start(room: &Room) -> Pipeline {
    start_with(room, keeper(room))
}

fn start_with(room: &Room, options: Options) -> Pipeline {
    let host = room.start(options);
    eventually("the letters are read", || {
        let branch = host.handle().letter_branch(&sensors()).unwrap();
        !branch.partitions.is_empty()
            && branch.partitions.iter().all(|(_, condition)| *condition == phronis_pipeline::letters::Condition::Ready)
    });
    host
}

fn counts(handle: &Handle) -> (u64, u64) {
    let classes = handle.letter_classes(&sensors()).unwrap();
    classes
        .iter()
        .fold((0, 0), |(waiting, parked), class| (waiting + class.summary.waiting, parked + class.summary.parked))
}

fn order(action: Action, selection: Selection, rate: u32) -> Order {
    let rate = Some(rate);
    Order { action, stream: sensors(), selection, rate, actor: "ann".into(), reason: "tests".into() }
}

fn edit(place: (i32, i64)) -> Edit {
    let value = br#"{"sensor_id":"S1","value":1}"#.to_vec();
    Edit { stream: sensors(), place, value, actor: "ann".into(), reason: "unit".into(), if_version: None }
}

fn of_class() -> Selection {
    Selection::Filter(Filter { class: Some(CLASS.parse().unwrap()), ..Filter::default() })
}

#[test]
fn letters_come_back_at_their_time_once_and_nobody_waits_behind_a_long_delay() {
    let room = Room::new();
    let host = start(&room);
    let late = Time(now().0 + 3_600_000_000);
    let soon = Time(now().0 + 400_000);
    write(&room, &[letter(0, Some(late), None), letter(1, Some(soon), None), letter(2, None, None)]);
    eventually("the short delay is over", || places(&room) == [1]);
    assert!(now() >= soon);
    eventually("the index says so", || counts(&host.handle()) == (1, 1));
    // Settled while it waits: it does not come.
    write_settled(&room, &letter(3, Some(Time(now().0 + 500_000)), None), 3);
    // Another attempt takes the place of the one before.
    write(&room, &[letter(1, Some(Time(now().0 + 100_000)), Some(1))]);
    eventually("the second attempt comes", || places(&room) == [1, 5]);
    host.stop();

    // While nobody keeps time, a letter's time comes.
    write(&room, &[letter(6, Some(Time(now().0 - 1)), None)]);
    let host = start(&room);
    eventually("what was due comes, and nothing twice", || places(&room) == [1, 5, 6]);
    eventually("the index says so", || counts(&host.handle()) == (1, 1));
    host.stop();
    let all = returned(&room);
    assert!(all.iter().all(|letter| letter.redrive.is_none() && letter.letter.origin.offset < 7));
}

#[test]
fn a_class_is_redriven_at_its_rate_one_at_a_time_and_a_cancelled_one_goes_no_further() {
    let room = Room::new();
    let letters: Vec<Letter> = (0..3000).map(|about| letter(about, None, None)).collect();
    let host = {
        let host = start(&room);
        write(&room, &letters);
        host
    };
    let handle = host.handle();
    eventually("all are parked", || counts(&handle) == (0, 3000));
    let slow = handle.start_job(order(Action::Redrive, of_class(), 10)).unwrap();
    assert_eq!(slow.total, 3000);
    match handle.start_job(order(Action::Redrive, of_class(), 10)) {
        Err(Refused::Occupied(running)) => assert_eq!(running.id, slow.id),
        other => panic!("{other:?}"),
    }
    eventually("some were moved", || handle.job(&slow.id).unwrap().moved() > 0);
    let cancel = |if_version: Option<u64>| {
        handle.cancel_job(&Cancel { id: slow.id.clone(), actor: "ann".into(), reason: "too slow".into(), if_version })
    };
    assert!(matches!(cancel(Some(2)), Err(Refused::Changed { version: 1 })), "it runs");
    assert_eq!(cancel(Some(1)).unwrap().unwrap().state, JobState::Cancelled);
    assert!(matches!(cancel(Some(1)), Err(Refused::Changed { version: 2 })), "it is over");
    assert_eq!(cancel(None).unwrap().unwrap().state, JobState::Cancelled, "it stays as it is");
    eventually("the rest is parked", || counts(&handle).1 + places(&room).len() as u64 == 3000);
    assert!(places(&room).len() < 1000);

    let fast = handle.start_job(order(Action::Redrive, of_class(), 100_000)).unwrap();
    eventually("all were moved", || handle.job(&fast.id).unwrap().state == JobState::Done);
    let all = returned(&room);
    assert_eq!(all.iter().map(|letter| letter.at).collect::<BTreeSet<_>>().len(), 3000);
    assert_eq!(all.len(), 3000, "none twice");
    assert_eq!(all.last().unwrap().redrive.as_ref(), Some(&fast.id));
    assert_eq!(counts(&handle), (0, 0));
    assert!(matches!(handle.start_job(order(Action::Redrive, of_class(), 1)), Err(Refused::Nothing)));
    host.stop();
}

#[test]
fn letters_are_listed_shown_with_their_attempts_given_up_and_edited() {
    let room = Room::new();
    let host = start(&room);
    let handle = host.handle();
    write(&room, &[letter(0, None, None), letter(1, None, None), letter(0, None, Some(0)), letter(2, None, None)]);
    eventually("three are parked", || counts(&handle) == (0, 3));
    let all = Filter::default();
    let (first, next) = handle.list_letters(&sensors(), &all, None, 2).unwrap();
    assert_eq!(first.iter().map(|found| found.place).collect::<Vec<_>>(), [(0, 1), (0, 2)]);
    let (rest, end) = handle.list_letters(&sensors(), &all, next, 2).unwrap();
    assert_eq!((rest.iter().map(|found| found.place).collect::<Vec<_>>(), end), (vec![(0, 3)], None));
    let At::Letter(detail) = handle.letter(&sensors(), (0, 2)).unwrap() else { panic!("no letter") };
    assert_eq!(
        detail.attempts.iter().map(|attempt| (attempt.offset, attempt.attempt)).collect::<Vec<_>>(),
        [(0, 1), (2, 2)]
    );
    assert_eq!((detail.found.state, detail.is_cut), (Some(State::Parked), false));
    assert!(matches!(handle.letter(&sensors(), (0, 99)).unwrap(), At::Nothing));

    let one = Selection::Places(BTreeSet::from([(0, 1)]));
    let (_, count) = handle.discard(&order(Action::Discard, one.clone(), 1)).unwrap();
    assert_eq!(count, 1);
    eventually("it is given up", || counts(&handle) == (0, 2));
    assert!(matches!(handle.discard(&order(Action::Discard, one, 1)), Err(Refused::Nothing)));

    assert_eq!(detail.found.version(), 1);
    let refused = handle.edit(&Edit { if_version: Some(2), ..edit((0, 2)) });
    assert!(matches!(refused, Err(Refused::Changed { version: 1 })), "{refused:?}");
    let posted = handle.edit(&Edit { if_version: Some(1), ..edit((0, 2)) }).unwrap();
    assert_eq!((posted.partition, posted.trouble), (0, None));
    // The answer comes after the index knows.
    assert_eq!(counts(&handle), (0, 1));
    let copies = room.records("phronis.raw.events");
    let [copy] = copies.as_slice() else { panic!("{copies:?}") };
    assert_eq!(copy.body.value(0), Some(&br#"{"sensor_id":"S1","value":1}"#[..]));
    assert_eq!(copy.body.headers(0).last("phronis-edited-from"), Some(&b"sensors/0-2"[..]));
    assert!(matches!(handle.edit(&edit((0, 2))), Err(Refused::Over { at: (0, 2), .. })));
    let refused = handle.edit(&Edit { if_version: Some(1), ..edit((0, 2)) });
    assert!(matches!(refused, Err(Refused::Changed { version: 2 })), "{refused:?}");
    assert!(matches!(handle.edit(&edit((0, 77))), Err(Refused::Unknown { .. })));

    handle.discard(&order(Action::Discard, of_class(), 1)).unwrap();
    eventually("the class is given up", || counts(&handle) == (0, 0));
    host.stop();
    // A discard holds after a restart, too.
    let host = start(&room);
    assert_eq!(counts(&host.handle()), (0, 0));
    host.stop();
    assert_eq!(places(&room), [] as [i64; 0]);
}

#[test]
fn a_letter_that_another_host_edits_is_not_edited_here() {
    let room = Room::new();
    let host = start(&room);
    let handle = host.handle();
    write(&room, &[letter(0, None, None), letter(1, None, None)]);
    eventually("two are parked", || counts(&handle) == (0, 2));
    let store = handle.store().clone();
    let stream = sensors();
    let of = |offset| phronis_store::edits::Letter { stream: &stream, partition: 0, offset };
    let (at, until) = (now(), Time(now().0 + 3_600_000_000));
    assert!(store.wait(store.claim_edit(of(0), "of-another-host", at, until)).unwrap());
    assert!(matches!(handle.edit(&edit((0, 0))), Err(Refused::Claimed)));
    assert_eq!((counts(&handle), room.records("phronis.raw.events").len()), ((0, 2), 0), "nothing was posted");
    handle.edit(&edit((0, 1))).unwrap();
    store.wait(store.release_edit("of-another-host")).unwrap();
    handle.edit(&edit((0, 0))).unwrap();
    assert_eq!((counts(&handle), room.records("phronis.raw.events").len()), ((0, 0), 2));
    // It holds its claims until the others have heard of the end.
    assert!(!store.wait(store.claim_edit(of(0), "of-another-host", at, until)).unwrap());
    host.stop();
}

#[test]
fn of_many_edits_and_a_redrive_of_one_letter_at_once_one_wins() {
    const LETTERS: i64 = 40;
    let room = Room::new();
    let host = start(&room);
    let handle = host.handle();
    write(&room, &(0..LETTERS).map(|about| letter(about, None, None)).collect::<Vec<_>>());
    eventually("all are parked", || counts(&handle) == (0, 40));
    let job = handle.start_job(order(Action::Redrive, of_class(), 100_000)).unwrap();
    let copies: usize = std::thread::scope(|scope| {
        let editors: Vec<_> = (0..4)
            .map(|_| {
                let handle = handle.clone();
                scope.spawn(move || {
                    let edits = (0..LETTERS).rev().map(|offset| handle.edit(&edit((0, offset))));
                    edits.filter(|edited| !matches!(edited, Err(Refused::Over { .. }))).map(Result::unwrap).count()
                })
            })
            .collect();
        editors.into_iter().map(|editor| editor.join().unwrap()).sum()
    });
    eventually("the redrive is over", || handle.job(&job.id).unwrap().state == JobState::Done);
    let from = |copy: &Records| copy.body.headers(0).last("phronis-edited-from").unwrap().to_vec();
    let copied: Vec<Vec<u8>> = room.records("phronis.raw.events").iter().map(from).collect();
    assert_eq!(copied.len(), copies);
    let moved = places(&room).into_iter().map(|at| format!("sensors/0-{at}").into_bytes());
    let decided: Vec<Vec<u8>> = copied.into_iter().chain(moved).collect();
    assert_eq!((decided.len(), decided.iter().collect::<BTreeSet<_>>().len()), (40, 40), "each once");
    assert_eq!(counts(&handle), (0, 0));
    host.stop();
}

#[test]
fn an_edit_whose_outcome_nobody_knows_is_not_made_twice_and_its_letter_is_held_back() {
    let room = Room::new();
    let host = start(&room);
    let handle = host.handle();
    let late = Time(now().0 + 3_600_000_000);
    write(&room, &[letter(0, None, None), letter(1, None, None), letter(2, Some(late), None)]);
    eventually("three are outstanding", || counts(&handle) == (1, 2));
    room.away.be_silent(Some("phronis.raw.events"));
    let unsure = handle.edit(&edit((0, 0))).unwrap_err();
    assert!(matches!(unsure, Refused::HalfDone { edited: Edited::Unsure, why: Some(_), .. }), "{unsure}");
    assert!(unsure.to_string().contains("phronis-edited-from: sensors/0-0"), "{unsure}");
    room.away.be_silent(None);
    let again = handle.edit(&edit((0, 0))).unwrap_err();
    assert!(matches!(again, Refused::HalfDone { edited: Edited::Unsure, why: None, .. }), "{again}");
    let At::Letter(shown) = handle.letter(&sensors(), (0, 0)).unwrap() else { panic!("no letter") };
    assert_eq!((shown.found.state, shown.found.edited), (Some(State::Parked), Some(Edited::Unsure)));

    // A redrive of its class leaves it alone, and one of its name does not.
    let redrive = |selection: Selection| {
        let job = handle.start_job(order(Action::Redrive, selection, 100_000)).unwrap();
        eventually("the redrive is over", || handle.job(&job.id).unwrap().state == JobState::Done);
    };
    redrive(of_class());
    assert_eq!((places(&room), counts(&handle)), (vec![1, 2], (0, 1)));
    redrive(Selection::Places(BTreeSet::from([(0, 0)])));
    assert_eq!((places(&room), counts(&handle)), (vec![1, 2, 0], (0, 0)));
    assert_eq!(room.records("phronis.raw.events").len(), 1, "posted once");
    host.stop();
}

#[test]
fn a_copy_whose_letter_could_not_be_given_up_is_told_as_posted() {
    let room = Room::new();
    let host = start(&room);
    let handle = host.handle();
    write(&room, &[letter(0, None, None)]);
    eventually("it is parked", || counts(&handle) == (0, 1));
    room.away.be_silent(Some("phronis.dlq"));
    let posted = handle.edit(&edit((0, 0))).unwrap();
    assert!(posted.trouble.is_some_and(|trouble| trouble.contains("could not be given up")));
    room.away.be_silent(None);
    // This log took what it did not answer for.
    eventually("its end is read", || counts(&handle) == (0, 0));
    assert!(matches!(handle.edit(&edit((0, 0))), Err(Refused::Over { .. })));
    assert_eq!(room.records("phronis.raw.events").len(), 1);
    host.stop();
}

#[test]
fn a_redrive_ends_here_as_the_store_says_and_not_before() {
    let room = Room::new();
    let host = start(&room);
    let handle = host.handle();
    let store = handle.store().clone();
    write(&room, &(0..50).map(|about| letter(about, None, None)).collect::<Vec<_>>());
    eventually("all are parked", || counts(&handle) == (0, 50));
    // Another host, which owns nothing here, ends it.
    let job = handle.start_job(order(Action::Redrive, of_class(), 1)).unwrap();
    let done = phronis_store::redrives::State::Done;
    assert!(store.wait(store.end_redrive(&job.id, done, None, now())).unwrap());
    assert_eq!(handle.job(&job.id).unwrap().state, JobState::Done);
    // So may the next begin, and this host takes it on.
    let next = handle.start_job(order(Action::Redrive, of_class(), 100_000)).unwrap();
    eventually("the next is over", || handle.job(&next.id).unwrap().state == JobState::Done);
    let states: Vec<_> = handle.jobs(&sensors()).into_iter().map(|job| (job.id, job.state)).collect();
    assert_eq!(states, [(next.id.clone(), JobState::Done), (job.id, JobState::Done)]);
    let stored = store.wait(store.redrive(&next.id)).unwrap().unwrap();
    assert_eq!(stored.state, done);
    host.stop();

    // A host that keeps no time begins one: it is told how far those are that do.
    write(&room, &(50..60).map(|about| letter(about, None, None)).collect::<Vec<_>>());
    let keeper = start(&room);
    eventually("ten are parked", || counts(&keeper.handle()) == (0, 10));
    let face = Options { roles: BTreeSet::from([Role::Serve]), ..room.options("b") };
    let face = room.start(Options { store: phronis_store::conformance::local(&room.folder.path().join("a")), ..face });
    eventually("the other host knows of them", || counts(&face.handle()) == (0, 10));
    let job = face.handle().start_job(order(Action::Redrive, of_class(), 100_000)).unwrap();
    eventually("it is over there too", || face.handle().job(&job.id).unwrap().state == JobState::Done);
    assert_eq!(face.handle().job(&job.id).unwrap().moved(), 10);
    face.stop();
    keeper.stop();
}

#[test]
fn letters_that_retention_deleted_are_not_counted_any_more() {
    let room = Room::new();
    let host = start(&room);
    for about in 0..3 {
        write(&room, &[letter(about, None, None)]);
    }
    eventually("three are parked", || counts(&host.handle()) == (0, 3));
    host.stop();
    let mut options = keeper(&room);
    options.streams.iter_mut().for_each(|stream| stream.letters_retention.bytes = Some(1));
    let host = start_with(&room, options);
    eventually("they are forgotten", || counts(&host.handle()) == (0, 0));
    let class = host.handle().letter_classes(&sensors()).unwrap();
    assert_eq!(class.iter().map(|class| class.summary.count).sum::<u64>(), 3, "how many there ever were is known");
    assert!(matches!(host.handle().start_job(order(Action::Redrive, of_class(), 1)), Err(Refused::Nothing)));
    host.stop();
}

#[test]
fn a_redrive_goes_on_after_a_restart_and_an_index_that_was_lost_is_made_anew() {
    let room = Room::new();
    let host = start(&room);
    write(&room, &(0..3000).map(|about| letter(about, None, None)).collect::<Vec<_>>());
    eventually("all are parked", || counts(&host.handle()) == (0, 3000));
    // Slow enough that it is noted more than once before its end.
    let job = host.handle().start_job(order(Action::Redrive, of_class(), 200)).unwrap();
    eventually("the store knows how far it is", || {
        let handle = host.handle();
        let stored = handle.store().wait(handle.store().redrive(&job.id)).unwrap().unwrap();
        stored.progress.iter().any(|progress| progress.moved > 0)
    });
    host.stop();
    let before = places(&room).len();
    assert!((1..3000).contains(&before), "{before}");

    let host = start(&room);
    eventually("it goes on to its end", || host.handle().job(&job.id).is_some_and(|job| job.state == JobState::Done));
    let all = places(&room);
    assert_eq!((all.len(), all.into_iter().collect::<BTreeSet<_>>().len()), (3000, 3000));
    let handle = host.handle();
    let audit = handle.store().wait(handle.store().audit(&phronis_store::audit::Filter::default(), 10, None)).unwrap();
    assert_eq!(
        audit.items.iter().map(|entry| (entry.action.as_str(), entry.actor.as_str())).collect::<Vec<_>>(),
        [("letters.redrive", "ann")]
    );
    write(&room, &(0..5).map(|about| letter(9000 + about, None, None)).collect::<Vec<_>>());
    eventually("five are parked", || counts(&handle) == (0, 5));
    host.stop();

    for (lost, stale) in [(true, false), (false, true)] {
        let mut options = keeper(&room);
        if lost || stale {
            // A store that knows nothing, and later the first one again, which is behind.
            let folder = room.folder.path().join(if lost { "elsewhere" } else { "a" });
            std::fs::create_dir_all(&folder).unwrap();
            options.store = phronis_store::conformance::local(&folder);
        }
        let host = room.start(options);
        eventually("the index is whole", || counts(&host.handle()) == (0, 5));
        host.stop();
        assert_eq!(places(&room).len(), 3000, "nothing was moved twice");
    }
}

#[test]
fn a_letter_is_shown_to_a_version_that_ran_before_and_is_kept() {
    let room = Room::new();
    room.drop_plugin("a", "1.2.3");
    let host = room.start(room.options("a"));
    let handle = host.handle();
    let runs = |version: &str| {
        eventually(version, || {
            plugin(&handle).and_then(|plugin| plugin.active).is_some_and(|active| active.version == version)
        });
    };
    runs("1.2.3");
    write(&room, &[letter(0, None, None)]);
    let before = plugin(&handle).unwrap().active.unwrap().digest;
    room.drop_plugin("a", "1.2.4");
    runs("1.2.4");
    eventually("both are kept", || plugin(&handle).is_some_and(|plugin| plugin.good.len() == 2));
    let good = plugin(&handle).unwrap().good;
    assert_eq!(good.iter().map(|good| good.version.as_str()).collect::<Vec<_>>(), ["1.2.4", "1.2.3"]);
    let asked = |digest: Option<&str>| {
        let ran = handle.dry_run(&sensors(), (0, 0), digest).unwrap();
        assert!(ran.verdict == Verdict::Good && ran.problems.is_empty(), "{ran:?}");
        ran.asked.into_iter().map(|(_, version, _)| version).collect::<Vec<_>>()
    };
    assert_eq!((asked(None), asked(Some(&before))), (vec!["1.2.4".to_owned()], vec!["1.2.3".to_owned()]));
    let gone = handle.dry_run(&sensors(), (0, 0), Some(&"f".repeat(64))).unwrap_err();
    assert!(matches!(gone, Impossible::Gone(_)), "{gone}");
    assert_eq!(plugin(&handle).unwrap().active.unwrap().version, "1.2.4", "nothing changed");
    host.stop();
}
