//! How many partitions the raw topics really have: the configured number until the log says, then what it says.
//!
//! Partitions may be added while the host runs; keys must then go where all other producers send them.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use phronis_core::records::TopicName;
use phronis_log::{Error, Log};

use crate::clock::rest;
use crate::readiness::Gate;

/// How often the log is asked: as long may keys go where they went before partitions were added.
const EVERY: Duration = Duration::from_secs(30);

/// The shortest time between two questions, whatever fails.
const AT_MOST_EVERY: Duration = Duration::from_secs(1);

/// How many partitions a topic has.
#[derive(Debug)]
pub(crate) struct Partitions {
    topic: TopicName,
    count: AtomicI32,
    wake: mpsc::SyncSender<()>,
}

impl Partitions {
    /// The configured number, and the way to have the log asked again.
    pub(crate) fn new(topic: TopicName, configured: i32, wake: mpsc::SyncSender<()>) -> Self {
        Self { topic, count: AtomicI32::new(configured), wake }
    }

    pub(crate) fn count(&self) -> i32 {
        self.count.load(Ordering::Relaxed)
    }

    /// Has the log asked soon, where the error may come of a wrong number.
    pub(crate) fn look_again(&self, error: &Error) {
        if !matches!(error, Error::Full { .. } | Error::TooLarge { .. } | Error::Closed) {
            // A question that waits already will do.
            self.wake.try_send(()).ok();
        }
    }

    /// Asks the log.
    pub(crate) fn refresh(&self, log: &dyn Log) {
        match log.describe_topic(&self.topic) {
            Ok(settings) => {
                let before = self.count.swap(settings.partitions.max(1), Ordering::Relaxed);
                if before != settings.partitions {
                    tracing::info!(topic = %self.topic, before, now = settings.partitions, "events are spread over another number of partitions");
                }
            }
            Err(error) => tracing::debug!(topic = %self.topic, %error, "partitions cannot be counted"),
        }
    }
}

/// Asks the log for all topics, again and again, until told to stop (and woken).
pub(crate) fn keep_counting(
    log: &dyn Log,
    all: &[Arc<Partitions>],
    woken: &mpsc::Receiver<()>,
    gate: &Gate,
    should_stop: &AtomicBool,
) {
    if !gate.wait(should_stop) {
        return;
    }
    // They were counted when the gate was opened.
    let mut asked = Instant::now();
    while !should_stop.load(Ordering::Relaxed) {
        if woken.recv_timeout(EVERY) == Err(mpsc::RecvTimeoutError::Disconnected) {
            return;
        }
        rest(AT_MOST_EVERY.saturating_sub(asked.elapsed()), should_stop);
        asked = Instant::now();
        for partitions in all {
            partitions.refresh(log);
        }
    }
}
