//! What a worker does after a failure, and how it keeps its place in the group while it may not work.
//!
//! Only what failed is done again: a partition is read again when a delivery of it failed, or when nobody can tell.

use std::time::Instant;

use phronis_log::{Error as LogError, PollLimits, Polled};

use super::{AWAY, BACKOFF, IDLE_WAIT, POLL_WAIT, Worker};
use crate::status::StreamState;
use crate::{Error, Result};

/// Takes no records, only what happens in the group.
const NO_RECORDS: PollLimits = PollLimits { records: 0, bytes: 0 };

impl Worker {
    /// After a failure: learn what became of what is in flight, go back where something failed, and try again a little later.
    pub(super) fn recover(&mut self, error: &Error) {
        tracing::warn!(stream = %self.stream.options.id, %error, retry_in = ?self.backoff, "cannot go on, trying again from the committed offset of what failed");
        self.is_recovering = true;
        self.say(StreamState::Blocked, Some(error.to_string()));
        while let Err(error) = self.settle_all(POLL_WAIT) {
            tracing::debug!(stream = %self.stream.options.id, %error, "another delivery failed too, or is not answered");
            if self.in_flight.is_empty() || self.should_stop() {
                break;
            }
            // What fails here is marked, and read again after the pause.
            self.stay().ok();
        }
        self.pause();
        self.rewind();
    }

    /// A breaker opened before a batch was judged whole: what was taken is read again when the worker may go on.
    pub(super) fn hold_back(&mut self) -> Result<()> {
        let settled = self.settle_all(AWAY);
        self.rewind();
        settled
    }

    /// Waits a little, longer each time, and keeps its place in the group.
    fn pause(&mut self) {
        let until = Instant::now() + self.backoff;
        self.backoff = (self.backoff * 2).min(BACKOFF.1);
        while Instant::now() < until && !self.should_stop() {
            // What fails here is marked, and read again after the pause.
            self.stay().ok();
        }
    }

    /// Polls for no records for a moment: a member that does not poll is put out of its group.
    pub(super) fn stay(&mut self) -> Result<()> {
        match self.source.poll(NO_RECORDS, IDLE_WAIT) {
            Ok(Polled::Records(records)) => {
                tracing::error!(stream = %self.stream.options.id, "the log gave records where it was asked for none; they are read again");
                let lane = self.lane(&records.topic, records.partition);
                self.must_rewind(lane);
            }
            Ok(Polled::Idle) => {}
            Ok(Polled::Assigned(partitions)) => self.take_over(&partitions),
            Ok(Polled::Revoked(partitions)) => return self.hand_over(&partitions),
            Ok(Polled::Lost(partitions)) => self.lose(&partitions),
            Err(LogError::OutOfRange { topic, partition, offset, earliest, latest }) => {
                let lane = self.lane(&topic, partition);
                self.stop_partition(lane, &LogError::OutOfRange { topic, partition, offset, earliest, latest });
            }
            Err(error) => {
                tracing::debug!(stream = %self.stream.options.id, %error, "the group cannot be asked");
                std::thread::sleep(IDLE_WAIT);
            }
        }
        Ok(())
    }
}
