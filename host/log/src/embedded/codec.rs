//! Records as stored: one Arrow IPC record batch message, without the schema message.
//!
//! A CRC-32 follows it: Arrow's reader trusts lengths and panics where a disk lied.
//! The schema is fixed by the format version in the log's `meta` table, so that a row of one record costs bytes, not kilobytes.
//! Runs on the threads that submit and read, never on the writer's.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use arrow_array::builder::BinaryBuilder;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, ArrayRef, BinaryArray, Int64Array, RecordBatch};
use arrow_buffer::Buffer;
use arrow_ipc::CompressionType;
use arrow_ipc::writer::{CompressionContext, DictionaryTracker, IpcDataGenerator, IpcWriteOptions, write_message};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use phronis_core::records::NewRecords;

/// Bytes of records above which a batch is compressed: an lz4 frame for each of ten buffers does not pay below.
const COMPRESS_FROM: usize = 2048;

/// Most bytes of records in one stored row, unless a single record is larger:
/// a reader that wants ten records decodes no more than this.
const ROW_BYTES: usize = 1 << 20;

/// Most records in one stored row, for the same reason.
const ROW_RECORDS: usize = 1 << 16;

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("timestamp", DataType::Int64, false),
        Field::new("key", DataType::Binary, true),
        Field::new("value", DataType::Binary, true),
        Field::new("headers", DataType::Binary, true),
    ]))
});

/// Records ready to be stored as one row.
#[derive(Debug)]
pub(super) struct Row {
    /// The records, for the hot tail.
    pub(super) records: NewRecords,
    /// The records, for the disk.
    pub(super) blob: Vec<u8>,
    /// The oldest and the newest timestamp.
    pub(super) timestamps: (i64, i64),
}

/// Encodes records, cut into rows.
pub(super) fn encode_rows(records: &NewRecords) -> Result<Vec<Row>, ArrowError> {
    let records = own(records)?;
    let mut rows = Vec::with_capacity(1);
    let mut from = 0;
    while from < records.len() {
        let rest = records.slice(from, records.len() - from);
        let records = rest.slice(0, fitting(&rest, ROW_RECORDS, ROW_BYTES));
        from += records.len();
        let timestamps = records.timestamps.values();
        let timestamps = (
            timestamps.iter().copied().min().unwrap_or_default(),
            timestamps.iter().copied().max().unwrap_or_default(),
        );
        rows.push(Row { blob: encode(&records)?, timestamps, records });
    }
    Ok(rows)
}

/// Encodes records as one message.
pub(super) fn encode(records: &NewRecords) -> Result<Vec<u8>, ArrowError> {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(records.timestamps.clone()),
        Arc::new(records.keys.clone()),
        Arc::new(records.values.clone()),
        Arc::new(records.headers.clone()),
    ];
    let batch = RecordBatch::try_new(Arc::clone(&SCHEMA), columns)?;
    let compression = (records.bytes() >= COMPRESS_FROM).then_some(CompressionType::LZ4_FRAME);
    let options = IpcWriteOptions::default().try_with_compression(compression)?;
    let (_, message) = IpcDataGenerator::default().encode(
        &batch,
        &mut DictionaryTracker::new(false),
        &options,
        &mut CompressionContext::default(),
    )?;
    let mut blob = Vec::with_capacity(message.ipc_message.len() + message.arrow_data.len() + 80);
    write_message(&mut blob, message, &options)?;
    let sum = crc32fast::hash(&blob);
    blob.extend_from_slice(&sum.to_le_bytes());
    Ok(blob)
}

/// Decodes one message.
pub(super) fn decode(mut blob: Vec<u8>) -> Result<NewRecords, ArrowError> {
    let broken = |what: &str| ArrowError::IpcError(format!("a stored batch is damaged: {what}"));
    let (message, sum) = blob.split_last_chunk::<4>().ok_or_else(|| broken("it is too short"))?;
    if crc32fast::hash(message) != u32::from_le_bytes(*sum) {
        return Err(broken("its checksum differs"));
    }
    blob.truncate(message.len());
    let blob = Buffer::from_vec(blob);
    // Continuation marker, length of the message, the message, the body.
    let length = blob.get(4..8).and_then(|bytes| bytes.try_into().ok()).map(i32::from_le_bytes);
    let body_at = length.and_then(|length| usize::try_from(length).ok()).map_or(usize::MAX, |length| length + 8);
    let message = blob.get(8..body_at).ok_or_else(|| broken("its header is cut"))?;
    let message = arrow_ipc::root_as_message(message).map_err(|error| broken(&error.to_string()))?;
    let header = message.header_as_record_batch().ok_or_else(|| broken("it is no record batch"))?;
    let body = blob.slice(body_at);
    let batch = arrow_ipc::reader::read_record_batch(
        &body,
        header,
        Arc::clone(&SCHEMA),
        &HashMap::new(),
        None,
        &message.version(),
    )?;
    let binary = |at: usize| -> Result<BinaryArray, ArrowError> {
        batch
            .columns()
            .get(at)
            .and_then(|column| column.as_binary_opt::<i32>())
            .cloned()
            .ok_or_else(|| broken("a column is missing"))
    };
    let timestamps: Int64Array = batch
        .columns()
        .first()
        .and_then(|column| column.as_primitive_opt::<Int64Type>())
        .cloned()
        .ok_or_else(|| broken("a column is missing"))?;
    Ok(NewRecords { timestamps, keys: binary(1)?, values: binary(2)?, headers: binary(3)? })
}

