//! Places where a test can kill the process, as `kill -9` would: `PHRONIS_FAIL_AT=<place>` or `<place>:<nth time>`.
//!
//! They stand between two steps that are not one transaction, never on the way of each event.
//! `PHRONIS_FAIL_AT=record-<partition>-<offset>` kills whenever this record of raw is about to be judged.
//! Without the variable, passing one is a single load.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use phronis_core::records::Records;
use rustix::process::{Signal, getpid, kill_process};

struct Wanted {
    place: String,
    /// Partition and offset, where the place is a record.
    record: Option<(i32, i64)>,
    /// How often it is still to be passed.
    left: AtomicU64,
}

static WANTED: OnceLock<Option<Wanted>> = OnceLock::new();

/// Passes a place, unless the process is to end here.
pub(crate) fn pass(place: &str) {
    let Some(wanted) = wanted() else { return };
    if wanted.place == place && wanted.left.fetch_sub(1, Ordering::Relaxed) == 1 {
        die(place);
    }
}

/// Passes records of raw, unless the process is to end at one of them.
pub(crate) fn pass_records(records: &Records) {
    let Some((partition, offset)) = wanted().and_then(|wanted| wanted.record) else { return };
    if records.partition == partition && records.offsets.values().contains(&offset) {
        die("record");
    }
}

fn wanted() -> Option<&'static Wanted> {
    WANTED.get_or_init(|| parse(&std::env::var("PHRONIS_FAIL_AT").ok()?)).as_ref()
}

fn die(place: &str) {
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
    let left = AtomicU64::new(nth.parse().ok().filter(|nth| *nth > 0)?);
    let record = place.strip_prefix("record-").and_then(|record| record.split_once('-'));
    let record = record.and_then(|(partition, offset)| Some((partition.parse().ok()?, offset.parse().ok()?)));
    Some(Wanted { place: place.to_owned(), record, left })
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
        assert_eq!(parse("record-2-77").unwrap().record, Some((2, 77)));
        assert_eq!(parse("redrive-stepped").unwrap().record, None);
        assert_eq!(parsed("moved:x"), None);
    }
}
