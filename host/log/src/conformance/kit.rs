//! What cases and other tests of logs are made of.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use phronis_core::delivery::{Append, Commit, Delivery, Receipt};
use phronis_core::records::{NewRecords, Records, RecordsBuilder, TopicName};

use super::Subject;
use crate::{
    Error, Log, Member, PollLimits, Polled, Position, Reader, Retention, Source, Start, Subscription, Ticket, TopicSpec,
};

/// What [`Polled::Assigned`] brings.
pub type Assigned = Vec<(TopicName, i32, i64)>;

/// More than any case holds.
pub const ALL: PollLimits = PollLimits { records: 1 << 20, bytes: 1 << 28 };

/// Longer than any log needs, on any machine.
pub(super) const LONG: Duration = Duration::from_secs(60);

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

pub(super) fn subscription(
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

pub(super) fn joined(subject: &Subject<'_>, subscription: &Subscription) -> (Member, Assigned) {
    let mut member = subject.log.join(subscription).unwrap();
    match patiently(|| member.source.poll(ALL, LONG)).unwrap() {
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

/// The next `count` numbers of a member, all of one partition.
///
/// Over a network what one delivery wrote may be seen bit by bit, so it takes as many polls as it takes; none brings more than it may.
pub(super) fn gathered(source: &mut dyn Source, count: usize) -> (TopicName, i32, Vec<i64>) {
    let mut place: Option<(TopicName, i32)> = None;
    let mut seen = Vec::new();
    while seen.len() < count {
        let records = polled(source, PollLimits { records: count - seen.len(), bytes: 1 << 20 });
        assert!(records.len() <= count - seen.len());
        let of = place.get_or_insert_with(|| (Arc::clone(&records.topic), records.partition));
        assert_eq!((&of.0, of.1), (&records.topic, records.partition), "they come from one partition");
        seen.extend(read(&records));
    }
    let (topic, partition) = place.unwrap();
    (topic, partition, seen)
}

pub(super) fn deliver(log: &dyn Log, delivery: Delivery) -> Result<Receipt, Error> {
    patiently(|| log.sink()?.submit(delivery.clone())?.wait())
}

/// A delivery of a member. Where it has to be tried again, its partitions are read again from where they stand.
pub(super) fn deliver_as(member: &mut Member, delivery: Delivery) -> Result<Receipt, Error> {
    patiently(|| {
        let outcome = member.sink.submit(delivery.clone()).and_then(Ticket::wait);
        if outcome.as_ref().is_err_and(Error::is_retriable) {
            for Commit { topic, partition, .. } in &delivery.commits {
                member.source.rewind(topic, *partition)?;
            }
        }
        outcome
    })
}

/// A member's step, with nothing else.
pub(super) fn step(member: &mut Member, commit: Commit) {
    deliver_as(member, Delivery { appends: Vec::new(), commits: vec![commit] }).unwrap();
}

/// Tries again what a log may refuse for a moment: a first transaction takes its time, and any may be aborted.
pub(super) fn patiently<T>(mut what: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    let until = Instant::now() + LONG;
    loop {
        match what() {
            Err(error) if error.is_retriable() && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(20));
            }
            outcome => return outcome,
        }
    }
}

/// Waits until a group stands somewhere: a commit may become visible a little after its ticket.
pub(super) fn stands(log: &dyn Log, group: &str, topic: &str, offset: i64) {
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

pub(super) fn latest(log: &dyn Log, topic: &str, partition: usize) -> i64 {
    log.topic(topic).unwrap().partitions[partition].latest
}

/// All numbers of a partition, as of now.
pub(super) fn read_to_the_end(log: &dyn Log, topic: &str, partition: i32) -> Vec<i64> {
    let end = latest(log, topic, usize::try_from(partition).unwrap());
    let mut reader = log.reader(topic, partition, Position::Earliest).unwrap();
    let (mut seen, until) = (Vec::new(), Instant::now() + LONG);
    while reader.position() < end {
        assert!(Instant::now() < until, "the reader does not come to offset {end}");
        seen.extend(reader.next(ALL, Duration::from_secs(1)).unwrap().iter().flat_map(read));
    }
    seen
}
