//! Parquet: Arrow batches whose rows become JSON, nested columns and lists too.
//!
//! Nulls are left out of objects. Timestamps are RFC 3339, without a zone where the column has none.
//! What JSON cannot say (NaN, infinity) becomes a text that the gate refuses.

use std::{fs, io, path::Path};

use arrow_array::{
    Array, RecordBatch,
    cast::AsArray,
    temporal_conversions::as_datetime,
    types::{
        ArrowPrimitiveType, Decimal128Type, Decimal256Type, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type,
        Int32Type, Int64Type, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
        TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
    },
};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::{DataType, FieldRef, TimeUnit};
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use super::{Fault, Found, text::write_text};
use crate::Error;

/// Rows decoded at once: keeps a batch of wide rows within a few megabytes.
const BATCH: usize = 1024;

#[derive(Debug)]
pub(super) struct Parquet {
    reader: Batches,
    total_rows: u64,
    row: u64,
}

impl Parquet {
    pub(super) fn open(path: &Path, file: fs::File) -> Result<Self, Error> {
        let fail = |source| Error::Read { path: path.to_owned(), line: 0, position: 0, source };
        // Without the writer's Arrow hints there are no dictionaries, views or local zones: fewer shapes, the same values.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options)
            .map_err(|error| fail(io::Error::other(error)))?;
        let total_rows = builder.metadata().file_metadata().num_rows().try_into().unwrap_or(0);
        let reader = builder.with_batch_size(BATCH).build().map_err(|error| fail(io::Error::other(error)))?;
        Ok(Self { reader: Batches { reader, batch: None, next: 0 }, total_rows, row: 0 })
    }

    /// The part of `bytes` that the rows so far stand for.
    pub(super) fn share_of(&self, bytes: u64) -> u64 {
        let share = u128::from(bytes) * u128::from(self.row) / u128::from(self.total_rows.max(1));
        u64::try_from(share).unwrap_or(bytes)
    }

    pub(super) fn next_row(&mut self, is_skipped: bool) -> Result<Option<Found>, Fault> {
        let Some((batch, index)) = self.reader.next_row()? else { return Ok(None) };
        self.row += 1;
        let mut bytes = Vec::new();
        if !is_skipped {
            write_object(&mut bytes, batch.schema_ref().fields(), batch.columns(), index).map_err(io::Error::other)?;
        }
        Ok(Some(Found { line: self.row, bytes, problem: None }))
    }
}

struct Batches {
    reader: ParquetRecordBatchReader,
    batch: Option<RecordBatch>,
    next: usize,
}

impl std::fmt::Debug for Batches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Batches")
    }
}

impl Batches {
    fn next_row(&mut self) -> Result<Option<(&RecordBatch, usize)>, Fault> {
        while self.batch.as_ref().is_none_or(|batch| self.next >= batch.num_rows()) {
            self.batch = match self.reader.next() {
                Some(batch) => Some(batch.map_err(io::Error::other)?),
                None => return Ok(None),
            };
            self.next = 0;
        }
        self.next += 1;
        let index = self.next - 1;
        Ok(self.batch.as_ref().map(|batch| (batch, index)))
    }
}

type Written = Result<(), arrow_schema::ArrowError>;

fn write_object(out: &mut Vec<u8>, fields: &[FieldRef], columns: &[arrow_array::ArrayRef], row: usize) -> Written {
    out.push(b'{');
    let start = out.len();
    for (field, column) in fields.iter().zip(columns) {
        if column.is_null(row) {
            continue;
        }
        if out.len() > start {
            out.push(b',');
        }
        write_text(out, field.name().as_bytes());
        out.push(b':');
        write_value(out, column, row)?;
    }
    out.push(b'}');
    Ok(())
}

fn write_list(out: &mut Vec<u8>, items: &dyn Array) -> Written {
    out.push(b'[');
    for index in 0..items.len() {
        if index > 0 {
            out.push(b',');
        }
        write_value(out, items, index)?;
    }
    out.push(b']');
    Ok(())
}

