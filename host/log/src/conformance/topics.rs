//! Topics are made once, and are told from others of their name.

use std::sync::Arc;
use std::time::Duration;

use super::Subject;
use super::kit::{fresh, topic};
use crate::{Error, Retention, TopicSpec};

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
