//! Rows in memory → sorted Parquet → committed table, on local storage: what the writer alone can do.
//!
//! `cargo bench -p phronis-archive [--bench write] [-- EVENTS]`. Rows are those that the archive makes of the 75-byte events
//! of `phronis-benches`, in batches of 4 096 from 4 partitions in turn. Counted is what the table says after the last commit;
//! CPU time is the whole process's, without making the rows.
//!
//! `PHRONIS_BENCH_WAREHOUSE=s3://bucket/folder` writes there instead; then `PHRONIS_BENCH_S3` is the address of the server,
//! and the credentials stand in the environment as AWS calls them.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::panic,
    clippy::print_stdout,
    reason = "a bench stops where something is wrong"
)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use arrow_array::{
    ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use phronis_archive::{
    Archive, CatalogSettings, Committer, Kind, Outcome, PointerError, Pointers, Settings, Source, TableName, TableSpec,
    WriteOptions, column,
};

const ROWS: i64 = 4096;
const PARTITIONS: i64 = 4;
const ROWS_PER_COMMIT: i64 = 2_000_000;

#[derive(Debug, Default)]
struct Rows(Mutex<BTreeMap<String, String>>);

#[async_trait]
impl Pointers for Rows {
    async fn list(&self, _: &str, _: &str) -> Result<Vec<String>, PointerError> {
        Ok(self.0.lock().unwrap().keys().cloned().collect())
    }

    async fn get(&self, _: &str, _: &str, table: &str) -> Result<Option<String>, PointerError> {
        Ok(self.0.lock().unwrap().get(table).cloned())
    }

    async fn create(&self, _: &str, _: &str, table: &str, location: &str) -> Result<bool, PointerError> {
        Ok(self.0.lock().unwrap().insert(table.to_owned(), location.to_owned()).is_none())
    }

    async fn swap(&self, _: &str, _: &str, table: &str, _: &str, to: &str) -> Result<bool, PointerError> {
        Ok(self.0.lock().unwrap().insert(table.to_owned(), to.to_owned()).is_some())
    }
}

fn schema() -> SchemaRef {
    let time = || DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    Arc::new(Schema::new(vec![
        Field::new(column::TOPIC, DataType::Utf8, true),
        Field::new(column::PARTITION, DataType::Int32, true),
        Field::new(column::OFFSET, DataType::Int64, true),
        Field::new(column::EVENT_TIME, time(), false),
        Field::new(column::RECORD_TIME, time(), true),
        Field::new(column::INGEST_TIME, time(), true),
        Field::new(column::KEY, DataType::Utf8, true),
        Field::new(column::PLUGINS, DataType::Utf8, true),
        Field::new("sensor_id", DataType::Utf8, false),
        Field::new("value", DataType::Float64, false),
        Field::new("unit", DataType::Utf8, true),
        Field::new("ts", time(), true),
        Field::new("seq", DataType::Int64, true),
        Field::new("severity", DataType::Utf8, true),
    ]))
}

/// Events as they come: values with two digits, 1 000 sensors, a millisecond apart, and late by up to a second when asked for.
fn batch(schema: &SchemaRef, partition: i64, first: i64, is_late: bool) -> RecordBatch {
    let offsets = || first..first + ROWS;
    let nth = |offset: i64| offset * PARTITIONS + partition;
    let late = |offset: i64| if is_late { (nth(offset) * 7919) % 1000 } else { 0 };
    let time = |offset: i64| 1_732_276_800_000_000 + (nth(offset) - late(offset)) * 1000;
    let times = |shift: i64| -> ArrayRef {
        let values = offsets().map(|offset| time(offset) + shift);
        Arc::new(TimestampMicrosecondArray::from_iter_values(values).with_timezone("UTC"))
    };
    let sensors: ArrayRef =
        Arc::new(StringArray::from_iter_values(offsets().map(|offset| format!("S{:04}", (nth(offset) * 31) % 1000))));
    let same = |text: &str| -> ArrayRef { Arc::new(StringArray::from_iter_values(offsets().map(|_| text))) };
    let columns: Vec<ArrayRef> = vec![
        same("phronis.default.sensors.raw"),
        Arc::new(Int32Array::from_iter_values(offsets().map(|_| partition as i32))),
        Arc::new(Int64Array::from_iter_values(offsets())),
        times(0),
        times(2_000),
        times(3_000),
        Arc::clone(&sensors),
        same("threshold@0.1.0#a1b2c3"),
        sensors,
        Arc::new(Float64Array::from_iter_values(
            offsets().map(|offset| ((nth(offset) * 7919) % 10_000) as f64 / 100.0),
        )),
        same("C"),
        times(0),
        Arc::new(Int64Array::from_iter_values(offsets().map(|offset| 100_000 + nth(offset) % 900_000))),
        Arc::new(StringArray::from_iter_values(
            offsets().map(|offset| if offset % 100 == 0 { "high" } else { "normal" }),
        )),
    ];
    RecordBatch::try_new(Arc::clone(schema), columns).unwrap()
}

/// User and system time of this process, in seconds.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}

fn peak() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

#[tokio::main]
async fn main() {
    let events: i64 = std::env::args().skip(1).find_map(|text| text.parse().ok()).unwrap_or(8_000_000);
    println!(
        "| rows | events/s | µs CPU/event | bytes/event | commits | longest commit | peak MiB |\n|---|---|---|---|---|---|---|"
    );
    for is_late in [false, true] {
        run(events, is_late).await;
    }
}

async fn run(events: i64, is_late: bool) {
    let dir = tempfile::tempdir().unwrap();
    let mut storage = BTreeMap::new();
    if let Ok(server) = std::env::var("PHRONIS_BENCH_S3") {
        storage.insert("s3.endpoint".to_owned(), server);
        storage.insert("s3.path-style-access".to_owned(), "true".to_owned());
        storage.insert("s3.region".to_owned(), "us-east-1".to_owned());
    }
    let local = || format!("file://{}", dir.path().display());
    let settings = Settings {
        namespace: if is_late { "late" } else { "ordered" }.to_owned(),
        catalog: CatalogSettings::Sql { name: "phronis".to_owned() },
        warehouse: std::env::var("PHRONIS_BENCH_WAREHOUSE").unwrap_or_else(|_| local()),
        storage,
    };
    let archive = Archive::open(&settings, Some(Arc::new(Rows::default()))).await.unwrap();
    let schema = schema();
    let spec = TableSpec {
        name: TableName { tenant: "default".parse().unwrap(), stream: "sensors".parse().unwrap(), kind: Kind::Events },
        schema: Arc::clone(&schema),
        key: Vec::new(),
        source: Source { topic: "processed".to_owned(), identity: "one".to_owned(), origin: None },
    };
    let mut committer = Committer::open(&archive, spec, &WriteOptions::default()).await.unwrap();
    let (mut spent, mut making, mut appended, mut commits) = (0.0, 0.0, 0, Vec::new());
    let mut bytes = 0;
    let begun = Instant::now();
    let first_cpu = cpu();
    let mut first = 0;
    let mut since_commit = 0;
    while appended < events {
        for partition in 0..PARTITIONS {
            let (start, start_cpu) = (Instant::now(), cpu());
            let rows = batch(&schema, partition, first, is_late);
            spent += start.elapsed().as_secs_f64();
            making += cpu() - start_cpu;
            committer.append(partition as i32, first, first + ROWS, rows).await.unwrap();
            appended += ROWS;
            since_commit += ROWS;
        }
        first += ROWS;
        if since_commit >= ROWS_PER_COMMIT || appended >= events {
            since_commit = 0;
            let Outcome::Committed(done) = committer.commit().await.unwrap() else { panic!("nothing was committed") };
            commits.push(done.took.as_secs_f64());
            bytes += done.bytes;
        }
    }
    let took = begun.elapsed().as_secs_f64() - spent;
    let used = cpu() - first_cpu - making;
    let summary = committer.table().metadata().current_snapshot().unwrap().summary().clone();
    assert_eq!(summary.additional_properties["total-records"], appended.to_string());
    println!(
        "| {} | {:.0} | {:.3} | {:.1} | {} | {:.3} s | {:.0} |",
        if is_late { "late by up to 1 s" } else { "in order of their partition" },
        appended as f64 / took,
        used * 1e6 / appended as f64,
        bytes as f64 / appended as f64,
        commits.len(),
        commits.iter().copied().fold(0.0, f64::max),
        peak(),
    );
}
