//! Readers and followers, by position and by time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use phronis_core::records::TopicName;

use super::Subject;
use super::kit::{
    ALL, LONG, append, deliver, fresh, latest, member, numbers, patiently, polled, read, read_numbers, topic,
};
use crate::{Error, Follower, Position, Start};

pub(super) fn positions(subject: &Subject<'_>) {
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
        assert!(patiently(|| reader.next(ALL, Duration::ZERO)).unwrap().is_none());
    }
    for offset in [-1, 21] {
        match log.reader(&topic, 0, Position::Offset(offset)).err().unwrap() {
            Error::OutOfRange { earliest: 0, latest: 20, .. } => {}
            other => panic!("{other}"),
        }
    }
}

pub(super) fn positions_by_time(subject: &Subject<'_>) {
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

pub(super) fn following(subject: &Subject<'_>) {
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

pub(super) fn wake_up(subject: &Subject<'_>) {
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

pub(super) fn several_readers(subject: &Subject<'_>) {
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

/// Who reads to where a partition ends has read all that this process made durable before.
pub(super) fn ends_are_behind_what_is_durable(subject: &Subject<'_>) {
    let log = subject.log;
    let (topic, group) = (topic(log, 1), fresh("group"));
    let (member, _) = member(subject, &group, &[&topic], (0, 1), Start::Earliest);
    let mut reader = log.reader(&topic, 0, Position::Earliest).unwrap();
    for number in 0..50 {
        member.sink.submit(append(&topic, 0, numbers([number]))).unwrap().wait().unwrap();
        let end = latest(log, &topic, 0);
        let mut seen = Vec::new();
        let until = Instant::now() + LONG;
        while reader.position() < end {
            assert!(Instant::now() < until, "the reader does not come to offset {end}");
            seen.extend(reader.next(ALL, Duration::from_secs(1)).unwrap().iter().flat_map(read));
        }
        assert_eq!(seen, [number], "before offset {end}");
    }
}
