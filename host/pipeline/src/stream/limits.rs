//! The largest records that a stream's output topics take: what is larger becomes a letter instead of a delivery that never ends.

use std::sync::atomic::{AtomicUsize, Ordering};

use phronis_core::partition::Topics;
use phronis_log::{Error, Log};

/// Room for what a log adds to a record: Kafka counts 61 bytes of the batch and up to 21 of the record, a proxy may add headers.
const RESERVE: usize = 512;

/// What is known of the limits. Unknown is none.
#[derive(Debug)]
pub(crate) struct TopicLimits {
    processed: AtomicUsize,
    alerts: AtomicUsize,
    dlq: AtomicUsize,
    retry: AtomicUsize,
}

/// The largest records that a delivery may have, in bytes of key, value and headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Most {
    pub(crate) processed: usize,
    pub(crate) alert: usize,
    pub(crate) letter: usize,
}

impl Default for TopicLimits {
    fn default() -> Self {
        let unknown = || AtomicUsize::new(usize::MAX);
        Self { processed: unknown(), alerts: unknown(), dlq: unknown(), retry: unknown() }
    }
}

impl TopicLimits {
    /// Asks the log; what it does not say stays as it was. Blocks as long as the log takes for an answer, or for none.
    pub(crate) fn learn(&self, log: &dyn Log, topics: &Topics) {
        for topic in [&topics.processed, &topics.alerts, &topics.dlq, &topics.retry] {
            match log.describe_topic(topic) {
                Ok(settings) => self.set(topics, topic, settings.max_record_bytes),
                Err(error) => {
                    tracing::debug!(%topic, %error, "how large a record may be is not known");
                    if matches!(error, Error::Unreachable { .. }) {
                        return;
                    }
                }
            }
        }
    }

    /// Learns from a delivery that was refused; where it does not say what the topic takes, the log is asked.
    pub(crate) fn learn_from(&self, error: &Error, log: &dyn Log, topics: &Topics) {
        match error {
            Error::TooLarge { topic, most, .. } if *most > 0 => self.set(topics, topic, *most),
            Error::TooLarge { .. } => self.learn(log, topics),
            _ => {}
        }
    }

    fn set(&self, topics: &Topics, topic: &str, max_record_bytes: u64) {
        let most = usize::try_from(max_record_bytes).unwrap_or(usize::MAX);
        let of_topic = [
            (&topics.processed, &self.processed),
            (&topics.alerts, &self.alerts),
            (&topics.dlq, &self.dlq),
            (&topics.retry, &self.retry),
        ];
        for (_, limit) in of_topic.into_iter().filter(|(name, _)| ***name == *topic) {
            limit.store(most, Ordering::Relaxed);
        }
    }

    /// The limits as of now.
    pub(crate) fn most(&self) -> Most {
        let most = |limit: &AtomicUsize| match limit.load(Ordering::Relaxed) {
            usize::MAX => usize::MAX,
            limit => limit.saturating_sub(RESERVE),
        };
        // A letter that comes back goes through retry, byte for byte.
        let letter = most(&self.dlq).min(most(&self.retry));
        Most { processed: most(&self.processed), alert: most(&self.alerts), letter }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_unknown_until_the_log_says_it() {
        let (limits, topics) = (TopicLimits::default(), Topics::of(&"sensors".parse().unwrap()));
        let none = usize::MAX;
        assert_eq!(limits.most(), Most { processed: none, alert: none, letter: none });
        limits.set(&topics, &topics.dlq, 4_096);
        assert_eq!(limits.most(), Most { processed: none, alert: none, letter: 4_096 - RESERVE });
        limits.set(&topics, &topics.alerts, 100);
        assert_eq!(limits.most().alert, 0, "less than the reserve");
        limits.set(&topics, &topics.retry, 2_048);
        assert_eq!(limits.most().letter, 2_048 - RESERVE, "it must be able to come back");
    }
}
