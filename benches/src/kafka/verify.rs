//! The independent reader: what every event must have become, and whether it did, exactly once.

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};
use rdkafka::Message as _;
use rdkafka::message::{BorrowedMessage, Headers as _};
use serde::Deserialize;

use super::input::{Event, SENSORS, number_of};
use super::reader;

/// A place in the raw topic, and the bytes that stand there.
type Places = HashMap<(i32, i64), Vec<u8>>;

/// The input as it stands in the raw topic.
#[derive(Debug)]
pub(crate) struct Expected {
    events: u64,
    alerts: u64,
    malformed: Places,
}

/// When the first and the last output were appended, by the broker's clock, in milliseconds.
#[derive(Debug)]
pub(crate) struct Appended {
    pub(crate) first: i64,
    pub(crate) last: i64,
}

impl Default for Appended {
    fn default() -> Self {
        Self { first: i64::MAX, last: i64::MIN }
    }
}

impl Appended {
    fn saw(&mut self, message: &BorrowedMessage<'_>) -> Result<()> {
        let at = message.timestamp().to_millis().context("a record without a time")?;
        self.first = self.first.min(at);
        self.last = self.last.max(at);
        Ok(())
    }
}

#[derive(Deserialize)]
struct Processed<'a> {
    sensor_id: &'a str,
    value: f64,
    ts: &'a str,
    unit: &'a str,
    severity: &'a str,
}

#[derive(Deserialize)]
struct Alert<'a> {
    rule: &'a str,
    #[serde(borrow)]
    event: AlertEvent<'a>,
}

#[derive(Deserialize)]
struct AlertEvent<'a> {
    sensor_id: &'a str,
    value: f64,
    ts: &'a str,
}

impl Expected {
    /// Reads what was loaded; complains when it is not what should be there.
    pub(crate) fn read(bootstrap: &str, topic: &str, partitions: i32, events: u64) -> Result<Self> {
        let mut malformed = Places::new();
        let mut there = 0;
        reader::each(bootstrap, topic, partitions, |message| {
            there += 1;
            let value = message.payload().context("an event without a value")?;
            if value.last() != Some(&b'}') {
                malformed.insert((message.partition(), message.offset()), value.to_vec());
            }
            Ok(())
        })?;
        ensure!(there == events, "{topic} holds {there} events, not {events}");
        let all = (0..events).map(Event::new);
        let (mut cut, mut alerts) = (0, 0);
        for event in all {
            cut += usize::from(event.is_malformed);
            alerts += u64::from(event.is_hot() && !event.is_malformed);
        }
        ensure!(malformed.len() == cut, "{topic} holds {} malformed events, not {cut}", malformed.len());
        Ok(Self { events, alerts, malformed })
    }

    /// Reads all outputs, and complains about the first record that is not what it should be.
    pub(crate) fn check(&self, bootstrap: &str, prefix: &str, partitions: i32) -> Result<Appended> {
        let mut appended = Appended::default();
        self.check_processed(bootstrap, &format!("{prefix}.processed"), partitions, &mut appended)?;
        self.check_letters(bootstrap, &format!("{prefix}.dlq"), partitions, &mut appended)?;
        self.check_alerts(bootstrap, &format!("{prefix}.alerts"), partitions, &mut appended)?;
        Ok(appended)
    }

