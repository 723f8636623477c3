//! Keeps a branch going: when it fails or panics it begins anew, after a pause that grows.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::clock::rest;

/// First and longest pause after a failure.
pub(crate) const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// Runs something until it ends by itself or is told to stop. `failed` hears in words why it begins anew.
pub(crate) fn keep_going(
    should_stop: &AtomicBool,
    run: impl Fn() -> Result<(), String>,
    mut failed: impl FnMut(String),
) {
    let mut pause = BACKOFF.0;
    while !should_stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        match catch_unwind(AssertUnwindSafe(&run)) {
            Ok(Ok(())) => return,
            Ok(Err(error)) => failed(error),
            Err(_) => failed("it panicked; this is a fault of the host".to_owned()),
        }
        if begun.elapsed() > BACKOFF.1 {
            pause = BACKOFF.0;
        }
        rest(pause, should_stop);
        pause = (pause * 2).min(BACKOFF.1);
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
        keep_going(&AtomicBool::new(false), run, |why| told.push(why));
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
        keep_going(&should_stop, run, |_| {});
    }
}
