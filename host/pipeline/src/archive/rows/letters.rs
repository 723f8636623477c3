//! Rows of letters, and of all else that stands in a dlq topic: further attempts, range letters, settlements, discards.
//!
//! Whom to believe is told in `phronis_core::letter`.

use std::sync::Arc;

use arrow_array::builder::{BinaryBuilder, StringBuilder};
use arrow_array::{ArrayRef, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow_schema::{ArrowError, DataType, Schema, SchemaRef};
use phronis_core::code::Code;
use phronis_core::letter::{
    Kind, Letter, Origin, Outcome, Plugin, RANGE, REDRIVE, Range, Settlement, Stage, original_headers,
};
use phronis_core::records::{Headers, HeadersBuilder, Records};

use super::Made;
use super::system::{ID, Repeated, Row, System, field, fields, repeated, time};
use crate::plugins::label;

/// A letter, its further attempts and its end have one id.
pub(super) const KEY: [&str; 4] = [ID, "kind", "attempt", "previous"];

/// Makes rows of letters.
#[derive(Debug)]
pub(crate) struct LetterRows {
    schema: SchemaRef,
}

const NAMES: [&str; 7] = ["stage", "code", "plugin", "plugin_version", "plugin_digest", "outcome", "redrive"];

const TEXTS: [&str; 4] = ["kind", "message", "trace_id", "headers"];

const TIMES: [&str; 3] = ["first_failed_at", "written_at", "due_at"];

const NUMBERS: [&str; 3] = ["letter_offset", "previous", "records"];

impl LetterRows {
    pub(crate) fn new() -> Self {
        let names = NAMES.iter().map(|name| field(name, repeated()));
        let texts = TEXTS.iter().map(|name| field(name, DataType::Utf8));
        let times = TIMES.iter().map(|name| field(name, time()));
        let numbers = NUMBERS.iter().map(|name| field(name, DataType::Int64));
        let more =
            [field("attempt", DataType::Int32), field("key", DataType::Binary), field("value", DataType::Binary)];
        let own = names.chain(texts).chain(times).chain(numbers).chain(more);
        let all: Vec<_> = fields(true).into_iter().chain(own).collect();
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
            let headers = records.body.headers(row);
            let said = Said::read(headers, records.body.value(row).unwrap_or_default());
            let record_time = records.body.timestamps.values().get(row).copied().unwrap_or_default();
            let record_time = record_time.saturating_mul(1000);
            let (origin, id) = (said.origin.as_ref(), said.id.as_deref());
            let is_foreign = said.kind == "unknown";
            foreign += u64::from(is_foreign);
            undecoded += u64::from(is_foreign);
            let first_read = origin.map_or(record_time, |origin| origin.timestamp.saturating_mul(1000));
            let plugin = said.plugin.as_ref().map(|by| label(&by.name, &by.version, &by.digest));
            system.push(Row {
                id,
                topic: origin.map_or(&*records.topic, |origin| &*origin.topic),
                partition: origin.map_or(records.partition, |origin| origin.partition),
                offset: origin.map(|origin| origin.offset),
                event_time: first_read,
                record_time: first_read,
                key: records.body.key(row),
                plugins: plugin.as_deref(),
                undecoded: is_foreign.then(|| records.body.value(row).unwrap_or_default()),
            });
            own.push(&said, records, row, record_time);
        }
        let mut columns = system.finish(now);
        columns.extend(own.finish());
        Ok(Made { rows: RecordBatch::try_new(self.schema(), columns)?, foreign, undecoded })
    }
}

/// What a record of dlq says of itself.
#[derive(Debug, Default)]
struct Said {
    kind: &'static str,
    id: Option<String>,
    origin: Option<Origin>,
    plugin: Option<Plugin>,
    stage: Option<Stage>,
    code: Option<Code>,
    letter: Option<Letter>,
    attempt: Option<u32>,
    previous: Option<i64>,
    records: Option<u64>,
    outcome: Option<Outcome>,
    redrive: Option<String>,
}

impl Said {
    fn read(headers: Headers<'_>, value: &[u8]) -> Self {
        let text = |name: &str| headers.last(name).and_then(|value| str::from_utf8(value).ok());
        let full = |name: &str| text(name).filter(|text| !text.is_empty()).map(str::to_owned);
        match Kind::of(headers) {
            Kind::Letter => {
                Letter::read(headers).map_or_else(Self::unknown, |letter| Self::letter("letter", letter, headers))
            }
            Kind::Range => Range::read(headers, value).map_or_else(Self::unknown, |range| Self {
                records: text(RANGE).and_then(|count| count.parse().ok()),
                ..Self::letter("range", range.letter, headers)
            }),
            Kind::Settlement => Settlement::read(headers).map_or_else(Self::unknown, |settled| Self {
                kind: "settlement",
                id: Some(settled.id.to_string()),
                origin: Some(settled.origin),
                plugin: settled.plugin,
                stage: Some(settled.stage),
                code: Some(settled.code),
                attempt: Some(settled.attempt),
                previous: Some(settled.previous),
                outcome: Some(settled.outcome),
                redrive: settled.redrive,
                ..Self::default()
            }),
            Kind::Discard => Self { kind: "discard", redrive: full(REDRIVE), ..Self::default() },
            Kind::Unknown => Self::unknown(),
        }
    }

