//! Dead letters and drops: the outcomes that are not `processed`, and the debts of detectors.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use phronis_core::StreamId;
use phronis_core::partition::Topics;
use phronis_log::embedded::{self, Options};

use super::raw::{Outcome, Raw};
use super::{Embedded, Kafka, Report, Source};

/// Letters of detectors whose event was not seen yet: partition, offset, detector.
pub(super) type Debts = BTreeSet<(i32, i64, String)>;

/// Reads the letters: each has an origin, keeps its bytes and has an id of its own.
pub(super) fn read(source: &impl Source, topics: &Topics, raw: &mut Raw, report: &mut Report) -> anyhow::Result<Debts> {
    let mut debts = Debts::new();
    // Who has which id: a letter that comes again has the same one.
    let mut ids = HashMap::new();
    source.each(&topics.dlq, |letter| {
        let place = format!("letter {}/{}", letter.partition, letter.offset);
        let stage = letter.text("phronis-stage");
        let code = letter.text("phronis-code");
        let origin = (letter.number("phronis-origin-partition"), letter.number("phronis-origin-offset"));
        let (Some(partition), Some(offset)) = (origin.0.and_then(|p| i32::try_from(p).ok()), origin.1) else {
            *report.letters.entry((stage, code)).or_default() += 1;
            return report.wrong(|| format!("{place} has no origin"));
        };
        if !code.starts_with("PH") {
            report.wrong(|| format!("{place} has no code"));
        }
        match raw.get(partition, offset) {
            None => report.wrong(|| format!("{place} comes from {partition}/{offset}, which is not in raw")),
            Some((key, value)) if key != letter.key || value != letter.value => {
                report.wrong(|| format!("{place} does not keep the bytes of {partition}/{offset}"));
            }
            Some(_) => {}
        }
        let plugin = letter.text("phronis-plugin");
        let owner = (partition, offset, stage.clone(), plugin.clone());
        if let Some(before) = ids.insert(letter.text("phronis-id"), owner.clone())
            && !(raw.may_repeat() && before == owner)
        {
            report.wrong(|| format!("{place} has the id of another letter"));
        }
        let counts = match stage.as_str() {
            "gate" => {
                let counts = raw.note(partition, offset, Outcome::GateLetter, report);
                report.gate_letters += u64::from(counts);
                counts
            }
            "enrich" => {
                let counts = raw.note(partition, offset, Outcome::EnrichLetter, report);
                report.enrich_letters += u64::from(counts);
                counts
            }
            // Judged, and too large for its topic with what was added to it.
            "deliver" => {
                let counts = raw.note(partition, offset, Outcome::DeliverLetter, report);
                report.deliver_letters += u64::from(counts);
                counts
            }
            "detect" => owed(&mut debts, (partition, offset, plugin), raw.may_repeat(), report),
            other => {
                report.wrong(|| format!("{place} is of no known stage: `{other}`"));
                true
            }
        };
        *report.letters.entry((stage, code)).or_default() += u64::from(counts);
    })?;
    Ok(debts)
}

/// Notes a detector's letter and says whether it counts.
fn owed(debts: &mut Debts, debt: (i32, i64, String), may_repeat: bool, report: &mut Report) -> bool {
    let (partition, offset, plugin) = debt.clone();
    let is_first = debts.insert(debt);
    if !is_first && may_repeat {
        report.repeated += 1;
        return false;
    }
    if !is_first {
        report.wrong(|| format!("{partition}/{offset} has two letters of {plugin}"));
    }
    report.detectors.entry(plugin).or_default().letters += 1;
    true
}

/// Reads the drops from the state topic.
pub(super) fn read_drops(
    source: &impl Source,
    topics: &Topics,
    raw: &mut Raw,
    report: &mut Report,
) -> anyhow::Result<()> {
    source.each(&topics.state, |record| {
        let Some(place) = record.key.and_then(|key| str::from_utf8(key).ok()?.strip_prefix("dropped/")) else { return };
        let parts = place.split_once('/').and_then(|(p, o)| Some((p.parse().ok()?, o.parse().ok()?)));
        let Some((partition, offset)) = parts else {
            return report.wrong(|| format!("`dropped/{place}` in the state topic names no record"));
        };
        report.dropped += u64::from(raw.note(partition, offset, Outcome::Dropped, report));
    })
}

/// A letter, as it stands in the topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// Who refused it: `gate`, `enrich`, `detect` or `deliver`.
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
    let letters = collect(&Embedded(&log), stream);
    log.close();
    letters
}

/// All letters of a stream on the broker at this address.
///
/// # Errors
/// When the topic cannot be read.
pub fn all_on_kafka(bootstrap: &str, stream: &str) -> anyhow::Result<Vec<Letter>> {
    collect(&Kafka(bootstrap), stream)
}

fn collect(source: &impl Source, stream: &str) -> anyhow::Result<Vec<Letter>> {
    let topics = Topics::of(&stream.parse::<StreamId>()?);
    let mut letters = Vec::new();
    source.each(&topics.dlq, |letter| {
        letters.push(Letter {
            stage: letter.text("phronis-stage"),
            code: letter.text("phronis-code"),
            plugin: letter.text("phronis-plugin"),
            message: letter.text("phronis-message"),
            value: letter.value.unwrap_or_default().to_vec(),
        });
    })?;
    Ok(letters)
}
