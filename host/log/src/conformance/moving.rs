//! Partitions that move while work on them is under way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use phronis_core::records::TopicName;

use super::Subject;
use super::kit::{
    LONG, append, commit, deliver, fresh, member, numbers, patiently, read_to_the_end, subscription, topic,
};
use crate::{Member, PollLimits, Polled, Start, Ticket};

/// Records of each partition.
const RECORDS: i64 = 300;

/// Deliveries that are under way at once.
const UNDER_WAY: usize = 4;

/// A member at work: what it reads it delivers to the same partition of another topic.
struct Hand<'a> {
    member: Member,
    group: &'a TopicName,
    input: &'a TopicName,
    output: &'a TopicName,
    /// Where its next delivery of a partition begins.
    next: BTreeMap<i32, i64>,
    under_way: Vec<(i32, Ticket)>,
}

impl Hand<'_> {
    fn step(&mut self) {
        match patiently(|| {
            self.member.source.poll(PollLimits { records: 7, bytes: 1 << 20 }, Duration::from_millis(20))
        })
        .unwrap()
        {
            Polled::Assigned(places) => self.next.extend(places.into_iter().map(|(_, partition, at)| (partition, at))),
            Polled::Records(records) => {
                let (partition, next) = (records.partition, records.next_offset().unwrap());
                let from = self.next.insert(partition, next).unwrap();
                let mut delivery = append(self.output, partition, records.body);
                delivery.commits.push(commit(self.group, self.input, partition, from, next));
                self.under_way.push((partition, self.member.sink.submit(delivery).unwrap()));
            }
            Polled::Revoked(gone) => {
                self.settle();
                self.forget(&gone);
            }
            Polled::Lost(gone) => {
                self.forget(&gone);
                self.under_way.retain(|(partition, _)| self.next.contains_key(partition));
            }
            Polled::Idle => self.settle(),
        }
        if self.under_way.len() >= UNDER_WAY {
            self.settle();
        }
    }

    fn forget(&mut self, gone: &[(TopicName, i32)]) {
        self.next.retain(|partition, _| !gone.iter().any(|(_, lost)| lost == partition));
    }

    /// Waits for what is under way; what failed is read again.
    fn settle(&mut self) {
        for (partition, ticket) in std::mem::take(&mut self.under_way) {
            if ticket.wait().is_err() {
                let at = patiently(|| self.member.source.rewind(self.input, partition)).unwrap();
                self.next.insert(partition, at);
            }
        }
    }
}

pub(super) fn work_under_way(subject: &Subject<'_>) {
    let log = subject.log;
    let (input, output, group) = (topic(log, 4), topic(log, 4), fresh("group"));
    for partition in 0..4 {
        deliver(log, append(&input, partition, numbers(0..RECORDS))).unwrap();
    }
    let hand = |member, assigned: Vec<(TopicName, i32, i64)>| {
        let next = assigned.into_iter().map(|(_, partition, at)| (partition, at)).collect();
        Hand { member, group: &group, input: &input, output: &output, next, under_way: Vec::new() }
    };
    let (first, assigned) = member(subject, &group, &[&input], (0, 2), Start::Earliest);
    let mut hands = vec![hand(first, assigned)];
    while hands[0].under_way.is_empty() {
        hands[0].step();
    }
    let topics = vec![Arc::clone(&input)];
    let second = subscription(subject, &group, topics, Vec::new(), (1, 2), Start::Earliest);
    hands.push(hand(log.join(&second).unwrap(), Vec::new()));
    let until = Instant::now() + LONG;
    while log.committed(&group, &input).unwrap() != [Some(RECORDS); 4] {
        assert!(Instant::now() < until, "{:?}", log.committed(&group, &input));
        (0..10).for_each(|_| hands.iter_mut().for_each(Hand::step));
    }
    for partition in 0..4 {
        let seen = read_to_the_end(log, &output, partition);
        let mut known = BTreeSet::new();
        let first_times: Vec<i64> = seen.iter().copied().filter(|number| known.insert(*number)).collect();
        assert_eq!(first_times, (0..RECORDS).collect::<Vec<_>>(), "partition {partition}");
        assert!(seen.len() == first_times.len() || !subject.is_atomic, "partition {partition} has some twice");
    }
}
