//! What every log must do, as cases that every adapter's tests run.
//!
//! A case gets a log and makes topics of its own, so that one log, also a broker, can serve all of them.
//! Case by case: ordering, atomicity, fencing, groups, limits, retention, positions, wake-ups.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a suite for tests: it fails by panicking, and its numbers are small"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use phronis_core::delivery::{Append, Commit, Delivery, Receipt};
use phronis_core::records::{HeadersBuilder, NewRecords, Records, RecordsBuilder, TopicName};

use crate::{
    Error, Follower, Log, Member, PollLimits, Polled, Position, Reader, Retention, Source, Start, Subscription, Ticket,
    TopicSpec,
};

/// A log, and what it promises beyond what all do.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "its log is a trait object")]
pub struct Subject<'a> {
    /// The log.
    pub log: &'a dyn Log,
    /// How members join.
    pub exactly_once: bool,
    /// Appends and commits of a delivery are seen together or not at all.
    pub is_atomic: bool,
    /// What is durable is there for the next poll, without a way over a network.
    pub is_immediate: bool,
}

/// A case: its name, which is the behaviour, and what checks it.
pub type Case = (&'static str, fn(&Subject<'_>));

/// All cases.
pub const CASES: &[Case] = &[
    ("records_come_back_in_order_with_everything_they_had", records_come_back_whole),
    ("offsets_of_a_delivery_follow_each_other_in_every_partition", offsets_follow),
    ("an_empty_append_takes_no_offset", empty_append),
    ("a_poll_cuts_large_batches_and_joins_small_ones", limits_are_kept),
    ("a_record_larger_than_the_limit_comes_alone", large_records),
    ("appends_and_commits_are_taken_together_or_not_at_all", fenced_commits),
    ("a_delivery_behind_a_fenced_one_is_fenced_too", gaps_are_fenced),
    ("a_bad_delivery_takes_nothing", bad_deliveries),
    ("a_group_goes_on_where_it_committed", groups_go_on),
    ("a_new_group_starts_where_it_says", groups_start),
    ("the_members_of_a_group_share_its_partitions", groups_split),
    ("partitions_beside_come_and_go_with_those_of_the_first_topic", beside_follows),
    ("partitions_beside_are_read_committed_and_rewound_like_others", beside_is_read),
    ("partitions_take_turns", partitions_take_turns),
    ("a_rewound_partition_starts_again_at_the_commit", rewinding),
    ("a_reader_starts_by_position", positions),
    ("a_reader_starts_by_time", positions_by_time),
    ("a_follower_reads_whole_topics", following),
    ("a_blocked_poll_wakes_when_records_come", wake_up),
    ("several_readers_see_the_same_records", several_readers),
    ("deliveries_of_many_threads_are_all_there_in_order", many_threads),
    ("topics_are_made_once", topics),
    ("a_topic_has_an_identity_that_no_other_has", identities),
];

/// What [`Polled::Assigned`] brings.
pub type Assigned = Vec<(TopicName, i32, i64)>;

/// More than any case holds.
pub const ALL: PollLimits = PollLimits { records: 1 << 20, bytes: 1 << 28 };

/// Longer than any log needs, on any machine.
const LONG: Duration = Duration::from_secs(60);

/// A name that no earlier run used.
pub fn fresh(what: &str) -> TopicName {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
    format!("{what}-{now}-{}", COUNT.fetch_add(1, Ordering::Relaxed)).into()
}

/// A topic without retention.
pub fn topic(log: &dyn Log, partitions: i32) -> TopicName {
    let name = fresh("conformance");
    log.create_topic(&TopicSpec { name: Arc::clone(&name), partitions, retention: Retention::default() }).unwrap();
    name
}

/// Records whose values are these numbers, keyed by them, with them as timestamps.
pub fn numbers(numbers: impl IntoIterator<Item = i64>) -> NewRecords {
    let mut builder = RecordsBuilder::default();
    for number in numbers {
        let text = number.to_string();
        builder.push(number, Some(text.as_bytes()), Some(text.as_bytes()), &[]);
    }
    builder.finish()
}

/// The numbers of [`numbers`].
pub fn read(records: &Records) -> Vec<i64> {
    let number = |row| str::from_utf8(records.body.value(row).unwrap()).unwrap().parse().unwrap();
    (0..records.len()).map(number).collect()
}

/// Records for one partition.
pub fn append(topic: &TopicName, partition: i32, records: NewRecords) -> Delivery {
    Delivery { appends: vec![Append { topic: Arc::clone(topic), partition, records }], commits: Vec::new() }
}