/// How many of the first records fit both bounds; at least one, if there is one.
pub(super) fn fitting(records: &NewRecords, most: usize, bytes: usize) -> usize {
    let most = most.min(records.len()).max(1);
    let size = |count: usize| {
        let column = |array: &BinaryArray| {
            let offsets = array.value_offsets();
            match (offsets.first(), offsets.get(count)) {
                (Some(first), Some(end)) => usize::try_from(end - first).unwrap_or(0),
                _ => 0,
            }
        };
        column(&records.keys) + column(&records.values) + column(&records.headers)
    };
    if size(most) <= bytes {
        return most.min(records.len());
    }
    let (mut fits, mut too_many) = (1, most);
    while fits + 1 < too_many {
        let middle = fits.midpoint(too_many);
        if size(middle) <= bytes {
            fits = middle;
        } else {
            too_many = middle;
        }
    }
    fits.min(records.len())
}

/// What records cost in memory, about: bytes, offsets, timestamps, the batch itself.
pub(super) fn memory(records: &NewRecords) -> usize {
    records.bytes() + records.len() * 24 + 1024
}

/// The records in memory of their own where they are a small slice of something large, which the hot tail would keep alive.
fn own(records: &NewRecords) -> Result<NewRecords, ArrowError> {
    let held: usize = [&records.keys, &records.values, &records.headers]
        .into_iter()
        .map(|column| column.get_buffer_memory_size())
        .sum::<usize>()
        + records.timestamps.get_buffer_memory_size();
    if held <= 2 * memory(records) + (64 << 10) {
        return Ok(records.clone());
    }
    let copy = |column: &BinaryArray| -> Result<BinaryArray, ArrowError> {
        let mut builder = BinaryBuilder::with_capacity(column.len(), 0);
        builder.append_array(column)?;
        Ok(builder.finish())
    };
    Ok(NewRecords {
        timestamps: Int64Array::from(records.timestamps.values().to_vec()),
        keys: copy(&records.keys)?,
        values: copy(&records.values)?,
        headers: copy(&records.headers)?,
    })
}

#[cfg(test)]
mod tests {
    use phronis_core::records::RecordsBuilder;
    use proptest::prelude::*;

    use super::*;

    type Plain = (i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<u8>);

    fn build(plain: &[Plain]) -> NewRecords {
        let mut builder = RecordsBuilder::default();
        for (timestamp, key, value, headers) in plain {
            builder.push(*timestamp, key.as_deref(), value.as_deref(), headers);
        }
        builder.finish()
    }

    fn plain(records: &NewRecords) -> Vec<Plain> {
        (0..records.len())
            .map(|row| {
                let headers =
                    if records.headers.is_null(row) { Vec::new() } else { records.headers.value(row).to_vec() };
                let owned = |bytes: &[u8]| bytes.to_vec();
                (records.timestamps.value(row), records.key(row).map(owned), records.value(row).map(owned), headers)
            })
            .collect()
    }

    fn any_records() -> impl Strategy<Value = Vec<Plain>> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..200);
        prop::collection::vec((any::<i64>(), prop::option::of(bytes()), prop::option::of(bytes()), bytes()), 1..60)
    }

    proptest! {
        #[test]
        fn what_is_encoded_comes_back(records in any_records(), from in 0usize..60, len in 1usize..60) {
            let from = from.min(records.len() - 1);
            let len = len.min(records.len() - from);
            let slice = build(&records).slice(from, len);
            let back = decode(encode(&slice).unwrap()).unwrap();
            prop_assert_eq!(plain(&back), &records[from..from + len]);
            prop_assert_eq!(plain(&own(&slice).unwrap()), &records[from..from + len]);
        }

        #[test]
        fn as_many_records_fit_as_bytes_allow(records in any_records(), most in 1usize..80, bytes in 0usize..5000) {
            let records = build(&records);
            let fits = fitting(&records, most, bytes);
            prop_assert!(fits >= 1 && fits <= most.min(records.len()));
            prop_assert!(fits == 1 || records.slice(0, fits).bytes() <= bytes);
            if fits < most.min(records.len()) {
                prop_assert!(records.slice(0, fits + 1).bytes() > bytes);
            }
        }

        #[test]
        fn damaged_bytes_are_an_error(records in any_records(), at in any::<prop::sample::Index>(), cut in any::<bool>()) {
            let mut blob = encode(&build(&records)).unwrap();
            let at = at.index(blob.len());
            if cut { blob.truncate(at) } else { blob[at] ^= 0xff }
            prop_assert!(decode(blob).is_err());
        }
    }

    #[test]
    fn large_batches_are_cut_into_rows() {
        let mut builder = RecordsBuilder::default();
        for _ in 0..5 {
            builder.push(1, None, Some(&vec![7; ROW_BYTES / 2 - 10]), &[]);
        }
        builder.push(1, None, Some(&vec![7; 3 * ROW_BYTES]), &[]);
        let rows = encode_rows(&builder.finish()).unwrap();
        let counts: Vec<usize> = rows.iter().map(|row| row.records.len()).collect();
        assert_eq!(counts, [2, 2, 1, 1]);
    }
}
