//! The truth of the simulation, held against what the checker reads in the topics.

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::Context as _;
use phronis_load::simulate::Fault;
use phronis_tests::checker::{Alert, Seen, Verdict};
use serde_json::Value;

use crate::archive::TRIED;
use crate::feed::PROBE;

/// What each reading is, and which faults were found.
pub(crate) struct Truth {
    faults: HashSet<(String, u64)>,
    /// Faults that a threshold must find, by sensor: first and last reading, and how many were found.
    stories: HashMap<String, BTreeMap<u64, (u64, u64)>>,
    probes: u64,
    high: f64,
    lower: f64,
    /// Partitions whose readings are judged by the lower limit from here on.
    lowered: HashSet<i32>,
    /// Offsets of delivered events, by partition, in the order of their delivery.
    delivered: HashMap<i32, Vec<i64>>,
    backtest: Backtest,
}

/// Alerts about events above the limit that is tried, beside those that there were.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backtest {
    pub(crate) both: u64,
    pub(crate) only_new: u64,
    pub(crate) only_old: u64,
}

/// Faults as a person counts them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Faults {
    pub(crate) found: u64,
    pub(crate) missed: u64,
    pub(crate) probes: u64,
}

impl Truth {
    pub(crate) fn new(faults: HashSet<(String, u64)>, stories: &[Fault], probes: u64, high: f64, lower: f64) -> Self {
        let mut by_sensor: HashMap<String, BTreeMap<u64, (u64, u64)>> = HashMap::new();
        for fault in stories.iter().filter(|fault| fault.over > 0) {
            by_sensor.entry(fault.key.as_ref().to_owned()).or_default().insert(fault.from_seq, (fault.to_seq, 0));
        }
        let (lowered, delivered) = (HashSet::new(), HashMap::new());
        Self { faults, stories: by_sensor, probes, high, lower, lowered, delivered, backtest: Backtest::default() }
    }

    /// Judges one event: what must have an alert, and what must not.
    pub(crate) fn judge(&mut self, seen: &Seen<'_>) -> Verdict {
        let sensor = seen.event.get("sensor_id").and_then(Value::as_str).unwrap_or_default();
        let seq = seen.event.get("seq").and_then(Value::as_u64).unwrap_or_default();
        let celsius = celsius(seen.event);
        self.delivered.entry(seen.partition).or_default().push(seen.offset);
        self.backtest.add(celsius > TRIED, !seen.alerts.is_empty());
        let limit = seen.alerts.first().and_then(limit);
        if limit == Some(self.lower) {
            self.lowered.insert(seen.partition);
        }
        let in_force = if self.lowered.contains(&seen.partition) { self.lower } else { self.high };
        let is_fault = sensor == PROBE || self.faults.contains(&(sensor.to_owned(), seq));
        // The lower limit may hold a little earlier than the first alert that shows it, never the higher one later.
        let is_right = limit.is_none_or(|limit| limit == in_force && celsius > limit);
        let must = is_fault || celsius > in_force;
        match (seen.alerts.len(), must) {
            (0, false) => Verdict::default(),
            (0, true) => Verdict { missed: 1, ..Verdict::default() },
            (1, true) if is_right => {
                self.found(sensor, seq);
                Verdict { found: 1, ..Verdict::default() }
            }
            _ => Verdict { wrong: 1, ..Verdict::default() },
        }
    }

    /// How many events of a partition were delivered, up to an offset.
    pub(crate) fn delivered(&self, partition: i32, last: i64) -> u64 {
        let offsets = self.delivered.get(&partition).into_iter().flatten();
        offsets.filter(|offset| **offset <= last).count() as u64
    }

    /// What a replay must find.
    pub(crate) fn backtest(&self) -> Backtest {
        self.backtest
    }

    fn found(&mut self, sensor: &str, seq: u64) {
        let story = self.stories.get_mut(sensor).and_then(|stories| stories.range_mut(..=seq).next_back());
        if let Some((_, (to, found))) = story
            && seq <= *to
        {
            *found += 1;
        }
    }

    /// How many faults were found.
    pub(crate) fn faults(&self) -> Faults {
        let all = self.stories.values().flat_map(BTreeMap::values);
        let (found, missed) = all.fold((0, 0), |(f, m), (_, n)| if *n > 0 { (f + 1, m) } else { (f, m + 1) });
        Faults { found, missed, probes: self.probes }
    }
}

impl Backtest {
    /// What a replay says of its alerts.
    pub(crate) fn of(alerts: &Value) -> anyhow::Result<Self> {
        let count =
            |name: &str| alerts.get(name).and_then(Value::as_u64).with_context(|| format!("{name} in {alerts}"));
        Ok(Self { both: count("both")?, only_new: count("only_new")?, only_old: count("only_old")? })
    }

    fn add(&mut self, is_new: bool, is_old: bool) {
        match (is_new, is_old) {
            (true, true) => self.both += 1,
            (true, false) => self.only_new += 1,
            (false, true) => self.only_old += 1,
            (false, false) => {}
        }
    }
}

/// The reading in °C, by our own arithmetic on the original fields.
fn celsius(event: &Value) -> f64 {
    let value = event.get("value").and_then(Value::as_f64).unwrap_or(f64::NAN);
    match event.get("unit").and_then(Value::as_str) {
        Some("F") => (value - 32.0) * 5.0 / 9.0,
        _ => value,
    }
}

/// The limit that an alert was judged by.
fn limit(alert: &Alert) -> Option<f64> {
    match alert.json.pointer("/attributes/limit")? {
        Value::String(text) => text.parse().ok(),
        number => number.as_f64(),
    }
}
