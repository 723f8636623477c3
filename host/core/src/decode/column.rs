//! One field's values of a batch while they are read, in Arrow's layout.
//!
//! Plain vectors rather than Arrow's builders: they can be cut back when a record is refused,
//! and texts are checked for UTF-8 once a batch.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, ListArray, StringArray, TimestampMicrosecondArray, new_null_array,
};
use arrow_buffer::{BooleanBufferBuilder, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::{DataType, Field as ArrowField};

use super::{Outcome, Stop};
use crate::code;
use crate::contract::{Field, Rules};
use crate::json::cursor::{Cursor, Number};
use crate::plugin::FieldType;
use crate::time;

#[derive(Debug)]
pub(super) struct Column {
    values: Values,
    len: usize,
    /// Rows that are null, rising.
    nulls: Vec<usize>,
    rules: Option<Box<Rules>>,
    path: Box<str>,
}

#[derive(Debug)]
enum Values {
    Boolean(Vec<bool>),
    Integer(Vec<i64>),
    Number(Vec<f64>),
    Text(Texts),
    /// The JSON of an object, as it stands.
    Object(Texts),
    Timestamp(Vec<i64>),
    Texts {
        ends: Vec<i32>,
        items: Texts,
    },
    Numbers {
        ends: Vec<i32>,
        items: Vec<f64>,
    },
}

/// Texts one after the other; text i ends at `ends[i]`.
#[derive(Debug, Default)]
struct Texts {
    ends: Vec<i32>,
    data: Vec<u8>,
}

impl Texts {
    #[inline]
    fn end(&mut self) {
        self.ends.push(offset(self.data.len()));
    }

    fn truncate(&mut self, len: usize) {
        self.ends.truncate(len);
        self.data.truncate(last(&self.ends));
    }

    fn finish(&mut self, nulls: Option<NullBuffer>) -> ArrayRef {
        let ends = std::mem::take(&mut self.ends);
        let count = ends.len();
        let data = Buffer::from_vec(std::mem::take(&mut self.data));
        // The records were checked to be UTF-8, and texts end where JSON strings end: this cannot fail.
        StringArray::try_new(offsets(ends), data, nulls)
            .map_or_else(|_| new_null_array(&DataType::Utf8, count), |array| Arc::new(array) as ArrayRef)
    }
}

impl Column {
    pub(super) fn new(field: &Field) -> Self {
        let values = match field.of_type {
            FieldType::Boolean => Values::Boolean(Vec::new()),
            FieldType::Integer => Values::Integer(Vec::new()),
            FieldType::Number => Values::Number(Vec::new()),
            FieldType::Text | FieldType::Binary if field.is_object => Values::Object(Texts::default()),
            FieldType::Text | FieldType::Binary => Values::Text(Texts::default()),
            FieldType::Timestamp => Values::Timestamp(Vec::new()),
            FieldType::Texts => Values::Texts { ends: Vec::new(), items: Texts::default() },
            FieldType::Numbers => Values::Numbers { ends: Vec::new(), items: Vec::new() },
        };
        Self { values, len: 0, nulls: Vec::new(), rules: field.rules.clone(), path: field.path.as_str().into() }
    }

    #[inline(always)]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn reserve(&mut self, rows: usize) {
        match &mut self.values {
            Values::Boolean(v) => v.reserve(rows),
            Values::Integer(v) | Values::Timestamp(v) => v.reserve(rows),
            Values::Number(v) => v.reserve(rows),
            Values::Text(t) | Values::Object(t) => {
                t.ends.reserve(rows);
                // A guess; most fields are short names and units.
                t.data.reserve(rows * 8);
            }
            Values::Texts { ends, .. } | Values::Numbers { ends, .. } => ends.reserve(rows),
        }
    }

    pub(super) fn push_null(&mut self) {
        self.nulls.push(self.len);
        self.len += 1;
        match &mut self.values {
            Values::Boolean(v) => v.push(false),
            Values::Integer(v) | Values::Timestamp(v) => v.push(0),
            Values::Number(v) => v.push(0.0),
            Values::Text(t) | Values::Object(t) => t.end(),
            Values::Texts { ends, items } => ends.push(offset(items.ends.len())),
            Values::Numbers { ends, items } => ends.push(offset(items.len())),
        }
    }

    /// Forgets all rows from `len` on, also a half-read one.
    pub(super) fn truncate(&mut self, len: usize) {
        self.len = len;
        while self.nulls.last().is_some_and(|&row| row >= len) {
            self.nulls.pop();
        }
        match &mut self.values {
            Values::Boolean(v) => v.truncate(len),
            Values::Integer(v) | Values::Timestamp(v) => v.truncate(len),
            Values::Number(v) => v.truncate(len),
            Values::Text(t) | Values::Object(t) => t.truncate(len),
            Values::Texts { ends, items } => {
                ends.truncate(len);
                items.truncate(last(ends));
            }
            Values::Numbers { ends, items } => {
                ends.truncate(len);
                items.truncate(last(ends));
            }
        }
    }

    /// Reads a value that begins with `first` and is not null.
    #[inline]
    pub(super) fn read(&mut self, cursor: &mut Cursor<'_>, first: u8, depth: u32) -> Outcome {
        let rules = self.rules.as_deref();
        let path = &*self.path;
        match &mut self.values {
            Values::Number(values) => {
                let value = number(cursor, first, path)?;
                held(rules, path, |rules| rules.number(value))?;
                values.push(value);
            }
            Values::Text(texts) => {
                if first != b'"' {
                    return wrong(path, "a text", kind(first));
                }
                let from = texts.data.len();
                cursor.text()?.append_to(&mut texts.data);
                held(rules, path, |rules| rules.text(texts.data.get(from..).unwrap_or_default()))?;
                texts.end();
            }
            Values::Timestamp(values) => {
                let value = timestamp(cursor, first, path)?;
                held(rules, path, |rules| rules.time(value))?;
                values.push(value);
            }
            Values::Integer(values) => {
                let value = integer(cursor, first, path)?;
                held(rules, path, |rules| rules.integer(value))?;
                values.push(value);
            }
            Values::Boolean(values) => values.push(match first {
                b't' if cursor.take(b"true") => true,
                b'f' if cursor.take(b"false") => false,
                _ => return wrong(path, "true or false", kind(first)),
            }),
            Values::Object(texts) => {
                if first != b'{' {
                    return wrong(path, "an object", kind(first));
                }
                let start = cursor.at();
                cursor.skip(depth)?;
                texts.data.extend_from_slice(cursor.since(start));
                texts.end();
            }
            Values::Texts { ends, items } => {
                list(cursor, first, depth, path, "a list of texts", |cursor, first| {
                    if first != b'"' {
                        return wrong(path, "a list of texts", kind(first));
                    }
                    cursor.text()?.append_to(&mut items.data);
                    items.end();
                    Ok(())
                })?;
                held(rules, path, |rules| rules.items(items.ends.len() - last(ends)))?;
                ends.push(offset(items.ends.len()));
            }
            Values::Numbers { ends, items } => {
                list(cursor, first, depth, path, "a list of numbers", |cursor, first| {
                    items.push(number(cursor, first, path)?);
                    Ok(())
                })?;
                held(rules, path, |rules| rules.items(items.len() - last(ends)))?;
                ends.push(offset(items.len()));
            }
        }
        self.len += 1;
        Ok(())
    }

    /// The values as an array; the column is empty afterwards.
    pub(super) fn finish(&mut self) -> ArrayRef {
        let nulls = self.take_nulls();
        self.len = 0;
        match &mut self.values {
            Values::Boolean(v) => Arc::new(BooleanArray::new(std::mem::take(v).into(), nulls)),
            Values::Integer(v) => Arc::new(Int64Array::new(std::mem::take(v).into(), nulls)),
            Values::Number(v) => Arc::new(Float64Array::new(std::mem::take(v).into(), nulls)),
            Values::Text(t) | Values::Object(t) => t.finish(nulls),
            Values::Timestamp(v) => {
                Arc::new(TimestampMicrosecondArray::new(std::mem::take(v).into(), nulls).with_timezone("UTC"))
            }
            Values::Texts { ends, items } => lists(DataType::Utf8, std::mem::take(ends), items.finish(None), nulls),
            Values::Numbers { ends, items } => {
                let items = Arc::new(Float64Array::new(std::mem::take(items).into(), None));
                lists(DataType::Float64, std::mem::take(ends), items, nulls)
            }
        }
    }

    fn take_nulls(&mut self) -> Option<NullBuffer> {
        if self.nulls.is_empty() {
            return None;
        }
        let mut valid = BooleanBufferBuilder::new(self.len);
        valid.append_n(self.len, true);
        for row in self.nulls.drain(..) {
            valid.set_bit(row, false);
        }
        Some(NullBuffer::new(valid.finish()))
    }
}

