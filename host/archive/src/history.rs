//! Reads a table's rows in the order in which they were judged: by day, partition, and offset.
//!
//! One snapshot is read, so that the same range is the same rows however often it is read, while others append and compact.
//! Only the columns that are asked for are read, and only files that have rows of the range. A file's rows are sorted by
//! event time, so a day is put in order in memory; while one day is worked on, the next is read.
//!
//! What it must not do: skip a row of the range silently. Rows that no event is behind are counted ([`Day::left_out`]).

mod order;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use futures::TryStreamExt;
use futures::future::BoxFuture;
use iceberg::arrow::schema_to_arrow_schema;
use iceberg::expr::Reference;
use iceberg::scan::FileScanTask;
use iceberg::spec::{Datum, Literal, PrimitiveLiteral, Transform};
use iceberg::table::Table;
use tokio::task::JoinHandle;

use crate::read::Reader;
use crate::spec::column;
use crate::{Error, Result};

pub use order::{Day, Stretch};

/// Microseconds of a day.
const DAY: i64 = 86_400_000_000;

/// Files read at a time: one for each core that a small machine has.
const LANES: usize = 2;

/// Rows of a batch as it comes from a file.
const BATCH_ROWS: usize = 16_384;

/// What is read.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Names of columns, beside [`column::PARTITION`], [`column::OFFSET`] and [`column::EVENT_TIME`].
    pub columns: Vec<String>,
    /// Event times in microseconds since 1970, the end not included.
    pub range: Range<i64>,
    /// Rows that have this text in this column, and no others.
    pub only: Option<(String, String)>,
    /// The snapshot; the newest unless said.
    pub snapshot: Option<i64>,
}

/// A reader of a table's rows, a day at a time.
#[derive(Debug)]
pub struct History {
    table: Table,
    snapshot: Option<i64>,
    schema: SchemaRef,
    wanted: Wanted,
    files: u64,
    bytes: u64,
    /// The files of days that are not begun, by day, the last first; `None` for files that are not divided by days.
    left: Vec<Vec<FileScanTask>>,
    under_way: Option<JoinHandle<Result<Vec<RecordBatch>>>>,
    /// Days that are read and not handed out: one, unless files are not divided by days.
    ready: std::collections::VecDeque<Day>,
}

impl History {
    /// Finds the files of the range.
    ///
    /// # Errors
    /// A column or the snapshot is not there, or storage does not answer.
    pub fn open(table: Table, wanted: Wanted) -> BoxFuture<'static, Result<Self>> {
        Box::pin(async move {
            let metadata = table.metadata();
            let (snapshot, fields) = match wanted.snapshot {
                Some(id) => {
                    let snapshot = metadata
                        .snapshot_by_id(id)
                        .ok_or_else(|| unusable(&table, format!("it has no snapshot {id}")))?;
                    (Some(id), snapshot.schema(metadata).map_err(|error| reading(&table, error))?)
                }
                None => (metadata.current_snapshot_id(), Arc::clone(metadata.current_schema())),
            };
            let all = schema_to_arrow_schema(&fields).map_err(|error| reading(&table, error))?;
            let names = names(&wanted, &all);
            let indices: std::result::Result<Vec<usize>, _> = names.iter().map(|name| all.index_of(name)).collect();
            let indices = indices.map_err(|error| unusable(&table, error.to_string()))?;
            let schema = Arc::new(all.project(&indices).map_err(|error| unusable(&table, error.to_string()))?);
            let mut history = Self {
                table,
                snapshot,
                schema,
                wanted,
                files: 0,
                bytes: 0,
                left: Vec::new(),
                under_way: None,
                ready: std::collections::VecDeque::new(),
            };
            history.plan(&names).await?;
            Ok(history)
        })
    }

    /// The columns of a table's snapshot, or of its newest state, by name.
    ///
    /// # Errors
    /// The snapshot is not there.
    pub fn columns(table: &Table, snapshot: Option<i64>) -> Result<SchemaRef> {
        let metadata = table.metadata();
        let fields = match snapshot.and_then(|id| metadata.snapshot_by_id(id)) {
            Some(snapshot) => snapshot.schema(metadata).map_err(|error| reading(table, error))?,
            None => Arc::clone(metadata.current_schema()),
        };
        Ok(Arc::new(schema_to_arrow_schema(&fields).map_err(|error| reading(table, error))?))
    }

    /// The snapshot that is read; `None` while the table has none.
    pub fn snapshot(&self) -> Option<i64> {
        self.snapshot
    }

    /// Files that are read, and their bytes.
    pub fn files(&self) -> (u64, u64) {
        (self.files, self.bytes)
    }

    /// The next day that has rows; `None` at the end.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn next_day(&mut self) -> BoxFuture<'_, Result<Option<Day>>> {
        Box::pin(async move {
            loop {
                if let Some(day) = self.ready.pop_front() {
                    return Ok(Some(day));
                }
                if self.under_way.is_none() {
                    self.read_ahead();
                }
                let Some(reading) = self.under_way.take() else { return Ok(None) };
                let batches = reading.await.map_err(|error| Error::failed("reading the archive", error))??;
                self.read_ahead();
                let (schema, range) = (Arc::clone(&self.schema), self.wanted.range.clone());
                let (columns, only) = (self.wanted.columns.clone(), self.wanted.only.clone());
                let ordering = move || order::days(&schema, batches, &columns, &range, only.as_ref());
                let days = tokio::task::spawn_blocking(ordering)
                    .await
                    .map_err(|error| Error::failed("sorting the archive", error))?;
                self.ready = days.map_err(|error| Error::failed("sorting the archive", error))?.into();
            }
        })
    }

    async fn plan(&mut self, names: &[String]) -> Result<()> {
        let Some(id) = self.snapshot else { return Ok(()) };
        let range = &self.wanted.range;
        let time = || Reference::new(column::EVENT_TIME);
        let mut inside = time()
            .greater_than_or_equal_to(Datum::timestamptz_micros(range.start))
            .and(time().less_than(Datum::timestamptz_micros(range.end)));
        if let Some((name, text)) = &self.wanted.only {
            inside = inside.and(Reference::new(name).equal_to(Datum::string(text)));
        }
        let table = &self.table;
        let scan = table.scan().snapshot_id(id).select(names).with_filter(inside).build();
        let files =
            scan.map_err(|error| reading(table, error))?.plan_files().await.map_err(|error| reading(table, error))?;
        let files: Vec<FileScanTask> = files.try_collect().await.map_err(|error| reading(table, error))?;
        let mut days: BTreeMap<Option<i64>, Vec<FileScanTask>> = BTreeMap::new();
        for mut file in files {
            self.files += 1;
            self.bytes = self.bytes.saturating_add(file.file_size_in_bytes);
            let day = day_of(&file);
            // Days inside the range have only rows of the range: there is nothing to look for in their files.
            let is_inside = day.is_some_and(|day| day * DAY >= range.start && (day + 1) * DAY <= range.end);
            if is_inside && self.wanted.only.is_none() {
                file.predicate = None;
            }
            days.entry(day).or_default().push(file);
        }
        // A file that is not of one day may have rows of any: then nothing is known to come first.
        self.left = match days.contains_key(&None) {
            true => vec![days.into_values().flatten().collect()],
            false => days.into_values().rev().collect(),
        };
        Ok(())
    }

    /// Begins to read the next day's files.
    fn read_ahead(&mut self) {
        let Some(files) = self.left.pop() else { return };
        let table = self.table.clone();
        self.under_way = Some(tokio::spawn(read(table, Arc::clone(&self.schema), files)));
    }
}

