//! Events as columns: what went through the gate, and what plugins and writers ask of it.

use std::borrow::Cow;
use std::sync::Arc;

use arrow_array::builder::{BinaryBuilder, StringBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, BooleanArray, Float64Array, Int64Array, TimestampMicrosecondArray, new_null_array};
use arrow_schema::{ArrowError, DataType};

use crate::contract::{Column, Contract, Source};
use crate::decode::Checked;
use crate::json::write;
use crate::plugin::FieldType;
use crate::records::Records;
use crate::time::{self, Time};

/// The events of a batch. All columns have as many rows as there are events.
#[derive(Debug, Clone)]
pub struct Events {
    /// Event i is record `rows[i]` of the batch.
    pub rows: Vec<u32>,
    /// One column for each field of the contract, in its order.
    pub columns: Vec<ArrayRef>,
    /// When each event happened, in microseconds since 1970-01-01T00:00:00Z.
    ///
    /// Where the contract's field does not say: the record's `ce_time` header (CloudEvents in Kafka's binary mode), else its timestamp.
    pub event_times: Int64Array,
    contract: Arc<Contract>,
    undeclared: Vec<bool>,
}

impl Events {
    pub(crate) fn new(
        contract: Arc<Contract>,
        records: &Records,
        rows: Vec<u32>,
        columns: Vec<ArrayRef>,
        undeclared: Vec<bool>,
    ) -> Self {
        let timestamps = records.body.timestamps.values();
        let has_headers = records.body.headers.null_count() < records.len();
        let of_record = |row: &u32| {
            let said = if has_headers { cloud_event_time(records, *row as usize) } else { None };
            said.or_else(|| timestamps.get(*row as usize).map(|timestamp| timestamp.saturating_mul(1_000))).unwrap_or(0)
        };
        let own = contract
            .event_time()
            .and_then(|index| columns.get(index))
            .and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
        let event_times = match own {
            Some(own) if own.null_count() == 0 => Int64Array::new(own.values().clone(), None),
            Some(own) => {
                own.iter().zip(&rows).map(|(own, row)| own.unwrap_or_else(|| of_record(row))).collect::<Vec<_>>().into()
            }
            None => rows.iter().map(of_record).collect::<Vec<_>>().into(),
        };
        Self { rows, columns, event_times, contract, undeclared }
    }

    /// Number of events.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no event.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The contract that they fit.
    pub fn contract(&self) -> &Arc<Contract> {
        &self.contract
    }

    /// The record of an event.
    pub fn record(&self, event: usize) -> usize {
        self.rows.get(event).map_or(usize::MAX, |row| *row as usize)
    }

    /// When an event happened.
    pub fn event_time(&self, event: usize) -> Time {
        Time(self.event_times.values().get(event).copied().unwrap_or_default())
    }

    /// Whether an event has fields that the contract does not name.
    pub fn has_undeclared(&self, event: usize) -> bool {
        self.undeclared.get(event).copied().unwrap_or(true)
    }

