//! How long a commit takes in a new table and after ten thousand commits, with upkeep between.
//!
//! A local folder, SQLite, one row a commit: nothing but the commit itself. Upkeep runs beside, as a host's schedule does.
//! `cargo bench -p phronis-archive --bench commits [-- COMMITS]`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a bench fails by panicking, and prints what it found"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::{ArrayRef, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use async_trait::async_trait;
use phronis_archive::{
    Archive, CatalogSettings, Committer, Kind, PointerError, Pointers, Settings, Source, TableName, TableSpec, Upkeep,
    WriteOptions, column,
};
use phronis_store::{Options, Store};

/// Commits whose median is shown.
const WINDOW: usize = 200;

/// Commits between two runs of upkeep: an hour, at one commit in ten seconds.
const UPKEEP_EVERY: usize = 360;

#[derive(Debug)]
struct Rows(Store);

fn told(error: phronis_store::Error) -> PointerError {
    PointerError { reason: error.to_string(), is_refused: false }
}

#[async_trait]
impl Pointers for Rows {
    async fn list(&self, catalog: &str, namespace: &str) -> Result<Vec<String>, PointerError> {
        self.0.iceberg_tables(catalog, namespace).await.map_err(told)
    }
    async fn get(&self, catalog: &str, namespace: &str, table: &str) -> Result<Option<String>, PointerError> {
        self.0.iceberg_table(catalog, namespace, table).await.map_err(told)
    }
    async fn create(&self, catalog: &str, namespace: &str, table: &str, to: &str) -> Result<bool, PointerError> {
        self.0.create_iceberg_table(catalog, namespace, table, to).await.map_err(told)
    }
    async fn swap(
        &self,
        catalog: &str,
        namespace: &str,
        table: &str,
        from: &str,
        to: &str,
    ) -> Result<bool, PointerError> {
        self.0.swap_iceberg_table(catalog, namespace, table, from, to).await.map_err(told)
    }
}

fn row(offset: i64) -> RecordBatch {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let schema = Schema::new(vec![
        Field::new(column::PARTITION, DataType::Int32, true),
        Field::new(column::OFFSET, DataType::Int64, true),
        Field::new(column::EVENT_TIME, time, false),
    ]);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int32Array::from(vec![0])),
        Arc::new(Int64Array::from(vec![offset])),
        Arc::new(TimestampMicrosecondArray::from(vec![offset]).with_timezone("UTC")),
    ];
    RecordBatch::try_new(Arc::new(schema), columns).unwrap()
}

fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    times[times.len() / 2]
}

#[tokio::main]
async fn main() {
    let commits: usize = std::env::args().filter_map(|word| word.parse().ok()).next().unwrap_or(10_000);
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&Options::Sqlite(folder.path().join("store.sqlite"))).await.unwrap();
    let settings = Settings {
        namespace: "phronis".to_owned(),
        catalog: CatalogSettings::Sql { name: "phronis".to_owned() },
        warehouse: format!("file://{}/warehouse", folder.path().display()),
        storage: BTreeMap::new(),
    };
    let archive = Archive::open(&settings, Some(Arc::new(Rows(store)))).await.unwrap();
    let name = TableName { tenant: "acme".parse().unwrap(), stream: "sensors".parse().unwrap(), kind: Kind::Events };
    let source = Source { topic: "processed".to_owned(), identity: "one".to_owned(), origin: None };
    let spec = TableSpec { name: name.clone(), schema: row(0).schema(), key: Vec::new(), source };
    let mut committer = Committer::open(&archive, spec, &WriteOptions::default()).await.unwrap();
    let (mut times, mut keeping) = (Vec::new(), Duration::ZERO);
    for commit in 0..commits {
        let offset = i64::try_from(commit).unwrap();
        committer.append(0, offset, offset + 1, row(offset)).await.unwrap();
        let began = Instant::now();
        committer.commit().await.unwrap();
        times.push(began.elapsed());
        if commit % UPKEEP_EVERY == UPKEEP_EVERY - 1 {
            let began = Instant::now();
            archive.maintain(&name.to_string(), &Upkeep::default()).await.unwrap();
            keeping += began.elapsed();
        }
        if commit % 1000 == 999 {
            println!(
                "after {:>6} commits: {:>8.2?} a commit (median of {WINDOW})",
                commit + 1,
                median(&times[times.len() - WINDOW..])
            );
        }
    }
    let (first, last) = (median(&times[..WINDOW]), median(&times[times.len() - WINDOW..]));
    println!(
        "new table {first:.2?}, after {commits} commits {last:.2?}: {:.2} x; upkeep took {keeping:.2?} in all",
        last.as_secs_f64() / first.as_secs_f64()
    );
}