/// What a value is, by its first byte, for a person.
pub(super) fn kind(first: u8) -> &'static str {
    match first {
        b'"' => "a text",
        b'-' | b'0'..=b'9' => "a number",
        b't' | b'f' => "true or false",
        b'n' => "null",
        b'{' => "an object",
        b'[' => "a list",
        _ => "something else",
    }
}

#[inline(always)]
fn held(rules: Option<&Rules>, path: &str, check: impl FnOnce(&Rules) -> crate::contract::Held) -> Outcome {
    let Some(rules) = rules else { return Ok(()) };
    check(rules).map_err(|broken| Stop::refused(broken.code, path, format_args!("expected {}", broken.expected)))
}

#[cold]
fn wrong<T>(path: &str, expected: &str, found: &str) -> Outcome<T> {
    Err(Stop::refused(code::WRONG_TYPE, path, format_args!("expected {expected}, found {found}")))
}

#[inline(always)]
fn number(cursor: &mut Cursor<'_>, first: u8, path: &str) -> Outcome<f64> {
    if !matches!(first, b'-' | b'0'..=b'9') {
        return wrong(path, "a number", kind(first));
    }
    let value = match cursor.number()? {
        Number::Integer(value) => value as f64,
        Number::Float(value) | Number::Huge(value) => value,
    };
    if !value.is_finite() {
        return Err(Stop::refused(code::OUT_OF_RANGE, path, "expected a number that a 64-bit double can hold"));
    }
    Ok(value)
}

