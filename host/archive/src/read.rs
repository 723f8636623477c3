//! Reads one data file as columns of a snapshot.
//!
//! iceberg 0.10.1 fills in nulls for primitive columns that an older file has not, and fails for lists. So where a list is asked
//! for, the file's footer is looked at first; lists that it lacks are left out of the request, and filled in here.
//!
//! Rows are decoded a batch at a time, and no pool counts their memory: the wider they are, the fewer make a batch.

use std::collections::HashSet;
use std::sync::Arc;

use arrow_array::{RecordBatch, RecordBatchOptions, new_null_array};
use arrow_schema::SchemaRef;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use iceberg::arrow::ArrowReaderBuilder;
use iceberg::io::{FileIO, FileRead};
use iceberg::scan::FileScanTask;
use iceberg::spec::{PrimitiveType, Type};
use iceberg::{Error, ErrorKind, Result, Runtime};
use parquet::arrow::async_reader::MetadataFetch;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaDataReader;

/// Bytes of a file's end that are fetched at once: footers are mostly smaller.
const FOOTER: usize = 64 << 10;

/// About as many bytes of rows are decoded at once.
const BATCH: u64 = 32 << 20;

/// How much larger rows are taken to be in memory than in their file. What compresses better still makes larger batches.
const GROWTH: u64 = 4;

/// Few rows are not worth a batch, however wide they are.
const LEAST: usize = 16;

/// How many rows of a file, or of a table, make a batch: at most so many.
pub(crate) fn batch_rows(bytes: u64, rows: u64, most: usize) -> usize {
    let row = bytes.saturating_mul(GROWTH).checked_div(rows).unwrap_or_default();
    let fitting = BATCH.checked_div(row).and_then(|fitting| usize::try_from(fitting).ok());
    fitting.map_or(most, |fitting| fitting.max(LEAST).min(most))
}

/// How files are read.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    pub(crate) io: FileIO,
    pub(crate) runtime: Runtime,
    /// Most rows of a batch.
    pub(crate) rows: usize,
    /// The columns that were asked for, in their order. A file's request may have more behind them, which are dropped.
    pub(crate) schema: SchemaRef,
}

impl Reader {
    /// The rows of files, one file after the other.
    pub(crate) fn read(self, files: Vec<FileScanTask>) -> BoxStream<'static, Result<RecordBatch>> {
        let rows = move |file| {
            let reader = self.clone();
            async move { reader.file(file).await }
        };
        stream::iter(files).then(rows).try_flatten().boxed()
    }

    async fn file(self, mut file: FileScanTask) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let absent = absent_lists(&self.io, &file).await?;
        let asked = file.project_field_ids.clone();
        file.project_field_ids.retain(|id| !absent.contains(id));
        if file.project_field_ids.is_empty() {
            // Rows without columns could not be counted.
            file.project_field_ids.extend(file.schema.as_struct().fields().first().map(|field| field.id));
        }
        let rows = match is_narrow(&file) {
            true => self.rows,
            false => batch_rows(file.file_size_in_bytes, file.record_count.unwrap_or_default(), self.rows),
        };
        let reader = ArrowReaderBuilder::new(self.io, self.runtime)
            .with_data_file_concurrency_limit(1)
            .with_row_group_filtering_enabled(true)
            .with_batch_size(rows)
            .build();
        let batches = reader.read(stream::iter([Ok(file)]).boxed())?.stream();
        let is_absent: Vec<bool> = asked.iter().map(|id| absent.contains(id)).collect();
        let schema = self.schema;
        Ok(batches.and_then(move |batch| std::future::ready(fitted(&batch, &is_absent, &schema))).boxed())
    }
}

/// Whether what is asked for are numbers and times alone: their rows are small, whatever else the file has.
fn is_narrow(file: &FileScanTask) -> bool {
    let is_narrow = |id: &i32| match file.schema.field_by_id(*id).map(|field| field.field_type.as_ref()) {
        Some(Type::Primitive(kind)) => {
            !matches!(kind, PrimitiveType::String | PrimitiveType::Binary | PrimitiveType::Fixed(_))
        }
        _ => false,
    };
    file.project_field_ids.iter().all(is_narrow)
}

/// The batch with the columns that were asked for: nulls where the file has none, nothing more than that.
fn fitted(batch: &RecordBatch, is_absent: &[bool], schema: &SchemaRef) -> Result<RecordBatch> {
    let rows = batch.num_rows();
    let mut read = batch.columns().iter();
    let mut columns = Vec::with_capacity(schema.fields().len());
    for (field, is_absent) in schema.fields().iter().zip(is_absent) {
        let column = if *is_absent { None } else { read.next().map(Arc::clone) };
        columns.push(column.unwrap_or_else(|| new_null_array(field.data_type(), rows)));
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(|error| unexpected(&error))
}

/// The lists that are asked for and that the file has not.
async fn absent_lists(io: &FileIO, file: &FileScanTask) -> Result<HashSet<i32>> {
    let is_list = |id: &&i32| file.schema.field_by_id(**id).is_some_and(|field| !field.field_type.is_primitive());
    let mut lists: HashSet<i32> = file.project_field_ids.iter().filter(is_list).copied().collect();
    if lists.is_empty() {
        return Ok(lists);
    }
    let end = End(io.new_input(&file.data_file_path)?.reader().await?);
    let footer = ParquetMetaDataReader::new().with_prefetch_hint(Some(FOOTER));
    let footer = footer.load_and_finish(end, file.file_size_in_bytes).await.map_err(|error| unexpected(&error))?;
    for field in footer.file_metadata().schema_descr().root_schema().get_fields() {
        if field.get_basic_info().has_id() {
            lists.remove(&field.get_basic_info().id());
        }
    }
    Ok(lists)
}

/// Where a footer is read from.
struct End(Box<dyn FileRead>);

impl MetadataFetch for End {
    fn fetch(&mut self, range: std::ops::Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        async move { self.0.read(range).await.map_err(|error| ParquetError::External(Box::new(error))) }.boxed()
    }
}

fn unexpected(error: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorKind::Unexpected, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wider_rows_are_the_fewer_make_a_batch() {
        for (bytes, rows, expected) in [
            (0, 0, 8192),
            (75_000, 1000, 8192),
            (1 << 20, 0, 8192),
            (100 << 20, 100 << 10, 8192),
            (100 << 20, 1600, 128),
            (1 << 30, 1 << 10, 16),
            (u64::MAX, 1, 16),
        ] {
            assert_eq!(batch_rows(bytes, rows, 8192), expected, "{bytes} bytes in {rows} rows");
        }
        assert_eq!(batch_rows(1 << 30, 1 << 10, 5), 5, "never more than are wanted");
    }
}
