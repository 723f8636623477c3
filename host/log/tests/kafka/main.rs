//! The log on a real Apache Kafka: what every log must do, at least once and exactly once.

use std::sync::Arc;

use phronis_log::conformance::{CASES, Subject, fresh};
use phronis_log::kafka::{Log, Options};

/// Every case, each with members of its own.
fn check(exactly_once: bool) {
    let bootstrap = std::env::var("KAFKA_BOOTSTRAP").unwrap();
    let only = std::env::var("CASE").ok();
    let log = Log::open(Options::new(bootstrap, &*fresh("node"))).unwrap();
    let subject = Subject { log: &log, exactly_once, is_atomic: exactly_once, is_immediate: false };
    for (name, case) in CASES {
        if only.as_ref().is_some_and(|only| !name.contains(only)) {
            continue;
        }
        let started = std::time::Instant::now();
        eprintln!("{name}");
        case(&subject);
        eprintln!("   {:?}", started.elapsed());
    }
    let _keep: Arc<()> = Arc::default();
    log.close();
}

#[test]
fn it_does_what_every_log_must_at_least_once() {
    check(false);
}

#[test]
fn it_does_what_every_log_must_exactly_once() {
    check(true);
}
