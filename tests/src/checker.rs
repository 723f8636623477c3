//! The independent checker: reads all topics of a stream from the beginning and verifies that nothing was lost.
//!
//! It trusts no counter and shares no code with the pipeline. Of the embedded log it uses the log's own reader,
//! of Kafka a client of its own; the names of headers stand here a second time on purpose.
//! What it verifies: every raw record has exactly one terminal outcome; for each detector
//! delivered = judged + skipped + letters, where a letter that came back and went through is none any more; order; letters byte for byte; alerts once and with an origin that exists.
//! Where a delivery may happen twice ([`Expect::may_repeat`]), what comes again must say the same as the first time.

mod alerts;
mod archive;
mod chains;
mod judge;
mod letters;
mod processed;
mod raw;
mod report;
mod source;

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context as _;
use phronis_core::StreamId;
use phronis_core::partition::Topics;
use phronis_log::Log;
use phronis_log::embedded::{self, Options};
use serde_json::Value;

pub use alerts::Alert;
pub use archive::{Archived, Place, Tables, check_archive, read as read_tables};
pub use judge::{above, judged_by};
pub use letters::{Letter, all as letters, all_on_kafka as letters_on_kafka};
pub use report::{Detector, Report, Verdict};
use source::{Embedded, Kafka, Source};

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
    /// Whether a delivery may stand in the log more than once: at-least-once on Kafka, after a host was lost.
    /// Repeats are counted; order is asked of first appearances; two outcomes of one record are wrong even so.
    pub may_repeat: bool,
    /// Whether no event may be delivered before an earlier one of its key, also of those that were letters.
    /// Nothing may have been given up: when that was, nobody can tell.
    pub is_ordered: bool,
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

/// Checks a stream's topics in the embedded log.
///
/// # Errors
/// When the log cannot be read; what is wrong with its content stands in the report.
pub fn check(log: &dyn Log, topics: &Topics, expect: Expect<'_>) -> anyhow::Result<Report> {
    check_source(&Embedded(log), topics, expect)
}

/// Checks a stream's topics on the broker at this address, as a reader of committed records sees them.
///
/// # Errors
/// When a topic cannot be read to its end; what is wrong with its content stands in the report.
pub fn check_kafka(bootstrap: &str, stream: &str, expect: Expect<'_>) -> anyhow::Result<Report> {
    let stream: StreamId = stream.parse()?;
    let may_repeat = expect.may_repeat;
    let mut report = check_source(&Kafka(bootstrap), &Topics::of(&stream), expect)?;
    if report.repeated_alerts > 0 && !may_repeat {
        // On the embedded log a repeat is a detector that says the same twice; here it may be a second delivery too.
        let repeated = report.repeated_alerts;
        report.wrong(|| format!("{repeated} alerts stand in the topic more than once"));
    }
    Ok(report)
}

fn check_source(source: &impl Source, topics: &Topics, mut expect: Expect<'_>) -> anyhow::Result<Report> {
    let mut report = Report::default();
    for name in &expect.detectors {
        report.detectors.entry(name.clone()).or_default();
    }
    let mut raw = raw::Raw::read(source, &topics.raw, expect.may_repeat)?;
    report.received = raw.count();
    for &(partition, first, count) in &expect.acknowledged {
        raw.must_hold(partition, first, count, &mut report);
    }
    let debts = letters::read(source, topics, &mut raw, &mut report)?;
    letters::read_drops(source, topics, &mut raw, &mut report)?;
    let alerts = alerts::read(source, topics, &raw, &mut report)?;
    processed::read(source, topics, &mut raw, debts, &alerts, &mut expect, &mut report)?;
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