impl Drop for History {
    fn drop(&mut self) {
        if let Some(reading) = &self.under_way {
            reading.abort();
        }
    }
}

/// The columns in the order in which they are read: the three that order rows, then those that were asked for.
fn names(wanted: &Wanted, all: &arrow_schema::Schema) -> Vec<String> {
    let mut names: Vec<String> = [column::PARTITION, column::OFFSET, column::EVENT_TIME].map(str::to_owned).into();
    let more = wanted.only.iter().map(|(name, _)| name.clone());
    // Rows that could not be decoded are no events; tables of others may not have the column.
    let undecoded = all.index_of(UNDECODED).ok().map(|_| UNDECODED.to_owned());
    for name in wanted.columns.iter().cloned().chain(more).chain(undecoded) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// The record's value, where it cannot be read as what the table holds.
const UNDECODED: &str = "phronis_undecoded";

/// Reads files, one after the other in each lane.
async fn read(table: Table, schema: SchemaRef, mut files: Vec<FileScanTask>) -> Result<Vec<RecordBatch>> {
    files.sort_by(|a, b| {
        b.file_size_in_bytes.cmp(&a.file_size_in_bytes).then_with(|| a.data_file_path.cmp(&b.data_file_path))
    });
    let mut lanes: Vec<(u64, Vec<FileScanTask>)> = vec![(0, Vec::new()); LANES.min(files.len()).max(1)];
    for file in files {
        if let Some((bytes, lane)) = lanes.iter_mut().min_by_key(|(bytes, _)| *bytes) {
            *bytes = bytes.saturating_add(file.file_size_in_bytes);
            lane.push(file);
        }
    }
    let mut reading = tokio::task::JoinSet::new();
    for (_, lane) in lanes {
        let runtime = iceberg::Runtime::try_current().map_err(|error| Error::failed("reading the archive", error))?;
        let (io, schema) = (table.file_io().clone(), Arc::clone(&schema));
        let batches = Reader { io, runtime, rows: BATCH_ROWS, schema }.read(lane);
        let table = table.clone();
        reading
            .spawn(async move { batches.try_collect::<Vec<_>>().await.map_err(|error| self::reading(&table, error)) });
    }
    let mut all = Vec::new();
    while let Some(lane) = reading.join_next().await {
        all.extend(lane.map_err(|error| Error::failed("reading the archive", error))??);
    }
    Ok(all)
}

/// The day that all rows of a file are of, if its table is divided so.
fn day_of(file: &FileScanTask) -> Option<i64> {
    let spec = file.partition_spec.as_ref()?;
    let place = spec.fields().iter().position(|field| matches!(field.transform, Transform::Day | Transform::Hour))?;
    let value = file.partition.as_ref()?.iter().nth(place)??;
    let Literal::Primitive(PrimitiveLiteral::Int(value)) = value else { return None };
    match spec.fields().get(place)?.transform {
        Transform::Hour => Some(i64::from(*value).div_euclid(24)),
        _ => Some(i64::from(*value)),
    }
}

fn reading(table: &Table, error: iceberg::Error) -> Error {
    let name = table.identifier().name();
    Error::of("reading the archive", name, error)
}

fn unusable(table: &Table, reason: String) -> Error {
    Error::Table { table: table.identifier().name().to_owned(), reason }
}
