//! Checks a guest's answer before anyone else sees it, and turns it into the host's types.
//!
//! A guest may return anything that its types allow. What breaks the contract is a bad output of the whole call; the
//! runner then looks for the rows that cause it. Long messages are only cut: they harm nobody.

use std::collections::HashSet;
use std::sync::Arc;

use arrow_array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Float64Array, Int64Array, ListArray, StringArray,
    TimestampMicrosecondArray,
};
use arrow_buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::{DataType, Field};
use arrow_select::nullif::nullif;
use phronis_core::plugin::{Added, Drop, FailureKind, FieldType, Finding, Limits, RowFailure};

use crate::instance::Failure;
use crate::text::{MESSAGE_BYTES, bounded, is_name};
use crate::wit::{self, Values};

/// Attributes of one finding.
const MOST_ATTRIBUTES: usize = 64;

/// Bytes of an attribute's name.
const ATTRIBUTE_NAME_BYTES: usize = 128;

/// What one call said, checked; rows count from `first`.
#[derive(Debug, Default)]
pub(crate) struct Part {
    pub(crate) findings: Vec<Finding>,
    pub(crate) columns: Vec<ArrayRef>,
    pub(crate) drops: Vec<Drop>,
    pub(crate) failures: Vec<RowFailure>,
}

/// Checks a detector's answer to the `rows` rows from `first` on.
pub(crate) fn judgement(said: wit::Judgement, first: usize, rows: usize, limits: &Limits) -> Result<Part, Failure> {
    count(said.findings.len() + said.failures.len(), limits)?;
    let (failures, failed) = row_failures(said.failures, first, rows)?;
    let mut findings = Vec::with_capacity(said.findings.len());
    for said in said.findings {
        let row = within(said.row, rows)?;
        if !is_name(&said.rule) {
            let rule = bounded(said.rule, 80);
            return Err(Failure::bad_output(format!("the rule `{rule}` is not 1 to 63 of a-z, 0-9 and -")));
        }
        // The row will be judged again, so what was found on it now would be found twice.
        if failed.contains(&row) {
            continue;
        }
        findings.push(Finding {
            row: first + row,
            rule: said.rule,
            severity: said.severity.into(),
            message: bounded(said.message, MESSAGE_BYTES),
            attributes: attributes(said.attributes)?,
            halt: said.halt,
        });
    }
    let mut seen = HashSet::with_capacity(findings.len());
    if let Some(twice) = findings.iter().find(|f| !seen.insert((f.row, f.rule.as_str()))) {
        let message = format!("the rule `{}` fires twice on row {}", twice.rule, twice.row - first);
        return Err(Failure::bad_output(message));
    }
    findings.sort_by_key(|finding| finding.row);
    Ok(Part { findings, failures, ..Part::default() })
}

/// Checks an enricher's answer to the `rows` rows from `first` on.
pub(crate) fn enrichment(
    said: wit::Enrichment,
    first: usize,
    rows: usize,
    adds: &[Added],
    limits: &Limits,
) -> Result<Part, Failure> {
    count(said.drops.len() + said.failures.len(), limits)?;
    if said.columns.len() != adds.len() {
        let message = format!("the answer has {} columns, the plugin adds {}", said.columns.len(), adds.len());
        return Err(Failure::bad_output(message));
    }
    let (failures, failed) = row_failures(said.failures, first, rows)?;
    let mut drops = Vec::with_capacity(said.drops.len());
    let mut dropped = HashSet::new();
    for said in said.drops {
        let row = within(said.row, rows)?;
        if !failed.contains(&row) && dropped.insert(row) {
            drops.push(Drop { row: first + row, reason: bounded(said.reason, MESSAGE_BYTES) });
        }
    }
    drops.sort_by_key(|drop| drop.row);
    let mut columns = Vec::with_capacity(adds.len());
    for (column, added) in said.columns.into_iter().zip(adds) {
        let array = array(column, rows, added.of_type)
            .map_err(|message| Failure::bad_output(format!("the column `{}` {message}", added.name)))?;
        columns.push(without(array, &failed)?);
    }
    Ok(Part { columns, drops, failures, ..Part::default() })
}

fn count(entries: usize, limits: &Limits) -> Result<(), Failure> {
    if entries <= limits.output_rows as usize {
        return Ok(());
    }
    let most = limits.output_rows;
    Err(Failure::bad_output(format!("the answer has {entries} entries, {most} are allowed")))
}

fn within(row: u32, rows: usize) -> Result<usize, Failure> {
    let row = row as usize;
    if row < rows {
        return Ok(row);
    }
    Err(Failure::bad_output(format!("the answer names row {row} of a batch with {rows} rows")))
}

/// The rows that the plugin could not judge, by row, once each.
fn row_failures(
    said: Vec<wit::RowFailure>,
    first: usize,
    rows: usize,
) -> Result<(Vec<RowFailure>, HashSet<usize>), Failure> {
    let mut failed = HashSet::with_capacity(said.len());
    let mut failures = Vec::with_capacity(said.len());
    for said in said {
        let row = within(said.row, rows)?;
        if failed.insert(row) {
            let message = bounded(said.message, MESSAGE_BYTES);
            failures.push(RowFailure { row: first + row, kind: FailureKind::Row, message });
        }
    }
    failures.sort_by_key(|failure| failure.row);
    Ok((failures, failed))
}

