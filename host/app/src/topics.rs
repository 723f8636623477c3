//! The topics that the configuration wants, beside those that the log has: what is missing, and what differs.

use std::fmt;

use phronis_core::records::TopicName;
use phronis_log::{Error, Log, Retention, TopicSettings, TopicSpec};

use crate::commands::wiring;
use crate::config::Config;
use crate::config::units::{Bytes, show_duration};

/// A topic as the configuration wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Name, partitions, retention.
    pub spec: TopicSpec,
    /// Copies of each partition, on a log that has copies.
    pub replication: Option<i32>,
    /// The largest record, on a log where topics have such a limit.
    pub max_record_bytes: Option<u64>,
}

/// A setting that is not as the configuration wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Which setting.
    pub what: Setting,
    /// What it is.
    pub actual: String,
    /// What it should be.
    pub wanted: String,
}

/// A setting of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// The number of partitions.
    Partitions,
    /// Copies of each partition.
    Replication,
    /// What may be deleted.
    Retention,
    /// The largest record.
    MaxRecordBytes,
    /// How far the time of a record may be ahead of the log's clock.
    Ahead,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Partitions => "partitions",
            Self::Replication => "replication",
            Self::Retention => "retention",
            Self::MaxRecordBytes => "max_record_bytes",
            Self::Ahead => "message.timestamp.after.max.ms",
        })
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}, configured {}", self.what, self.actual, self.wanted)
    }
}

/// A topic that is wanted, and how it is; `None` when it is not there.
pub type Found = (Wanted, Option<TopicSettings>);

/// All topics that a host with this configuration needs.
pub fn wanted(config: &Config) -> Vec<Wanted> {
    let kafka = config.log.kafka();
    let want = |spec| Wanted {
        spec,
        replication: kafka.map(|kafka| kafka.replication),
        max_record_bytes: kafka.map(|kafka| kafka.max_record_bytes.0),
    };
    phronis_pipeline::topics(&wiring::streams(config)).into_iter().map(want).collect()
}

/// Looks up all wanted topics.
///
/// # Errors
/// When the log cannot answer; a topic that is not there is no error.
pub fn look_up(log: &dyn Log, wanted: Vec<Wanted>) -> Result<Vec<Found>, Error> {
    let look = |topic: Wanted| match log.describe_topic(&topic.spec.name) {
        Ok(settings) => Ok((topic, Some(settings))),
        Err(Error::UnknownTopic(_)) => Ok((topic, None)),
        Err(error) => Err(error),
    };
    wanted.into_iter().map(look).collect()
}

/// The names of those that are not there.
pub fn missing(found: &[Found]) -> Vec<TopicName> {
    let is_missing = |(_, settings): &&Found| settings.is_none();
    found.iter().filter(is_missing).map(|(topic, _)| std::sync::Arc::clone(&topic.spec.name)).collect()
}

/// What differs in a topic that is there.
pub fn differences(wanted: &Wanted, actual: &TopicSettings) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut differ = |what, actual: String, wanted: String| found.push(Difference { what, actual, wanted });
    if actual.partitions != wanted.spec.partitions {
        differ(Setting::Partitions, actual.partitions.to_string(), wanted.spec.partitions.to_string());
    }
    if let (Some(copies), Some(wanted)) = (actual.replication, wanted.replication)
        && copies != wanted
    {
        differ(Setting::Replication, copies.to_string(), wanted.to_string());
    }
    if actual.retention != wanted.spec.retention {
        differ(Setting::Retention, show_retention(actual.retention), show_retention(wanted.spec.retention));
    }
    // A topic that takes more than is asked of it does no harm. Kafka's own default is 1 MiB with its framing.
    const FRAMING: u64 = 1 << 10;
    if let Some(most) = wanted.max_record_bytes.filter(|most| actual.max_record_bytes.saturating_add(FRAMING) < *most) {
        let shown = |bytes| Bytes(bytes).to_string();
        differ(Setting::MaxRecordBytes, shown(actual.max_record_bytes), shown(most));
    }
    // What follows from an event keeps its time: one from a clock that is ahead would be refused again and again.
    if let Some(ahead) = actual.ahead {
        differ(Setting::Ahead, show_duration(ahead), "any".to_owned());
    }
    found
}

/// A retention in few words.
pub fn show_retention(retention: Retention) -> String {
    let age = retention.age.map(show_duration);
    let bytes = retention.bytes.map(|bytes| Bytes(bytes).to_string());
    let compacted = retention.compact.then(|| "compacted".to_owned());
    let parts: Vec<String> = [compacted, age, bytes].into_iter().flatten().collect();
    if parts.is_empty() { "for ever".to_owned() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const WEEK: Retention = Retention { age: Some(Duration::from_secs(7 * 86_400)), bytes: None, compact: false };

    fn check(retention: Retention, actual: TopicSettings, expected: &[&str]) {
        let spec = TopicSpec { name: "t".into(), partitions: 4, retention };
        let wanted = Wanted { spec, replication: Some(3), max_record_bytes: Some(1 << 20) };
        let told: Vec<String> = differences(&wanted, &actual).iter().map(ToString::to_string).collect();
        assert_eq!(told, expected);
    }

    #[test]
    fn each_difference_is_told_and_nothing_else() {
        let (replication, max_record_bytes, ahead) = (Some(3), 1 << 20, None);
        let same = TopicSettings { partitions: 4, replication, retention: WEEK, max_record_bytes, ahead };
        check(WEEK, same.clone(), &[]);
        check(WEEK, TopicSettings { max_record_bytes: 8 << 20, replication: None, ..same }, &[]);
        let ever = Retention::default();
        let (replication, max_record_bytes, ahead) = (Some(1), 1 << 10, Some(Duration::from_secs(3600)));
        let other = TopicSettings { partitions: 2, replication, retention: ever, max_record_bytes, ahead };
        let expected = [
            "partitions 2, configured 4",
            "replication 1, configured 3",
            "retention for ever, configured 7d",
            "max_record_bytes 1KiB, configured 1MiB",
            "message.timestamp.after.max.ms 1h, configured any",
        ];
        check(WEEK, other, &expected);
        let compacted = Retention { compact: true, ..ever };
        check(compacted, TopicSettings { retention: compacted, ..same }, &[]);
        let deleted_too = TopicSettings { retention: Retention { compact: true, ..WEEK }, ..same };
        check(compacted, deleted_too, &["retention compacted, 7d, configured compacted"]);
        check(compacted, same, &["retention 7d, configured compacted"]);
    }
}