/// A group's step.
pub fn commit(group: &TopicName, topic: &TopicName, partition: i32, from: i64, next: i64) -> Commit {
    Commit { group: Arc::clone(group), topic: Arc::clone(topic), partition, from, next }
}

/// Reads `count` numbers, in as many polls as it takes.
pub fn read_numbers(reader: &mut dyn Reader, count: usize) -> Vec<i64> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let records = reader.next(ALL, LONG).unwrap().unwrap_or_else(|| panic!("only {} of {count} came", seen.len()));
        seen.extend(read(&records));
    }
    seen
}

/// A member of a group whose assignment has been taken; with what it was.
pub fn member(
    subject: &Subject<'_>,
    group: &TopicName,
    topics: &[&TopicName],
    (number, members): (i32, i32),
    start: Start,
) -> (Member, Assigned) {
    let topics = topics.iter().map(|topic| Arc::clone(topic)).collect();
    joined(subject, &subscription(subject, group, topics, Vec::new(), (number, members), start))
}

fn subscription(
    subject: &Subject<'_>,
    group: &TopicName,
    topics: Vec<TopicName>,
    beside: Vec<TopicName>,
    (member, members): (i32, i32),
    start: Start,
) -> Subscription {
    let exactly_once = subject.exactly_once;
    Subscription { group: Arc::clone(group), topics, beside, member, members, start, exactly_once }
}

fn joined(subject: &Subject<'_>, subscription: &Subscription) -> (Member, Assigned) {
    let mut member = subject.log.join(subscription).unwrap();
    match member.source.poll(ALL, LONG).unwrap() {
        Polled::Assigned(assigned) => (member, assigned),
        other => panic!("the first poll must bring the assignment, not {other:?}"),
    }
}

/// The next records of a member.
pub fn polled(source: &mut dyn Source, limits: PollLimits) -> Records {
    match source.poll(limits, LONG).unwrap() {
        Polled::Records(records) => records,
        other => panic!("records were expected, not {other:?}"),
    }
}

fn deliver(log: &dyn Log, delivery: Delivery) -> Result<Receipt, Error> {
    log.sink().unwrap().submit(delivery)?.wait()
}

/// A member's step, with nothing else.
fn step(member: &Member, commit: Commit) {
    let delivery = Delivery { appends: Vec::new(), commits: vec![commit] };
    member.sink.submit(delivery).unwrap().wait().unwrap();
}

