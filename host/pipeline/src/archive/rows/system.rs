//! The columns that every table of the archive begins with.
//!
//! `phronis_topic`, `phronis_partition` and `phronis_offset` are where the record was first read, in raw; an offset that is null
//! says that nobody knows. They are what makes two rows the same event.

use std::sync::Arc;

use arrow_array::builder::{BinaryBuilder, StringBuilder, StringDictionaryBuilder};
use arrow_array::types::Int32Type;
use arrow_array::{ArrayRef, Int32Array, Int64Array, TimestampMicrosecondArray};
use arrow_schema::{DataType, Field, TimeUnit};

/// What the names of these columns begin with; no column of a contract or of an enricher may.
pub(crate) const PREFIX: &str = "phronis_";

/// The record's value, where it cannot be read as what the table holds.
pub(super) const UNDECODED: &str = "phronis_undecoded";

/// The identity of an alert or a letter.
pub(super) const ID: &str = "phronis_id";

/// The first and the last microsecond that all readers can show: the years 1 to 9999. What is beyond stands there.
const TIMES: (i64, i64) = (-62_135_596_800_000_000, 253_402_300_799_999_999);

/// One row's system columns.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) id: Option<&'a str>,
    pub(super) topic: &'a str,
    pub(super) partition: i32,
    pub(super) offset: Option<i64>,
    /// Microseconds since 1970, as all times here.
    pub(super) event_time: i64,
    pub(super) record_time: i64,
    pub(super) key: Option<&'a [u8]>,
    pub(super) plugins: Option<&'a str>,
    pub(super) undecoded: Option<&'a [u8]>,
}

/// Columns under construction.
pub(super) struct System {
    /// Events have none: their place in raw is their identity.
    id: Option<StringBuilder>,
    topic: Repeated,
    partition: Vec<i32>,
    offset: Vec<Option<i64>>,
    event_time: Vec<i64>,
    record_time: Vec<i64>,
    key: StringBuilder,
    plugins: Repeated,
    undecoded: BinaryBuilder,
}

/// Makes a column of texts of which few are different: each is in memory once a batch.
pub(super) type Repeated = StringDictionaryBuilder<Int32Type>;

/// The type of such a column; in the table it is a text like others.
pub(super) fn repeated() -> DataType {
    DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
}

/// The type of times.
pub(super) fn time() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// A column that may be null.
pub(super) fn field(name: &str, of: DataType) -> Field {
    Field::new(name, of, true)
}

/// The columns, in order.
pub(super) fn fields(has_id: bool) -> Vec<Field> {
    let id = has_id.then(|| field(ID, DataType::Utf8));
    let rest = [
        field("phronis_topic", repeated()),
        Field::new("phronis_partition", DataType::Int32, false),
        field("phronis_offset", DataType::Int64),
        Field::new("phronis_event_time", time(), false),
        field("phronis_record_time", time()),
        field("phronis_ingest_time", time()),
        field("phronis_key", DataType::Utf8),
        field("phronis_plugins", repeated()),
        field(UNDECODED, DataType::Binary),
    ];
    id.into_iter().chain(rest).collect()
}

impl System {
    pub(super) fn new(has_id: bool, rows: usize) -> Self {
        Self {
            id: has_id.then(StringBuilder::new),
            topic: Repeated::with_capacity(rows, 1, 32),
            partition: Vec::with_capacity(rows),
            offset: Vec::with_capacity(rows),
            event_time: Vec::with_capacity(rows),
            record_time: Vec::with_capacity(rows),
            key: StringBuilder::with_capacity(rows, rows * 8),
            plugins: Repeated::with_capacity(rows, 1, 64),
            undecoded: BinaryBuilder::new(),
        }
    }

    pub(super) fn push(&mut self, row: Row<'_>) {
        if let Some(id) = &mut self.id {
            id.append_option(row.id);
        }
        self.topic.append_value(row.topic);
        self.partition.push(row.partition);
        self.offset.push(row.offset);
        self.event_time.push(row.event_time.clamp(TIMES.0, TIMES.1));
        self.record_time.push(row.record_time.clamp(TIMES.0, TIMES.1));
        self.key.append_option(row.key.map(super::text));
        self.plugins.append_option(row.plugins);
        self.undecoded.append_option(row.undecoded);
    }

    /// The columns; all rows were read at `now`.
    pub(super) fn finish(mut self, now: i64) -> Vec<ArrayRef> {
        let rows = self.partition.len();
        let times = |times: Vec<i64>| -> ArrayRef {
            Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC"))
        };
        let mut columns: Vec<ArrayRef> = Vec::new();
        if let Some(id) = &mut self.id {
            columns.push(Arc::new(id.finish()));
        }
        columns.push(Arc::new(self.topic.finish()));
        columns.push(Arc::new(Int32Array::from(self.partition)));
        columns.push(Arc::new(Int64Array::from(self.offset)));
        columns.push(times(self.event_time));
        columns.push(times(self.record_time));
        columns.push(times(vec![now; rows]));
        columns.push(Arc::new(self.key.finish()));
        columns.push(Arc::new(self.plugins.finish()));
        columns.push(Arc::new(self.undecoded.finish()));
        columns
    }
}
