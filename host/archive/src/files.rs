//! Rows to data files: Parquet in memory, then one write to storage a file.
//!
//! Files are encoded one after the other on a thread for blocking work, while those before are on their way to storage.
//! Names never repeat: a plan's id and a number that only goes up, also when a flush is tried again.
//!
//! We do not use iceberg's `ParquetWriter`: it leaves out bounds of a row group that Parquet has shortened,
//! so that the bounds of a file with several row groups can exclude rows that it has.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, ListArray, RecordBatch, new_null_array};
use arrow_schema::{DataType, Schema as ArrowSchema, SchemaRef};
use bytes::Bytes;
use iceberg::io::FileIO;
use iceberg::spec::{DataContentType, DataFile, DataFileBuilder, DataFileFormat, Literal, Struct, TableMetadata};
use iceberg::table::Table;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::properties::WriterProperties;
use tokio::task::{JoinError, JoinSet};
use uuid::Uuid;

use crate::bounds::Bounds;
use crate::sorted::Sorted;
use crate::spec::{Span, WriteOptions};
use crate::{Archive, Error, Result, encoding, schema};

/// Rows handed to the encoder at once: enough that the cost of a call vanishes, few enough to stay in the cache.
const CHUNK: usize = 8192;

/// Files on their way to storage at once. Object stores answer in tens of milliseconds whatever the size;
/// a flush that spans 200 days writes 200 small files.
const UNDER_WAY: usize = 8;

/// Where and how the files of a table are written; holds for one schema of the table.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    io: FileIO,
    folder: String,
    table: iceberg::spec::SchemaRef,
    spec_id: i32,
    order_id: Option<i32>,
    span: Span,
    /// The columns that are written, with the table's ids.
    columns: SchemaRef,
    /// Where each of them stands in the rows that come; nowhere when it is null.
    places: Vec<Option<usize>>,
    file_bytes: usize,
    zstd_level: i32,
}

/// The names that the files of a plan get.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    plan: Uuid,
    next: Arc<AtomicU32>,
}

impl Names {
    /// Those of a plan.
    pub(crate) fn new(plan: Uuid) -> Self {
        Self { plan, next: Arc::new(AtomicU32::new(0)) }
    }

    fn next(&self) -> String {
        format!("{}-{:05}.parquet", self.plan, self.next.fetch_add(1, Ordering::Relaxed))
    }
}

/// A file that is not written yet.
struct Encoded {
    partition: i64,
    bytes: Bytes,
    metadata: ParquetMetaData,
}

impl Target {
    /// That of a table as it is, for rows of a schema.
    pub(crate) fn new(table: &Table, wanted: &ArrowSchema, options: &WriteOptions) -> Self {
        let metadata = table.metadata();
        let (columns, places) = schema::written(metadata.current_schema(), wanted);
        let folder = metadata.properties().get("write.data.path").cloned();
        Self {
            io: table.file_io().clone(),
            folder: folder.unwrap_or_else(|| format!("{}/data", metadata.location().trim_end_matches('/'))),
            table: Arc::clone(metadata.current_schema()),
            spec_id: metadata.default_partition_spec_id(),
            order_id: i32::try_from(metadata.default_sort_order().order_id).ok(),
            span: options.span,
            columns,
            places,
            file_bytes: options.file_bytes.max(1),
            zstd_level: options.zstd_level,
        }
    }

    /// The same with another way to storage: that of a table that was loaded anew has the credentials that hold now.
    pub(crate) fn through(&self, io: &FileIO) -> Self {
        Self { io: io.clone(), ..self.clone() }
    }

    /// Whether the files are such as this table's manifests hold now.
    pub(crate) fn is_of(&self, metadata: &TableMetadata) -> bool {
        self.spec_id == metadata.default_partition_spec_id()
    }

    /// Writes rows as data files, and returns them when all are durable.
    ///
    /// # Errors
    /// None of the files counts then; those that were written are deleted as far as storage lets them be.
    pub(crate) async fn write(
        self: Arc<Self>,
        archive: &Archive,
        names: Names,
        rows: Vec<RecordBatch>,
    ) -> Result<Vec<DataFile>> {
        let mut written = Vec::new();
        let mut under_way = JoinSet::new();
        let outcome = self.write_all(archive, &names, rows, &mut under_way, &mut written).await;
        let Err(error) = outcome else {
            archive.pass("archive-files-written");
            return Ok(written);
        };
        while let Some(rest) = under_way.join_next().await {
            written.extend(rest.ok().and_then(Result::ok));
        }
        self.delete(&written).await;
        Err(error)
    }

    async fn write_all(
        self: &Arc<Self>,
        archive: &Archive,
        names: &Names,
        rows: Vec<RecordBatch>,
        under_way: &mut JoinSet<Result<DataFile>>,
        written: &mut Vec<DataFile>,
    ) -> Result<()> {
        let target = Arc::clone(self);
        let begin = move || -> Result<_> {
            let rows = rows.iter().map(|rows| target.project(rows)).collect::<Result<Vec<_>>>()?;
            let properties = encoding::properties(&rows, target.zstd_level).map_err(unencoded)?;
            Ok((Sorted::new(rows, target.span).map_err(Error::Rows)?, properties))
        };
        let (mut rows, properties) = blocking(begin).await??;
        loop {
            let (target, properties) = (Arc::clone(self), properties.clone());
            let encode = move || {
                let encoded = target.encode(&mut rows, properties);
                (rows, encoded)
            };
            let (rest, encoded) = blocking(encode).await?;
            rows = rest;
            let Some(encoded) = encoded.map_err(unencoded)? else { break };
            while under_way.len() >= UNDER_WAY {
                arrived(archive, under_way, written).await?;
            }
            let (target, name) = (Arc::clone(self), names.next());
            under_way.spawn(async move { target.store(encoded, &name).await });
        }
        while !under_way.is_empty() {
            arrived(archive, under_way, written).await?;
        }
        Ok(())
    }

