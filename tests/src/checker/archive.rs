//! The archive against the topics: every event, alert and letter that stands in the log is one row, and no row is anything else.
//!
//! The tables are read by pyiceberg and by DuckDB (`tests/archive/read.py`), the topics by this checker. An event is known by where it
//! was first read, an alert by its id, a record of dlq by id, kind, attempt and what it follows: what a log holds twice is one row.
//! What rows say is compared too: all fields of an event, and of alerts and letters what does not depend on when they were written.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use phronis_core::StreamId;
use phronis_core::partition::Topics;
use phronis_log::embedded::{self, Options};
use serde_json::{Map, Value};

use super::Record;
use super::source::{Embedded, Kafka, Source};
use crate::plugins::root;

/// Where the topics are.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// The embedded log in this folder, whose host has stopped.
    Folder(&'a Path),
    /// A broker.
    Kafka(&'a str),
}

/// How others find the tables.
#[derive(Debug, Clone)]
pub struct Tables {
    /// The database of the SQL catalog as SQLAlchemy names it, or the address of a REST catalog.
    pub catalog: String,
    /// The namespace.
    pub namespace: String,
    /// Properties of catalog and storage.
    pub properties: Vec<(String, String)>,
}

impl Tables {
    /// Tables of a host whose store is SQLite and whose files are local.
    pub fn local(data: &Path) -> Self {
        let catalog = format!("sqlite:///{}", data.join("store.sqlite").display());
        Self { catalog, namespace: "phronis".to_owned(), properties: Vec::new() }
    }
}

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Archived {
    /// Rows by table.
    pub rows: BTreeMap<String, u64>,
    /// What each table is, as the reader says: snapshots, files, columns.
    pub tables: BTreeMap<String, Value>,
    /// Records of the topics that stand there more than once.
    pub repeated: u64,
}

/// An event's or a letter's identity in words, and what each record of it says.
type Truth = BTreeMap<String, Vec<Said>>;

/// What a record says.
#[derive(Debug)]
enum Said {
    /// An event: its fields, and the key of its record.
    Event(Value, Option<String>),
    /// An alert or a letter: columns as the row must have them.
    Columns(Map<String, Value>),
    /// Nothing that would be compared.
    Nothing,
}

/// Compares the archive of a stream with its topics.
///
/// # Errors
/// The first things that differ.
pub fn check_archive(place: Place<'_>, stream: &str, tables: &Tables) -> anyhow::Result<Archived> {
    let id: StreamId = stream.parse()?;
    let topics = Topics::of(&id);
    let (truth, repeated) = match place {
        Place::Folder(folder) => {
            let log = embedded::Log::open(Options::new(folder))?;
            let truth = truths(&Embedded(&log), &topics);
            log.close();
            truth?
        }
        Place::Kafka(bootstrap) => truths(&Kafka(bootstrap), &topics)?,
    };
    let out = tempfile::tempdir()?;
    let told = read(tables, out.path())?;
    let mut archived = Archived { repeated, ..Archived::default() };
    for (kind, truth) in [("events", &truth[0]), ("alerts", &truth[1]), ("letters", &truth[2])] {
        let name = format!("{}_{}_{kind}", id.tenant, id.stream);
        let about = told.get(&name).with_context(|| format!("there is no table {name}: {told}"))?;
        ensure!(about.get("repeated_files") == Some(&0.into()), "{name} names a file twice: {about}");
        for engine in ["pyiceberg", "duckdb"] {
            let path = out.path().join(format!("{name}.{engine}.json"));
            if !path.exists() && truth.is_empty() {
                continue;
            }
            compare(&path, kind, truth).with_context(|| format!("{name} as {engine} reads it"))?;
        }
        archived.rows.insert(kind.to_owned(), truth.len() as u64);
        archived.tables.insert(kind.to_owned(), about.clone());
    }
    Ok(archived)
}

/// Where Python with pyiceberg and DuckDB is; `scripts/bootstrap.sh` makes it.
fn python() -> PathBuf {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    home.join(".cache/phronis/python/bin/python")
}

/// Lets others read the tables into files, one for each table and engine.
///
/// # Errors
/// What they say.
pub fn read(tables: &Tables, out: &Path) -> anyhow::Result<Value> {
    let mut command = Command::new(python());
    command.arg(root().join("tests/archive/read.py")).arg(&tables.catalog).arg(&tables.namespace).arg(out);
    command.args(tables.properties.iter().map(|(name, value)| format!("{name}={value}")));
    let output = command.output().context("starting python: scripts/bootstrap.sh makes its folder")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the tables cannot be read: {said}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn truths(source: &impl Source, topics: &Topics) -> anyhow::Result<([Truth; 3], u64)> {
    let (mut truths, mut repeated) = (<[Truth; 3]>::default(), 0);
    let [events, alerts, letters] = &mut truths;
    let mut put = |truth: &mut Truth, key: String, said| {
        let records = truth.entry(key).or_default();
        records.push(said);
        repeated += u64::from(records.len() > 1);
    };
    source.each(&topics.processed, |record| {
        let event = record.value.and_then(|value| serde_json::from_slice(value).ok());
        let said = event.map_or(Said::Nothing, |event| Said::Event(event, record.key.map(text)));
        match record.number("phronis-origin-offset") {
            Some(offset) => put(events, format!("{}/{offset}", record.partition), said),
            None => put(events, format!("foreign {}/{}", record.partition, record.offset), Said::Nothing),
        }
    })?;
    source.each(&topics.alerts, |record| {
        let alert: Option<Value> = record.value.and_then(|value| serde_json::from_slice(value).ok());
        let id = alert.as_ref().and_then(|alert| alert.get("id")).and_then(Value::as_str).map(str::to_owned);
        let said = alert.map_or(Said::Nothing, |alert| Said::Columns(of_alert(&alert, record.key)));
        put(alerts, id.unwrap_or_else(|| format!("foreign {}/{}", record.partition, record.offset)), said);
    })?;
    source.each(&topics.dlq, |record| put(letters, letter(&record), Said::Columns(of_letter(&record))))?;
    Ok((truths, repeated))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The columns of an alert's row that are the same whenever the alert is written.
fn of_alert(alert: &Value, key: Option<&[u8]>) -> Map<String, Value> {
    let at = |pointer: &str| alert.pointer(pointer).cloned().unwrap_or_default();
    let key = at("/key").as_str().map(str::to_owned).or_else(|| key.map(text));
    let mut columns = Map::from_iter([
        ("phronis_key".to_owned(), key.into()),
        ("phronis_event_time".to_owned(), at("/event_time").as_str().and_then(time).into()),
    ]);
    for (column, pointer) in [
        ("phronis_topic", "/origin/topic"),
        ("phronis_partition", "/origin/partition"),
        ("phronis_offset", "/origin/offset"),
        ("plugin", "/plugin/name"),
        ("plugin_version", "/plugin/version"),
        ("plugin_digest", "/plugin/digest"),
        ("rule", "/rule"),
        ("severity", "/severity"),
        ("message", "/message"),
        ("agent", "/agent"),
        ("halt", "/halt"),
        ("attributes", "/attributes"),
        ("event", "/event"),
    ] {
        columns.insert(column.to_owned(), at(pointer));
    }
    columns
}

/// The columns of a letter's row that are the same whenever the letter is written.
fn of_letter(record: &Record<'_>) -> Map<String, Value> {
    let (kind, header) = (kind(record), |name: &str| record.text(name));
    if matches!(kind, "discard" | "unknown") {
        return Map::new();
    }
    let full = |name: &str| Some(header(name)).filter(|text| !text.is_empty());
    let mut columns = Map::from_iter([
        ("phronis_topic".to_owned(), full("phronis-origin-topic").into()),
        ("phronis_partition".to_owned(), record.number("phronis-origin-partition").into()),
        ("phronis_offset".to_owned(), record.number("phronis-origin-offset").into()),
        ("stage".to_owned(), full("phronis-stage").into()),
        ("code".to_owned(), full("phronis-code").into()),
        ("plugin".to_owned(), full("phronis-plugin").into()),
        ("key".to_owned(), record.key.map(hex).into()),
    ]);
    if kind == "letter" {
        columns.insert("message".to_owned(), header("phronis-message").into());
        columns.insert("value".to_owned(), record.value.map(hex).into());
    }
    columns
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn kind(record: &Record<'_>) -> &'static str {
    let has = |name: &str| !record.text(name).is_empty();
    match () {
        () if has("phronis-discard") => "discard",
        () if has("phronis-settled") => "settlement",
        () if has("phronis-range") => "range",
        () if has("phronis-id") => "letter",
        () => "unknown",
    }
}

/// What makes two records of dlq the same.
fn letter(record: &Record<'_>) -> String {
    let kind = kind(record);
    if matches!(kind, "discard" | "unknown") {
        return format!("{kind} {}/{}", record.partition, record.offset);
    }
    let text = |name: &str| record.text(name);
    let (id, attempt, previous) = (text("phronis-id"), text("phronis-attempt"), text("phronis-previous"));
    format!("{kind} {id} {attempt} {}", if previous.is_empty() { "-" } else { &previous })
}

fn compare(path: &Path, kind: &str, truth: &Truth) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let mut foreign = 0_usize;
    for line in text.lines() {
        let row: Value = serde_json::from_str(line)?;
        let Some(key) = key(kind, &row) else {
            foreign += 1;
            continue;
        };
        let Some(records) = truth.get(&key) else { bail!("{key} is archived and stands in no topic: {row}") };
        ensure!(seen.insert(key.clone()), "{key} is archived twice");
        // What stands there twice may differ, and is archived once.
        let mut all = records.iter().map(|said| says(said, &row));
        let first = all.next().unwrap_or(Ok(()));
        if first.is_err() && !all.any(|said| said.is_ok()) {
            first.with_context(|| format!("{key}: {row}"))?;
        }
    }
    let is_foreign =
        |key: &&String| key.starts_with("foreign") || key.starts_with("discard") || key.starts_with("unknown");
    let missing: Vec<&String> = truth.keys().filter(|key| !seen.contains(*key) && !is_foreign(key)).collect();
    ensure!(missing.is_empty(), "{} of {} are not archived, such as {:?}", missing.len(), truth.len(), missing.first());
    let others = truth.keys().filter(is_foreign).count();
    ensure!(others == foreign, "{foreign} rows of records without an identity, the topic has {others}");
    Ok(())
}

/// The identity of a row; none for a record that has none.
fn key(kind: &str, row: &Value) -> Option<String> {
    let text = |name: &str| row.get(name).and_then(Value::as_str);
    let number = |name: &str| row.get(name).and_then(Value::as_i64);
    match kind {
        "events" => Some(format!("{}/{}", number("phronis_partition")?, number("phronis_offset")?)),
        "alerts" => Some(text("phronis_id")?.to_owned()),
        _ => {
            let previous = number("previous").map_or_else(|| "-".to_owned(), |previous| previous.to_string());
            Some(format!("{} {} {} {previous}", text("kind")?, text("phronis_id")?, number("attempt")?))
        }
    }
}

/// Whether a row says what a record says.
fn says(said: &Said, row: &Value) -> anyhow::Result<()> {
    match said {
        Said::Nothing => Ok(()),
        Said::Event(event, key) => {
            let archived = row.get("phronis_key").and_then(Value::as_str);
            ensure!(archived == key.as_deref(), "the key is {key:?} in the topic and {archived:?} in the row");
            same(event, row)
        }
        Said::Columns(columns) => columns.iter().try_for_each(|(name, value)| {
            let archived = row.get(name).with_context(|| format!("there is no column `{name}`"))?;
            // What is an object in the topic is its text in the row.
            let is_same = match (value, archived) {
                (Value::Object(_), Value::String(text)) => serde_json::from_str::<Value>(text)? == *value,
                (value, archived) => value == archived,
            };
            ensure!(is_same, "`{name}` is {value} in the topic and {archived} in the row");
            Ok(())
        }),
    }
}

/// Whether a row says what the event says: texts, numbers and truth values at the top, and times as numbers.
fn same(event: &Value, row: &Value) -> anyhow::Result<()> {
    for (name, value) in event.as_object().into_iter().flatten() {
        if value.is_object() {
            continue;
        }
        let archived = row.get(name).with_context(|| format!("`{name}` is {value} in the event, and no column"))?;
        let is_same = match (value, archived) {
            (Value::Number(one), Value::Number(other)) if is_time(name) => micros(one) == other.as_i64(),
            (Value::String(one), Value::Number(other)) if is_time(name) => time(one) == other.as_i64(),
            (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
            (one, other) => one == other,
        };
        ensure!(is_same, "`{name}` is {value} in the event and {archived} in the row");
        let is_other = |happened: &&Value| *happened != archived;
        if is_time(name)
            && archived.is_number()
            && let Some(happened) = row.get("phronis_event_time").filter(is_other)
        {
            bail!("`{name}` is {archived}, and the event happened at {happened}");
        }
    }
    Ok(())
}

/// Whether the streams of the tests have a time under this name.
fn is_time(name: &str) -> bool {
    matches!(name, "ts" | "timestamp")
}

/// A time since 1970 in microseconds, as its size tells its unit, and within the years that other engines know.
fn micros(time: &serde_json::Number) -> Option<i64> {
    const YEARS: std::ops::RangeInclusive<i64> = -62_135_596_800_000_000..=253_402_300_799_999_999;
    let time = time.as_i64()?;
    let micros = match time.unsigned_abs() {
        0..100_000_000_000 => time.checked_mul(1_000_000)?,
        100_000_000_000..100_000_000_000_000 => time.checked_mul(1000)?,
        100_000_000_000_000..100_000_000_000_000_000 => time,
        _ => time.div_euclid(1000),
    };
    Some(micros.clamp(*YEARS.start(), *YEARS.end()))
}

/// A time as RFC 3339 writes it, in microseconds since 1970.
fn time(text: &str) -> Option<i64> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let rest = text.get(19..)?;
    let zone = rest.find(['Z', '+', '-'])?;
    let fraction = rest.get(..zone)?.trim_start_matches('.');
    let fraction: String = fraction.chars().chain(std::iter::repeat('0')).take(6).collect();
    let east = match rest.get(zone..)? {
        "Z" => 0,
        zone => {
            let minutes = zone.get(1..3)?.parse::<i64>().ok()? * 60 + zone.get(4..6)?.parse::<i64>().ok()?;
            if zone.starts_with('-') { -minutes } else { minutes }
        }
    };
    // Years that begin in March end with the day that not all of them have.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let days = days + (month * 153 + 2) / 5 + day - 1 - 719_468;
    let seconds = ((days * 24 + hour) * 60 + minute - east) * 60 + second;
    Some(seconds * 1_000_000 + fraction.parse::<i64>().ok()?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_time_is_read_as_it_is_written() {
        for (text, micros) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("1969-12-31T23:59:59.999999Z", Some(-1)),
            ("2026-01-01T00:00:00+14:00", Some(1_767_175_200_000_000)),
            ("2024-02-29T12:00:00.5-01:30", Some(1_709_213_400_500_000)),
            ("0001-01-01T00:00:00Z", Some(-62_135_596_800_000_000)),
            ("9999-12-31T23:59:59.999Z", Some(253_402_300_799_999_000)),
            ("soon", None),
        ] {
            assert_eq!(time(text), micros, "{text}");
        }
    }

    #[test]
    fn a_row_that_says_something_else_is_found() {
        let event = json!({"a": 1, "b": "x", "ts": "1970-01-01T00:00:01Z", "deep": {"c": 1}});
        let check = |row: Value, is_good: bool| {
            let said = Said::Event(event.clone(), Some("k".to_owned()));
            assert_eq!(says(&said, &row).is_ok(), is_good, "{row}");
        };
        let good = json!({"a": 1.0, "b": "x", "ts": 1_000_000, "phronis_event_time": 1_000_000, "phronis_key": "k"});
        check(good.clone(), true);
        for (name, value) in [
            ("a", json!(2)),
            ("b", json!(null)),
            ("ts", json!(1_000_001)),
            ("phronis_event_time", json!(5)),
            ("phronis_key", json!("j")),
        ] {
            let mut row = good.clone();
            row[name] = value;
            check(row, false);
        }
        let mut row = good;
        row.as_object_mut().unwrap().remove("b");
        check(row, false);
        let columns = Map::from_iter([("rule".to_owned(), json!("hot")), ("event".to_owned(), json!({"v": 1}))]);
        let said = Said::Columns(columns);
        assert!(says(&said, &json!({"rule": "hot", "event": "{\"v\":1}", "more": 1})).is_ok());
        assert!(says(&said, &json!({"rule": "cold", "event": "{\"v\":1}"})).is_err());
        assert!(says(&said, &json!({"rule": "hot", "event": "{\"v\":2}"})).is_err());
        assert!(says(&said, &json!({"rule": "hot"})).is_err());
    }
}
