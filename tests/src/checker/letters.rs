//! Dead letters and drops: the outcomes that are not `processed`, and the debts of detectors.

use std::collections::BTreeSet;
use std::path::Path;

use phronis_core::StreamId;
use phronis_core::partition::Topics;
use phronis_log::embedded::{self, Options};

use super::chains::{Chain, Chains};
use super::raw::{Outcome, Raw};
use super::{Embedded, Kafka, Record, Report, Source};

/// What letters mean for their events.
pub(super) struct Debts {
    /// Events that a detector owed a judgement at some time: partition, offset, detector.
    pub(super) all: BTreeSet<(i32, i64, String)>,
    /// Those of them that it has given since.
    pub(super) paid: BTreeSet<(i32, i64, String)>,
    /// Events that were letters and went through since: they come after later ones.
    pub(super) returned: BTreeSet<(i32, i64)>,
    /// Events that were not delivered and hold later ones of their key back, where order is kept.
    pub(super) open: BTreeSet<(i32, i64)>,
}

/// Reads the letters: each has an origin, keeps its bytes and has an id of its own; attempts and settlements name what they follow.
pub(super) fn read(source: &impl Source, topics: &Topics, raw: &mut Raw, report: &mut Report) -> anyhow::Result<Debts> {
    let mut chains = Chains::default();
    source.each(&topics.dlq, |letter| {
        keeps_its_record(&letter, raw, report);
        chains.add(&letter, raw.may_repeat(), report);
    })?;
    let mut owed = BTreeSet::new();
    let (mut returned, mut open) = (BTreeSet::new(), BTreeSet::new());
    for chain in &chains.all {
        let (partition, _, _, plugin) = &chain.owner;
        let mut counts = !chain.is_over();
        for offset in &chain.offsets {
            let place = (*partition, *offset);
            let outcome = match chain.stage.as_str() {
                _ if chain.is_debt() => {
                    if !chain.is_over() && !owed.insert((place.0, place.1, plugin.clone())) && !chain.is_range {
                        report.wrong(|| format!("{}/{offset} has two letters of {plugin}", place.0));
                    }
                    continue;
                }
                _ if chain.is_over() => {
                    returned.insert(place);
                    continue;
                }
                "gate" => (Outcome::GateLetter, &mut report.gate_letters),
                "enrich" => (Outcome::EnrichLetter, &mut report.enrich_letters),
                // Judged, and too large for its topic with what was added to it.
                "deliver" => (Outcome::DeliverLetter, &mut report.deliver_letters),
                "halt" => (Outcome::HaltLetter, &mut report.halt_letters),
                // Nothing is wrong with it: an earlier event of its key is a letter.
                "order" => (Outcome::OrderLetter, &mut report.order_letters),
                other => {
                    report.wrong(|| format!("a letter about {}/{offset} is of no known stage: `{other}`", place.0));
                    continue;
                }
            };
            if chain.stage != "halt" && chain.settled.is_none() {
                open.insert(place);
            }
            *outcome.1 += 1;
            counts &= raw.note(place.0, place.1, outcome.0, report);
        }
        *report.letters.entry((chain.stage.clone(), chain.code.clone())).or_default() += u64::from(counts);
    }
    report.letters.retain(|_, count| *count > 0);
    for (_, _, plugin) in &owed {
        report.detectors.entry(plugin.clone()).or_default().letters += 1;
    }
    report.settled = chains.all.iter().filter(|chain| chain.is_over()).count() as u64;
    let paid = chains.debts.difference(&owed).cloned().collect();
    Ok(Debts { all: chains.debts, paid, returned, open })
}

/// A letter about one record has its bytes.
fn keeps_its_record(letter: &Record<'_>, raw: &Raw, report: &mut Report) {
    let place = format!("letter {}/{}", letter.partition, letter.offset);
    if ["phronis-settled", "phronis-discard", "phronis-range"].iter().any(|name| !letter.text(name).is_empty()) {
        return;
    }
    if !letter.text("phronis-code").starts_with("PH") {
        report.wrong(|| format!("{place} has no code"));
    }
    let origin = (letter.number("phronis-origin-partition"), letter.number("phronis-origin-offset"));
    let (Some(partition), Some(offset)) = (origin.0.and_then(|p| i32::try_from(p).ok()), origin.1) else { return };
    match raw.get(partition, offset) {
        None => report.wrong(|| format!("{place} comes from {partition}/{offset}, which is not in raw")),
        Some((key, value)) if key != letter.key || value != letter.value => {
            report.wrong(|| format!("{place} does not keep the bytes of {partition}/{offset}"));
        }
        Some(_) => {}
    }
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

/// A letter that is not settled, as its last attempt stands in the topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// Who refused it: `gate`, `enrich`, `detect`, `deliver`, `halt` or `order`.
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
    let mut chains = Chains::default();
    source.each(&topics.dlq, |letter| chains.add(&letter, true, &mut Report::default()))?;
    let open = chains.all.into_iter().filter(|chain| !chain.is_over());
    let letters = open.map(|chain| {
        let Chain { stage, code, plugin, message, value, .. } = chain;
        Letter { stage, code, plugin, message, value }
    });
    Ok(letters.collect())
}
