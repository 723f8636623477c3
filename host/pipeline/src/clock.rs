//! The wall clock, in the two units that cross borders, and rests that end when the host does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How soon a thread that rests notices that it should stop.
const NOTICE: Duration = Duration::from_millis(20);

/// Microseconds since 1970-01-01T00:00:00Z.
pub(crate) fn now_us() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX)
}

/// Milliseconds since 1970-01-01T00:00:00Z.
pub(crate) fn now_ms() -> i64 {
    now_us() / 1000
}

/// A clock that a wall clock which jumps ahead does not take along: the earlier of the wall's time, and of the start's time
/// with what a steady clock has counted since.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Careful {
    wall: i64,
    steady: Instant,
}

impl Careful {
    pub(crate) fn new() -> Self {
        Self { wall: now_us(), steady: Instant::now() }
    }

    /// Microseconds since 1970-01-01T00:00:00Z.
    pub(crate) fn now_us(&self) -> i64 {
        self.of(now_us(), Instant::now())
    }

    fn of(&self, wall: i64, steady: Instant) -> i64 {
        let passed = steady.saturating_duration_since(self.steady).as_micros();
        wall.min(self.wall.saturating_add(i64::try_from(passed).unwrap_or(i64::MAX)))
    }
}

/// Rests for this long, or until told to stop.
pub(crate) fn rest(duration: Duration, should_stop: &AtomicBool) {
    let until = Instant::now() + duration;
    while Instant::now() < until && !should_stop.load(Ordering::Relaxed) {
        thread::sleep(NOTICE.min(duration));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_careful_clock_does_not_jump_ahead() {
        let steady = Instant::now();
        let clock = Careful { wall: 1_000_000, steady };
        for (passed, wall, expected) in [
            (1, 2_000_000, 2_000_000),
            // A day ahead, and a little back.
            (1, 86_400_000_000, 2_000_000),
            (1, 1_500_000, 1_500_000),
        ] {
            assert_eq!(clock.of(wall, steady + Duration::from_secs(passed)), expected, "{wall}");
        }
    }
}
