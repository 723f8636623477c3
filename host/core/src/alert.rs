//! An alert: a finding, delivered. Enough to act on and to explain it, and when each step was taken.

use arrow_array::{Array, ArrayRef};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::StreamId;
use crate::id::{Id, Position};
use crate::json::write::Cells;
use crate::letter::Origin;
use crate::name::Name;
use crate::plugin::{Field, Severity};
use crate::time::Time;

/// A finding, delivered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// The same for the same finding about the same record: consumers drop what they have seen.
    pub id: Id,
    /// Whose stream it is.
    pub tenant: Name,
    /// The stream.
    pub stream: Name,
    /// Who found it.
    pub plugin: Plugin,
    /// Which of its rules fired.
    pub rule: String,
    /// How bad it is.
    pub severity: Severity,
    /// One sentence for a person.
    pub message: String,
    /// Who the event is about.
    pub agent: Option<String>,
    /// The event's key.
    pub key: Option<String>,
    /// More facts from the plugin.
    pub attributes: Map<String, Value>,
    /// The fields that the plugin read, by path.
    pub event: Map<String, Value>,
    /// The record that the event came from.
    pub origin: RecordOrigin,
    /// When it happened.
    pub event_time: Time,
    /// When the plugin found it.
    pub detected_at: Time,
    /// The agent is to be halted. Set by the host, and only where its configuration lets this plugin halt.
    pub halt: bool,
    /// When each step was taken.
    pub stages: Stages,
}

impl Alert {
    /// An alert of the host itself about a stream: it comes of no record, and `place` makes it another than those before.
    /// Critical and without words, unless the caller says otherwise.
    pub fn by_host(stream: &StreamId, raw: &str, by: Plugin, rule: &str, place: Position<'_>, at: Time) -> Self {
        Self {
            id: Id::of_alert(stream, &by.name, rule, place),
            tenant: stream.tenant.clone(),
            stream: stream.stream.clone(),
            plugin: by,
            rule: rule.to_owned(),
            severity: Severity::Critical,
            message: String::new(),
            agent: None,
            key: None,
            attributes: Map::new(),
            event: Map::new(),
            // The offset is none that exists.
            origin: RecordOrigin { topic: raw.to_owned(), partition: 0, offset: -1, timestamp: at },
            event_time: at,
            detected_at: at,
            halt: false,
            stages: Stages { received: at, checked: at, judged: at, delivered: at },
        }
    }
}

/// The plugin that found it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plugin {
    /// What it is called in the stream.
    pub name: Name,
    /// Its version, as its author counts.
    pub version: String,
    /// Digest of its file.
    pub digest: String,
}

/// The record that the event came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordOrigin {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// The record's own timestamp.
    pub timestamp: Time,
}

/// When each step was taken, for this event. Each is the end of the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stages {
    /// The batch was polled.
    pub received: Time,
    /// The gate was through.
    pub checked: Time,
    /// The plugin had judged the batch.
    pub judged: Time,
    /// The alert was written, to be made durable with its batch.
    pub delivered: Time,
}

impl Alert {
    /// Appends the alert as JSON.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        // Fails only for maps whose keys are no texts, of which there are none.
        let _infallible = serde_json::to_writer(out, self);
    }
}

impl From<&Origin> for RecordOrigin {
    fn from(origin: &Origin) -> Self {
        Self {
            topic: origin.topic.as_ref().to_owned(),
            partition: origin.partition,
            offset: origin.offset,
            timestamp: Time::from_millis(origin.timestamp),
        }
    }
}

/// The values that a plugin read of a row, by path: what goes into [`Alert::event`].
pub fn event(fields: &[Field], columns: &[ArrayRef], row: usize) -> Map<String, Value> {
    let value = |column: &ArrayRef| {
        if row >= column.len() {
            return Value::Null;
        }
        let mut json = Vec::new();
        Cells::of(column).write(&mut json, row);
        serde_json::from_slice(&json).unwrap_or_default()
    };
    fields.iter().zip(columns).map(|(field, column)| (field.path.clone(), value(column))).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{Float64Array, StringArray};
    use serde_json::json;

    use super::*;
    use crate::plugin::FieldType;

    #[test]
    fn an_alert_is_written_as_the_design_names_it_and_read_back() {
        let field = |path: &str, of_type| Field { path: path.into(), of_type, required: true };
        let columns: [ArrayRef; 2] =
            [Arc::new(StringArray::from(vec!["a", "S1"])), Arc::new(Float64Array::from(vec![1.0, 98.5]))];
        let fields = [field("sensor_id", FieldType::Text), field("meta.temp", FieldType::Number)];
        let at = Time(1_732_276_800_000_001);
        let alert = Alert {
            id: Id([7; 16]),
            tenant: "default".parse().unwrap(),
            stream: "sensors".parse().unwrap(),
            plugin: Plugin { name: "hot".parse().unwrap(), version: "1".into(), digest: "ab".into() },
            rule: "too-hot".into(),
            severity: Severity::Warning,
            message: "hot\n".into(),
            agent: None,
            key: Some("S1".into()),
            attributes: Map::new(),
            event: event(&fields, &columns, 1),
            origin: RecordOrigin { topic: "t".into(), partition: 1, offset: 2, timestamp: at },
            event_time: at,
            detected_at: at,
            halt: false,
            stages: Stages { received: at, checked: at, judged: at, delivered: at },
        };
        let mut out = Vec::new();
        alert.write_json(&mut out);
        let value: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value["event"], json!({"sensor_id": "S1", "meta.temp": 98.5}));
        assert_eq!(value["stages"]["judged"], json!("2024-11-22T12:00:00.000001Z"));
        assert_eq!((&value["id"], &value["severity"]), (&json!("07".repeat(16)), &json!("warning")));
        assert_eq!(serde_json::from_slice::<Alert>(&out).unwrap(), alert);
    }
}
