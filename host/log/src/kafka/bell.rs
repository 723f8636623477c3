//! Who waits for librdkafka, and what is ready.
//!
//! librdkafka's threads ring when a queue stops being empty; the one thread that polls waits here for all its queues at once.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// A bell with numbered places, for one who waits.
#[derive(Debug, Default)]
pub(super) struct Bell {
    rung: Mutex<Rung>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Rung {
    /// Places that rang and were not taken, in the order in which they did; each at most once.
    places: VecDeque<u32>,
    /// Someone called without a place.
    called: bool,
    /// Somebody sleeps until it rings.
    is_awaited: bool,
}

impl Bell {
    /// Something is ready at this place.
    pub(super) fn ring(&self, place: u32) {
        let mut rung = self.lock();
        if !rung.places.contains(&place) {
            rung.places.push_back(place);
            self.wake(rung);
        }
    }

    /// Wakes whoever waits.
    pub(super) fn call(&self) {
        let mut rung = self.lock();
        rung.called = true;
        self.wake(rung);
    }

    /// Only one who sleeps, and with the lock open: it would sleep again at once.
    fn wake(&self, mut rung: MutexGuard<'_, Rung>) {
        if std::mem::take(&mut rung.is_awaited) {
            drop(rung);
            self.changed.notify_one();
        }
    }

    /// The next place that rang, if any.
    pub(super) fn take(&self) -> Option<u32> {
        self.lock().places.pop_front()
    }

    /// Waits until something rings or calls; false when the time is up.
    pub(super) fn wait(&self, until: Instant) -> bool {
        let mut rung = self.lock();
        loop {
            if !rung.places.is_empty() || std::mem::take(&mut rung.called) {
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            rung.is_awaited = true;
            rung = self.changed.wait_timeout(rung, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Rung> {
        self.rung.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn places_are_taken_in_the_order_in_which_they_rang() {
        let bell = Bell::default();
        for place in [3, 1, 3, 2] {
            bell.ring(place);
        }
        assert!(bell.wait(Instant::now()));
        assert_eq!([bell.take(), bell.take(), bell.take(), bell.take()], [Some(3), Some(1), Some(2), None]);
        assert!(!bell.wait(Instant::now() + Duration::from_millis(1)));
        bell.call();
        assert!(bell.wait(Instant::now()));
        assert!(!bell.wait(Instant::now()));
    }
}
