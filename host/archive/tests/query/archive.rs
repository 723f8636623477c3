//! An archive in a folder, with pointers in memory, and tables that the committer fills.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::{
    ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow_schema::{DataType, Field, Schema};
use async_trait::async_trait;
use phronis_archive::query::{Answer, Encoder, Engine, Error, Format, Limits};
use phronis_archive::{
    Archive, CatalogSettings, Committer, PointerError, Pointers, Settings, Source, TableSpec, WriteOptions,
};
use serde_json::Value;
use tempfile::TempDir;

/// `iceberg_tables` without a database.
#[derive(Debug, Default)]
struct Memory(Mutex<BTreeMap<String, String>>);

#[async_trait]
impl Pointers for Memory {
    async fn list(&self, _: &str, _: &str) -> Result<Vec<String>, PointerError> {
        Ok(self.0.lock().unwrap().keys().cloned().collect())
    }

    async fn get(&self, _: &str, _: &str, table: &str) -> Result<Option<String>, PointerError> {
        Ok(self.0.lock().unwrap().get(table).cloned())
    }

    async fn create(&self, _: &str, _: &str, table: &str, location: &str) -> Result<bool, PointerError> {
        let mut tables = self.0.lock().unwrap();
        let is_new = !tables.contains_key(table);
        tables.entry(table.to_owned()).or_insert_with(|| location.to_owned());
        Ok(is_new)
    }

    async fn swap(&self, _: &str, _: &str, table: &str, from: &str, to: &str) -> Result<bool, PointerError> {
        let mut tables = self.0.lock().unwrap();
        let Some(now) = tables.get_mut(table).filter(|now| *now == from) else { return Ok(false) };
        to.clone_into(now);
        Ok(true)
    }
}

/// An archive with tables in it.
pub(crate) struct Filled {
    pub(crate) archive: Archive,
    pub(crate) folder: TempDir,
}

/// Microseconds of 2026-11-22T00:00:00Z.
pub(crate) const DAY_0: i64 = 1_795_305_600_000_000;

impl Filled {
    pub(crate) async fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let settings = Settings {
            namespace: "phronis".to_owned(),
            catalog: CatalogSettings::Sql { name: "phronis".to_owned() },
            warehouse: format!("file://{}", folder.path().join("warehouse").display()),
            storage: BTreeMap::new(),
        };
        let archive = Archive::open(&settings, Some(Arc::new(Memory::default()))).await.unwrap();
        Self { archive, folder }
    }

    /// Archives rows with these offsets of partition 0; one a second, `value` is the offset.
    pub(crate) async fn fill(&self, table: &str, offsets: std::ops::Range<i64>) {
        self.fill_with(table, offsets, false).await;
    }

    /// The same with the columns `note` and `tags` more.
    pub(crate) async fn fill_with(&self, table: &str, offsets: std::ops::Range<i64>, has_note: bool) {
        self.put(table, offsets.clone(), rows(offsets, has_note)).await;
    }

    /// Archives so many rows whose `note` has so many bytes, which hardly compress.
    pub(crate) async fn fill_wide(&self, table: &str, count: i64, bytes: usize) {
        let mut state = 1_u64;
        let mut noise = || {
            // xorshift64, which is as good as any here.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            format!("{state:016x}")
        };
        let notes: Vec<String> = (0..count).map(|_| (0..bytes / 16).map(|_| noise()).collect()).collect();
        let narrow = rows(0..count, false);
        let note: ArrayRef = Arc::new(StringArray::from(notes));
        let mut fields = narrow.schema().fields().to_vec();
        fields.push(Arc::new(Field::new("note", DataType::Utf8, true)));
        let schema = Arc::new(Schema::new(fields));
        let columns = narrow.columns().iter().cloned().chain([note]).collect();
        self.put(table, 0..count, RecordBatch::try_new(schema, columns).unwrap()).await;
    }

    async fn put(&self, table: &str, offsets: std::ops::Range<i64>, rows: RecordBatch) {
        let spec = TableSpec {
            name: table.parse().unwrap(),
            schema: rows.schema(),
            key: Vec::new(),
            source: Source { topic: "t".to_owned(), identity: "one".to_owned(), origin: None },
        };
        let mut committer = Committer::open(&self.archive, spec, &WriteOptions::default()).await.unwrap();
        committer.append(0, offsets.start, offsets.end, rows).await.unwrap();
        committer.commit().await.unwrap();
    }

    pub(crate) fn engine(&self, change: impl FnOnce(&mut Limits)) -> Engine {
        let mut limits = Limits::new(self.folder.path().join("spill"));
        change(&mut limits);
        Engine::new(self.archive.clone(), limits).unwrap()
    }
}

fn rows(offsets: std::ops::Range<i64>, has_note: bool) -> RecordBatch {
    let count = usize::try_from(offsets.end - offsets.start).unwrap();
    let times = offsets.clone().map(|offset| DAY_0 + offset * 1_000_000);
    let times = TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC");
    let mut columns: Vec<(&str, ArrayRef, bool)> = vec![
        ("phronis_topic", Arc::new(StringArray::from(vec!["t"; count])), true),
        ("phronis_partition", Arc::new(Int32Array::from(vec![0; count])), false),
        ("phronis_offset", Arc::new(Int64Array::from_iter_values(offsets.clone())), true),
        ("phronis_event_time", Arc::new(times), false),
        ("phronis_key", Arc::new(StringArray::from_iter_values(offsets.clone().map(|o| format!("k{}", o % 10)))), true),
        ("value", Arc::new(Float64Array::from_iter_values(offsets.map(|o| o as f64))), true),
    ];
    if has_note {
        columns.push(("note", Arc::new(StringArray::from(vec!["new"; count])), true));
        let mut tags = ListBuilder::new(StringBuilder::new());
        for _ in 0..count {
            tags.values().append_value("a");
            tags.append(true);
        }
        columns.push(("tags", Arc::new(tags.finish()), true));
    }
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

/// All rows, as JSON.
pub(crate) async fn all(answer: Result<Answer, Error>) -> Result<Vec<Value>, Error> {
    let mut answer = answer?;
    let mut encoder = Encoder::new(Format::Json);
    let mut text = encoder.begin(answer.schema(), answer.tables())?;
    while let Some(batch) = answer.next().await {
        text.extend(encoder.rows(&batch?)?);
    }
    text.extend(encoder.end(None));
    let document: Value = serde_json::from_slice(&text).unwrap();
    Ok(document["rows"].as_array().unwrap().clone())
}
