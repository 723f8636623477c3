//! The alert branch: follows the alerts topics and hands what it reads to everyone who listens.
//!
//! It reads the log, not the workers: what a listener sees is durable.
//! Listeners that are too slow lose events rather than slow the host, and are told how many.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use phronis_core::StreamId;
use phronis_core::records::{Records, TopicName};
use phronis_log::{Follower, Log, PollLimits, Start};
use serde::Deserialize;
use tokio::sync::broadcast;

use crate::clock::rest;

/// Events that a slow listener may fall behind before it loses some.
pub(crate) const BACKLOG: usize = 1024;

/// How long a read waits; also how soon a reader notices that it should stop.
const READ_WAIT: Duration = Duration::from_millis(200);

/// Bounds of one read.
const READ: PollLimits = PollLimits { records: 1024, bytes: 1 << 20 };

/// Between two tries to read.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Failed tries after which a new follower begins: it misses what came in between, so the old one gets its chances first.
const FRESH_AFTER: u32 = 10;

/// Something that just happened.
#[derive(Debug, Clone)]
pub struct Event {
    /// What it is.
    pub kind: Kind,
    /// The stream that it belongs to.
    pub stream: StreamId,
    /// An id that stays the same at redelivery: the alert's id; for the others a running number.
    pub id: Arc<str>,
    /// One JSON object: the alert as in the topic, or the facts of the change.
    pub json: Bytes,
}

/// What an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A detector's finding.
    Alert,
    /// A plugin was loaded, swapped, removed, or a version refused.
    Plugin,
    /// Parameters or limits changed, or a change was refused.
    Config,
    /// An agent was halted, or may act again.
    Agent,
    /// A breaker opened, closed, or would have.
    Breaker,
}

impl Kind {
    /// The name of the SSE event.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alert => "alert",
            Self::Plugin => "plugin",
            Self::Config => "config",
            Self::Agent => "agent",
            Self::Breaker => "breaker",
        }
    }
}

/// Where alerts come from and go to.
pub(crate) struct Branch {
    pub(crate) log: Arc<dyn Log>,
    /// The alerts topics and whose they are.
    pub(crate) topics: BTreeMap<TopicName, StreamId>,
    pub(crate) events: broadcast::Sender<Arc<Event>>,
    pub(crate) should_stop: Arc<AtomicBool>,
}

impl Branch {
    /// Waits for the follower that was opened before work began, then hands on what it reads.
    pub(crate) fn run(self, opened: &mpsc::Receiver<Box<dyn Follower>>) {
        let Ok(mut follower) = opened.recv() else { return };
        let mut failures = 0;
        while !self.should_stop.load(Ordering::Relaxed) {
            match follower.next(READ, READ_WAIT) {
                Ok(records) => {
                    if failures > 0 {
                        tracing::info!("alerts can be read again");
                    }
                    failures = 0;
                    if let Some(records) = records {
                        self.pass_on(&records);
                    }
                }
                // Retention does not wait for listeners.
                Err(phronis_log::Error::OutOfRange { topic, partition, offset, earliest, .. }) => {
                    tracing::warn!(%topic, partition, missed = earliest.saturating_sub(offset), "alerts were deleted before listeners got them");
                }
                Err(error) => {
                    failures += 1;
                    if failures == 1 {
                        tracing::warn!(code = %error.code(), %error, "alerts cannot be read, trying again");
                    }
                    rest(RETRY_PAUSE, &self.should_stop);
                    if failures % FRESH_AFTER == 0
                        && let Ok(fresh) =
                            self.log.follow(&self.topics.keys().cloned().collect::<Vec<_>>(), Start::Latest)
                    {
                        tracing::warn!(
                            "alerts are read from now on; those since they could not be read were not shown to listeners"
                        );
                        follower = fresh;
                    }
                }
            }
        }
    }

    fn pass_on(&self, records: &Records) {
        #[derive(Deserialize)]
        struct Head<'a> {
            #[serde(borrow)]
            id: std::borrow::Cow<'a, str>,
        }
        if self.events.receiver_count() == 0 {
            return;
        }
        let Some(stream) = self.topics.get(&records.topic) else { return };
        for row in 0..records.len() {
            let Some(value) = records.body.value(row) else { continue };
            let Ok(head) = serde_json::from_slice::<Head<'_>>(value) else { continue };
            let event = Event {
                kind: Kind::Alert,
                stream: stream.clone(),
                id: head.id.as_ref().into(),
                json: Bytes::copy_from_slice(value),
            };
            // Nobody listening any more is fine.
            drop(self.events.send(Arc::new(event)));
        }
    }
}