/// Waits until a group stands somewhere: a commit may become visible a little after its ticket.
fn stands(log: &dyn Log, group: &str, topic: &str, offset: i64) {
    let until = Instant::now() + LONG;
    while log.committed(group, topic).unwrap()[0] != Some(offset) {
        assert!(
            Instant::now() < until,
            "{group} stands at {:?}, not at {offset}",
            log.committed(group, topic).unwrap()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn latest(log: &dyn Log, topic: &str, partition: usize) -> i64 {
    let topics = log.topics().unwrap();
    topics.iter().find(|info| &*info.name == topic).unwrap().partitions[partition].latest
}

fn records_come_back_whole(subject: &Subject<'_>) {
    let log = subject.log;
    let topic = topic(log, 1);
    let mut headers = HeadersBuilder::default();
    headers.push("a", b"1").push("b", b"").push("a", &[0xff, 0]);
    type Plain<'a> = (i64, Option<&'a [u8]>, Option<&'a [u8]>, &'a [u8]);
    let records: [Plain<'_>; 6] = [
        (5, Some(b"key"), Some(b"value"), headers.as_bytes()),
        (4, None, Some(b"no key"), &[]),
        // A clock may be ahead, by a century.
        (4_945_000_000_000, Some(b"tombstone"), None, &[]),
        (1, Some(b""), Some(b""), &[]),
        (2, Some(&[0xff, 0, 1]), Some(&[0, 0xff]), &[]),
        (7, None, None, headers.as_bytes()),
    ];
    let mut builder = RecordsBuilder::default();
    for (timestamp, key, value, headers) in records {
        builder.push(timestamp, key, value, headers);
    }
    deliver(log, append(&topic, 0, builder.finish())).unwrap();
    let back = log.reader(&topic, 0, Position::Earliest).unwrap().next(ALL, LONG).unwrap().unwrap();
    assert_eq!((&*back.topic, back.partition, back.len()), (&*topic, 0, records.len()));
    assert_eq!(back.offsets.values(), &[0, 1, 2, 3, 4, 5]);
    for (row, (timestamp, key, value, headers)) in records.into_iter().enumerate() {
        assert_eq!(back.body.timestamps.value(row), timestamp);
        assert_eq!((back.body.key(row), back.body.value(row)), (key, value), "row {row}");
        let mut block = HeadersBuilder::default();
        block.extend(back.body.headers(row));
        assert_eq!(block.as_bytes(), headers, "row {row}");
    }
}

fn offsets_follow(subject: &Subject<'_>) {
    let log = subject.log;
    let topic = topic(log, 3);
    let mut delivery = append(&topic, 0, numbers(0..10));
    delivery.appends.extend(append(&topic, 2, numbers(0..5)).appends);
    delivery.appends.extend(append(&topic, 0, numbers(10..11)).appends);
    assert_eq!(deliver(log, delivery.clone()).unwrap().base_offsets, [0, 0, 10]);
    assert_eq!(deliver(log, delivery).unwrap().base_offsets, [11, 5, 21]);
    let ends: Vec<i64> = (0..3).map(|partition| latest(log, &topic, partition)).collect();
    assert_eq!(ends, [22, 0, 10]);
}

fn empty_append(subject: &Subject<'_>) {
    let log = subject.log;
    let topic = topic(log, 1);
    deliver(log, append(&topic, 0, numbers(0..2))).unwrap();
    assert_eq!(deliver(log, append(&topic, 0, numbers([]))).unwrap().base_offsets.len(), 1);
    assert_eq!(deliver(log, Delivery::default()).unwrap(), Receipt::default());
    assert_eq!(latest(log, &topic, 0), 2);
}

fn limits_are_kept(subject: &Subject<'_>) {
    let log = subject.log;
    let topic = topic(log, 1);
    let sink = log.sink().unwrap();
    let tickets: Vec<_> = (0..500).map(|n| sink.submit(append(&topic, 0, numbers([n]))).unwrap()).collect();
    tickets.into_iter().for_each(|ticket| assert!(ticket.wait().is_ok()));
    deliver(log, append(&topic, 0, numbers(500..5000))).unwrap();
    for limits in [
        PollLimits { records: 300, bytes: 1 << 20 },
        PollLimits { records: 7000, bytes: 1 << 20 },
        PollLimits { records: 5000, bytes: 700 },
    ] {
        let mut reader = log.reader(&topic, 0, Position::Earliest).unwrap();
        let mut seen: Vec<i64> = Vec::new();
        let mut polls = 0;
        while seen.len() < 5000 {
            let records = reader.next(limits, LONG).unwrap().unwrap();
            assert!(!records.is_empty() && records.len() <= limits.records && records.body.bytes() <= limits.bytes);
            assert_eq!(records.offsets.value(0), seen.len() as i64);
            seen.extend(read(&records));
            assert_eq!(reader.position(), seen.len() as i64);
            polls += 1;
        }
        assert_eq!(seen, (0..5000).collect::<Vec<_>>());
        // Joined, they are at least half full: 5 000 records, about 38 kB.
        let most = (2 * 5000 / limits.records).max(2 * 40_000 / limits.bytes) + 2;
        assert!(polls <= most || !subject.is_immediate, "{polls} polls for {limits:?}, at most {most}");
    }
}

fn large_records(subject: &Subject<'_>) {
    let log = subject.log;
    let topic = topic(log, 1);
    let value = |byte: u8| vec![byte; 900_000];
    let mut builder = RecordsBuilder::default();
    for byte in 0..4 {
        builder.push(0, None, Some(&value(byte)), &[]);
    }
    deliver(log, append(&topic, 0, builder.finish())).unwrap();
    let mut reader = log.reader(&topic, 0, Position::Earliest).unwrap();
    for byte in 0..4 {
        let records = reader.next(PollLimits { records: 100, bytes: 1000 }, LONG).unwrap().unwrap();
        assert_eq!((records.len(), records.offsets.value(0)), (1, i64::from(byte)));
        assert!(records.body.value(0) == Some(&value(byte)));
    }
}

fn fenced_commits(subject: &Subject<'_>) {
    let log = subject.log;
    let (input, output, group) = (topic(log, 1), topic(log, 1), fresh("group"));
    deliver(log, append(&input, 0, numbers(0..10))).unwrap();
    let (member, assigned) = member(subject, &group, &[&input], (0, 1), Start::Earliest);
    assert_eq!(assigned, [(Arc::clone(&input), 0, 0)]);
    let mut delivery = append(&output, 0, numbers([1]));
    delivery.commits.push(commit(&group, &input, 0, 0, 4));
    let deliver = |delivery| member.sink.submit(delivery).and_then(Ticket::wait);
    deliver(delivery.clone()).unwrap();
    stands(log, &group, &input, 4);
    match deliver(delivery).unwrap_err() {
        Error::Fenced { expected: 0, actual: 4, .. } => {}
        other => panic!("{other}"),
    }
    stands(log, &group, &input, 4);
    let mut more = append(&output, 0, numbers([2]));
    more.commits.push(commit(&group, &input, 0, 4, 5));
    deliver(more).unwrap();
    let mut reader = log.reader(&output, 0, Position::Earliest).unwrap();
    assert_eq!(read_numbers(&mut *reader, 2), [1, 2], "what a fenced delivery appends is not there");
}

fn gaps_are_fenced(subject: &Subject<'_>) {
    let log = subject.log;
    let (input, output, group) = (topic(log, 1), topic(log, 1), fresh("group"));
    deliver(log, append(&input, 0, numbers(0..100))).unwrap();
    let (member, _) = member(subject, &group, &[&input], (0, 1), Start::Earliest);
    let step = |from, next| {
        let mut delivery = append(&output, 0, numbers([from]));
        delivery.commits.push(commit(&group, &input, 0, from, next));
        member.sink.submit(delivery)
    };
    // The second starts from an offset that nobody reached; the fourth follows the third, which cannot be taken then.
    let tickets = [step(0, 10), step(11, 20), step(20, 30), step(10, 15)];
    let taken: Vec<bool> = tickets.into_iter().map(|ticket| ticket.and_then(Ticket::wait).is_ok()).collect();
    assert_eq!(taken, [true, false, false, true]);
    stands(log, &group, &input, 15);
    let mut reader = log.reader(&output, 0, Position::Earliest).unwrap();
    assert_eq!(read_numbers(&mut *reader, 2), [0, 10]);
}

fn bad_deliveries(subject: &Subject<'_>) {
    let log = subject.log;
    let (known, group) = (topic(log, 1), fresh("group"));
    let nowhere: TopicName = fresh("nowhere");
    let with = |mut delivery: Delivery| {
        delivery.appends.extend(append(&known, 0, numbers([1])).appends);
        deliver(log, delivery)
    };
    assert!(matches!(with(append(&nowhere, 0, numbers([1]))), Err(Error::UnknownTopic(_))));
    assert!(matches!(with(append(&known, 1, numbers([1]))), Err(Error::Invalid(_))));
    assert!(matches!(with(append(&known, -1, numbers([1]))), Err(Error::Invalid(_))));
    let of_no_member = Delivery { appends: Vec::new(), commits: vec![commit(&group, &known, 0, 0, 5)] };
    assert!(matches!(with(of_no_member), Err(Error::Invalid(_))));
    assert_eq!(latest(log, &known, 0), 0);
    assert!(matches!(log.reader(&nowhere, 0, Position::Earliest), Err(Error::UnknownTopic(_))));
}

fn groups_go_on(subject: &Subject<'_>) {
    let log = subject.log;
    let (topic, group) = (topic(log, 1), fresh("group"));
    deliver(log, append(&topic, 0, numbers(0..10))).unwrap();
    let (mut first, _) = member(subject, &group, &[&topic], (0, 1), Start::Earliest);
    let three = PollLimits { records: 3, bytes: 1 << 20 };
    assert_eq!(read(&polled(&mut *first.source, three)), [0, 1, 2]);
    assert_eq!(read(&polled(&mut *first.source, three)), [3, 4, 5], "a poll goes on without a commit");
    step(&first, commit(&group, &topic, 0, 0, 3));
    drop(first);
    let (mut second, assigned) = member(subject, &group, &[&topic], (0, 1), Start::Latest);
    assert_eq!(assigned, [(Arc::clone(&topic), 0, 3)]);
    assert_eq!(read(&polled(&mut *second.source, three)), [3, 4, 5]);
}

fn groups_start(subject: &Subject<'_>) {
    let log = subject.log;
    let topic = topic(log, 1);
    let (early, late, never) = (fresh("early"), fresh("late"), fresh("never"));
    deliver(log, append(&topic, 0, numbers(0..10))).unwrap();
    let (mut member_early, _) = member(subject, &early, &[&topic], (0, 1), Start::Earliest);
    let (member_late, _) = member(subject, &late, &[&topic], (0, 1), Start::Latest);
    assert!(matches!(member_early.source.poll(ALL, LONG).unwrap(), Polled::Records(records) if records.len() == 10));
    assert_eq!(log.committed(&late, &topic).unwrap(), [Some(10)], "where a group starts is durable when it joins");
    assert_eq!(log.committed(&never, &topic).unwrap(), [None]);
    drop(member_late);
    deliver(log, append(&topic, 0, numbers(10..12))).unwrap();
    let (mut member_late, _) = member(subject, &late, &[&topic], (0, 1), Start::Latest);
    assert_eq!(read(&polled(&mut *member_late.source, ALL)), [10, 11]);
}

fn groups_split(subject: &Subject<'_>) {
    let log = subject.log;
    let (topic, group) = (topic(log, 5), fresh("group"));
    for partition in 0..5 {
        deliver(log, append(&topic, partition, numbers(0..10))).unwrap();
    }
    let (first, assigned) = member(subject, &group, &[&topic], (0, 2), Start::Earliest);
    let mut owned = [assigned, Vec::new()];
    let topics = vec![Arc::clone(&topic)];
    let second = subscription(subject, &group, topics, Vec::new(), (1, 2), Start::Earliest);
    let mut members = [first, log.join(&second).unwrap()];
    until_shared(&mut members, &mut owned, 5);
    let mut all: Vec<i32> = owned.iter().flatten().map(|(_, partition, _)| *partition).collect();
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2, 3, 4], "each partition has one member");
    for (member, owned) in members.iter_mut().zip(&owned) {
        let mut seen: Vec<i32> = Vec::new();
        while seen.len() < owned.len() * 10 {
            let records = polled(&mut *member.source, ALL);
            seen.extend(std::iter::repeat_n(records.partition, records.len()));
        }
        assert!(seen.iter().all(|partition| owned.iter().any(|(_, mine, _)| mine == partition)));
    }
}

