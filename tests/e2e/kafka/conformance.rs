//! The log on Kafka: what every log must do, at least once and exactly once.

use phronis_log::Log as _;
use phronis_log::conformance::{CASES, Subject, fresh};
use phronis_log::kafka::{Log, Options};
use phronis_tests::kafka::{Admin, Broker};

fn check(exactly_once: bool) -> anyhow::Result<()> {
    let log = Log::open(Options::new(Broker::shared()?.bootstrap(), &*fresh("node")))?;
    let subject = Subject { log: &log, exactly_once, is_atomic: exactly_once, is_immediate: false };
    for (name, case) in CASES {
        println!("{name}");
        case(&subject);
    }
    log.close();
    Ok(())
}

#[test]
fn it_does_what_every_log_must_at_least_once() -> anyhow::Result<()> {
    check(false)
}

#[test]
fn it_does_what_every_log_must_exactly_once() -> anyhow::Result<()> {
    check(true)
}

#[test]
fn a_topic_that_is_made_anew_is_another_one() -> anyhow::Result<()> {
    let bootstrap = Broker::shared()?.bootstrap();
    let log = Log::open(Options::new(bootstrap.clone(), &*fresh("node")))?;
    let (admin, topic) = (Admin::new(&bootstrap)?, fresh("anew"));
    admin.create(&topic, 1, &[])?;
    let first = log.topic_identity(&topic)?;
    assert_eq!(log.topic_identity(&topic)?, first);
    admin.delete(&topic)?;
    admin.create(&topic, 1, &[])?;
    assert_ne!(log.topic_identity(&topic)?, first);
    log.close();
    Ok(())
}
