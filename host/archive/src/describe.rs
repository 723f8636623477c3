//! What tables of the archive are, for people and programs that ask.

use iceberg::spec::{Snapshot, TableMetadata};
use iceberg::table::Table;
use phronis_core::time::Time;
use serde::Serialize;
use serde_json::Value;

use crate::TableName;

/// A table, as it is now.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Described {
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub tenant: String,
    /// The stream.
    pub stream: String,
    /// `events`, `alerts` or `letters`.
    pub kind: String,
    /// Rows.
    pub rows: u64,
    /// Data files.
    pub files: u64,
    /// Bytes of the data files.
    pub bytes: u64,
    /// The newest snapshot. Ids have 63 bits, more than a JavaScript number holds: they are texts.
    pub snapshot: Option<String>,
    /// When it was made.
    pub committed_at: Option<Time>,
    /// How many snapshots can be read.
    pub snapshots: u64,
    /// Where its files are.
    pub location: String,
    /// The file of its newest metadata, for engines that read without a catalog.
    pub metadata: Option<String>,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type, in Iceberg's words.
    #[serde(rename = "type")]
    pub of_type: String,
    /// Whether it is never null.
    pub required: bool,
}

/// A table, with its columns and what was archived.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Detailed {
    /// The table.
    #[serde(flatten)]
    pub table: Described,
    /// Its columns.
    pub columns: Vec<Column>,
    /// What its files are divided by.
    pub partitioned_by: Vec<String>,
    /// How far each partition of its source is archived, as the table says it.
    pub progress: Option<Value>,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Taken {
    /// Its id, for `FOR VERSION AS OF`.
    pub id: String,
    /// When it was made.
    pub at: Time,
    /// What was done: `append`, `replace`, `delete`, `overwrite`.
    pub operation: String,
    /// Whether it is what queries read now.
    pub current: bool,
    /// Rows that it has.
    pub rows: u64,
    /// Data files that it has.
    pub files: u64,
    /// Bytes of its data files.
    pub bytes: u64,
    /// Rows that it added.
    pub added_rows: u64,
    /// Files that it added.
    pub added_files: u64,
}

/// The property that says how far a table's source is archived.
const PROGRESS: &str = "phronis.progress";

/// What a table is.
pub fn describe(name: &TableName, table: &Table) -> Described {
    let metadata = table.metadata();
    let newest = metadata.current_snapshot();
    let total = |key| newest.map_or(0, |snapshot| number(snapshot, key));
    Described {
        name: name.to_string(),
        tenant: name.tenant.to_string(),
        stream: name.stream.to_string(),
        kind: name.kind.to_string(),
        rows: total("total-records"),
        files: total("total-data-files"),
        bytes: total("total-files-size"),
        snapshot: newest.map(|snapshot| snapshot.snapshot_id().to_string()),
        committed_at: newest.map(|snapshot| time(snapshot)),
        snapshots: u64::try_from(metadata.snapshots().count()).unwrap_or_default(),
        location: metadata.location().to_owned(),
        metadata: table.metadata_location().map(str::to_owned),
    }
}

/// What a table is, with its columns.
pub fn detail(name: &TableName, table: &Table) -> Detailed {
    let metadata = table.metadata();
    let schema = metadata.current_schema();
    let columns = schema.as_struct().fields().iter().map(|field| Column {
        name: field.name.clone(),
        of_type: field.field_type.to_string(),
        required: field.required,
    });
    let source = |id| schema.name_by_field_id(id).unwrap_or("?").to_owned();
    let fields = metadata.default_partition_spec().fields().iter();
    let progress = metadata.properties().get(PROGRESS).and_then(|text| serde_json::from_str(text).ok());
    Detailed {
        table: describe(name, table),
        columns: columns.collect(),
        partitioned_by: fields.map(|field| format!("{}({})", field.transform, source(field.source_id))).collect(),
        progress,
    }
}

/// The snapshots of a table, the newest first.
pub fn snapshots(metadata: &TableMetadata) -> Vec<Taken> {
    let mut all: Vec<&Snapshot> = metadata.snapshots().map(AsRef::as_ref).collect();
    all.sort_by_key(|snapshot| (snapshot.sequence_number(), snapshot.timestamp_ms()));
    let taken = all.into_iter().rev().map(|snapshot| Taken {
        id: snapshot.snapshot_id().to_string(),
        at: time(snapshot),
        operation: snapshot.summary().operation.as_str().to_owned(),
        current: metadata.current_snapshot_id() == Some(snapshot.snapshot_id()),
        rows: number(snapshot, "total-records"),
        files: number(snapshot, "total-data-files"),
        bytes: number(snapshot, "total-files-size"),
        added_rows: number(snapshot, "added-records"),
        added_files: number(snapshot, "added-data-files"),
    });
    taken.collect()
}

fn time(snapshot: &Snapshot) -> Time {
    Time(snapshot.timestamp_ms().saturating_mul(1000))
}

fn number(snapshot: &Snapshot, key: &str) -> u64 {
    snapshot.summary().additional_properties.get(key).and_then(|text| text.parse().ok()).unwrap_or_default()
}