/// Polls two members until they share this many partitions.
fn until_shared(members: &mut [Member; 2], owned: &mut [Assigned; 2], partitions: usize) {
    let until = Instant::now() + LONG;
    while owned.iter().any(Vec::is_empty) || owned.iter().map(Vec::len).sum::<usize>() != partitions {
        assert!(Instant::now() < until, "the partitions are not shared: {owned:?}");
        for (member, owned) in members.iter_mut().zip(&mut *owned) {
            let none = PollLimits { records: 0, bytes: 0 };
            match member.source.poll(none, Duration::from_millis(20)).unwrap() {
                Polled::Assigned(more) => owned.extend(more),
                Polled::Revoked(gone) => owned.retain(|(topic, p, _)| !gone.contains(&(Arc::clone(topic), *p))),
                Polled::Idle => {}
                other => panic!("nothing was asked for, and {other:?} came"),
            }
        }
    }
}

/// Whether the partitions of a topic that a member owns are the same as those of the topic beside it.
fn is_beside(owned: &Assigned, lead: &TopicName, beside: &TopicName) -> bool {
    let of = |name: &TopicName| -> Vec<i32> {
        let mut numbers: Vec<i32> = owned.iter().filter(|(topic, ..)| topic == name).map(|(_, p, _)| *p).collect();
        numbers.sort_unstable();
        numbers
    };
    of(lead) == of(beside)
}

