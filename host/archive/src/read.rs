//! Reads one data file as columns of a snapshot.
//!
//! iceberg 0.10.1 fills in nulls for primitive columns that an older file has not, and fails for lists. So where a list is asked
//! for, the file's footer is looked at first; lists that it lacks are left out of the request, and filled in here.

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
use iceberg::{Error, ErrorKind, Result, Runtime};
use parquet::arrow::async_reader::MetadataFetch;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaDataReader;

/// Bytes of a file's end that are fetched at once: footers are mostly smaller.
const FOOTER: usize = 64 << 10;

/// How files are read.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    pub(crate) io: FileIO,
    pub(crate) runtime: Runtime,
    /// Rows of a batch.
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
        let reader = ArrowReaderBuilder::new(self.io, self.runtime)
            .with_data_file_concurrency_limit(1)
            .with_row_group_filtering_enabled(true)
            .with_batch_size(self.rows)
            .build();
        let batches = reader.read(stream::iter([Ok(file)]).boxed())?.stream();
        let is_absent: Vec<bool> = asked.iter().map(|id| absent.contains(id)).collect();
        let schema = self.schema;
        Ok(batches.and_then(move |batch| std::future::ready(fitted(&batch, &is_absent, &schema))).boxed())
    }
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
