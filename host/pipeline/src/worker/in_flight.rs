//! Deliveries that are not durable yet, in the order in which they were submitted.

use std::collections::VecDeque;
use std::time::Instant;

use phronis_core::delivery::Receipt;
use phronis_log::Ticket;

use super::lane::Lane;
use crate::status::StreamCounts;

/// A delivery that is not durable yet. It is of one partition.
#[derive(Debug)]
pub(super) struct Delivered {
    pub(super) ticket: Ticket,
    pub(super) lane: Lane,
    /// The offset after its last record.
    pub(super) next: i64,
    /// How many records it is made of.
    pub(super) records: usize,
    pub(super) tally: StreamCounts,
    /// Timestamps of its first and its last record, in milliseconds since 1970.
    pub(super) first: i64,
    pub(super) newest: i64,
}

/// What became of a delivery.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) lane: Lane,
    pub(super) next: i64,
    pub(super) tally: StreamCounts,
    pub(super) newest: i64,
    pub(super) outcome: phronis_log::Result<Receipt>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    deliveries: VecDeque<Delivered>,
    records: usize,
}

/// With fewer records than this under way, deliveries are not counted, up to [`MANY`]: single events need not wait for each other.
const FEW_RECORDS: usize = 1024;

/// More deliveries than this are never under way.
const MANY: usize = 256;

impl InFlight {
    pub(super) fn push(&mut self, delivered: Delivered) {
        self.records += delivered.records;
        self.deliveries.push_back(delivered);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.deliveries.is_empty()
    }

    /// Whether no more should be under way, where `most` deliveries may be.
    pub(super) fn is_full(&self, most: usize) -> bool {
        self.deliveries.len() > most && (self.records >= FEW_RECORDS || self.deliveries.len() > MANY)
    }

    /// What became of the oldest; `None` where that is not known by then.
    pub(super) fn settle(&mut self, until: Instant) -> Option<Settled> {
        let mut first = self.deliveries.pop_front()?;
        let Some(outcome) = first.ticket.wait_until(until) else {
            self.deliveries.push_front(first);
            return None;
        };
        let Delivered { lane, next, records, tally, newest, .. } = first;
        self.records -= records;
        Some(Settled { lane, next, tally, newest, outcome })
    }

    /// Forgets deliveries of partitions that are someone else's: nobody waits for them, nobody counts them.
    pub(super) fn abandon(&mut self, is_lost: impl Fn(Lane) -> bool) {
        self.deliveries.retain(|delivered| !is_lost(delivered.lane));
        self.records = self.deliveries.iter().map(|delivered| delivered.records).sum();
    }

    /// The timestamp of the oldest record of a partition that is under way.
    pub(super) fn oldest(&self, lane: Lane) -> Option<i64> {
        self.deliveries.iter().find(|delivered| delivered.lane == lane).map(|delivered| delivered.first)
    }
}

#[cfg(test)]
mod tests {
    use phronis_log::Error;

    use super::*;

    #[test]
    fn deliveries_settle_in_order_and_lost_ones_are_never_waited_for() {
        let mut in_flight = InFlight::default();
        let mut senders = Vec::new();
        for (partition, first) in [(0, 10), (1, 20), (0, 30), (2, 40)] {
            let (sender, ticket) = Ticket::new();
            senders.push(sender);
            let tally = StreamCounts::default();
            let lane = Lane::raw(partition);
            in_flight.push(Delivered { ticket, lane, next: first + 1, records: 1, tally, first, newest: first });
        }
        let now = Instant::now();
        assert!(in_flight.settle(now).is_none());
        in_flight.abandon(|lane| lane == Lane::raw(1));
        assert_eq!((in_flight.oldest(Lane::raw(0)), in_flight.oldest(Lane::raw(1))), (Some(10), None));
        assert_eq!(in_flight.oldest(Lane::retry(0)), None);
        let mut senders = senders.into_iter();
        senders.next().unwrap().send(Ok(Receipt::default())).unwrap();
        let first = in_flight.settle(now).unwrap();
        assert!((first.lane, first.next) == (Lane::raw(0), 11) && first.outcome.is_ok());
        assert_eq!(in_flight.oldest(Lane::raw(0)), Some(30));
        assert!(in_flight.settle(now).is_none());
        senders.next();
        senders.next().unwrap().send(Err(Error::Closed)).unwrap();
        drop(senders);
        assert!(in_flight.settle(now).unwrap().outcome.is_err());
        assert!(in_flight.settle(now).unwrap().outcome.is_err(), "a log that is gone answers too");
        assert!(in_flight.settle(now).is_none() && in_flight.is_empty());
    }

    #[test]
    fn many_are_under_way_as_long_as_they_are_small() {
        let mut in_flight = InFlight::default();
        let mut senders = Vec::new();
        let mut push = |in_flight: &mut InFlight, records| {
            let (sender, ticket) = Ticket::new();
            senders.push(sender);
            let (lane, tally) = (Lane::raw(0), StreamCounts::default());
            in_flight.push(Delivered { ticket, lane, next: 0, records, tally, first: 0, newest: 0 });
        };
        (0..MANY).for_each(|_| push(&mut in_flight, 1));
        assert!(!in_flight.is_full(2));
        push(&mut in_flight, 1);
        assert!(in_flight.is_full(2), "there is an end to it");
        in_flight.abandon(|_| true);
        (0..2).for_each(|_| push(&mut in_flight, FEW_RECORDS));
        assert!(!in_flight.is_full(2));
        push(&mut in_flight, 1);
        assert!(in_flight.is_full(2), "large ones count");
    }
}
