//! An archive in memory whose storage and pointers fail when they are told to.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{
    Array, ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use iceberg::io::{
    FileIOBuilder, FileMetadata, FileRead, FileWrite, InputFile, MemoryStorage, OutputFile, Storage, StorageConfig,
    StorageFactory,
};
use iceberg::spec::Snapshot;
use iceberg::{Error as IcebergError, ErrorKind, TableUpdate};
use serde::{Deserialize, Serialize};

use crate::spec::column;
use crate::{Archive, CatalogSettings, Kind, PointerError, Pointers, Settings, Source, TableName, TableSpec, snapshot};

/// What becomes of a swap of pointers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Swap {
    /// It is done, and nobody hears of it.
    Unheard,
    /// It is not done, and nobody hears of it.
    Lost,
    /// It is done, nobody hears of it, and nobody can ask.
    Cut,
    /// It is done as it should be.
    Done,
}

/// A world that outlives the archives that are opened in it, as disks and databases outlive processes.
#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    pub(crate) pointers: Arc<MemoryPointers>,
    pub(crate) faults: Arc<Faults>,
}

#[derive(Debug, Default)]
pub(crate) struct MemoryPointers {
    rows: Mutex<BTreeMap<String, String>>,
    swaps: Mutex<VecDeque<Swap>>,
    is_away: AtomicBool,
}

/// Storage in memory, and when it fails.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    files: MemoryStorage,
    calls: AtomicU64,
    /// Every so manyth call fails; 0: none.
    every: AtomicU64,
}

impl World {
    /// An archive as a new process opens it.
    pub(crate) fn archive(&self) -> Archive {
        let settings = Settings {
            namespace: "phronis".to_owned(),
            catalog: CatalogSettings::Sql { name: "phronis".to_owned() },
            warehouse: "memory:///warehouse".to_owned(),
            storage: BTreeMap::new(),
        };
        let files = FileIOBuilder::new(Arc::new(FaultyFactory { faults: Arc::clone(&self.faults) })).build();
        Archive::of(settings, Arc::clone(&self.pointers) as Arc<dyn Pointers>, files)
    }

    /// What becomes of the next swaps.
    pub(crate) fn swaps(&self, next: &[Swap]) {
        self.pointers.swaps.lock().unwrap().extend(next);
    }

    pub(crate) fn catalog_is_away(&self, is_away: bool) {
        self.pointers.is_away.store(is_away, Ordering::SeqCst);
    }

    pub(crate) fn storage_fails(&self, every: u64) {
        self.faults.every.store(every, Ordering::SeqCst);
    }

    /// Everything works again.
    pub(crate) fn heal(&self) {
        self.catalog_is_away(false);
        self.storage_fails(0);
        self.pointers.swaps.lock().unwrap().clear();
    }
}

impl MemoryPointers {
    fn answer(&self) -> Result<(), PointerError> {
        if self.is_away.load(Ordering::SeqCst) {
            return Err(PointerError { reason: "away".to_owned(), is_refused: false });
        }
        Ok(())
    }
}

#[async_trait]
impl Pointers for MemoryPointers {
    async fn list(&self, _: &str, _: &str) -> Result<Vec<String>, PointerError> {
        self.answer()?;
        Ok(self.rows.lock().unwrap().keys().cloned().collect())
    }

    async fn get(&self, _: &str, _: &str, table: &str) -> Result<Option<String>, PointerError> {
        self.answer()?;
        Ok(self.rows.lock().unwrap().get(table).cloned())
    }

    async fn create(&self, _: &str, _: &str, table: &str, location: &str) -> Result<bool, PointerError> {
        self.answer()?;
        let mut rows = self.rows.lock().unwrap();
        if rows.contains_key(table) {
            return Ok(false);
        }
        rows.insert(table.to_owned(), location.to_owned());
        Ok(true)
    }

    async fn swap(&self, _: &str, _: &str, table: &str, from: &str, to: &str) -> Result<bool, PointerError> {
        self.answer()?;
        let fate = self.swaps.lock().unwrap().pop_front().unwrap_or(Swap::Done);
        let unheard = Err(PointerError { reason: "the connection broke".to_owned(), is_refused: false });
        if fate == Swap::Lost {
            return unheard;
        }
        let mut rows = self.rows.lock().unwrap();
        let is_there = rows.get(table).is_some_and(|found| found == from);
        if is_there {
            rows.insert(table.to_owned(), to.to_owned());
        }
        if fate == Swap::Cut {
            self.is_away.store(true, Ordering::SeqCst);
        }
        if matches!(fate, Swap::Unheard | Swap::Cut) { unheard } else { Ok(is_there) }
    }
}

