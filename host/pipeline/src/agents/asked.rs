//! Who was asked who is halted since this host began, and whether that is enough to answer others.
//!
//! What the file says holds at once. But while this host was down, others may have acknowledged halts that it has never
//! heard of: a guard that is told the file's state alone would let those agents go. So the log and the store come first,
//! as far as they answer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long the log and the store may keep everyone waiting; then what is known here is what is known.
/// A log that answers may be silent for three seconds before its end is plain (`whole.rs`), and a store is given two for an answer.
const OTHERS_FIRST: Duration = Duration::from_secs(5);

/// Who was asked.
#[derive(Debug)]
pub(super) struct Asked {
    since: Instant,
    /// Whether the file has what this host knew when it ended.
    is_in_file: bool,
    /// Whether `phronis.control` was read to its end.
    log: AtomicBool,
    /// Whether the store's halts were taken; and whether the store was asked for them, and may have been away.
    store: AtomicBool,
    store_was_tried: AtomicBool,
}

impl Asked {
    pub(super) fn new(is_in_file: bool) -> Self {
        let (log, store, store_was_tried) = Default::default();
        Self { since: Instant::now(), is_in_file, log, store, store_was_tried }
    }

    /// `phronis.control` was read to its end.
    pub(super) fn log(&self) {
        self.log.store(true, Ordering::Release);
    }

    /// The store's halts were taken; true for the first time.
    pub(super) fn store(&self) -> bool {
        !self.store.swap(true, Ordering::AcqRel)
    }

    /// The store was asked, and has answered or is away.
    pub(super) fn store_was_tried(&self) {
        self.store_was_tried.store(true, Ordering::Release);
    }

    /// Since this host began.
    pub(super) fn since(&self) -> Duration {
        self.since.elapsed()
    }

    /// Whether who is halted is known, for one who has waited for so long.
    pub(super) fn is_enough(&self, waited: Duration) -> bool {
        let [log, store, tried] =
            [&self.log, &self.store, &self.store_was_tried].map(|asked| asked.load(Ordering::Acquire));
        (log && tried) || (waited >= OTHERS_FIRST && (log || store || self.is_in_file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_believed_alone_only_when_log_and_store_keep_silent() {
        for (is_in_file, log, store, tried, soon, late) in [
            (true, false, false, false, false, true),
            (true, false, false, true, false, true),
            // A store of this host's own is as old as its file.
            (true, false, true, true, false, true),
            (false, false, true, true, false, true),
            // A halt that was acknowledged without the store stands in the log.
            (true, true, false, true, true, true),
            (true, true, true, true, true, true),
            (false, true, false, true, true, true),
            // One that was acknowledged without the log stands in the store.
            (true, true, false, false, false, true),
            // Nobody knows, however long it is waited for.
            (false, false, false, true, false, false),
        ] {
            let asked = Asked::new(is_in_file);
            if log {
                asked.log();
            }
            if store {
                assert!(asked.store() && !asked.store());
            }
            if tried {
                asked.store_was_tried();
            }
            let seen = (asked.is_enough(Duration::ZERO), asked.is_enough(OTHERS_FIRST));
            assert_eq!(seen, (soon, late), "{asked:?}");
        }
    }
}