fn beside_follows(subject: &Subject<'_>) {
    let log = subject.log;
    let (lead, beside, group) = (topic(log, 5), topic(log, 5), fresh("group"));
    for partition in 0..5 {
        deliver(log, append(&lead, partition, numbers(0..2))).unwrap();
        deliver(log, append(&beside, partition, numbers(10..13))).unwrap();
    }
    let wish = |member| {
        let topics = (vec![Arc::clone(&lead)], vec![Arc::clone(&beside)]);
        subscription(subject, &group, topics.0, topics.1, (member, 2), Start::Earliest)
    };
    let (first, assigned) = joined(subject, &wish(0));
    assert!(is_beside(&assigned, &lead, &beside), "{assigned:?}");
    let mut members = [first, log.join(&wish(1)).unwrap()];
    let mut owned = [assigned, Vec::new()];
    until_shared(&mut members, &mut owned, 10);
    for (member, owned) in members.iter_mut().zip(&owned) {
        assert!(is_beside(owned, &lead, &beside), "{owned:?}");
        let mut left: Vec<(TopicName, i32)> = owned.iter().map(|(topic, p, _)| (Arc::clone(topic), *p)).collect();
        while !left.is_empty() {
            let records = polled(&mut *member.source, ALL);
            let place = (Arc::clone(&records.topic), records.partition);
            assert!(left.contains(&place), "{place:?} came and {left:?} is expected");
            left.retain(|expected| {
                *expected != place || records.next_offset() != Some(if place.0 == lead { 2 } else { 3 })
            });
        }
        for (topic, partition, _) in owned {
            step(member, commit(&group, topic, *partition, 0, if *topic == lead { 2 } else { 3 }));
        }
    }
    // One leaves; on logs with a coordinator the other gets all of it, where it was committed.
    let [first, second] = members;
    drop((first, second));
    let all =
        subscription(subject, &group, vec![Arc::clone(&lead)], vec![Arc::clone(&beside)], (0, 1), Start::Earliest);
    let mut alone = log.join(&all).unwrap();
    let (mut owned, until) = (Assigned::new(), Instant::now() + LONG);
    while owned.len() < 10 {
        assert!(Instant::now() < until, "only {owned:?}");
        if let Polled::Assigned(more) = alone.source.poll(ALL, Duration::from_millis(20)).unwrap() {
            owned.extend(more);
        }
    }
    assert!(owned.iter().all(|(topic, _, at)| *at == if *topic == lead { 2 } else { 3 }), "{owned:?}");
}

