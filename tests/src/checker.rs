//! The independent checker: reads all topics of a stream from the beginning and verifies that nothing was lost.
//!
//! It trusts no counter and shares no code with the pipeline, only the log's own reader:
//! the names of headers stand here a second time on purpose.
//! What it verifies: every raw record has exactly one terminal outcome; for each detector
//! delivered = judged + skipped + letters; order; letters byte for byte; alerts once and with an origin that exists.

mod alerts;
mod letters;
mod processed;
mod raw;
mod report;

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context as _;
use phronis_core::StreamId;
use phronis_core::partition::Topics;
use phronis_log::embedded::{self, Options};
use phronis_log::{Log, PollLimits, Position};
use serde_json::Value;

pub use alerts::Alert;
pub use letters::{Letter, all as letters};
pub use report::{Detector, Report, Verdict};

/// What is asked of a run, besides the equations that always hold.
#[derive(Default)]
pub struct Expect<'a> {
    /// Detectors that judged from the first event on, also those that found nothing.
    pub detectors: BTreeSet<String>,
    /// Plugins that may have been without a good version for a while: events passed them by, and are marked so.
    pub bypassed: BTreeSet<String>,
    /// Compares each delivered event with its alerts.
    pub judge: Option<Judge<'a>>,
    /// Rows that a host said were durable: partition, first offset, count.
    pub acknowledged: Vec<(i32, i64, u64)>,
    /// Whether a producer may have sent the same `seq` of a key twice.
    pub may_resend: bool,
}

impl std::fmt::Debug for Expect<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Expect").field("detectors", &self.detectors).finish_non_exhaustive()
    }
}

/// Says what was found, missed and falsely found in one event.
pub type Judge<'a> = Box<dyn FnMut(&Seen<'_>) -> Verdict + 'a>;

/// A delivered event with what was said about it.
#[derive(Debug)]
pub struct Seen<'a> {
    /// Its partition.
    pub partition: i32,
    /// Its offset in raw.
    pub offset: i64,
    /// The processed event.
    pub event: &'a Value,
    /// Detectors that were not shown it.
    pub skipped: &'a [String],
    /// Detectors that have no answer for it.
    pub unjudged: &'a [String],
    /// Its alerts, each once.
    pub alerts: &'a [Alert],
}

/// Checks the embedded log in this folder, whose host has stopped.
///
/// # Errors
/// When the log cannot be opened or read; what is wrong with its content stands in the report.
pub fn check_folder(folder: &Path, stream: &str, expect: Expect<'_>) -> anyhow::Result<Report> {
    let log = embedded::Log::open(Options::new(folder)).with_context(|| format!("opening {}", folder.display()))?;
    let stream: StreamId = stream.parse()?;
    let report = check(&log, &Topics::of(&stream), expect);
    log.close();
    report
}

/// Checks a stream's topics.
///
/// # Errors
/// When the log cannot be read; what is wrong with its content stands in the report.
pub fn check(log: &dyn Log, topics: &Topics, mut expect: Expect<'_>) -> anyhow::Result<Report> {
    let mut report = Report::default();
    for name in &expect.detectors {
        report.detectors.entry(name.clone()).or_default();
    }
    let mut raw = raw::Raw::read(log, &topics.raw)?;
    report.received = raw.count();
    for &(partition, first, count) in &expect.acknowledged {
        raw.must_hold(partition, first, count, &mut report);
    }
    let debts = letters::read(log, topics, &mut raw, &mut report)?;
    letters::read_drops(log, topics, &mut raw, &mut report)?;
    let alerts = alerts::read(log, topics, &raw, &mut report)?;
    processed::read(log, topics, &mut raw, debts, &alerts, &mut expect, &mut report)?;
    raw.all_must_have_an_outcome(&mut report);
    report.balance();
    Ok(report)
}

/// One record, as the log gives it.
struct Record<'a> {
    partition: i32,
    offset: i64,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    headers: phronis_core::records::Headers<'a>,
}

impl Record<'_> {
    /// A header as text; empty when it is not there. The last of its name is the host's own.
    fn text(&self, name: &str) -> String {
        let own = self.headers.into_iter().filter(|(n, _)| *n == name).last().map(|(_, value)| value);
        own.map(|value| String::from_utf8_lossy(value).into_owned()).unwrap_or_default()
    }

    fn number(&self, name: &str) -> Option<i64> {
        self.text(name).parse().ok()
    }

    /// All values of a header, which stands once for each plugin.
    fn names(&self, name: &str) -> Vec<String> {
        let values = self.headers.into_iter().filter(|(n, _)| *n == name);
        values.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
    }
}

/// Reads a topic from the beginning to its end, in the order of its partitions.
fn each(log: &dyn Log, topic: &str, mut take: impl FnMut(Record<'_>)) -> anyhow::Result<()> {
    each_batch(log, topic, |records| {
        for (row, offset) in records.offsets.values().iter().enumerate() {
            take(Record {
                partition: records.partition,
                offset: *offset,
                key: records.body.key(row),
                value: records.body.value(row),
                headers: records.body.headers(row),
            });
        }
    })
}

fn each_batch(log: &dyn Log, topic: &str, mut take: impl FnMut(&phronis_core::records::Records)) -> anyhow::Result<()> {
    let topics = log.topics()?;
    let info = topics.iter().find(|info| &*info.name == topic).with_context(|| format!("there is no topic {topic}"))?;
    for (partition, info) in (0i32..).zip(&info.partitions) {
        let mut reader = log.reader(topic, partition, Position::Earliest)?;
        while reader.position() < info.latest {
            let limits = PollLimits { records: 8192, bytes: 8 << 20 };
            // What is there is read at once; the wait only keeps a broken log from being read for ever.
            let records = reader.next(limits, std::time::Duration::from_secs(1))?;
            let records = records.with_context(|| {
                format!("{topic}/{partition} ends at {}, not at {}", reader.position(), info.latest)
            })?;
            take(&records);
        }
    }
    Ok(())
}
