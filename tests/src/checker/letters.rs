//! Dead letters and drops: the outcomes that are not `processed`, and the debts of detectors.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;

use phronis_core::StreamId;
use phronis_core::partition::Topics;
use phronis_log::Log;
use phronis_log::embedded::{self, Options};

use super::raw::{Outcome, Raw};
use super::{Report, each};

/// Letters of detectors whose event was not seen yet: partition, offset, detector.
pub(super) type Debts = BTreeSet<(i32, i64, String)>;

/// Reads the letters: each has an origin, keeps its bytes and has an id of its own.
pub(super) fn read(log: &dyn Log, topics: &Topics, raw: &mut Raw, report: &mut Report) -> anyhow::Result<Debts> {
    let mut debts = Debts::new();
    let mut ids = HashSet::new();
    each(log, &topics.dlq, |letter| {
        let place = format!("letter {}/{}", letter.partition, letter.offset);
        let stage = letter.text("phronis-stage");
        let code = letter.text("phronis-code");
        *report.letters.entry((stage.clone(), code.clone())).or_default() += 1;
        let origin = (letter.number("phronis-origin-partition"), letter.number("phronis-origin-offset"));
        let (Some(partition), Some(offset)) = (origin.0.and_then(|p| i32::try_from(p).ok()), origin.1) else {
            return report.wrong(|| format!("{place} has no origin"));
        };
        if !code.starts_with("PH") {
            report.wrong(|| format!("{place} has no code"));
        }
        if !ids.insert(letter.text("phronis-id")) {
            report.wrong(|| format!("{place} has the id of another letter"));
        }
        match raw.get(partition, offset) {
            None => report.wrong(|| format!("{place} comes from {partition}/{offset}, which is not in raw")),
            Some((key, value)) if key != letter.key || value != letter.value => {
                report.wrong(|| format!("{place} does not keep the bytes of {partition}/{offset}"));
            }
            Some(_) => {}
        }
        let plugin = letter.text("phronis-plugin");
        match stage.as_str() {
            "gate" => {
                report.gate_letters += 1;
                raw.note(partition, offset, Outcome::GateLetter, report);
            }
            "enrich" => {
                report.enrich_letters += 1;
                raw.note(partition, offset, Outcome::EnrichLetter, report);
            }
            "detect" => {
                report.detectors.entry(plugin.clone()).or_default().letters += 1;
                if !debts.insert((partition, offset, plugin.clone())) {
                    report.wrong(|| format!("{partition}/{offset} has two letters of {plugin}"));
                }
            }
            other => {
                let other = other.to_owned();
                report.wrong(|| format!("{place} is of no known stage: `{other}`"));
            }
        }
    })?;
    Ok(debts)
}

/// Reads the drops from the state topic.
pub(super) fn read_drops(log: &dyn Log, topics: &Topics, raw: &mut Raw, report: &mut Report) -> anyhow::Result<()> {
    each(log, &topics.state, |record| {
        let Some(place) = record.key.and_then(|key| str::from_utf8(key).ok()?.strip_prefix("dropped/")) else { return };
        let parts = place.split_once('/').and_then(|(p, o)| Some((p.parse().ok()?, o.parse().ok()?)));
        let Some((partition, offset)) = parts else {
            return report.wrong(|| format!("`dropped/{place}` in the state topic names no record"));
        };
        report.dropped += 1;
        raw.note(partition, offset, Outcome::Dropped, report);
    })
}

/// A letter, as it stands in the topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// Who refused it: `gate`, `enrich` or `detect`.
    pub stage: String,
    /// The stable code.
    pub code: String,
    /// The plugin, unless it was the gate.
    pub plugin: String,
    /// Why, in words.
    pub message: String,
    /// The record's value.
    pub value: Vec<u8>,
}

/// All letters of a stream in the embedded log of this folder, whose host has stopped.
///
/// # Errors
/// When the log cannot be read.
pub fn all(folder: &Path, stream: &str) -> anyhow::Result<Vec<Letter>> {
    let log = embedded::Log::open(Options::new(folder))?;
    let topics = Topics::of(&stream.parse::<StreamId>()?);
    let mut letters = Vec::new();
    let read = each(&log, &topics.dlq, |letter| {
        letters.push(Letter {
            stage: letter.text("phronis-stage"),
            code: letter.text("phronis-code"),
            plugin: letter.text("phronis-plugin"),
            message: letter.text("phronis-message"),
            value: letter.value.unwrap_or_default().to_vec(),
        });
    });
    log.close();
    read.map(|()| letters)
}