fn beside_is_read(subject: &Subject<'_>) {
    let log = subject.log;
    let (lead, beside, group) = (topic(log, 2), topic(log, 2), fresh("group"));
    let wish =
        subscription(subject, &group, vec![Arc::clone(&lead)], vec![Arc::clone(&beside)], (0, 1), Start::Earliest);
    let (mut member, mut assigned) = joined(subject, &wish);
    assigned.sort();
    let mut expected: Assigned =
        [&lead, &beside].iter().flat_map(|topic| (0..2).map(|p| (Arc::clone(topic), p, 0))).collect();
    expected.sort();
    assert_eq!(assigned, expected);
    deliver(log, append(&beside, 1, numbers(0..6))).unwrap();
    let four = PollLimits { records: 4, bytes: 1 << 20 };
    let records = polled(&mut *member.source, four);
    assert_eq!((&records.topic, records.partition, read(&records)), (&beside, 1, vec![0, 1, 2, 3]));
    // Its step, and one of the first topic, with what follows from both.
    deliver(log, append(&lead, 1, numbers(0..3))).unwrap();
    let mut delivery = append(&lead, 0, numbers(7..8));
    delivery.commits = vec![commit(&group, &beside, 1, 0, 4), commit(&group, &lead, 1, 0, 3)];
    member.sink.submit(delivery).unwrap().wait().unwrap();
    let mut seen = Vec::new();
    while seen.len() < 6 {
        let records = polled(&mut *member.source, ALL);
        seen.extend(read(&records).into_iter().map(|n| (Arc::clone(&records.topic), records.partition, n)));
    }
    assert_eq!(member.source.rewind(&beside, 1).unwrap(), 4);
    let again = polled(&mut *member.source, ALL);
    assert_eq!((&again.topic, read(&again)), (&beside, vec![4, 5]));
    assert!(member.source.rewind(&beside, 7).is_err());
    let stale = Delivery { appends: Vec::new(), commits: vec![commit(&group, &beside, 1, 3, 6)] };
    let refused = member.sink.submit(stale).and_then(Ticket::wait).unwrap_err();
    assert!(matches!(refused, Error::Fenced { .. }), "{refused}");
    drop(member);
    let (_member, assigned) = joined(subject, &wish);
    for (topic, partition, at) in [(&lead, 1, 3), (&beside, 1, 4), (&lead, 0, 0), (&beside, 0, 0)] {
        assert!(assigned.contains(&(Arc::clone(topic), partition, at)), "{assigned:?}");
    }
}

fn partitions_take_turns(subject: &Subject<'_>) {
    let log = subject.log;
    let (topic, group) = (topic(log, 4), fresh("group"));
    for partition in 0..4 {
        deliver(log, append(&topic, partition, numbers(0..100))).unwrap();
    }
    let (mut member, _) = member(subject, &group, &[&topic], (0, 1), Start::Earliest);
    let ten = PollLimits { records: 10, bytes: 1 << 20 };
    let mut seen = [0; 4];
    while seen != [100; 4] {
        let records = polled(&mut *member.source, ten);
        assert!(records.len() <= 10);
        seen[usize::try_from(records.partition).unwrap()] += records.len();
        let (least, most) = (seen.iter().min().unwrap(), seen.iter().max().unwrap());
        assert!(most - least <= 10 || !subject.is_immediate, "{seen:?}");
    }
    assert!(matches!(member.source.poll(ten, Duration::ZERO).unwrap(), Polled::Idle));
}

