//! What happened lately: one bucket a second, and their sum.
//!
//! A bucket exists only where something happened, so a quiet plugin costs nothing; and the length of the window is looked at
//! only when old buckets are let go, so it can change without losing what was counted.

use std::collections::VecDeque;
use std::time::Duration;

use super::Counts;

/// Counts of the last seconds.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// Second, and what was counted in it; seconds rise.
    buckets: VecDeque<(u64, Counts)>,
    sum: Counts,
}

impl Window {
    pub(super) fn add(&mut self, now: Duration, counts: Counts) {
        let second = now.as_secs();
        match self.buckets.back_mut() {
            // A clock that was read a little earlier than the one before it adds to the newest bucket.
            Some((last, bucket)) if *last >= second => *bucket += counts,
            _ => self.buckets.push_back((second, counts)),
        }
        self.sum += counts;
    }

    /// Lets go what is older than the window: seconds that ended before it began.
    pub(super) fn forget(&mut self, now: Duration, window: Duration) {
        let seconds = window.as_secs().max(1);
        while let Some((second, bucket)) = self.buckets.front().copied() {
            if second.saturating_add(seconds) > now.as_secs() {
                return;
            }
            self.buckets.pop_front();
            self.sum -= bucket;
        }
    }

    pub(super) fn sum(&self) -> Counts {
        self.sum
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
