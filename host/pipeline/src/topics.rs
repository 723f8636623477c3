//! The topics that a host needs, and how they should be. Pure: making and checking them is for others.

use std::sync::Arc;

use phronis_core::partition::{CONFIG_TOPIC, CONTROL_TOPIC, Topics};
use phronis_core::records::TopicName;
use phronis_log::{Retention, TopicSpec};

use crate::stream;

/// What a host does about topics that are not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicPolicy {
    /// Makes them, and gives those that are there the configured retention.
    Create,
    /// Waits until somebody made them, and says which are missing.
    Expect,
}

/// All topics that a host with these streams needs; one that several streams share stands once.
pub fn topics(streams: &[stream::Options]) -> Vec<TopicSpec> {
    let compacted = Retention { compact: true, ..Retention::default() };
    let mut needed: Vec<TopicSpec> = Vec::new();
    let mut need = |name: &TopicName, partitions: i32, retention: Retention| {
        if !needed.iter().any(|topic| topic.name == *name) {
            needed.push(TopicSpec { name: Arc::clone(name), partitions, retention });
        }
    };
    need(&CONFIG_TOPIC.into(), 1, compacted);
    need(&CONTROL_TOPIC.into(), 1, compacted);
    for stream in streams {
        let Topics { raw, processed, alerts, dlq, retry, state } = &stream.topics;
        for name in [raw, processed, alerts, retry] {
            need(name, stream.partitions, stream.retention);
        }
        need(dlq, stream.partitions, stream.letters_retention);
        need(state, stream.partitions, stream.retention);
    }
    needed
}