#[inline(always)]
fn integer(cursor: &mut Cursor<'_>, first: u8, path: &str) -> Outcome<i64> {
    /// Beyond, a double no longer tells neighbouring integers apart.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if !matches!(first, b'-' | b'0'..=b'9') {
        return wrong(path, "an integer", kind(first));
    }
    match cursor.number()? {
        Number::Integer(value) => Ok(value),
        // `98.0` is an integer in JSON Schema, and what many producers write for 98.
        #[expect(clippy::cast_possible_truncation, reason = "whole, and checked to be within 53 bits")]
        Number::Float(value) if value.trunc() == value && value.abs() <= EXACT => Ok(value as i64),
        Number::Float(_) => wrong(path, "an integer", "a number with a fraction"),
        Number::Huge(_) => wrong(path, "an integer of 64 bits", "a larger one"),
    }
}

fn timestamp(cursor: &mut Cursor<'_>, first: u8, path: &str) -> Outcome<i64> {
    const EXPECTED: &str = "a time (RFC 3339, a date, epoch seconds or milliseconds)";
    let value = match first {
        b'"' => {
            let text = cursor.text()?;
            if text.escaped {
                let mut plain = Vec::new();
                text.append_to(&mut plain);
                time::parse(&plain)
            } else {
                time::parse(text.raw)
            }
        }
        b'-' | b'0'..=b'9' => match cursor.number()? {
            Number::Integer(value) => time::from_epoch(value),
            Number::Float(value) | Number::Huge(value) => time::from_epoch_float(value),
        },
        _ => None,
    };
    match value {
        Some(value) => Ok(value),
        None if first == b'"' => wrong(path, EXPECTED, "another text"),
        None => wrong(path, EXPECTED, kind(first)),
    }
}

fn list(
    cursor: &mut Cursor<'_>,
    first: u8,
    depth: u32,
    path: &str,
    expected: &str,
    mut item: impl FnMut(&mut Cursor<'_>, u8) -> Outcome,
) -> Outcome {
    if first != b'[' {
        return wrong(path, expected, kind(first));
    }
    cursor.step();
    cursor.items(depth + 1, |cursor| {
        let first = cursor.space();
        item(cursor, first)
    })
}

fn lists(of: DataType, ends: Vec<i32>, items: ArrayRef, nulls: Option<NullBuffer>) -> ArrayRef {
    let count = ends.len();
    let item = Arc::new(ArrowField::new_list_field(of, true));
    let data_type = DataType::List(Arc::clone(&item));
    ListArray::try_new(item, offsets(ends), items, nulls)
        .map_or_else(|_| new_null_array(&data_type, count), |array| Arc::new(array) as ArrayRef)
}

fn offsets(ends: Vec<i32>) -> OffsetBuffer<i32> {
    let mut offsets = Vec::with_capacity(ends.len() + 1);
    offsets.push(0);
    offsets.extend(ends);
    OffsetBuffer::new(ScalarBuffer::from(offsets))
}

fn last(ends: &[i32]) -> usize {
    ends.last().map_or(0, |&end| usize::try_from(end).unwrap_or(0))
}

/// Values are no longer than the records that they come from, and those have 32-bit offsets themselves.
fn offset(at: usize) -> i32 {
    i32::try_from(at).unwrap_or(i32::MAX)
}
