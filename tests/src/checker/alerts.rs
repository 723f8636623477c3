//! Alerts: each once by its id, each about a record that is there.

use std::collections::HashSet;

use phronis_core::partition::Topics;
use serde_json::Value;

use super::raw::{Outcome, Raw};
use super::{Report, Source};

/// An alert, as it stands in the topic.
#[derive(Debug, Clone)]
pub struct Alert {
    /// The id.
    pub id: String,
    /// The plugin's name in the stream.
    pub plugin: String,
    /// The author's version.
    pub version: String,
    /// SHA-256 of the component.
    pub digest: String,
    /// The rule.
    pub rule: String,
    /// Partition of the event.
    pub partition: i32,
    /// Offset of the event in raw.
    pub offset: i64,
    /// All of it.
    pub json: Value,
}

impl Alert {
    /// Reads an alert; `None` when something that every alert has is not there.
    pub fn parse(json: Value) -> Option<Self> {
        let text = |pointer: &str| json.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let number = |pointer: &str| json.pointer(pointer).and_then(Value::as_i64);
        Some(Self {
            id: text("/id")?,
            plugin: text("/plugin/name")?,
            version: text("/plugin/version")?,
            digest: text("/plugin/digest")?,
            rule: text("/rule")?,
            partition: i32::try_from(number("/origin/partition")?).ok()?,
            offset: number("/origin/offset")?,
            json,
        })
    }
}

/// Reads the alerts, sorted by origin; repeats by id are counted and left out.
pub(super) fn read(
    source: &impl Source,
    topics: &Topics,
    raw: &Raw,
    report: &mut Report,
) -> anyhow::Result<Vec<Alert>> {
    let mut ids = HashSet::new();
    let mut alerts = Vec::new();
    source.each(&topics.alerts, |record| {
        let json = record.value.and_then(|value| serde_json::from_slice(value).ok());
        let Some(alert) = json.and_then(Alert::parse) else {
            let (partition, offset) = (record.partition, record.offset);
            return report.wrong(|| format!("alert {partition}/{offset} is not an alert"));
        };
        let Alert { partition, offset, .. } = alert;
        // A breaker that opened, and a host that is suspected, are alerts about no event.
        if ["breaker-open", "host-suspected"].contains(&alert.rule.as_str()) && offset == -1 {
            return;
        }
        if raw.get(partition, offset).is_none() {
            report.wrong(|| format!("alert {} is about {partition}/{offset}, which is not in raw", alert.id));
        }
        if let Some(outcome @ (Outcome::GateLetter | Outcome::EnrichLetter | Outcome::Dropped)) =
            raw.outcome(partition, offset)
        {
            report.wrong(|| format!("alert {} is about {partition}/{offset}, which is {outcome:?}", alert.id));
        }
        if ids.insert(alert.id.clone()) {
            report.detectors.entry(alert.plugin.clone()).or_default().alerts += 1;
            alerts.push(alert);
        } else {
            report.repeated_alerts += 1;
        }
    })?;
    alerts.sort_by(|a, b| (a.partition, a.offset, &a.plugin).cmp(&(b.partition, b.offset, &b.plugin)));
    report.alerts.clone_from(&alerts);
    Ok(alerts)
}