fn rewinding(subject: &Subject<'_>) {
    let log = subject.log;
    let (topic, group) = (topic(log, 2), fresh("group"));
    deliver(log, append(&topic, 0, numbers(0..10))).unwrap();
    let (mut member, _) = member(subject, &group, &[&topic], (0, 1), Start::Earliest);
    let four = PollLimits { records: 4, bytes: 1 << 20 };
    assert_eq!(read(&polled(&mut *member.source, four)), [0, 1, 2, 3]);
    step(&member, commit(&group, &topic, 0, 0, 4));
    assert_eq!(read(&polled(&mut *member.source, four)), [4, 5, 6, 7]);
    assert_eq!(read(&polled(&mut *member.source, four)), [8, 9]);
    assert_eq!(member.source.rewind(&topic, 0).unwrap(), 4);
    let mut seen = Vec::new();
    while seen.len() < 6 {
        seen.extend(read(&polled(&mut *member.source, ALL)));
    }
    assert_eq!(seen, [4, 5, 6, 7, 8, 9]);
    assert!(member.source.rewind(&topic, 7).is_err());
}

fn positions(subject: &Subject<'_>) {
    let log = subject.log;
    let topic = topic(log, 1);
    deliver(log, append(&topic, 0, numbers(0..10))).unwrap();
    deliver(log, append(&topic, 0, numbers(10..20))).unwrap();
    for (from, first) in [
        (Position::Earliest, 0),
        (Position::Offset(0), 0),
        (Position::Offset(7), 7),
        (Position::Offset(10), 10),
        (Position::Offset(20), 20),
        (Position::Latest, 20),
    ] {
        let mut reader = log.reader(&topic, 0, from).unwrap();
        assert_eq!(reader.position(), first, "{from:?}");
        let count = usize::try_from(20 - first).unwrap();
        assert_eq!(read_numbers(&mut *reader, count), (first..20).collect::<Vec<_>>(), "{from:?}");
        assert!(reader.next(ALL, Duration::ZERO).unwrap().is_none());
    }
    for offset in [-1, 21] {
        match log.reader(&topic, 0, Position::Offset(offset)).err().unwrap() {
            Error::OutOfRange { earliest: 0, latest: 20, .. } => {}
            other => panic!("{other}"),
        }
    }
}

fn positions_by_time(subject: &Subject<'_>) {
    let log = subject.log;
    let topic = topic(log, 1);
    for times in [vec![100, 110, 120], vec![130, 105, 140], vec![150]] {
        deliver(log, append(&topic, 0, numbers(times))).unwrap();
    }
    for (at, offset) in [(0, 0), (100, 0), (101, 1), (120, 2), (121, 3), (131, 5), (150, 6), (151, 7)] {
        let reader = log.reader(&topic, 0, Position::Timestamp(at)).unwrap();
        assert_eq!(reader.position(), offset, "at {at}");
    }
}

fn following(subject: &Subject<'_>) {
    let log = subject.log;
    let (one, two) = (topic(log, 1), topic(log, 3));
    deliver(log, append(&one, 0, numbers(0..10))).unwrap();
    let topics = [Arc::clone(&one), Arc::clone(&two)];
    let mut all = log.follow(&topics, Start::Earliest).unwrap();
    let mut new = log.follow(&topics, Start::Latest).unwrap();
    for partition in 0..3 {
        deliver(log, append(&two, partition, numbers(0..10))).unwrap();
    }
    let count = |follower: &mut dyn Follower, wanted: usize| {
        let mut seen: Vec<(TopicName, i32, i64)> = Vec::new();
        while seen.len() < wanted {
            let records = follower.next(ALL, LONG).unwrap().unwrap();
            let place = |number| (Arc::clone(&records.topic), records.partition, number);
            seen.extend(read(&records).into_iter().map(place));
        }
        assert!(follower.next(ALL, Duration::ZERO).unwrap().is_none());
        seen.sort();
        seen
    };
    let expected = |topic: &TopicName, partition| -> Vec<_> {
        (0..10).map(|number| (Arc::clone(topic), partition, number)).collect()
    };
    let mut of_two: Vec<_> = (0..3).flat_map(|partition| expected(&two, partition)).collect();
    assert_eq!(count(&mut *new, 30), of_two);
    of_two.extend(expected(&one, 0));
    of_two.sort();
    assert_eq!(count(&mut *all, 40), of_two);
}