    /// The bytes of the contract's key field: text as it is, anything else as JSON. `None` when there is none.
    pub fn key(&self, event: usize) -> Option<Cow<'_, [u8]>> {
        self.scalar(self.contract.key()?, event)
    }

    /// The agent that an event is about, if the contract names a field for it.
    pub fn agent(&self, event: usize) -> Option<Cow<'_, str>> {
        match self.scalar(self.contract.agent()?, event)? {
            Cow::Borrowed(bytes) => str::from_utf8(bytes).ok().map(Cow::Borrowed),
            Cow::Owned(bytes) => String::from_utf8(bytes).ok().map(Cow::Owned),
        }
    }

    /// The value of any single-valued field as bytes, as [`Events::key`] gives it; also what de-duplication compares.
    pub fn scalar(&self, field: usize, event: usize) -> Option<Cow<'_, [u8]>> {
        let column = self.columns.get(field)?;
        if event >= column.len() || column.is_null(event) {
            return None;
        }
        if let Some(texts) = column.as_string_opt::<i32>() {
            return Some(Cow::Borrowed(texts.value(event).as_bytes()));
        }
        if let Some(times) = column.as_primitive_opt::<TimestampMicrosecondType>() {
            return Some(Cow::Owned(Time(times.value(event)).to_string().into_bytes()));
        }
        let mut text = Vec::with_capacity(24);
        write::Cells::of(column).write(&mut text, event);
        Some(Cow::Owned(text))
    }

    /// The events for which `keep` is true.
    ///
    /// # Errors
    /// When `keep` has another length.
    pub fn filter(&self, keep: &BooleanArray) -> Result<Self, ArrowError> {
        let kept = |index: usize| keep.is_valid(index) && keep.value(index);
        let event_times = arrow_select::filter::filter(&self.event_times, keep)?;
        Ok(Self {
            rows: self.rows.iter().enumerate().filter(|(i, _)| kept(*i)).map(|(_, row)| *row).collect(),
            columns: self.columns.iter().map(|c| arrow_select::filter::filter(c, keep)).collect::<Result<_, _>>()?,
            event_times: event_times.as_primitive::<Int64Type>().clone(),
            contract: Arc::clone(&self.contract),
            undeclared: self.undeclared.iter().enumerate().filter(|(i, _)| kept(*i)).map(|(_, flag)| *flag).collect(),
        })
    }

    /// The events `from..from + len`, sharing the columns' memory.
    pub fn slice(&self, from: usize, len: usize) -> Self {
        Self {
            rows: self.rows.iter().skip(from).take(len).copied().collect(),
            columns: self.columns.iter().map(|column| column.slice(from, len)).collect(),
            event_times: self.event_times.slice(from, len),
            contract: Arc::clone(&self.contract),
            undeclared: self.undeclared.iter().skip(from).take(len).copied().collect(),
        }
    }

    /// The column that a plugin resolved; `records` is the batch that the events came from, `added` what enrichers added so far.
    ///
    /// Columns of the contract are shared; integers read as numbers and system columns are made on demand.
    pub fn project(&self, column: &Column, records: &Records, added: &[ArrayRef]) -> ArrayRef {
        match &column.source {
            Source::Field(index) => self.typed(self.columns.get(*index), column.of_type),
            Source::Added(index) => self.typed(added.get(*index), column.of_type),
            Source::EventTime => {
                let times = TimestampMicrosecondArray::new(self.event_times.values().clone(), None);
                Arc::new(times.with_timezone("UTC"))
            }
            Source::Timestamp => {
                let millis = records.body.timestamps.values();
                let times =
                    self.rows.iter().map(|row| millis.get(*row as usize).map_or(0, |t| t.saturating_mul(1_000)));
                Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC"))
            }
            Source::Offset => {
                let offsets = records.offsets.values();
                let offsets = self.rows.iter().map(|row| offsets.get(*row as usize).copied().unwrap_or_default());
                typed_number(Arc::new(Int64Array::from_iter_values(offsets)), column.of_type)
            }
            Source::Key => self.bytes(column.of_type, |event, row| {
                self.key(event).or_else(|| records.body.key(row).map(Cow::Borrowed))
            }),
            Source::Payload => self.bytes(column.of_type, |_, row| records.body.value(row).map(Cow::Borrowed)),
            Source::Header(name) => {
                self.bytes(column.of_type, |_, row| records.body.headers(row).last(name).map(Cow::Borrowed))
            }
        }
    }

    fn typed(&self, column: Option<&ArrayRef>, of_type: FieldType) -> ArrayRef {
        match column {
            Some(column) => typed_number(Arc::clone(column), of_type),
            None => new_null_array(&of_type.arrow(), self.len()),
        }
    }

    /// A column of texts (null where not UTF-8) or bytes.
    fn bytes<'a>(&'a self, of_type: FieldType, value: impl Fn(usize, usize) -> Option<Cow<'a, [u8]>>) -> ArrayRef {
        let values = self.rows.iter().enumerate().map(|(event, row)| value(event, *row as usize));
        if of_type == FieldType::Binary {
            let mut out = BinaryBuilder::with_capacity(self.len(), self.len() * 16);
            values.for_each(|value| out.append_option(value));
            return Arc::new(out.finish());
        }
        let mut out = StringBuilder::with_capacity(self.len(), self.len() * 16);
        values.for_each(|value| out.append_option(value.as_deref().and_then(|bytes| str::from_utf8(bytes).ok())));
        Arc::new(out.finish())
    }
}

impl Checked {
    /// [`Events::project`] with the batch's own records.
    pub fn project(&self, column: &Column, added: &[ArrayRef]) -> ArrayRef {
        self.events.project(column, &self.records, added)
    }
}

/// When an event happened by the header of a CloudEvent in binary mode (CloudEvents Kafka protocol binding 1.0.2, §3.2.3.1).
fn cloud_event_time(records: &Records, row: usize) -> Option<i64> {
    time::parse(records.body.headers(row).last("ce_time")?)
}

