//! The embedded log against the suite of all logs, and what it alone promises.

use phronis_log::conformance::CASES;
use phronis_log::embedded::{Log, Options};

/// Every case on a log of its own, once with a hot tail and once without one, so that each reads from memory and from the file.
#[test]
fn the_embedded_log_does_what_every_log_must() {
    for hot_tail_bytes in [32 << 20, 0] {
        for (name, case) in CASES {
            eprintln!("{name}, hot tail of {hot_tail_bytes} bytes");
            let folder = tempfile::tempdir().unwrap();
            let log = Log::open(Options { hot_tail_bytes, ..Options::new(folder.path()) }).unwrap();
            case(&log);
        }
    }
}
