//! How Parquet writes the columns: what each costs, and what it spares.
//!
//! Only encodings of Parquet 1: every engine reads them. Newer ones would make offsets and times smaller,
//! but Iceberg's own vectorised reader refuses them before its version 1.10.

use std::collections::HashSet;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::DataType;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use crate::spec::column;

/// Rows of a row group: what a reader can leave out within a file, and what it can share among threads.
const ROWS_PER_GROUP: usize = 256 * 1024;

/// Values that tell whether a dictionary is worth it.
const SAMPLE: usize = 1024;

/// Longest bound of a text, in bytes. Bounds stand in manifests, for each file.
const BOUND: usize = 32;

/// How rows like these are written.
pub(crate) fn properties(rows: &[RecordBatch], zstd_level: i32) -> Result<WriterProperties, ParquetError> {
    let mut builder = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(zstd_level)?))
        .set_created_by("phronis".to_owned())
        .set_max_row_group_row_count(Some(ROWS_PER_GROUP))
        .set_statistics_truncate_length(Some(BOUND))
        .set_column_index_truncate_length(Some(BOUND))
        .set_statistics_enabled(EnabledStatistics::Chunk);
    let Some(sample) = rows.iter().max_by_key(|rows| rows.num_rows()) else { return Ok(builder.build()) };
    for (field, values) in sample.schema_ref().fields().iter().zip(sample.columns()) {
        let path = match field.data_type() {
            DataType::List(item) => ColumnPath::new(vec![field.name().clone(), "list".to_owned(), item.name().clone()]),
            _ => ColumnPath::new(vec![field.name().clone()]),
        };
        if matches!(field.name().as_str(), column::EVENT_TIME | column::PARTITION | column::OFFSET) {
            builder = builder.set_column_statistics_enabled(path.clone(), EnabledStatistics::Page);
        }
        builder = builder.set_column_dictionary_enabled(path, repeats(values));
    }
    Ok(builder.build())
}

/// Whether at least half of a sample has been seen before in it: else a dictionary only costs.
fn repeats(values: &ArrayRef) -> bool {
    let values = values.slice(0, values.len().min(SAMPLE));
    let distinct = match values.data_type() {
        DataType::Utf8 => values.as_string::<i32>().iter().collect::<HashSet<_>>().len(),
        DataType::Binary => values.as_binary::<i32>().iter().collect::<HashSet<_>>().len(),
        DataType::Int64 => values.as_primitive::<Int64Type>().iter().collect::<HashSet<_>>().len(),
        DataType::Timestamp(..) => {
            values.as_primitive::<TimestampMicrosecondType>().iter().collect::<HashSet<_>>().len()
        }
        DataType::Float64 => values
            .as_primitive::<Float64Type>()
            .iter()
            .map(|value| value.map(f64::to_bits))
            .collect::<HashSet<_>>()
            .len(),
        DataType::List(_) => return true,
        _ => 1,
    };
    distinct * 2 <= values.len()
}
