//! The alert branch: follows the alerts topics and hands what it reads to everyone who listens.
//!
//! It reads the log, not the workers: what a listener sees is durable.
//! Listeners that are too slow lose events rather than slow the host, and are told how many.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use phronis_core::StreamId;
use phronis_core::records::TopicName;
use phronis_log::{Log, PollLimits, Position, Reader};
use serde::Deserialize;
use tokio::sync::broadcast;

/// Events that a slow listener may fall behind before it loses some.
pub(crate) const BACKLOG: usize = 1024;

/// How long a read waits; also how soon a reader notices that it should stop.
const READ_WAIT: Duration = Duration::from_millis(200);

/// Bounds of one read.
const READ: PollLimits = PollLimits { records: 1024, bytes: 1 << 20 };

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
}

impl Kind {
    /// The name of the SSE event.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alert => "alert",
            Self::Plugin => "plugin",
            Self::Config => "config",
        }
    }
}

/// Follows one partition of a stream's alerts from now on.
pub(crate) fn follow(
    log: Arc<dyn Log>,
    stream: StreamId,
    topic: TopicName,
    partition: i32,
    events: broadcast::Sender<Arc<Event>>,
    should_stop: Arc<AtomicBool>,
) -> crate::Result<thread::JoinHandle<()>> {
    let mut reader = log.reader(&topic, partition, Position::Latest)?;
    thread::Builder::new()
        .name(format!("alerts-{stream}-{partition}"))
        .spawn(move || {
            while !should_stop.load(Ordering::Relaxed) {
                match pass_on(reader.as_mut(), &stream, &events) {
                    Ok(()) => continue,
                    // Retention does not wait for listeners.
                    Err(phronis_log::Error::OutOfRange { offset, earliest, .. }) => {
                        tracing::warn!(%topic, partition, missed = earliest - offset, "alerts were deleted before listeners got them");
                        if let Ok(again) = log.reader(&topic, partition, Position::Earliest) {
                            reader = again;
                            continue;
                        }
                    }
                    Err(error) => tracing::warn!(%topic, partition, %error, "alerts cannot be read, trying again"),
                }
                thread::sleep(Duration::from_secs(1));
            }
        })
        .map_err(crate::Error::Thread)
}

fn pass_on(
    reader: &mut dyn Reader,
    stream: &StreamId,
    events: &broadcast::Sender<Arc<Event>>,
) -> Result<(), phronis_log::Error> {
    #[derive(Deserialize)]
    struct Head<'a> {
        #[serde(borrow)]
        id: std::borrow::Cow<'a, str>,
    }
    let Some(records) = reader.next(READ, READ_WAIT)? else { return Ok(()) };
    if events.receiver_count() == 0 {
        return Ok(());
    }
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
        drop(events.send(Arc::new(event)));
    }
    Ok(())
}
