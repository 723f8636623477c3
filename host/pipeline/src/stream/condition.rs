//! What a stream is doing, put together from what each of its workers says and which partitions stand still.
//!
//! The worst word counts: a stream of which one worker is blocked, or one partition stopped, does not run as it should.

use std::collections::BTreeMap;

use crate::status::StreamState;

/// How many faults are told in full; more would hide the first in a list or on a screen.
const TOLD: usize = 3;

/// What the workers of a stream say.
#[derive(Debug, Default)]
pub(crate) struct Conditions {
    workers: BTreeMap<i32, (StreamState, Option<String>)>,
    /// Partitions that stand still until someone does something: whose worker says so, and why.
    faults: BTreeMap<Spot, (i32, String)>,
}

/// A partition that stands still: its number, and whether it is one of retry instead of raw.
pub(crate) type Spot = (i32, bool);

impl Conditions {
    /// All workers are about to start.
    pub(crate) fn of(workers: i32) -> Self {
        let workers = (0..workers).map(|worker| (worker, (StreamState::Starting, None))).collect();
        Self { workers, faults: BTreeMap::new() }
    }

    /// A worker's word.
    pub(crate) fn set(&mut self, worker: i32, state: StreamState, detail: Option<String>) {
        self.workers.insert(worker, (state, detail));
    }

    /// A partition stands still.
    pub(crate) fn stop(&mut self, worker: i32, spot: Spot, why: String) {
        self.faults.insert(spot, (worker, why));
    }

    /// A partition goes on, or is another host's now.
    pub(crate) fn go_on(&mut self, spot: Spot) {
        self.faults.remove(&spot);
    }

    /// A worker ends, and with it what it knows; returns the partitions that it had stopped.
    pub(crate) fn forget(&mut self, worker: i32) -> Vec<Spot> {
        self.faults.extract_if(.., |_, (by, _)| *by == worker).map(|(spot, _)| spot).collect()
    }

    /// The stream as a whole.
    pub(crate) fn merged(&self) -> (StreamState, Option<String>) {
        let worst = self.workers.values().max_by_key(|(state, _)| badness(*state));
        let (state, detail) = worst.cloned().unwrap_or((StreamState::Starting, None));
        if self.faults.is_empty() || state == StreamState::Stopped {
            return (state, detail);
        }
        let mut told: Vec<String> = self.faults.values().take(TOLD).map(|(_, why)| why.clone()).collect();
        if self.faults.len() > TOLD {
            told.push(format!("{} more partitions stopped", self.faults.len() - TOLD));
        }
        told.extend(detail);
        (StreamState::Blocked, Some(told.join("; ")))
    }
}

/// A stream has stopped when all its workers have; it runs when none has trouble.
fn badness(state: StreamState) -> u8 {
    match state {
        StreamState::Stopped => 0,
        StreamState::Running => 1,
        StreamState::Starting => 2,
        StreamState::Held => 3,
        StreamState::Blocked => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_word_of_all_workers_is_the_streams() {
        use StreamState::{Blocked, Held, Running, Starting, Stopped};
        for (words, expected) in [
            (&[][..], Starting),
            (&[Running, Running], Running),
            (&[Running, Starting], Starting),
            (&[Starting, Held], Held),
            (&[Blocked, Held, Running], Blocked),
            (&[Stopped, Running], Running),
            (&[Stopped, Stopped], Stopped),
        ] {
            let mut conditions = Conditions::default();
            for (worker, state) in (0..).zip(words) {
                conditions.set(worker, *state, Some(format!("{state:?}")));
            }
            let (state, detail) = conditions.merged();
            assert_eq!(state, expected, "{words:?}");
            assert_eq!(detail, words.first().map(|_| format!("{expected:?}")), "the detail is that of the worst");
        }
        let mut conditions = Conditions::of(2);
        conditions.set(0, Running, None);
        assert_eq!(conditions.merged(), (Starting, None), "the other has not said anything");
    }

    #[test]
    fn a_stopped_partition_blocks_the_stream_until_it_goes_on() {
        let mut conditions = Conditions::of(2);
        conditions.set(0, StreamState::Running, None);
        conditions.set(1, StreamState::Blocked, Some("no room".into()));
        for partition in 0..5 {
            conditions.stop(partition % 2, (partition, false), format!("partition {partition} stopped"));
        }
        let told = "partition 0 stopped; partition 1 stopped; partition 2 stopped; 2 more partitions stopped; no room";
        assert_eq!(conditions.merged(), (StreamState::Blocked, Some(told.into())));
        conditions.set(1, StreamState::Running, None);
        assert_eq!(conditions.forget(0), [(0, false), (2, false), (4, false)]);
        conditions.go_on((1, true));
        conditions.go_on((1, false));
        assert_eq!(conditions.merged(), (StreamState::Blocked, Some("partition 3 stopped".into())));
        conditions.go_on((3, false));
        assert_eq!(conditions.merged(), (StreamState::Running, None));
    }
}
