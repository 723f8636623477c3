//! `[log]` and `[logging]`: the event log, and what the host says about itself.

use std::path::Path;
use std::time::Duration;

use phronis_log::embedded;

use super::kafka::{self, Kafka};
use super::reader::{Reader, Section};
use super::units::Bytes;
use super::value::{Bound, words};

/// The event log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Log {
    /// One SQLite file in the data folder.
    Embedded(Embedded),
    /// Apache Kafka.
    Kafka(Box<Kafka>),
}

impl Log {
    /// How Kafka is used, when it is.
    pub fn kafka(&self) -> Option<&Kafka> {
        match self {
            Self::Embedded(_) => None,
            Self::Kafka(kafka) => Some(kafka),
        }
    }
}

/// The embedded log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Embedded {
    /// The log takes nothing more when it holds this much.
    pub max_bytes: Option<Bytes>,
    /// The log takes nothing more when the disk has less than this left.
    pub min_free_bytes: Bytes,
    /// When an answer may be given.
    pub durability: Durability,
}

impl Embedded {
    /// The options of the embedded log in a data folder.
    pub fn options(&self, data_dir: &Path) -> embedded::Options {
        embedded::Options {
            durability: match self.durability {
                Durability::Commit => embedded::Durability::Commit,
                Durability::Interval(interval) => embedded::Durability::Interval(interval),
                Durability::Os => embedded::Durability::Os,
            },
            max_bytes: self.max_bytes.map(|bytes| bytes.0),
            min_free_bytes: self.min_free_bytes.0,
            ..embedded::Options::new(super::log_dir(data_dir))
        }
    }
}

words! {
    /// Which event log.
    pub LogKind, "the kind of log: \"embedded\" or \"kafka\"",
    /// One SQLite file in the data folder.
    Embedded = "embedded",
    /// Apache Kafka.
    Kafka = "kafka",
}

/// When what was written counts as durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Synced to the disk: survives a power cut.
    Commit,
    /// Synced this often: a power cut loses at most this much, a crash of the host nothing.
    Interval(Duration),
    /// Left to the operating system: a crash of the host loses nothing.
    Os,
}

words! {
    DurabilityWord, "\"commit\", \"interval\" or \"os\"",
    Commit = "commit",
    Interval = "interval",
    Os = "os",
}

/// How the host logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logging {
    /// The shape of a line.
    pub format: LogFormat,
    /// What to log, as `RUST_LOG` says it: `info`, `info,phronis_engine=debug`.
    pub level: String,
}

words! {
    /// The shape of a log line.
    pub LogFormat, "\"auto\", \"pretty\" or \"json\"",
    /// Pretty on a terminal, else JSON.
    Auto = "auto",
    /// For people.
    Pretty = "pretty",
    /// For machines.
    Json = "json",
}

/// Keys that only the embedded log has.
const KEYS: [&str; 4] = ["max_bytes", "min_free_bytes", "durability", "durability_interval"];

pub(super) fn read_log(reader: &mut Reader, root: &mut Section<'_>) -> Log {
    let mut section = root.section(reader, "log");
    let kind = section.or(reader, "kind", LogKind::Embedded);
    let log = match kind {
        LogKind::Embedded => {
            section.misplaced(reader, &kafka::KEYS, "belongs to `kind = \"kafka\"`, and this log is the embedded one");
            Log::Embedded(read_embedded(reader, &mut section))
        }
        LogKind::Kafka => {
            section.misplaced(reader, &KEYS, "belongs to the embedded log, and this one is Kafka");
            Log::Kafka(Box::new(kafka::read(reader, &mut section)))
        }
    };
    section.finish(reader);
    log
}

fn read_embedded(reader: &mut Reader, section: &mut Section<'_>) -> Embedded {
    let max_bytes = section.or(reader, "max_bytes", Bound(None)).0;
    let min_free_bytes = section.or(reader, "min_free_bytes", Bytes(512 << 20));
    let word = section.or(reader, "durability", DurabilityWord::Commit);
    let interval = section.optional::<Duration>(reader, "durability_interval");
    let durability = match (word, interval) {
        (DurabilityWord::Commit, None) => Durability::Commit,
        (DurabilityWord::Os, None) => Durability::Os,
        (DurabilityWord::Interval, interval) => Durability::Interval(interval.unwrap_or(Duration::from_millis(100))),
        (_, Some(_)) => {
            let message = "has no meaning here: it goes with durability = \"interval\"";
            reader.problems.push(section.problem("durability_interval", message));
            Durability::Commit
        }
    };
    if let Durability::Interval(interval) = durability {
        section.derived(reader, "durability_interval", super::value::Setting::show(&interval));
        if interval.is_zero() {
            let message = "expected more than 0s; durability = \"commit\" syncs each time";
            reader.problems.push(section.problem("durability_interval", message));
        }
    }
    Embedded { max_bytes, min_free_bytes, durability }
}

pub(super) fn read_logging(reader: &mut Reader, root: &mut Section<'_>) -> Logging {
    let mut section = root.section(reader, "logging");
    let format = section.or(reader, "format", LogFormat::Auto);
    let level = section.or(reader, "level", "info".to_owned());
    if let Err(error) = tracing_subscriber::EnvFilter::builder().parse(&level) {
        reader.problems.push(section.problem("level", format!("`{level}` is not a log filter: {error}")));
    }
    section.finish(reader);
    Logging { format, level }
}