fn attributes(said: Vec<(String, String)>) -> Result<Vec<(String, String)>, Failure> {
    if said.len() > MOST_ATTRIBUTES {
        let message = format!("a finding has {} attributes, {MOST_ATTRIBUTES} are allowed", said.len());
        return Err(Failure::bad_output(message));
    }
    if said.iter().any(|(name, _)| name.is_empty() || name.len() > ATTRIBUTE_NAME_BYTES) {
        return Err(Failure::bad_output(format!("an attribute's name is not 1 to {ATTRIBUTE_NAME_BYTES} bytes long")));
    }
    Ok(said.into_iter().map(|(name, value)| (name, bounded(value, MESSAGE_BYTES))).collect())
}

/// A column with null in the rows that failed.
fn without(array: ArrayRef, failed: &HashSet<usize>) -> Result<ArrayRef, Failure> {
    if failed.is_empty() {
        return Ok(array);
    }
    let mask: BooleanArray = (0..array.len()).map(|row| Some(failed.contains(&row))).collect();
    nullif(&array, &mask).map_err(|e| Failure::bad_output(e.to_string()))
}

/// A column of the guest as an Arrow array, or what is wrong with it.
fn array(column: wit::Column, rows: usize, of_type: FieldType) -> Result<ArrayRef, String> {
    let nulls = column.validity.map(|packed| packed_bits(packed, rows)).transpose()?.map(NullBuffer::new);
    Ok(match (column.values, of_type) {
        (Values::Boolean(packed), FieldType::Boolean) => Arc::new(BooleanArray::new(packed_bits(packed, rows)?, nulls)),
        (Values::Integer(values), FieldType::Integer) => Arc::new(Int64Array::new(scalars(values, rows)?, nulls)),
        (Values::Number(values), FieldType::Number) => Arc::new(Float64Array::new(scalars(values, rows)?, nulls)),
        (Values::Timestamp(values), FieldType::Timestamp) => {
            Arc::new(TimestampMicrosecondArray::new(scalars(values, rows)?, nulls).with_timezone("UTC"))
        }
        (Values::Text(texts), FieldType::Text) => Arc::new(strings(texts, rows, nulls)?),
        (Values::Binary(wit::Texts { offsets, data }), FieldType::Binary) => {
            let offsets = ends(offsets, rows, data.len())?;
            Arc::new(BinaryArray::try_new(offsets, Buffer::from_vec(data), nulls).map_err(|e| e.to_string())?)
        }
        (Values::Texts(wit::TextLists { offsets, items }), FieldType::Texts) => {
            let count = items.offsets.len().saturating_sub(1);
            let offsets = ends(offsets, rows, count)?;
            list(DataType::Utf8, offsets, Arc::new(strings(items, count, None)?), nulls)?
        }
        (Values::Numbers(wit::NumberLists { offsets, items }), FieldType::Numbers) => {
            let offsets = ends(offsets, rows, items.len())?;
            list(DataType::Float64, offsets, Arc::new(Float64Array::from(items)), nulls)?
        }
        _ => return Err(format!("is not of the type {of_type:?} that the plugin adds").to_lowercase()),
    })
}

fn scalars<T: arrow_buffer::ArrowNativeType>(values: Vec<T>, rows: usize) -> Result<ScalarBuffer<T>, String> {
    if values.len() == rows { Ok(values.into()) } else { Err(format!("has {} values for {rows} rows", values.len())) }
}

fn packed_bits(packed: Vec<u8>, rows: usize) -> Result<BooleanBuffer, String> {
    if packed.len() == rows.div_ceil(8) {
        return Ok(BooleanBuffer::new(Buffer::from_vec(packed), 0, rows));
    }
    Err(format!("has a bitmap of {} bytes for {rows} rows", packed.len()))
}

/// Offsets that begin at 0, never fall, and end at `end`.
fn ends(offsets: Vec<u32>, rows: usize, end: usize) -> Result<OffsetBuffer<i32>, String> {
    if offsets.len() != rows + 1 {
        return Err(format!("has {} offsets for {rows} rows", offsets.len()));
    }
    let whole = offsets.first() == Some(&0) && offsets.last().is_some_and(|last| *last as usize == end);
    if !whole || !offsets.is_sorted() {
        return Err("has offsets that do not begin at 0, fall, or do not end with the data".to_owned());
    }
    let offsets: Result<Vec<i32>, _> = offsets.into_iter().map(i32::try_from).collect();
    let offsets = offsets.map_err(|_| "is longer than 2 GiB".to_owned())?;
    Ok(OffsetBuffer::new(offsets.into()))
}

fn strings(texts: wit::Texts, rows: usize, nulls: Option<NullBuffer>) -> Result<StringArray, String> {
    let offsets = ends(texts.offsets, rows, texts.data.len())?;
    StringArray::try_new(offsets, Buffer::from_vec(texts.data), nulls)
        .map_err(|_| "holds text that is not UTF-8".to_owned())
}

fn list(
    item: DataType,
    offsets: OffsetBuffer<i32>,
    items: ArrayRef,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef, String> {
    let list = ListArray::try_new(Field::new_list_field(item, true).into(), offsets, items, nulls);
    list.map(|list| Arc::new(list) as ArrayRef).map_err(|e| e.to_string())
}
