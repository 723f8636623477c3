//! Keeps a thread's work going: when it fails or panics it begins anew, after a pause that grows.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::clock::rest;

/// First and longest pause of a branch: no event waits for it.
pub(crate) const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// Runs something until it ends by itself or is told to stop. `failed` hears in words why it begins anew,
/// after the first of the pauses, which doubles up to the second.
pub(crate) fn keep_going(
    (first, longest): (Duration, Duration),
    should_stop: &AtomicBool,
    run: impl Fn() -> Result<(), String>,
    mut failed: impl FnMut(String),
) {
    let mut pause = first;
    while !should_stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        match catch_unwind(AssertUnwindSafe(&run)) {
            Ok(Ok(())) => return,
            Ok(Err(error)) => failed(error),
            Err(_) => failed("it panicked; this is a fault of the host".to_owned()),
        }
        if begun.elapsed() > longest {
            pause = first;
        }
        rest(pause, should_stop);
        pause = (pause * 2).min(longest);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn it_begins_anew_until_it_ends_by_itself() {
        let (begun, mut told) = (Cell::new(0), Vec::new());
        let run = || {
            begun.set(begun.get() + 1);
            match begun.get() {
                1 => Err("no luck".to_owned()),
                2 => panic!("a fault"),
                _ => Ok(()),
            }
        };
        keep_going(BACKOFF, &AtomicBool::new(false), run, |why| told.push(why));
        assert_eq!((begun.get(), told.len(), told[0].as_str()), (3, 2, "no luck"));
        assert!(told[1].contains("panicked"), "{told:?}");
    }

    #[test]
    fn it_stops_when_told() {
        let should_stop = AtomicBool::new(false);
        let run = || {
            should_stop.store(true, Ordering::Relaxed);
            Err("away".to_owned())
        };
        keep_going(BACKOFF, &should_stop, run, |_| {});
    }
}
