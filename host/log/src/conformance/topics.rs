//! Topics are made once, are told from others of their name, and forget what is old.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Subject;
use super::kit::{LONG, append, deliver, fresh, numbers, topic};
use crate::{Error, Position, Retention, TopicSpec};

pub(super) fn topics(subject: &Subject<'_>) {
    let log = subject.log;
    let name = topic(log, 2);
    let spec = |partitions| TopicSpec { name: Arc::clone(&name), partitions, retention: Retention::default() };
    log.create_topic(&spec(2)).unwrap();
    match log.create_topic(&spec(3)).unwrap_err() {
        Error::PartitionsDiffer { actual: 2, wanted: 3, .. } => {}
        other => panic!("{other}"),
    }
    assert_eq!(log.topics().unwrap().iter().filter(|info| info.name == name).count(), 1);
    for bad in ["", "a b", "ä", "..", &"x".repeat(250)] {
        let spec = TopicSpec { name: bad.into(), partitions: 1, retention: Retention::default() };
        assert!(matches!(log.create_topic(&spec), Err(Error::Invalid(_))), "{bad:?}");
    }
    let none = TopicSpec { name: fresh("none"), partitions: 0, retention: Retention::default() };
    assert!(matches!(log.create_topic(&none), Err(Error::Invalid(_))));
}

pub(super) fn identities(subject: &Subject<'_>) {
    let log = subject.log;
    let (one, other) = (topic(log, 1), topic(log, 1));
    let identity = log.topic_identity(&one).unwrap();
    assert!(!identity.is_empty());
    assert_ne!(log.topic_identity(&other).unwrap(), identity);
    let retention = Retention { age: Some(Duration::from_secs(3600)), ..Retention::default() };
    log.create_topic(&TopicSpec { name: Arc::clone(&one), partitions: 1, retention }).unwrap();
    assert_eq!(log.topic_identity(&one).unwrap(), identity, "what changes a topic leaves it the same");
    assert!(matches!(log.topic_identity(&fresh("none")), Err(Error::UnknownTopic(_))));
}

/// Where the log counts the time of a record itself, it is that of the append; these are of 1970, and old by both.
pub(super) fn retention(subject: &Subject<'_>) {
    let log = subject.log;
    let (name, kept) = (fresh("old"), topic(log, 1));
    let retention = Retention { age: Some(Duration::from_secs(1)), ..Retention::default() };
    log.create_topic(&TopicSpec { name: Arc::clone(&name), partitions: 1, retention }).unwrap();
    assert_eq!(log.describe_topic(&name).unwrap().retention, retention);
    for topic in [&name, &kept] {
        deliver(log, append(topic, 0, numbers(0..10))).unwrap();
    }
    let until = Instant::now() + LONG;
    while log.topic(&name).unwrap().partitions[0].earliest < 10 {
        assert!(Instant::now() < until, "{:?}", log.topic(&name));
        std::thread::sleep(Duration::from_millis(20));
    }
    match log.reader(&name, 0, Position::Offset(3)).err().unwrap() {
        Error::OutOfRange { offset: 3, earliest: 10, latest: 10, .. } => {}
        other => panic!("{other}"),
    }
    assert_eq!(deliver(log, append(&name, 0, numbers([10]))).unwrap().base_offsets, [10], "offsets go on");
    assert_eq!(log.topic(&kept).unwrap().partitions[0].earliest, 0, "without an age nothing is old");
}
