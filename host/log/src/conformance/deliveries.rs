//! What is delivered comes back whole, in order, and together with its commits.

use std::sync::Arc;

use phronis_core::delivery::{Delivery, Receipt};
use phronis_core::records::{HeadersBuilder, NewRecords, RecordsBuilder, TopicName};

use super::Subject;
use super::kit::{
    ALL, LONG, append, commit, deliver, deliver_as, fresh, latest, member, numbers, read, read_numbers,
    read_to_the_end, stands, topic,
};
use crate::{Error, PollLimits, Position, Start, Ticket};

pub(super) fn records_come_back_whole(subject: &Subject<'_>) {
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

pub(super) fn offsets_follow(subject: &Subject<'_>) {
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

pub(super) fn empty_append(subject: &Subject<'_>) {
    let log = subject.log;
    let topic = topic(log, 1);
    deliver(log, append(&topic, 0, numbers(0..2))).unwrap();
    assert_eq!(deliver(log, append(&topic, 0, numbers([]))).unwrap().base_offsets.len(), 1);
    assert_eq!(deliver(log, Delivery::default()).unwrap(), Receipt::default());
    assert_eq!(latest(log, &topic, 0), 2);
}

pub(super) fn limits_are_kept(subject: &Subject<'_>) {
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

pub(super) fn large_records(subject: &Subject<'_>) {
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

pub(super) fn fenced_commits(subject: &Subject<'_>) {
    let log = subject.log;
    let (input, output, group) = (topic(log, 1), topic(log, 1), fresh("group"));
    deliver(log, append(&input, 0, numbers(0..10))).unwrap();
    let (mut member, assigned) = member(subject, &group, &[&input], (0, 1), Start::Earliest);
    assert_eq!(assigned, [(Arc::clone(&input), 0, 0)]);
    let mut delivery = append(&output, 0, numbers([1]));
    delivery.commits.push(commit(&group, &input, 0, 0, 4));
    let mut deliver = |delivery| deliver_as(&mut member, delivery);
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
    // A commit that moves nothing is a fence all the same.
    for (at, number, is_taken) in [(5, 3, true), (4, 4, false), (5, 5, true)] {
        let mut unmoved = append(&output, 0, numbers([number]));
        unmoved.commits.push(commit(&group, &input, 0, at, at));
        assert_eq!(deliver(unmoved).is_ok(), is_taken, "{number}");
    }
    stands(log, &group, &input, 5);
    let mut reader = log.reader(&output, 0, Position::Earliest).unwrap();
    assert_eq!(read_numbers(&mut *reader, 4), [1, 2, 3, 5], "what a fenced delivery appends is not there");
}

/// A part that the log refuses takes the others along, where a delivery is one step; the group stays where it stands anyhow.
pub(super) fn refused_parts(subject: &Subject<'_>) {
    let log = subject.log;
    let (input, output, group) = (topic(log, 1), topic(log, 2), fresh("group"));
    deliver(log, append(&input, 0, numbers(0..10))).unwrap();
    let (mut member, _) = member(subject, &group, &[&input], (0, 1), Start::Earliest);
    let most = usize::try_from(log.describe_topic(&output).unwrap().max_record_bytes).unwrap();
    // The first is refused when it is written, the second by its name alone.
    let bad = match most {
        ..8_000_000 => append(&output, 1, noise(most + 4096)),
        _ => append(&output, 2, numbers([1])),
    };
    let mut delivery = append(&output, 0, numbers([1]));
    delivery.appends.extend(bad.appends);
    delivery.commits.push(commit(&group, &input, 0, 0, 4));
    let refused = deliver_as(&mut member, delivery).unwrap_err();
    assert!(matches!(refused, Error::TooLarge { .. } | Error::Invalid(_)), "{refused}");
    stands(log, &group, &input, 0);
    assert_eq!(member.source.rewind(&input, 0).unwrap(), 0);
    let mut good = append(&output, 0, numbers([2]));
    good.commits.push(commit(&group, &input, 0, 0, 4));
    deliver_as(&mut member, good).unwrap();
    stands(log, &group, &input, 4);
    let seen = read_to_the_end(log, &output, 0);
    assert!(seen == [2] || !subject.is_atomic && seen == [1, 2], "{seen:?}");
    assert!(read_to_the_end(log, &output, 1).is_empty());
}

/// A record of so many bytes that no compression makes smaller.
fn noise(bytes: usize) -> NewRecords {
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = || {
        // Marsaglia's xorshift.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let value: Vec<u8> = std::iter::repeat_with(&mut next).flatten().take(bytes).collect();
    let mut builder = RecordsBuilder::default();
    builder.push(0, None, Some(&value), &[]);
    builder.finish()
}

pub(super) fn gaps_are_fenced(subject: &Subject<'_>) {
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

pub(super) fn bad_deliveries(subject: &Subject<'_>) {
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

pub(super) fn many_threads(subject: &Subject<'_>) {
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
