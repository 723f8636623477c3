//! Deliveries that are not durable yet, in the order in which they were submitted.

use std::collections::VecDeque;

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
pub(super) struct InFlight(VecDeque<Delivered>);

impl InFlight {
    pub(super) fn push(&mut self, delivered: Delivered) {
        self.0.push_back(delivered);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What became of the oldest: waits for it while more than `most` are under way, else `None` as long as it is not known.
    pub(super) fn settle(&mut self, most: usize) -> Option<Settled> {
        let must_wait = self.0.len() > most;
        let mut first = self.0.pop_front()?;
        let outcome = if must_wait {
            first.ticket.wait()
        } else {
            match first.ticket.try_wait() {
                Some(outcome) => outcome,
                None => {
                    self.0.push_front(first);
                    return None;
                }
            }
        };
        let Delivered { lane, next, tally, newest, .. } = first;
        Some(Settled { lane, next, tally, newest, outcome })
    }

    /// Forgets deliveries of partitions that are someone else's: nobody waits for them, nobody counts them.
    pub(super) fn abandon(&mut self, is_lost: impl Fn(Lane) -> bool) {
        self.0.retain(|delivered| !is_lost(delivered.lane));
    }

    /// The timestamp of the oldest record of a partition that is under way.
    pub(super) fn oldest(&self, lane: Lane) -> Option<i64> {
        self.0.iter().find(|delivered| delivered.lane == lane).map(|delivered| delivered.first)
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
            in_flight.push(Delivered { ticket, lane, next: first + 1, tally, first, newest: first });
        }
        assert!(in_flight.settle(4).is_none());
        in_flight.abandon(|lane| lane == Lane::raw(1));
        assert_eq!((in_flight.oldest(Lane::raw(0)), in_flight.oldest(Lane::raw(1))), (Some(10), None));
        assert_eq!(in_flight.oldest(Lane::retry(0)), None);
        let mut senders = senders.into_iter();
        senders.next().unwrap().send(Ok(Receipt::default())).unwrap();
        let first = in_flight.settle(4).unwrap();
        assert!((first.lane, first.next) == (Lane::raw(0), 11) && first.outcome.is_ok());
        assert_eq!(in_flight.oldest(Lane::raw(0)), Some(30));
        assert!(in_flight.settle(2).is_none(), "two may be under way");
        senders.next();
        senders.next().unwrap().send(Err(Error::Closed)).unwrap();
        drop(senders);
        assert!(in_flight.settle(0).unwrap().outcome.is_err());
        assert!(in_flight.settle(0).unwrap().outcome.is_err(), "a log that is gone answers too");
        assert!(in_flight.settle(0).is_none() && in_flight.is_empty());
    }
}
