//! The archive against the topics: every event, alert and letter that stands in the log is one row, and no row is anything else.
//!
//! The tables are read by pyiceberg and by DuckDB (`tests/archive/read.py`), the topics by this checker. An event is known by where it
//! was first read, an alert by its id, a record of dlq by id, kind, attempt and what it follows: what a log holds twice is one row.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use phronis_core::StreamId;
use phronis_core::partition::Topics;
use phronis_log::embedded::{self, Options};
use serde_json::Value;

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

/// An event's or a letter's identity in words, and what the event says.
type Truth = BTreeMap<String, Option<Value>>;

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
    let mut put = |truth: &mut Truth, key: String, value| {
        repeated += u64::from(truth.insert(key, value).is_some());
    };
    source.each(&topics.processed, |record| {
        let event: Option<Value> = record.value.and_then(|value| serde_json::from_slice(value).ok());
        match record.number("phronis-origin-offset") {
            Some(offset) => put(events, format!("{}/{offset}", record.partition), event),
            None => put(events, format!("foreign {}/{}", record.partition, record.offset), event),
        }
    })?;
    source.each(&topics.alerts, |record| {
        let alert: Option<Value> = record.value.and_then(|value| serde_json::from_slice(value).ok());
        let id = alert.as_ref().and_then(|alert| alert.get("id")).and_then(Value::as_str).map(str::to_owned);
        put(alerts, id.unwrap_or_else(|| format!("foreign {}/{}", record.partition, record.offset)), None);
    })?;
    source.each(&topics.dlq, |record| put(letters, letter(&record), None))?;
    Ok((truths, repeated))
}

/// What makes two records of dlq the same.
fn letter(record: &Record<'_>) -> String {
    let text = |name: &str| {
        record.headers.last(name).map(|value| String::from_utf8_lossy(value).into_owned()).unwrap_or_default()
    };
    let kind = match () {
        () if !text("phronis-discard").is_empty() => "discard",
        () if !text("phronis-settled").is_empty() => "settlement",
        () if !text("phronis-range").is_empty() => "range",
        () if !text("phronis-id").is_empty() => "letter",
        () => "unknown",
    };
    if matches!(kind, "discard" | "unknown") {
        return format!("{kind} {}/{}", record.partition, record.offset);
    }
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
        let Some(event) = truth.get(&key) else { bail!("{key} is archived and stands in no topic: {row}") };
        ensure!(seen.insert(key.clone()), "{key} is archived twice");
        if let Some(event) = event {
            same(event, &row).with_context(|| key.clone())?;
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

/// Whether a row says what the event says, in the fields that it has as they are: texts, numbers, truth values at the top.
fn same(event: &Value, row: &Value) -> anyhow::Result<()> {
    for (name, value) in event.as_object().into_iter().flatten() {
        let Some(archived) = row.get(name) else { continue };
        let is_same = match (value, archived) {
            (Value::Number(one), Value::Number(other)) if is_time(name) => micros(one) == other.as_i64(),
            (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
            // Times are numbers in the row.
            (Value::String(_), Value::Number(_)) => is_time(name),
            (Value::Object(_), _) => true,
            (one, other) => one == other,
        };
        ensure!(is_same, "`{name}` is {value} in the event and {archived} in the row");
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