    fn check_processed(&self, bootstrap: &str, topic: &str, partitions: i32, appended: &mut Appended) -> Result<()> {
        let mut seen = Seen::of(self.events)?;
        let mut last = vec![None; usize::try_from(SENSORS)?];
        reader::each(bootstrap, topic, partitions, |message| {
            appended.saw(message)?;
            let processed: Processed<'_> = json(message)?;
            let nth = number_of(processed.ts)?;
            seen.once(nth, "processed")?;
            let event = Event::new(nth);
            let sensor = format!("s{:04}", event.sensor);
            let is_right = !event.is_malformed
                && processed.sensor_id == sensor
                && message.key() == Some(sensor.as_bytes())
                && (processed.value * 100.0 - event.hundredths as f64).abs() < 1e-6
                && processed.unit == "C"
                && processed.severity == event.severity();
            ensure!(is_right, "event {nth} was processed wrongly: {}", text(message));
            let last = last.get_mut(usize::try_from(event.sensor)?).context("an unknown sensor")?;
            ensure!(last.is_none_or(|last| last < nth), "event {nth} of {sensor} stands behind event {last:?}");
            *last = Some(nth);
            Ok(())
        })?;
        let due = self.events - u64::try_from(self.malformed.len())?;
        ensure!(seen.count == due, "{topic} holds {} events, not {due}", seen.count);
        Ok(())
    }

    fn check_letters(&self, bootstrap: &str, topic: &str, partitions: i32, appended: &mut Appended) -> Result<()> {
        let mut open = self.malformed.clone();
        reader::each(bootstrap, topic, partitions, |message| {
            appended.saw(message)?;
            let place = (header(message, "phronis-origin-partition")?, header(message, "phronis-origin-offset")?);
            match open.remove(&place) {
                Some(event) if message.payload() == Some(&event) => Ok(()),
                Some(event) => bail!("the letter about {place:?} does not hold {}", String::from_utf8_lossy(&event)),
                None => bail!("a second letter, or one about a good event, {place:?}: {}", text(message)),
            }
        })?;
        ensure!(open.is_empty(), "{} malformed events have no letter in {topic}", open.len());
        Ok(())
    }

    fn check_alerts(&self, bootstrap: &str, topic: &str, partitions: i32, appended: &mut Appended) -> Result<()> {
        let mut seen = Seen::of(self.events)?;
        reader::each(bootstrap, topic, partitions, |message| {
            appended.saw(message)?;
            let alert: Alert<'_> = json(message)?;
            let nth = number_of(alert.event.ts)?;
            seen.once(nth, "reported")?;
            let event = Event::new(nth);
            let is_right = event.is_hot()
                && !event.is_malformed
                && alert.rule == "too-hot"
                && alert.event.sensor_id == format!("s{:04}", event.sensor)
                && (alert.event.value * 100.0 - event.hundredths as f64).abs() < 1e-6;
            ensure!(is_right, "event {nth} was reported wrongly: {}", text(message));
            Ok(())
        })?;
        ensure!(seen.count == self.alerts, "{topic} holds {} alerts, not {}", seen.count, self.alerts);
        Ok(())
    }
}

/// Which events were met.
struct Seen {
    flags: Vec<bool>,
    count: u64,
}

impl Seen {
    fn of(events: u64) -> Result<Self> {
        Ok(Self { flags: vec![false; usize::try_from(events)?], count: 0 })
    }

    fn once(&mut self, nth: u64, what: &str) -> Result<()> {
        let flag = self.flags.get_mut(usize::try_from(nth)?).with_context(|| format!("there is no event {nth}"))?;
        ensure!(!*flag, "event {nth} was {what} twice");
        *flag = true;
        self.count += 1;
        Ok(())
    }
}

fn json<'a, T: Deserialize<'a>>(message: &'a BorrowedMessage<'_>) -> Result<T> {
    serde_json::from_slice(message.payload().unwrap_or_default()).with_context(|| text(message))
}

fn text(message: &BorrowedMessage<'_>) -> String {
    String::from_utf8_lossy(message.payload().unwrap_or_default()).into_owned()
}

fn header<T: std::str::FromStr>(message: &BorrowedMessage<'_>, name: &str) -> Result<T> {
    let mut headers = message.headers().into_iter().flat_map(|headers| headers.iter());
    let value = headers.find(|header| header.key == name).and_then(|header| header.value);
    let value = value.and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
    value.with_context(|| format!("a letter without {name}: {}", text(message)))
}
