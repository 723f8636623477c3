//! Delivered events: in the order of raw, with all that stood in the raw event, and with no debt forgotten.

use std::collections::{BTreeSet, HashMap};

use phronis_core::partition::Topics;
use serde_json::Value;

use super::letters::Debts;
use super::raw::{Outcome, Raw};
use super::{Alert, Expect, Record, Report, Seen, Source};

/// Reads `processed` and compares each event with its origin, its alerts and its debts.
pub(super) fn read(
    source: &impl Source,
    topics: &Topics,
    raw: &mut Raw,
    debts: Debts,
    alerts: &[Alert],
    expect: &mut Expect<'_>,
    report: &mut Report,
) -> anyhow::Result<()> {
    let (mut order, mut keys) = (Order::default(), Keys::default());
    let mut unpaid = debts.all.clone();
    source.each(&topics.processed, |record| {
        let partition = record.partition;
        let Some(offset) = record.number("phronis-origin-offset") else {
            report.delivered += 1;
            return report.wrong(|| format!("processed {partition}/{} does not name its origin", record.offset));
        };
        let is_first = raw.note(partition, offset, Outcome::Delivered, report);
        report.delivered += u64::from(is_first);
        let Some(event) = record.value.and_then(|value| serde_json::from_slice::<Value>(value).ok()) else {
            return report.wrong(|| format!("processed {partition}/{} is not JSON", record.offset));
        };
        keeps_the_original(&record, &event, offset, raw, report);
        let (skipped, mut unjudged) = (record.names("phronis-skipped"), record.names("phronis-unjudged"));
        for name in &unjudged {
            let debt = (partition, offset, name.clone());
            // A second event pays for the same letter only where one may come twice.
            if !unpaid.remove(&debt) && (is_first || !debts.all.contains(&debt)) {
                report.wrong(|| format!("{partition}/{offset} is unjudged by {name} and there is no letter"));
            }
        }
        // What comes again has been counted, and has its place in the order where it came first.
        if !is_first {
            return;
        }
        if expect.is_ordered {
            keys.follow(&record, offset, report);
        }
        if !debts.returned.contains(&(partition, offset)) {
            order.follow(&record, &event, offset, expect.may_resend, report);
        }
        // Judged later, when its letter came back.
        unjudged.retain(|name| !debts.paid.contains(&(partition, offset, name.clone())));
        let mine = of(alerts, partition, offset);
        for name in &skipped {
            report.detectors.entry(name.clone()).or_default().skipped += 1;
        }
        let bypassed = record.names("phronis-bypassed");
        for name in &bypassed {
            report.detectors.entry(name.clone()).or_default().bypassed += 1;
            if !expect.bypassed.contains(name) {
                report.wrong(|| format!("{partition}/{offset} passed {name} by"));
            }
        }
        for name in skipped.iter().chain(&unjudged).chain(&bypassed) {
            if mine.iter().any(|alert| alert.plugin == *name) {
                report.wrong(|| format!("{partition}/{offset} was not judged by {name} and has its alert"));
            }
        }
        if let Some(judge) = &mut expect.judge {
            let seen = Seen { partition, offset, event: &event, skipped: &skipped, unjudged: &unjudged, alerts: mine };
            let verdict = judge(&seen);
            if verdict.missed + verdict.wrong > 0 && report.violations.len() < 20 {
                let rules: Vec<_> = mine.iter().map(|a| format!("{}/{}", a.plugin, a.rule)).collect();
                report.violations.push(format!("{partition}/{offset}: {event} has the alerts {rules:?}"));
            }
            report.verdict += verdict;
        }
    })?;
    for (partition, offset, plugin) in unpaid {
        report.wrong(|| format!("{partition}/{offset} has a letter of {plugin} and is not delivered as unjudged"));
    }
    if expect.is_ordered {
        keys.wait_for(&debts.open, raw, report);
    }
    report.keys = order.seqs.len() as u64;
    Ok(())
}

fn of(alerts: &[Alert], partition: i32, offset: i64) -> &[Alert] {
    let from = alerts.partition_point(|alert| (alert.partition, alert.offset) < (partition, offset));
    let to = alerts.partition_point(|alert| (alert.partition, alert.offset) <= (partition, offset));
    alerts.get(from..to).unwrap_or_default()
}

/// A processed event is the original with fields added.
fn keeps_the_original(record: &Record<'_>, event: &Value, offset: i64, raw: &Raw, report: &mut Report) {
    let partition = record.partition;
    let Some((key, Some(original))) = raw.get(partition, offset) else { return };
    if key != record.key {
        report.wrong(|| format!("processed {partition}/{offset} has another key than its origin"));
    }
    // Fast for the usual case: the original up to its closing brace, then what was added.
    let body = original.trim_ascii_end().strip_suffix(b"}").unwrap_or(original);
    if record.value.is_some_and(|value| value.starts_with(body)) {
        return;
    }
    let Ok(Value::Object(original)) = serde_json::from_slice(original) else {
        return report.wrong(|| format!("processed {partition}/{offset} comes from what is not an object"));
    };
    if !original.iter().all(|(name, value)| event.get(name) == Some(value)) {
        report.wrong(|| format!("processed {partition}/{offset} changes its origin: {event}"));
    }
}

/// The last delivered offset of each key, in each partition.
#[derive(Default)]
struct Keys(HashMap<(i32, Vec<u8>), i64>);

impl Keys {
    /// No event comes before an earlier one of its key.
    fn follow(&mut self, record: &Record<'_>, offset: i64, report: &mut Report) {
        let (Some(key), partition) = (record.key, record.partition) else { return };
        if let Some(before) = self.0.insert((partition, key.to_vec()), offset)
            && before >= offset
        {
            let key = String::from_utf8_lossy(key);
            report.wrong(|| format!("{key}: {partition}/{offset} is delivered after {before}"));
        }
    }

    /// No event was delivered although an earlier one of its key is still a letter.
    fn wait_for(&self, open: &BTreeSet<(i32, i64)>, raw: &Raw, report: &mut Report) {
        for (partition, offset) in open {
            let Some((Some(key), _)) = raw.get(*partition, *offset) else { continue };
            if let Some(last) = self.0.get(&(*partition, key.to_vec())).filter(|last| *last > offset) {
                let key = String::from_utf8_lossy(key);
                report.wrong(|| format!("{key}: {partition}/{last} is delivered, and {offset} is still a letter"));
            }
        }
    }
}

/// What was seen last of each partition and key.
#[derive(Default)]
struct Order {
    offsets: HashMap<i32, i64>,
    seqs: HashMap<Vec<u8>, (i32, i64)>,
}

impl Order {
    fn follow(&mut self, record: &Record<'_>, event: &Value, offset: i64, may_resend: bool, report: &mut Report) {
        let partition = record.partition;
        if let Some(before) = self.offsets.insert(partition, offset)
            && before >= offset
        {
            report.wrong(|| format!("processed {partition}: {offset} comes after {before}"));
        }
        let (Some(key), Some(seq)) = (record.key, event.get("seq").and_then(Value::as_i64)) else { return };
        let Some((home, before)) = self.seqs.insert(key.to_vec(), (partition, seq)) else { return };
        let key = String::from_utf8_lossy(key);
        if home != partition {
            report.wrong(|| format!("{key} is in the partitions {home} and {partition}"));
        } else if before >= seq && !may_resend {
            report.wrong(|| format!("{key}: seq {seq} comes after {before}"));
        }
    }
}