    /// The columns that are written, as the file has them.
    fn project(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let columns = self.columns.fields().iter().zip(&self.places).map(|(field, place)| match place {
            Some(place) => {
                let array =
                    rows.columns().get(*place).ok_or_else(|| Error::Rows(format!("there is no column {place}")));
                array.map(|array| as_type(array, field.data_type()))
            }
            None => Ok(new_null_array(field.data_type(), rows.num_rows())),
        });
        RecordBatch::try_new(Arc::clone(&self.columns), columns.collect::<Result<_>>()?)
            .map_err(|error| Error::Rows(error.to_string()))
    }

    /// The next file; `None` when there are no more rows.
    fn encode(&self, rows: &mut Sorted, properties: WriterProperties) -> Result<Option<Encoded>, ParquetError> {
        let Some(partition) = rows.partition() else { return Ok(None) };
        let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
        let mut writer = ArrowWriter::try_new_with_options(Vec::new(), Arc::clone(&self.columns), options)?;
        while rows.partition() == Some(partition)
            && writer.bytes_written() + writer.in_progress_size() < self.file_bytes
        {
            let Some(chunk) = rows.take(CHUNK)? else { break };
            writer.write(&chunk)?;
        }
        let metadata = writer.finish()?;
        let bytes = std::mem::take(writer.inner_mut()).into();
        Ok(Some(Encoded { partition, bytes, metadata }))
    }

    async fn store(&self, file: Encoded, name: &str) -> Result<DataFile> {
        let path = format!("{}/{}/{name}", self.folder, self.span.path(file.partition));
        let size = u64::try_from(file.bytes.len()).unwrap_or(u64::MAX);
        let written = async { self.io.new_output(&path)?.write(file.bytes).await }.await;
        written.map_err(|error| Error::of("writing a data file", &path, error))?;
        self.describe(path, size, file.partition, &file.metadata)
    }

    fn describe(&self, path: String, size: u64, partition: i64, metadata: &ParquetMetaData) -> Result<DataFile> {
        let bounds = Bounds::of(&self.table, metadata);
        let value = i32::try_from(partition).unwrap_or(if partition < 0 { i32::MIN } else { i32::MAX });
        let mut builder = DataFileBuilder::default();
        builder
            .content(DataContentType::Data)
            .file_path(path)
            .file_format(DataFileFormat::Parquet)
            .partition(Struct::from_iter([Some(Literal::int(value))]))
            .partition_spec_id(self.spec_id)
            .record_count(u64::try_from(metadata.file_metadata().num_rows()).unwrap_or_default())
            .file_size_in_bytes(size)
            .column_sizes(bounds.sizes)
            .value_counts(bounds.values)
            .null_value_counts(bounds.nulls)
            .lower_bounds(bounds.lower)
            .upper_bounds(bounds.upper)
            .split_offsets(Some(metadata.row_groups().iter().filter_map(|group| group.file_offset()).collect()));
        if let Some(order) = self.order_id {
            builder.sort_order_id(order);
        }
        builder.build().map_err(|error| Error::Rows(error.to_string()))
    }

    /// Deletes files that no snapshot has and none will have. What cannot be deleted now is an orphan, and upkeep finds it.
    pub(crate) async fn delete(&self, files: &[DataFile]) {
        for file in files {
            if let Err(error) = self.io.delete(file.file_path()).await {
                tracing::debug!(%error, path = file.file_path(), "a data file that no snapshot has stays until upkeep finds it");
            }
        }
    }
}

async fn arrived(
    archive: &Archive,
    under_way: &mut JoinSet<Result<DataFile>>,
    written: &mut Vec<DataFile>,
) -> Result<()> {
    if let Some(file) = under_way.join_next().await {
        written.push(file.map_err(stopped)??);
        archive.pass("archive-file-written");
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(stopped)
}

fn unencoded(error: ParquetError) -> Error {
    Error::failed("encoding rows of the archive", error)
}

/// A task ended without an answer: it panicked, or the runtime is going away.
pub(crate) fn stopped(error: JoinError) -> Error {
    Error::failed("writing files of the archive", error)
}

/// The same values under the type of the file, which differs in the names and ids inside of lists.
fn as_type(array: &ArrayRef, data_type: &DataType) -> ArrayRef {
    if array.data_type() == data_type {
        return Arc::clone(array);
    }
    match (array.as_list_opt::<i32>(), data_type) {
        (Some(list), DataType::List(item)) => {
            let (_, offsets, values, nulls) = list.clone().into_parts();
            ListArray::try_new(Arc::clone(item), offsets, values, nulls)
                .map_or_else(|_| Arc::clone(array), |list| Arc::new(list) as ArrayRef)
        }
        _ => Arc::clone(array),
    }
}