fn wake_up(subject: &Subject<'_>) {
    let log = subject.log;
    let (topic, group) = (topic(log, 3), fresh("group"));
    let (mut member, _) = member(subject, &group, &[&topic], (0, 1), Start::Latest);
    let mut reader = log.reader(&topic, 2, Position::Latest).unwrap();
    std::thread::scope(|scope| {
        // Should a wake-up be missed, these wait so long that the case fails.
        let by_group =
            scope.spawn(move || (0..50).map(|_| read(&polled(&mut *member.source, ALL)).len()).sum::<usize>());
        let by_reader = scope.spawn(move || read_numbers(&mut *reader, 50));
        let sink = log.sink().unwrap();
        for number in 0..50 {
            sink.submit(append(&topic, 2, numbers([number]))).unwrap().wait().unwrap();
            // One poll for each, so that each has to be woken.
            std::thread::yield_now();
        }
        assert_eq!(by_reader.join().unwrap(), (0..50).collect::<Vec<_>>());
        // Polls may have joined records; then fewer polls than 50 have brought all, and the rest waits for more.
        while !by_group.is_finished() {
            sink.submit(append(&topic, 0, numbers([1]))).unwrap().wait().unwrap();
        }
        assert!(by_group.join().unwrap() >= 50);
    });
}

fn several_readers(subject: &Subject<'_>) {
    let log = subject.log;
    let topic = topic(log, 1);
    std::thread::scope(|scope| {
        let read_all = || {
            let mut reader = log.reader(&topic, 0, Position::Earliest).unwrap();
            read_numbers(&mut *reader, 3000)
        };
        let readers: Vec<_> = (0..4).map(|_| scope.spawn(read_all)).collect();
        let sink = log.sink().unwrap();
        for from in (0..3000).step_by(30) {
            sink.submit(append(&topic, 0, numbers(from..from + 30))).unwrap();
        }
        for reader in readers {
            assert_eq!(reader.join().unwrap(), (0..3000).collect::<Vec<_>>());
        }
    });
}

fn many_threads(subject: &Subject<'_>) {
    let log = subject.log;
    let topic = topic(log, 2);
    std::thread::scope(|scope| {
        for thread in 0..4i64 {
            let (sink, topic) = (log.sink().unwrap(), &topic);
            scope.spawn(move || {
                let deliver = |n: i64| {
                    let mut delivery = append(topic, 0, numbers([thread * 1000 + n]));
                    delivery.appends.extend(append(topic, 1, numbers([thread * 1000 + n])).appends);
                    sink.submit(delivery).unwrap()
                };
                let tickets: Vec<_> = (0..200).map(deliver).collect();
                tickets.into_iter().for_each(|ticket| assert!(ticket.wait().is_ok()));
            });
        }
    });
    let seen: Vec<Vec<i64>> = (0..2)
        .map(|partition| read_numbers(&mut *log.reader(&topic, partition, Position::Earliest).unwrap(), 800))
        .collect();
    assert_eq!(seen[0], seen[1], "deliveries have one order in all partitions");
    for thread in 0..4 {
        let of_thread: Vec<i64> = seen[0].iter().copied().filter(|n| n / 1000 == thread).collect();
        assert_eq!(of_thread, (thread * 1000..thread * 1000 + 200).collect::<Vec<_>>());
    }
}

fn topics(subject: &Subject<'_>) {
    let log = subject.log;
    let name = topic(log, 2);
    let spec = |partitions| TopicSpec { name: Arc::clone(&name), partitions, retention: Retention::default() };
    log.create_topic(&spec(2)).unwrap();
    match log.create_topic(&spec(3)).unwrap_err() {
        Error::PartitionsDiffer { actual: 2, wanted: 3, .. } => {}
        other => panic!("{other}"),
    }
    assert_eq!(log.topics().unwrap().iter().filter(|info| info.name == name).count(), 1);
    for bad in ["", "a b", "ä", "..", &"x".repeat(250)] {
        let spec = TopicSpec { name: bad.into(), partitions: 1, retention: Retention::default() };
        assert!(matches!(log.create_topic(&spec), Err(Error::Invalid(_))), "{bad:?}");
    }
    let none = TopicSpec { name: fresh("none"), partitions: 0, retention: Retention::default() };
    assert!(matches!(log.create_topic(&none), Err(Error::Invalid(_))));
}

fn identities(subject: &Subject<'_>) {
    let log = subject.log;
    let (one, other) = (topic(log, 1), topic(log, 1));
    let identity = log.topic_identity(&one).unwrap();
    assert!(!identity.is_empty());
    assert_ne!(log.topic_identity(&other).unwrap(), identity);
    let retention = Retention { age: Some(Duration::from_secs(3600)), ..Retention::default() };
    log.create_topic(&TopicSpec { name: Arc::clone(&one), partitions: 1, retention }).unwrap();
    assert_eq!(log.topic_identity(&one).unwrap(), identity, "what changes a topic leaves it the same");
    assert!(matches!(log.topic_identity(&fresh("none")), Err(Error::UnknownTopic(_))));
}
