//! Rows of processed events: read by the contract's own decoder, with the columns that enrichers added.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, new_null_array};
use arrow_schema::{ArrowError, Schema, SchemaRef};
use phronis_core::contract::Contract;
use phronis_core::decode::{Checked, Decoder};
use phronis_core::plugin::Added;
use phronis_core::processed::{ADDED, ORIGIN_OFFSET, PLUGINS};
use phronis_core::records::{Headers, Records, TopicName};

use super::Made;
use super::system::{Row, System, field, fields};

/// Makes rows of processed events.
#[derive(Debug)]
pub(crate) struct EventRows {
    decoder: Decoder,
    schema: SchemaRef,
    /// Where the events were first read.
    raw: TopicName,
    /// The plugins that the last events of each partition went through.
    plugins: BTreeMap<i32, Arc<str>>,
}

/// What the host wrote beside an event.
#[derive(Debug, Default, Clone, Copy)]
struct Beside<'a> {
    offset: Option<i64>,
    plugins: Option<&'a str>,
    added: Option<&'a str>,
}

impl<'a> Beside<'a> {
    /// A producer's own headers come first, whatever they are called: ours begin with the last origin.
    fn read(headers: Headers<'a>) -> Self {
        let mut beside = Self::default();
        for (name, value) in headers {
            let text = || str::from_utf8(value).ok();
            match name {
                ORIGIN_OFFSET => {
                    let offset = text().and_then(|text| text.parse().ok()).filter(|offset| *offset >= 0);
                    beside = Self { offset, ..Self::default() };
                }
                PLUGINS if beside.offset.is_some() => beside.plugins = text(),
                ADDED if beside.offset.is_some() => beside.added = text(),
                _ => {}
            }
        }
        beside
    }
}

impl EventRows {
    /// Rows of events of this contract, which were first read in `raw`, with added columns.
    pub(crate) fn new(contract: &Contract, raw: TopicName, added: &[Added]) -> Self {
        let contract = Arc::new(contract.loosened(added));
        let own = contract.fields().iter().map(|own| field(&own.path, own.of_type.arrow()));
        let schema = Arc::new(Schema::new(fields(false).into_iter().chain(own).collect::<Vec<_>>()));
        Self { decoder: Decoder::new(contract), schema, raw, plugins: BTreeMap::new() }
    }

    pub(crate) fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Takes note of the plugins that stand in records before those that will be read.
    pub(crate) fn look_back(&mut self, records: &Records) {
        for row in 0..records.len() {
            if let Some(plugins) = Beside::read(records.body.headers(row)).plugins {
                self.plugins.insert(records.partition, plugins.into());
            }
        }
    }

    pub(super) fn unknown(&self, records: &Records) -> Vec<Added> {
        let mut unknown: Vec<Added> = Vec::new();
        if records.body.headers.len() == records.body.headers.null_count() {
            return unknown;
        }
        for row in 0..records.len() {
            let Some(added) = Beside::read(records.body.headers(row)).added else { continue };
            for column in Added::read_list(added) {
                let is_known = self.schema.column_with_name(&column.name).is_some()
                    || unknown.iter().any(|other| other.name == column.name)
                    || self.decoder.contract().declares(&column.name);
                if !is_known && !column.name.starts_with(super::PREFIX) {
                    unknown.push(column);
                }
            }
        }
        unknown
    }

    pub(super) fn make(&mut self, records: Records, now: i64) -> Result<Made, ArrowError> {
        let checked = self.decoder.check(records);
        let Checked { records, events, rejected } = &checked;
        let mut system = System::new(false, records.len());
        let mut refused = rejected.iter().map(|rejection| rejection.row as usize).peekable();
        let (mut event, mut foreign, mut undecoded) = (0, 0, 0);
        let mut places = Vec::with_capacity(records.len());
        for row in 0..records.len() {
            let is_refused = refused.next_if_eq(&row).is_some();
            let beside = Beside::read(records.body.headers(row));
            if let Some(plugins) = beside.plugins {
                self.plugins.insert(records.partition, plugins.into());
            }
            let record_time = records.body.timestamps.values().get(row).copied().unwrap_or_default();
            let record_time = record_time.saturating_mul(1000);
            foreign += u64::from(beside.offset.is_none());
            undecoded += u64::from(is_refused);
            system.push(Row {
                id: None,
                topic: if beside.offset.is_some() { &self.raw } else { &records.topic },
                partition: records.partition,
                offset: beside.offset,
                event_time: if is_refused { record_time } else { events.event_time(event).0 },
                record_time,
                key: records.body.key(row),
                plugins: self.plugins.get(&records.partition).filter(|_| beside.offset.is_some()).map(AsRef::as_ref),
                undecoded: is_refused.then(|| records.body.value(row).unwrap_or_default()),
            });
            places.push((!is_refused).then_some(event));
            event += usize::from(!is_refused);
        }
        let mut columns = system.finish(now);
        for column in &events.columns {
            columns.push(if rejected.is_empty() { Arc::clone(column) } else { spread(column, &places)? });
        }
        Ok(Made { rows: RecordBatch::try_new(self.schema(), columns)?, foreign, undecoded })
    }
}

/// A column of events as a column of records: null where a record is no event.
fn spread(column: &ArrayRef, places: &[Option<usize>]) -> Result<ArrayRef, ArrowError> {
    let nothing = new_null_array(column.data_type(), 1);
    let indices: Vec<(usize, usize)> = places.iter().map(|place| place.map_or((1, 0), |place| (0, place))).collect();
    arrow_select::interleave::interleave(&[column.as_ref(), nothing.as_ref()], &indices)
}