/// Integers that a plugin reads as numbers.
fn typed_number(column: ArrayRef, of_type: FieldType) -> ArrayRef {
    match (column.data_type(), of_type) {
        (DataType::Int64, FieldType::Number) => {
            let numbers: Float64Array =
                column.as_primitive::<Int64Type>().unary::<_, Float64Type>(|value| value as f64);
            Arc::new(numbers)
        }
        _ => column,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::Field;
    use crate::records::{HeadersBuilder, RecordsBuilder};

    #[test]
    fn a_plugin_gets_the_columns_that_it_resolved() {
        let yaml = "apiVersion: v3.1.0\nkind: DataContract\nid: c\nversion: '1'\nschema:\n- name: s\n  customProperties: [{property: phronis.key, value: n}]\n  properties: [{name: n, logicalType: integer}]\n";
        let contract = Arc::new(Contract::parse(yaml, "c").unwrap());
        let mut headers = HeadersBuilder::default();
        headers.push("h", b"old").push("h", b"new");
        let mut records = RecordsBuilder::default();
        records.push(1, Some(b"a"), Some(b"bad"), &[]);
        records.push(2, Some(b"b"), Some(b"{\"n\":7}"), headers.as_bytes());
        records.push(3, Some(b"c"), Some(b"{}"), &[]);
        let records =
            Records { topic: "t".into(), partition: 0, offsets: vec![10, 11, 12].into(), body: records.finish() };
        let checked = crate::Decoder::new(Arc::clone(&contract)).check(records);
        let cell = |path: &str, of_type, row| {
            let field = Field { path: path.into(), of_type, required: false };
            let column = checked.project(&contract.resolve(&field, &[]).unwrap(), &[]);
            assert_eq!((column.len(), column.data_type()), (2, &of_type.arrow()), "{path}");
            let mut json = Vec::new();
            write::Cells::of(&column).write(&mut json, row);
            String::from_utf8(json).unwrap()
        };
        for (path, of_type, first, second) in [
            ("n", FieldType::Integer, "7", "null"),
            ("n", FieldType::Number, "7.0", "null"),
            ("$key", FieldType::Text, "\"7\"", "\"c\""),
            ("$offset", FieldType::Integer, "11", "12"),
            ("$timestamp", FieldType::Timestamp, "\"1970-01-01T00:00:00.002000Z\"", "\"1970-01-01T00:00:00.003000Z\""),
            ("$event_time", FieldType::Timestamp, "\"1970-01-01T00:00:00.002000Z\"", "\"1970-01-01T00:00:00.003000Z\""),
            ("$payload", FieldType::Text, "\"{\\\"n\\\":7}\"", "\"{}\""),
            ("$header.h", FieldType::Text, "\"new\"", "null"),
        ] {
            assert_eq!((cell(path, of_type, 0).as_str(), cell(path, of_type, 1).as_str()), (first, second), "{path}");
        }
        let kept = checked.events.filter(&BooleanArray::from(vec![false, true])).unwrap();
        assert_eq!((kept.rows, kept.columns.first().map(|column| column.len())), (vec![2], Some(1)));
    }
    #[test]
    fn a_cloud_event_in_binary_mode_says_when_it_happened() {
        let yaml = "apiVersion: v3.1.0\nkind: DataContract\nid: c\nversion: '1'\nschema:\n- name: s\n";
        let silent = format!("{yaml}  properties: [{{name: at, logicalType: timestamp}}]\n");
        let named = format!(
            "{yaml}  customProperties: [{{property: phronis.eventTime, value: at}}]\n  properties: [{{name: at, logicalType: timestamp}}]\n"
        );
        let cloud = |time: &[u8]| {
            let mut headers = HeadersBuilder::default();
            headers.push("ce_specversion", b"1.0").push("ce_id", b"1").push("ce_type", b"t").push("ce_source", b"/s");
            headers.push("ce_time", time).push("content-type", b"application/json");
            headers
        };
        let noon = 1_732_276_800_000_000;
        let own = br#"{"at":"2024-11-22T11:00:00Z"}"#;
        for (contract, expected) in
            [(silent, [noon, 2_000, 3_000, noon]), (named, [noon, 2_000, 3_000, noon - 3_600_000_000])]
        {
            let mut records = RecordsBuilder::default();
            records.push(1, None, Some(b"{}"), cloud(b"2024-11-22T13:00:00+01:00").as_bytes());
            records.push(2, None, Some(b"{}"), cloud(b"yesterday").as_bytes());
            records.push(3, None, Some(b"{}"), &[]);
            records.push(4, None, Some(own), cloud(b"2024-11-22T12:00:00Z").as_bytes());
            let records =
                Records { topic: "t".into(), partition: 0, offsets: vec![0, 1, 2, 3].into(), body: records.finish() };
            let contract = Arc::new(Contract::parse(&contract, "c").unwrap());
            let checked = crate::Decoder::new(contract).check(records);
            assert_eq!(checked.events.event_times.values().to_vec(), expected, "{:?}", checked.rejected);
        }
    }
}
