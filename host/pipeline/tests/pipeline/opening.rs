//! The start, whatever the state of the log: it is waited for, `/readyz` says why, and work begins by itself.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use phronis_log::Log;
use phronis_pipeline::ingest::{self, Form};
use phronis_pipeline::{Error, Handle, Role, TopicPolicy, live, topics};

use crate::room::{Room, block, eventually, high, is_ready, sensors};

const EVENT: &[u8] = br#"{"sensor_id":"S01","value":1000.0}"#;

fn failing(handle: &Handle) -> String {
    let failing = handle.checks().into_iter().filter(|check| !check.is_ok);
    failing.map(|check| format!("{}: {}\n", check.name, check.detail)).collect()
}

#[test]
fn a_log_that_is_away_at_the_start_is_waited_for() {
    let room = Room::new();
    room.drop_plugin("a", "1.2.3");
    room.away.is_away.store(true, Ordering::Relaxed);
    let host = room.start(room.options("a"));
    let handle = host.handle();
    let told = failing(&handle);
    assert!(told.contains("log: ") && told.contains("PH3005") && told.contains("stream sensors: "), "{told}");
    let refused = handle.ingest(&sensors(), EVENT, Form::Auto).unwrap_err();
    assert!(matches!(refused, ingest::Error::Log(phronis_log::Error::Unreachable { .. })), "{refused}");
    eventually("the plugin is loaded all the same", || !handle.plugins().is_empty());
    assert_eq!(high(&handle), None, "nothing is in force before the live settings were read");

    room.away.is_away.store(false, Ordering::Relaxed);
    eventually("the host works", || is_ready(&handle) && high(&handle).is_some());
    let mut alerts = handle.live();
    let taken = block(handle.ingest(&sensors(), EVENT, Form::Auto).unwrap().durable()).unwrap();
    assert_eq!(taken.accepted, 1);
    eventually("the alert reaches listeners of its stream", || {
        alerts.try_recv().is_ok_and(|event| event.kind == live::Kind::Alert && event.stream == sensors())
    });

    room.away.is_away.store(true, Ordering::Relaxed);
    assert!(failing(&handle).contains("PH3005"));
    room.away.is_away.store(false, Ordering::Relaxed);
    room.configure(Some(r#"{"params":{"high":50.0}}"#));
    eventually("live settings are followed again", || high(&handle) == Some(50.0));
    host.stop();
}

#[test]
fn missing_topics_are_named_and_work_begins_when_somebody_made_them() {
    let room = Room::new();
    let mut options = room.options("a");
    options.topics = TopicPolicy::Expect;
    let needed = topics(&options.streams);
    let (missing, made) = needed.split_last().unwrap();
    for topic in made {
        room.away.log.create_topic(topic).unwrap();
    }
    let host = room.start(options);
    let handle = host.handle();
    let told = failing(&handle);
    let expected = format!("topic {} is missing: run `phronis topics create` (PH3007)", missing.name);
    assert_eq!(told.matches(&expected).count(), 3, "the log and both streams say it: {told}");
    let refused = handle.ingest(&sensors(), EVENT, Form::Auto).unwrap_err();
    assert!(matches!(refused, ingest::Error::NotReady { .. }), "{refused}");

    room.away.log.create_topic(missing).unwrap();
    eventually("the host works", || is_ready(&handle));
    host.stop();
}

#[test]
fn a_topic_with_too_few_partitions_ends_the_start() {
    let room = Room::new();
    room.start(room.options("a")).stop();
    let mut options = room.options("a");
    options.streams[0].partitions = 2;
    let error = room.try_start(options).unwrap_err();
    assert!(matches!(error, Error::Log(phronis_log::Error::PartitionsDiffer { .. })), "{error}");
}

#[test]
fn what_was_started_before_an_error_is_stopped() {
    let room = Room::new();
    let options = room.options("a");
    // The folder of good versions cannot be made where a file is.
    std::fs::write(&options.state_dir, "a file").unwrap();
    let held = Arc::strong_count(&room.away.is_away);
    let error = room.try_start(options).unwrap_err();
    assert!(matches!(error, Error::StateFolder { .. }), "{error}");
    eventually("no thread holds the log", || Arc::strong_count(&room.away.is_away) == held);
}

#[test]
fn a_host_does_what_its_roles_say() {
    let room = Room::new();
    let mut options = room.options("a");
    options.roles = [Role::Process].into();
    let host = room.start(options);
    let refused = host.handle().ingest(&sensors(), EVENT, Form::Auto).unwrap_err();
    assert_eq!(refused.to_string(), "this host takes no events, its roles are: process");
    host.stop();

    let mut options = room.options("a");
    options.roles = [Role::Serve].into();
    let host = room.start(options);
    let handle = host.handle();
    eventually("the host works", || is_ready(&handle));
    block(handle.ingest(&sensors(), EVENT, Form::Auto).unwrap().durable()).unwrap();
    let judged = room.values("phronis.processed");
    assert!(judged.is_empty(), "{judged:?}");
    let waited = block(async { tokio::time::timeout(Duration::from_millis(1), handle.fatal()).await });
    assert!(waited.is_err(), "nothing is wrong");
    host.stop();
}
