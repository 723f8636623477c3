//! The log on Kafka: what every log must do, at least once and exactly once, and what only a group with a coordinator does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use phronis_log::conformance::{ALL, CASES, Subject, append, commit, fresh, member, numbers, polled, topic};
use phronis_log::kafka::{Log, Options};
use phronis_log::{Log as _, PollLimits, Polled, Source, Start, Subscription, Ticket};
use phronis_tests::host::PATIENCE;
use phronis_tests::kafka::{Admin, Broker};

/// Only what happens in the group.
const NOTHING: PollLimits = PollLimits { records: 0, bytes: 0 };

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

/// Polls until something is told that is looked for.
fn until<T>(what: &str, source: &mut dyn Source, mut is_it: impl FnMut(Polled) -> Option<T>) -> anyhow::Result<T> {
    let until = Instant::now() + PATIENCE * 2;
    loop {
        match source.poll(NOTHING, Duration::from_millis(50)) {
            Ok(told) => {
                if let Some(it) = is_it(told) {
                    return Ok(it);
                }
            }
            Err(error) => ensure!(error.is_retriable(), "{error}"),
        }
        ensure!(Instant::now() < until, "waited in vain until {what}");
    }
}

/// A member that does not poll is put out, and another one has its partitions: what it had in hand is not its own any more.
fn loses(exactly_once: bool) -> anyhow::Result<()> {
    let mut options = Options::new(Broker::shared()?.bootstrap(), &*fresh("node"));
    for (name, ms) in [("session.timeout.ms", 6000), ("max.poll.interval.ms", 6000), ("heartbeat.interval.ms", 500)] {
        options.properties.insert(name.to_owned(), ms.to_string());
    }
    let log = Log::open(options)?;
    let subject = Subject { log: &log, exactly_once, is_atomic: exactly_once, is_immediate: false };
    let (input, output, group) = (topic(&log, 2), topic(&log, 2), fresh("group"));
    for partition in 0..2 {
        log.sink()?.submit(append(&input, partition, numbers(0..10)))?.wait()?;
    }
    let (mut first, assigned) = member(&subject, &group, &[&input], (0, 2), Start::Earliest);
    ensure!(assigned.len() == 2, "{assigned:?}");
    let records = polled(&mut *first.source, ALL);
    let (partition, next) = (records.partition, records.next_offset().context("records")?);
    let delivery = || {
        let mut delivery = append(&output, partition, records.body.clone());
        delivery.commits.push(commit(&group, &input, partition, 0, next));
        delivery
    };

    // From here on the first says nothing.
    let (topics, beside) = (vec![Arc::clone(&input)], Vec::new());
    let wish = Subscription {
        group: Arc::clone(&group),
        topics,
        beside,
        member: 1,
        members: 2,
        start: Start::Earliest,
        exactly_once,
    };
    let mut other = log.join(&wish)?;
    let mut owned = 0;
    until("the other has all partitions", &mut *other.source, |told| {
        match told {
            Polled::Assigned(more) => owned += more.len(),
            Polled::Revoked(gone) | Polled::Lost(gone) => owned -= gone.len(),
            _ => {}
        }
        (owned == 2).then_some(())
    })?;
    // It has not heard of it, and Kafka knows better: nothing of this moves the group.
    let late = first.sink.submit(delivery()).and_then(Ticket::wait);
    ensure!(late.is_err() || !exactly_once, "a transaction of a member that was put out is committed");
    let lost = until("the first hears of it", &mut *first.source, |told| match told {
        Polled::Lost(gone) => Some(gone),
        _ => None,
    })?;
    ensure!(lost.contains(&(Arc::clone(&input), partition)), "{lost:?}");
    let refused = first.sink.submit(delivery()).and_then(Ticket::wait);
    ensure!(matches!(refused, Err(phronis_log::Error::Fenced { .. })), "{refused:?}");
    let stands = |at: i64| -> anyhow::Result<bool> {
        let committed = log.committed(&group, &input)?;
        Ok(committed.get(usize::try_from(partition)?) == Some(&Some(at)))
    };
    ensure!(stands(0)?, "{:?}", log.committed(&group, &input)?);
    other.sink.submit(delivery())?.wait()?;
    let by = Instant::now() + PATIENCE;
    while !stands(next)? {
        ensure!(Instant::now() < by, "the other does not move the group");
        std::thread::sleep(Duration::from_millis(20));
    }
    drop((first, other));
    log.close();
    Ok(())
}

#[test]
fn what_a_member_lost_is_told_and_cannot_be_delivered() -> anyhow::Result<()> {
    loses(false)
}

#[test]
fn what_a_member_lost_is_told_and_cannot_be_delivered_where_once_is_asked() -> anyhow::Result<()> {
    loses(true)
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
