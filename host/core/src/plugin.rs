//! What host and plugins say to each other, without the machinery that carries it.
//!
//! The engine translates these to and from `wit/plugin.wit`; the pipeline only knows these.

use std::fmt;
use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_schema::{DataType, Field as ArrowField, TimeUnit};
use serde::{Deserialize, Serialize};

/// What a plugin does with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Looks at events and reports findings.
    Detector,
    /// Adds columns, or drops events by a rule.
    Enricher,
}

/// The type of a column that a plugin reads or adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FieldType {
    /// `BooleanArray`.
    Boolean,
    /// `Int64Array`.
    Integer,
    /// `Float64Array`.
    Number,
    /// `StringArray`.
    Text,
    /// `TimestampMicrosecondArray` in UTC.
    Timestamp,
    /// `BinaryArray`.
    Binary,
    /// `ListArray` of strings.
    Texts,
    /// `ListArray` of doubles.
    Numbers,
}

impl FieldType {
    /// What it is called in messages, in WIT's words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Text => "text",
            Self::Timestamp => "timestamp",
            Self::Binary => "binary",
            Self::Texts => "texts",
            Self::Numbers => "numbers",
        }
    }

    /// The type of a name.
    pub fn parse(name: &str) -> Option<Self> {
        use FieldType::{Binary, Boolean, Integer, Number, Numbers, Text, Texts, Timestamp};
        [Boolean, Integer, Number, Text, Timestamp, Binary, Texts, Numbers].into_iter().find(|of| of.name() == name)
    }

    /// The Arrow type of its column.
    pub fn arrow(self) -> DataType {
        let list = |of| DataType::List(Arc::new(ArrowField::new_list_field(of, true)));
        match self {
            Self::Boolean => DataType::Boolean,
            Self::Integer => DataType::Int64,
            Self::Number => DataType::Float64,
            Self::Text => DataType::Utf8,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Binary => DataType::Binary,
            Self::Texts => list(DataType::Utf8),
            Self::Numbers => list(DataType::Float64),
        }
    }
}

/// A column that a plugin reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// Path into the event (`value`, `metadata.temp`) or a system column (`$key`, `$event_time`, `$timestamp`, `$offset`, `$payload`, `$header.<name>`).
    pub path: String,
    /// The type that the plugin wants.
    #[serde(rename = "type")]
    pub of_type: FieldType,
    /// Rows with a null here are not shown to the plugin.
    pub required: bool,
}

/// A column that an enricher adds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Added {
    /// Top-level name of the new field.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub of_type: FieldType,
}

impl Added {
    /// Columns as one text: `name:type`, with commas between; a comma or percent sign in a name is written `%2C`, `%25`.
    pub fn list(added: &[Self]) -> String {
        let one =
            |added: &Self| format!("{}:{}", added.name.replace('%', "%25").replace(',', "%2C"), added.of_type.name());
        added.iter().map(one).collect::<Vec<_>>().join(",")
    }

    /// Reads [`Added::list`]; what is none is left out.
    pub fn read_list(text: &str) -> Vec<Self> {
        let one = |part: &str| {
            let (name, of_type) = part.rsplit_once(':')?;
            let name = name.replace("%2C", ",").replace("%25", "%");
            Some(Self { name, of_type: FieldType::parse(of_type)? })
        };
        text.split(',').filter_map(one).collect()
    }
}

/// What a plugin says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The plugin's own name (the file's name decides what it is called in a stream).
    pub name: String,
    /// The author's version.
    pub version: String,
    /// Detector or enricher.
    pub kind: Kind,
    /// JSON Schema of the parameters.
    pub params_schema: serde_json::Value,
    /// Whether it keeps something between batches.
    pub stateful: bool,
}

/// What a plugin is shown in one call: rows of one partition.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// The partition that all rows come from.
    pub partition: i32,
    /// Latest event time seen in the partition, in microseconds since 1970-01-01T00:00:00Z.
    pub watermark: i64,
    /// Number of rows.
    pub rows: usize,
    /// The declared columns, in the order of the plugin's fields; each has `rows` rows.
    pub columns: &'a [ArrayRef],
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Someone should look.
    Warning,
    /// Someone must act.
    Critical,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        })
    }
}

/// What a detector says about one row.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// The row of the batch, from 0.
    pub row: usize,
    /// Which rule fired.
    pub rule: String,
    /// How bad it is.
    pub severity: Severity,
    /// One sentence for a person.
    pub message: String,
    /// More facts.
    pub attributes: Vec<(String, String)>,
    /// Asks the host to halt the event's agent.
    pub halt: bool,
}

/// Why a call, or a row, has no answer from the plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The plugin said that it cannot judge this row.
    Row,
    /// The plugin returned an error for the whole batch.
    Error,
    /// The guest trapped (panic, unreachable, stack overflow, exit).
    Trap,
    /// The call ran into its deadline.
    Deadline,
    /// The guest wanted more memory than its limit.
    Memory,
    /// The answer breaks the contract (row out of range, too many findings, wrong column length).
    BadOutput,
    /// The budget for finding guilty rows was used up; the row was not run.
    Budget,
}

/// A row without an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowFailure {
    /// The row of the batch, from 0.
    pub row: usize,
    /// Why.
    pub kind: FailureKind,
    /// Why, in words; bounded by the engine.
    pub message: String,
}

/// A row that an enricher drops by its rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drop {
    /// The row of the batch, from 0.
    pub row: usize,
    /// Why, in words.
    pub reason: String,
}

/// A detector's answer to a batch, after guilty rows were found and left out.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Judgement {
    /// Findings, by row.
    pub findings: Vec<Finding>,
    /// Rows without an answer, by row.
    pub failures: Vec<RowFailure>,
}

/// An enricher's answer to a batch, after guilty rows were found and left out.
#[derive(Debug, Clone, Default)]
pub struct Enrichment {
    /// The added columns, in the order of `adds`, each as long as the batch; null where a row failed.
    pub columns: Vec<ArrayRef>,
    /// Rows to drop, by row.
    pub drops: Vec<Drop>,
    /// Rows without an answer, by row.
    pub failures: Vec<RowFailure>,
}

/// Ceilings for one plugin. Files and API only lower what the host and the tenant allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Linear memory, in bytes.
    pub memory: u64,
    /// Time for one call, in milliseconds.
    pub deadline_ms: u64,
    /// Findings, failures and drops that one call may return.
    pub output_rows: u32,
    /// Bytes that one call may return.
    pub output_bytes: u64,
    /// Bytes that the plugin may log in a second.
    pub log_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory: 64 << 20, deadline_ms: 1_000, output_rows: 10_000, output_bytes: 8 << 20, log_bytes: 16 << 10 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn added_columns_read_back_from_their_list() {
        let of = |name: &str, of_type| Added { name: name.into(), of_type };
        let added = [of("value_normal", FieldType::Number), of("a,b:%2C", FieldType::Texts), of("ä", FieldType::Text)];
        let list = Added::list(&added);
        assert_eq!(list, "value_normal:number,a%2Cb:%252C:texts,ä:text");
        assert_eq!(Added::read_list(&list), added);
        assert_eq!(Added::read_list("x:nothing,,:,y"), []);
    }
}
