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

/// Rests for this long, or until told to stop.
pub(crate) fn rest(duration: Duration, should_stop: &AtomicBool) {
    let until = Instant::now() + duration;
    while Instant::now() < until && !should_stop.load(Ordering::Relaxed) {
        thread::sleep(NOTICE.min(duration));
    }
}