fn write_value(out: &mut Vec<u8>, column: &dyn Array, row: usize) -> Written {
    if column.is_null(row) {
        out.extend_from_slice(b"null");
        return Ok(());
    }
    match column.data_type() {
        DataType::Null => out.extend_from_slice(b"null"),
        DataType::Boolean => out.extend_from_slice(if column.as_boolean().value(row) { b"true" } else { b"false" }),
        DataType::Int8 => write_plain(out, column.as_primitive::<Int8Type>().value(row)),
        DataType::Int16 => write_plain(out, column.as_primitive::<Int16Type>().value(row)),
        DataType::Int32 => write_plain(out, column.as_primitive::<Int32Type>().value(row)),
        DataType::Int64 => write_plain(out, column.as_primitive::<Int64Type>().value(row)),
        DataType::UInt8 => write_plain(out, column.as_primitive::<UInt8Type>().value(row)),
        DataType::UInt16 => write_plain(out, column.as_primitive::<UInt16Type>().value(row)),
        DataType::UInt32 => write_plain(out, column.as_primitive::<UInt32Type>().value(row)),
        DataType::UInt64 => write_plain(out, column.as_primitive::<UInt64Type>().value(row)),
        DataType::Float16 => {
            let value = column.as_primitive::<Float16Type>().value(row).to_f32();
            write_float(out, value, value.is_finite());
        }
        DataType::Float32 => {
            let value = column.as_primitive::<Float32Type>().value(row);
            write_float(out, value, value.is_finite());
        }
        DataType::Float64 => {
            let value = column.as_primitive::<Float64Type>().value(row);
            write_float(out, value, value.is_finite());
        }
        DataType::Decimal128(..) => write_plain(out, column.as_primitive::<Decimal128Type>().value_as_string(row)),
        DataType::Decimal256(..) => write_plain(out, column.as_primitive::<Decimal256Type>().value_as_string(row)),
        DataType::Utf8 => write_text(out, column.as_string::<i32>().value(row).as_bytes()),
        DataType::Binary => write_binary(out, column.as_binary::<i32>().value(row)),
        DataType::Timestamp(unit, zone) => {
            let has_zone = zone.is_some();
            return match unit {
                TimeUnit::Second => write_timestamp::<TimestampSecondType>(out, column, row, has_zone),
                TimeUnit::Millisecond => write_timestamp::<TimestampMillisecondType>(out, column, row, has_zone),
                TimeUnit::Microsecond => write_timestamp::<TimestampMicrosecondType>(out, column, row, has_zone),
                TimeUnit::Nanosecond => write_timestamp::<TimestampNanosecondType>(out, column, row, has_zone),
            };
        }
        DataType::List(_) => return write_list(out, &column.as_list::<i32>().value(row)),
        DataType::Struct(fields) => return write_object(out, fields, column.as_struct().columns(), row),
        DataType::Map(..) => return write_map(out, &column.as_map().value(row)),
        _ => return write_shown(out, column, row),
    }
    Ok(())
}

fn write_plain(out: &mut Vec<u8>, value: impl ToString) {
    out.extend_from_slice(value.to_string().as_bytes());
}

fn write_float(out: &mut Vec<u8>, value: impl serde::Serialize + ToString, is_finite: bool) {
    match serde_json::to_vec(&value) {
        Ok(text) if is_finite => out.extend_from_slice(&text),
        _ => write_text(out, value.to_string().as_bytes()),
    }
}

/// Older writers mark texts as bytes, so bytes that are UTF-8 are taken as text; others are shown in hex.
fn write_binary(out: &mut Vec<u8>, value: &[u8]) {
    match std::str::from_utf8(value) {
        Ok(text) => write_text(out, text.as_bytes()),
        Err(_) => write_text(out, value.iter().map(|byte| format!("{byte:02x}")).collect::<String>().as_bytes()),
    }
}

fn write_timestamp<T: ArrowPrimitiveType<Native = i64>>(
    out: &mut Vec<u8>,
    column: &dyn Array,
    row: usize,
    has_zone: bool,
) -> Written {
    let value = column.as_primitive::<T>().value(row);
    match as_datetime::<T>(value) {
        // Arrow counts in UTC where there is a zone.
        Some(time) => write_text(out, format!("{time:?}{}", if has_zone { "Z" } else { "" }).as_bytes()),
        None => write_plain(out, value),
    }
    Ok(())
}

/// A map with texts as keys is an object, any other a list of its entries.
fn write_map(out: &mut Vec<u8>, entries: &arrow_array::StructArray) -> Written {
    let (keys, values) = match entries.columns() {
        [keys, values] if keys.data_type() == &DataType::Utf8 => (keys.as_string::<i32>(), values),
        _ => return write_list(out, entries),
    };
    out.push(b'{');
    for index in 0..entries.len() {
        if index > 0 {
            out.push(b',');
        }
        write_text(out, keys.value(index).as_bytes());
        out.push(b':');
        write_value(out, values, index)?;
    }
    out.push(b'}');
    Ok(())
}

fn write_shown(out: &mut Vec<u8>, column: &dyn Array, row: usize) -> Written {
    let text = ArrayFormatter::try_new(column, &FormatOptions::default())?.value(row).try_to_string()?;
    write_text(out, text.as_bytes());
    Ok(())
}
