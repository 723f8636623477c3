//! Groups go on where they committed, and share partitions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use phronis_core::delivery::Delivery;
use phronis_core::records::TopicName;

use super::Subject;
use super::kit::{
    ALL, Assigned, LONG, append, commit, deliver, deliver_as, fresh, gathered, joined, member, numbers, polled, read,
    step, subscription, topic,
};
use crate::{Error, Member, PollLimits, Polled, Start, Ticket};

pub(super) fn groups_go_on(subject: &Subject<'_>) {
    let log = subject.log;
    let (topic, group) = (topic(log, 1), fresh("group"));
    deliver(log, append(&topic, 0, numbers(0..10))).unwrap();
    let (mut first, _) = member(subject, &group, &[&topic], (0, 1), Start::Earliest);
    assert_eq!(gathered(&mut *first.source, 3).2, [0, 1, 2]);
    assert_eq!(gathered(&mut *first.source, 3).2, [3, 4, 5], "a poll goes on without a commit");
    step(&mut first, commit(&group, &topic, 0, 0, 3));
    drop(first);
    let (mut second, assigned) = member(subject, &group, &[&topic], (0, 1), Start::Latest);
    assert_eq!(assigned, [(Arc::clone(&topic), 0, 3)]);
    assert_eq!(gathered(&mut *second.source, 3).2, [3, 4, 5]);
}

pub(super) fn groups_start(subject: &Subject<'_>) {
    let log = subject.log;
    let topic = topic(log, 1);
    let (early, late, never) = (fresh("early"), fresh("late"), fresh("never"));
    deliver(log, append(&topic, 0, numbers(0..10))).unwrap();
    let (mut member_early, _) = member(subject, &early, &[&topic], (0, 1), Start::Earliest);
    let (member_late, _) = member(subject, &late, &[&topic], (0, 1), Start::Latest);
    assert_eq!(gathered(&mut *member_early.source, 10).2, (0..10).collect::<Vec<_>>());
    assert_eq!(log.committed(&late, &topic).unwrap(), [Some(10)], "where a group starts is durable when it joins");
    assert_eq!(log.committed(&never, &topic).unwrap(), [None]);
    drop(member_late);
    deliver(log, append(&topic, 0, numbers(10..12))).unwrap();
    let (mut member_late, _) = member(subject, &late, &[&topic], (0, 1), Start::Latest);
    assert_eq!(gathered(&mut *member_late.source, 2).2, [10, 11]);
}

pub(super) fn groups_split(subject: &Subject<'_>) {
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
pub(super) fn until_shared(members: &mut [Member; 2], owned: &mut [Assigned; 2], partitions: usize) {
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
pub(super) fn is_beside(owned: &Assigned, lead: &TopicName, beside: &TopicName) -> bool {
    let of = |name: &TopicName| -> Vec<i32> {
        let mut numbers: Vec<i32> = owned.iter().filter(|(topic, ..)| topic == name).map(|(_, p, _)| *p).collect();
        numbers.sort_unstable();
        numbers
    };
    of(lead) == of(beside)
}

pub(super) fn beside_follows(subject: &Subject<'_>) {
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

pub(super) fn beside_is_read(subject: &Subject<'_>) {
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
    assert_eq!(gathered(&mut *member.source, 4), (Arc::clone(&beside), 1, vec![0, 1, 2, 3]));
    // Its step, and one of the first topic, with what follows from both.
    deliver(log, append(&lead, 1, numbers(0..3))).unwrap();
    let mut delivery = append(&lead, 0, numbers(7..8));
    delivery.commits = vec![commit(&group, &beside, 1, 0, 4), commit(&group, &lead, 1, 0, 3)];
    deliver_as(&mut member, delivery).unwrap();
    let mut seen = Vec::new();
    while seen.len() < 6 {
        let records = polled(&mut *member.source, ALL);
        seen.extend(read(&records).into_iter().map(|n| (Arc::clone(&records.topic), records.partition, n)));
    }
    assert_eq!(member.source.rewind(&beside, 1).unwrap(), 4);
    assert_eq!(gathered(&mut *member.source, 2), (Arc::clone(&beside), 1, vec![4, 5]));
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

pub(super) fn partitions_take_turns(subject: &Subject<'_>) {
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

pub(super) fn rewinding(subject: &Subject<'_>) {
    let log = subject.log;
    let (topic, group) = (topic(log, 2), fresh("group"));
    deliver(log, append(&topic, 0, numbers(0..10))).unwrap();
    let (mut member, _) = member(subject, &group, &[&topic], (0, 1), Start::Earliest);
    assert_eq!(gathered(&mut *member.source, 4).2, [0, 1, 2, 3]);
    step(&mut member, commit(&group, &topic, 0, 0, 4));
    assert_eq!(gathered(&mut *member.source, 6).2, [4, 5, 6, 7, 8, 9]);
    assert_eq!(member.source.rewind(&topic, 0).unwrap(), 4);
    assert_eq!(gathered(&mut *member.source, 6).2, [4, 5, 6, 7, 8, 9]);
    assert!(member.source.rewind(&topic, 7).is_err());
}

pub(super) fn pausing(subject: &Subject<'_>) {
    let log = subject.log;
    let (topic, group) = (topic(log, 2), fresh("group"));
    let (mut member, _) = member(subject, &group, &[&topic], (0, 1), Start::Earliest);
    let source = &mut *member.source;
    source.pause(&topic, 0, true);
    for partition in 0..2 {
        deliver(log, append(&topic, partition, numbers(0..10))).unwrap();
    }
    let (_, partition, seen) = gathered(source, 10);
    assert_eq!((partition, seen), (1, (0..10).collect()), "the other goes on");
    assert!(matches!(source.poll(ALL, Duration::from_millis(100)).unwrap(), Polled::Idle), "it is paused");
    source.pause(&topic, 0, false);
    assert_eq!(gathered(source, 2).2, [0, 1], "it goes on where it stood");
    source.pause(&topic, 0, true);
    assert_eq!(source.rewind(&topic, 0).unwrap(), 0);
    assert!(matches!(source.poll(ALL, Duration::from_millis(100)).unwrap(), Polled::Idle), "it is paused still");
    source.pause(&topic, 0, false);
    assert_eq!(gathered(source, 2).2, [0, 1], "it goes on where it was rewound to");
}