    fn letter(kind: &'static str, letter: Letter, headers: Headers<'_>) -> Self {
        let redrive = headers.last(REDRIVE).and_then(|value| str::from_utf8(value).ok());
        Self {
            kind,
            id: Some(letter.id.to_string()),
            origin: Some(letter.origin.clone()),
            plugin: letter.plugin.clone(),
            stage: Some(letter.stage),
            code: Some(letter.code),
            attempt: Some(letter.attempt),
            previous: letter.previous,
            redrive: redrive.filter(|text| !text.is_empty()).map(str::to_owned),
            letter: Some(letter),
            ..Self::default()
        }
    }

    fn unknown() -> Self {
        Self { kind: "unknown", ..Self::default() }
    }
}

/// The columns of letters alone, under construction.
#[derive(Default)]
struct Own {
    names: [Repeated; NAMES.len()],
    texts: [StringBuilder; TEXTS.len()],
    times: [Vec<Option<i64>>; TIMES.len()],
    numbers: [Vec<Option<i64>>; NUMBERS.len()],
    attempt: Vec<Option<i32>>,
    key: BinaryBuilder,
    value: BinaryBuilder,
}

impl Own {
    fn push(&mut self, said: &Said, records: &Records, row: usize, written_at: i64) {
        let letter = said.letter.as_ref();
        let code = said.code.map(|code| code.to_string());
        let headers = own_headers(records.body.headers(row), said.kind);
        let names = [
            said.stage.map(Stage::as_str),
            code.as_deref(),
            said.plugin.as_ref().map(|plugin| plugin.name.as_str()),
            said.plugin.as_ref().map(|plugin| plugin.version.as_str()),
            said.plugin.as_ref().map(|plugin| plugin.digest.as_str()),
            said.outcome.map(Outcome::as_str),
            said.redrive.as_deref(),
        ];
        self.names.iter_mut().zip(names).for_each(|(builder, name)| builder.append_option(name));
        let texts = [
            Some(said.kind),
            letter.map(|letter| letter.message.as_str()),
            letter.and_then(|letter| letter.trace_id.as_deref()),
            headers.as_deref(),
        ];
        self.texts.iter_mut().zip(texts).for_each(|(builder, text)| builder.append_option(text));
        let due_at = letter.and_then(|letter| letter.due_at).map(|at| at.0);
        let times = [letter.map(|letter| letter.first_failed_at.0), Some(written_at), due_at];
        self.times.iter_mut().zip(times).for_each(|(column, time)| column.push(time));
        let count = said.records.and_then(|count| i64::try_from(count).ok());
        let numbers = [records.offsets.values().get(row).copied(), said.previous, count];
        self.numbers.iter_mut().zip(numbers).for_each(|(column, number)| column.push(number));
        self.attempt.push(said.attempt.and_then(|attempt| i32::try_from(attempt).ok()));
        self.key.append_option(records.body.key(row));
        self.value.append_option(records.body.value(row));
    }

    fn finish(mut self) -> Vec<ArrayRef> {
        let mut columns: Vec<ArrayRef> =
            self.names.iter_mut().map(|builder| Arc::new(builder.finish()) as ArrayRef).collect();
        columns.extend(self.texts.iter_mut().map(|builder| Arc::new(builder.finish()) as ArrayRef));
        for times in self.times {
            columns.push(Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC")));
        }
        for numbers in self.numbers {
            columns.push(Arc::new(Int64Array::from(numbers)));
        }
        columns.push(Arc::new(Int32Array::from(self.attempt)));
        columns.push(Arc::new(self.key.finish()));
        columns.push(Arc::new(self.value.finish()));
        columns
    }
}

/// The record's own headers as JSON, `[["name","value"],…]`; none when there are none.
fn own_headers(headers: Headers<'_>, kind: &str) -> Option<String> {
    let mut own = HeadersBuilder::default();
    if kind == "letter" {
        original_headers(headers, &mut own);
    } else if kind == "unknown" {
        own.extend(headers);
    }
    let pairs: Vec<(&str, String)> =
        own.headers().map(|(name, value)| (name, super::text(value).into_owned())).collect();
    (!pairs.is_empty()).then(|| serde_json::to_string(&pairs).unwrap_or_default())
}
