//! Rows of alerts.

use std::sync::Arc;

use arrow_array::builder::{BooleanBuilder, StringBuilder};
use arrow_array::{ArrayRef, RecordBatch, TimestampMicrosecondArray};
use arrow_schema::{ArrowError, DataType, Schema, SchemaRef};
use phronis_core::alert::Alert;
use phronis_core::records::Records;

use super::Made;
use super::system::{ID, Repeated, Row, System, field, fields, repeated, time};
use crate::plugins::label;

/// Findings about one event are told apart by their id.
pub(super) const KEY: [&str; 1] = [ID];

/// Makes rows of alerts.
#[derive(Debug)]
pub(crate) struct AlertRows {
    schema: SchemaRef,
}

const NAMES: [&str; 5] = ["plugin", "plugin_version", "plugin_digest", "rule", "severity"];

const TEXTS: [&str; 4] = ["message", "agent", "attributes", "event"];

impl AlertRows {
    pub(crate) fn new() -> Self {
        let names = NAMES.iter().map(|name| field(name, repeated()));
        let texts = TEXTS.iter().map(|name| field(name, DataType::Utf8));
        let more = [field("detected_at", time()), field("delivered_at", time()), field("halt", DataType::Boolean)];
        let all: Vec<_> = fields(true).into_iter().chain(names).chain(texts).chain(more).collect();
        Self { schema: Arc::new(Schema::new(all)) }
    }

    pub(super) fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    pub(super) fn make(&self, records: &Records, now: i64) -> Result<Made, ArrowError> {
        let mut system = System::new(true, records.len());
        let mut own = Own::default();
        let (mut foreign, mut undecoded) = (0, 0);
        for row in 0..records.len() {
            let record_time = records.body.timestamps.values().get(row).copied().unwrap_or_default();
            let value = records.body.value(row).unwrap_or_default();
            match serde_json::from_slice::<Alert>(value) {
                Ok(alert) => {
                    let plugin = &alert.plugin;
                    system.push(Row {
                        id: Some(&alert.id.to_string()),
                        topic: &alert.origin.topic,
                        partition: alert.origin.partition,
                        offset: Some(alert.origin.offset),
                        event_time: alert.event_time.0,
                        record_time: alert.origin.timestamp.0,
                        key: alert.key.as_ref().map(String::as_bytes).or_else(|| records.body.key(row)),
                        plugins: Some(&label(&plugin.name, &plugin.version, &plugin.digest)),
                        undecoded: None,
                    });
                    own.push(&alert);
                }
                Err(_) => {
                    (foreign, undecoded) = (foreign + 1, undecoded + 1);
                    let record_time = record_time.saturating_mul(1000);
                    system.push(Row {
                        id: None,
                        topic: &records.topic,
                        partition: records.partition,
                        offset: None,
                        event_time: record_time,
                        record_time,
                        key: records.body.key(row),
                        plugins: None,
                        undecoded: Some(value),
                    });
                    own.push_none();
                }
            }
        }
        let mut columns = system.finish(now);
        columns.extend(own.finish());
        Ok(Made { rows: RecordBatch::try_new(self.schema(), columns)?, foreign, undecoded })
    }
}

/// The columns of alerts alone, under construction.
#[derive(Default)]
struct Own {
    names: [Repeated; NAMES.len()],
    texts: [StringBuilder; TEXTS.len()],
    detected_at: Vec<Option<i64>>,
    delivered_at: Vec<Option<i64>>,
    halt: BooleanBuilder,
}

impl Own {
    fn push(&mut self, alert: &Alert) {
        let Alert { plugin, rule, severity, message, agent, attributes, event, .. } = alert;
        let json = |map: &serde_json::Map<_, _>| serde_json::to_string(map).unwrap_or_default();
        let (severity, attributes, event) = (severity.to_string(), json(attributes), json(event));
        let names = [plugin.name.as_str(), &plugin.version, &plugin.digest, rule, &severity];
        self.names.iter_mut().zip(names).for_each(|(builder, name)| builder.append_value(name));
        let texts = [Some(message.as_str()), agent.as_deref(), Some(&attributes), Some(&event)];
        self.texts.iter_mut().zip(texts).for_each(|(builder, text)| builder.append_option(text));
        self.detected_at.push(Some(alert.detected_at.0));
        self.delivered_at.push(Some(alert.stages.delivered.0));
        self.halt.append_value(alert.halt);
    }

    fn push_none(&mut self) {
        self.names.iter_mut().for_each(Repeated::append_null);
        self.texts.iter_mut().for_each(StringBuilder::append_null);
        self.detected_at.push(None);
        self.delivered_at.push(None);
        self.halt.append_null();
    }

    fn finish(mut self) -> Vec<ArrayRef> {
        let times = |times: Vec<Option<i64>>| -> ArrayRef {
            Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC"))
        };
        let mut columns: Vec<ArrayRef> =
            self.names.iter_mut().map(|builder| Arc::new(builder.finish()) as ArrayRef).collect();
        columns.extend(self.texts.iter_mut().map(|builder| Arc::new(builder.finish()) as ArrayRef));
        columns.extend([times(self.detected_at), times(self.delivered_at), Arc::new(self.halt.finish()) as ArrayRef]);
        columns
    }
}