impl Faults {
    fn call(&self) -> iceberg::Result<()> {
        let every = self.every.load(Ordering::SeqCst);
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        if every > 0 && call.is_multiple_of(every) {
            return Err(IcebergError::new(ErrorKind::Unexpected, "storage fails as it was told to"));
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct FaultyFactory {
    #[serde(skip)]
    faults: Arc<Faults>,
}

#[typetag::serde(name = "TestStorageFactory")]
impl StorageFactory for FaultyFactory {
    fn build(&self, _: &StorageConfig) -> iceberg::Result<Arc<dyn Storage>> {
        Ok(Arc::new(Faulty { faults: Arc::clone(&self.faults) }))
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Faulty {
    #[serde(skip)]
    faults: Arc<Faults>,
}

#[async_trait]
#[typetag::serde(name = "TestStorage")]
impl Storage for Faulty {
    async fn exists(&self, path: &str) -> iceberg::Result<bool> {
        self.faults.call()?;
        self.faults.files.exists(path).await
    }

    async fn metadata(&self, path: &str) -> iceberg::Result<FileMetadata> {
        self.faults.call()?;
        self.faults.files.metadata(path).await
    }

    async fn read(&self, path: &str) -> iceberg::Result<Bytes> {
        self.faults.call()?;
        self.faults.files.read(path).await
    }

    async fn reader(&self, path: &str) -> iceberg::Result<Box<dyn FileRead>> {
        self.faults.call()?;
        self.faults.files.reader(path).await
    }

    async fn write(&self, path: &str, bytes: Bytes) -> iceberg::Result<()> {
        self.faults.call()?;
        assert!(!self.faults.files.exists(path).await?, "{path} is written twice");
        self.faults.files.write(path, bytes).await
    }

    async fn writer(&self, path: &str) -> iceberg::Result<Box<dyn FileWrite>> {
        self.faults.call()?;
        self.faults.files.writer(path).await
    }

    async fn delete(&self, path: &str) -> iceberg::Result<()> {
        self.faults.call()?;
        self.faults.files.delete(path).await
    }

    async fn delete_prefix(&self, path: &str) -> iceberg::Result<()> {
        self.faults.call()?;
        self.faults.files.delete_prefix(path).await
    }

    async fn delete_stream(&self, mut paths: BoxStream<'static, String>) -> iceberg::Result<()> {
        while let Some(path) = paths.next().await {
            self.delete(&path).await?;
        }
        Ok(())
    }

    fn new_input(&self, path: &str) -> iceberg::Result<InputFile> {
        Ok(InputFile::new(Arc::new(self.clone()), path.to_owned()))
    }

    fn new_output(&self, path: &str) -> iceberg::Result<OutputFile> {
        Ok(OutputFile::new(Arc::new(self.clone()), path.to_owned()))
    }
}

/// Makes the newest snapshot of a table one of the future, as a host does whose clock is ahead.
pub(crate) async fn put_ahead(archive: &Archive, name: &str, by: Duration) {
    let base = archive.catalog().load(name).await.unwrap().unwrap();
    let repeated = snapshot::repeat(archive, &base, HashMap::new()).await.unwrap();
    let later = |update| match update {
        TableUpdate::AddSnapshot { snapshot } => {
            let snapshot = Snapshot::builder()
                .with_manifest_list(snapshot.manifest_list().to_owned())
                .with_snapshot_id(snapshot.snapshot_id())
                .with_parent_snapshot_id(snapshot.parent_snapshot_id())
                .with_sequence_number(snapshot.sequence_number())
                .with_summary(snapshot.summary().clone())
                .with_schema_id(snapshot.schema_id().unwrap())
                .with_timestamp_ms(snapshot.timestamp_ms() + i64::try_from(by.as_millis()).unwrap())
                .build();
            TableUpdate::AddSnapshot { snapshot }
        }
        other => other,
    };
    let updates = repeated.updates.into_iter().map(later).collect();
    archive.catalog().commit(&base, updates, repeated.requirements).await.unwrap();
}

/// A row of a table of tests. Two rows of one origin and rule are one row of the table; `number` tells them apart.
#[derive(Debug, Clone, PartialEq, PartialOrd)]
pub(crate) struct Row {
    pub(crate) partition: i32,
    pub(crate) offset: Option<i64>,
    pub(crate) time: i64,
    pub(crate) rule: String,
    pub(crate) number: f64,
}

/// The columns of [`Row`].
pub(crate) fn columns() -> Vec<Field> {
    vec![
        Field::new(column::PARTITION, DataType::Int32, true),
        Field::new(column::OFFSET, DataType::Int64, true),
        Field::new(column::EVENT_TIME, DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false),
        Field::new("rule", DataType::Utf8, true),
        Field::new("number", DataType::Float64, true),
    ]
}

pub(crate) fn schema() -> SchemaRef {
    Arc::new(Schema::new(columns()))
}

pub(crate) fn spec(key: &[&str]) -> TableSpec {
    TableSpec {
        name: TableName { tenant: "acme".parse().unwrap(), stream: "sensors".parse().unwrap(), kind: Kind::Events },
        schema: schema(),
        key: key.iter().map(|&name| name.to_owned()).collect(),
        source: Source { topic: "acme.sensors.processed".to_owned(), identity: "one".to_owned(), origin: None },
    }
}

pub(crate) fn batch(rows: &[Row]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| Some(row.partition)).collect::<Int32Array>()),
        Arc::new(rows.iter().map(|row| row.offset).collect::<Int64Array>()),
        Arc::new(TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.time)).with_timezone("UTC")),
        Arc::new(rows.iter().map(|row| Some(row.rule.as_str())).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| Some(row.number)).collect::<Float64Array>()),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

/// The rows of batches that were read back.
pub(crate) fn rows(batches: &[RecordBatch]) -> Vec<Row> {
    let mut rows = Vec::new();
    for batch in batches {
        let column = |name| batch.column_by_name(name).unwrap();
        let partitions = column(column::PARTITION).as_primitive::<Int32Type>();
        let offsets = column(column::OFFSET).as_primitive::<Int64Type>();
        let times = column(column::EVENT_TIME).as_primitive::<TimestampMicrosecondType>();
        let rules = column("rule").as_string::<i32>();
        let numbers = column("number").as_primitive::<Float64Type>();
        rows.extend((0..batch.num_rows()).map(|row| Row {
            partition: partitions.value(row),
            offset: offsets.is_valid(row).then(|| offsets.value(row)),
            time: times.value(row),
            rule: rules.value(row).to_owned(),
            number: numbers.value(row),
        }));
    }
    rows.sort_by(|one, other| one.partial_cmp(other).unwrap());
    rows
}
