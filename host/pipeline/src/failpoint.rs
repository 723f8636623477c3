//! Places where a test can kill the process, as `kill -9` would: `PHRONIS_FAIL_AT=<place>` or `<place>:<nth time>`.
//!
//! They stand between two steps that are not one transaction, never on the way of each event.
//! Without the variable, passing one is a single load.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Signal, getpid, kill_process};

struct Wanted {
    place: String,
    /// How often it is still to be passed.
    left: AtomicU64,
}

static WANTED: OnceLock<Option<Wanted>> = OnceLock::new();

/// Passes a place, unless the process is to end here.
pub(crate) fn pass(place: &str) {
    let Some(wanted) = WANTED.get_or_init(|| parse(&std::env::var("PHRONIS_FAIL_AT").ok()?)) else { return };
    if wanted.place != place || wanted.left.fetch_sub(1, Ordering::Relaxed) != 1 {
        return;
    }
    tracing::error!(place, "killed, as PHRONIS_FAIL_AT wants it");
    if let Err(error) = kill_process(getpid(), Signal::KILL) {
        tracing::error!(%error, "it cannot be killed");
    }
    // The signal is on its way; nothing after this place may happen.
    loop {
        std::thread::park();
    }
}

fn parse(text: &str) -> Option<Wanted> {
    let (place, nth) = text.rsplit_once(':').unwrap_or((text, "1"));
    Some(Wanted { place: place.to_owned(), left: AtomicU64::new(nth.parse().ok().filter(|nth| *nth > 0)?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_named_with_the_time_that_counts() {
        let parsed = |text| parse(text).map(|wanted| (wanted.place, wanted.left.into_inner()));
        assert_eq!(parsed("moved"), Some(("moved".into(), 1)));
        assert_eq!(parsed("moved:3"), Some(("moved".into(), 3)));
        assert_eq!(parsed("moved:0"), None);
        assert_eq!(parsed("moved:x"), None);
    }
}
