//! A table of the archive, as DataFusion reads it: one snapshot, pinned when the query begins.
//!
//! Files are planned once, by their statistics, and shared out to the engine's partitions by size.
//! There is no way to write here.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::{DataFusionError, Result, Statistics};
use datafusion::datasource::TableType;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use futures::{Stream, StreamExt, TryStreamExt};
use iceberg::Runtime;
use iceberg::arrow::schema_to_arrow_schema;
use iceberg::io::FileIO;
use iceberg::scan::FileScanTask;
use iceberg::table::Table;

use super::predicate;
use crate::read::{Reader, batch_rows};

/// A snapshot of a table.
#[derive(Debug)]
pub(super) struct Snapshot {
    table: Table,
    /// `None` while the table has none.
    id: Option<i64>,
    fields: iceberg::spec::SchemaRef,
    schema: SchemaRef,
    runtime: Runtime,
}

impl Snapshot {
    /// A snapshot of the table, or its newest.
    pub(super) fn new(table: Table, id: Option<i64>, runtime: Runtime) -> iceberg::Result<Self> {
        let metadata = table.metadata();
        let (id, fields) = match id.and_then(|id| metadata.snapshot_by_id(id)) {
            Some(snapshot) => (Some(snapshot.snapshot_id()), snapshot.schema(metadata)?),
            // New columns are there before the first row that has them.
            None => (metadata.current_snapshot_id(), Arc::clone(metadata.current_schema())),
        };
        let schema = Arc::new(schema_to_arrow_schema(&fields)?);
        Ok(Self { table, id, fields, schema, runtime })
    }

    /// The snapshot that is read.
    pub(super) fn id(&self) -> Option<i64> {
        self.id
    }

    /// How many rows make a batch, at most so many: what is put together again in the engine is as large.
    pub(super) fn batch_rows(&self, most: usize) -> usize {
        let snapshot = self.id.and_then(|id| self.table.metadata().snapshot_by_id(id));
        let total = |name: &str| -> Option<u64> {
            snapshot.and_then(|snapshot| snapshot.summary().additional_properties.get(name))?.parse().ok()
        };
        match (total("total-files-size"), total("total-records")) {
            (Some(bytes), Some(rows)) => batch_rows(bytes, rows, most),
            _ => most,
        }
    }

    async fn files(&self, names: &[&str], filters: &[Expr]) -> iceberg::Result<Vec<FileScanTask>> {
        let Some(id) = self.id else { return Ok(Vec::new()) };
        let mut scan = self.table.scan().snapshot_id(id).select(names.iter().copied());
        if let Some(predicate) = predicate::of_all(filters, &self.fields) {
            scan = scan.with_filter(predicate);
        }
        scan.build()?.plan_files().await?.try_collect().await
    }
}

#[async_trait::async_trait]
impl TableProvider for Snapshot {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let how = |filter: &&Expr| match predicate::of(filter, &self.fields) {
            Some(_) => TableProviderFilterPushDown::Inexact,
            None => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(how).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = match projection {
            Some(columns) => Arc::new(self.schema.project(columns)?),
            None => Arc::clone(&self.schema),
        };
        let mut names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        // Rows without columns still have to be counted: one column is read and dropped.
        if names.is_empty() {
            names.extend(self.schema.fields().first().map(|field| field.name().as_str()));
        }
        let files = self.files(&names, filters).await.map_err(external)?;
        // What a condition leaves of the rows is not known here.
        let limit = limit.filter(|_| filters.is_empty());
        let files = match limit {
            Some(limit) => enough(files, limit),
            None => files,
        };
        let rows = files.iter().map(|file| file.record_count.filter(|_| file.deletes.is_empty())).sum::<Option<u64>>();
        let rows = rows.and_then(|rows| usize::try_from(rows).ok());
        let is_all = limit.is_none() && files.iter().all(|file| file.predicate.is_none());
        let rows = match (rows, is_all) {
            (Some(rows), true) => Precision::Exact(rows),
            (Some(rows), false) => Precision::Inexact(rows),
            (None, _) => Precision::Absent,
        };
        let lanes = share_out(files, state.config().target_partitions());
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(lanes.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Arc::new(Scan {
            name: self.table.identifier().name().to_owned(),
            snapshot: self.id,
            lanes,
            rows,
            schema,
            batch_rows: state.config().batch_size().min(limit.unwrap_or(usize::MAX)).max(1),
            limit,
            io: self.table.file_io().clone(),
            runtime: self.runtime.clone(),
            properties: Arc::new(properties),
        }))
    }
}

/// Files that have as many rows as are wanted, as far as their number of rows is known: the rest need not be opened.
fn enough(files: Vec<FileScanTask>, rows: usize) -> Vec<FileScanTask> {
    let mut left = u64::try_from(rows).unwrap_or(u64::MAX);
    let mut taken = Vec::new();
    for file in files {
        if left == 0 {
            break;
        }
        let is_sure = file.predicate.is_none() && file.deletes.is_empty();
        left = left.saturating_sub(file.record_count.filter(|_| is_sure).unwrap_or_default());
        taken.push(file);
    }
    taken
}

/// The first rows of a stream of batches.
fn first(
    batches: impl Stream<Item = Result<RecordBatch>> + Send + 'static,
    rows: usize,
) -> impl Stream<Item = Result<RecordBatch>> + Send + 'static {
    batches.scan(rows, |left, batch| {
        let is_over = *left == 0;
        let cut = batch.map(|batch| {
            let rows = batch.num_rows().min(*left);
            *left -= rows;
            batch.slice(0, rows)
        });
        std::future::ready((!is_over).then_some(cut))
    })
}

/// Largest first, always to the lane that has least; at least one lane.
fn share_out(mut files: Vec<FileScanTask>, lanes: usize) -> Vec<Vec<FileScanTask>> {
    files.sort_by(|a, b| {
        b.file_size_in_bytes.cmp(&a.file_size_in_bytes).then_with(|| a.data_file_path.cmp(&b.data_file_path))
    });
    let mut shares: Vec<(u64, Vec<FileScanTask>)> = vec![(0, Vec::new()); lanes.min(files.len()).max(1)];
    for file in files {
        if let Some((bytes, lane)) = shares.iter_mut().min_by_key(|(bytes, _)| *bytes) {
            *bytes = bytes.saturating_add(file.file_size_in_bytes);
            lane.push(file);
        }
    }
    shares.into_iter().map(|(_, lane)| lane).collect()
}

fn external(error: iceberg::Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// Reads the files of a snapshot.
struct Scan {
    name: String,
    snapshot: Option<i64>,
    lanes: Vec<Vec<FileScanTask>>,
    rows: Precision<usize>,
    schema: SchemaRef,
    batch_rows: usize,
    /// Rows after which nobody wants more.
    limit: Option<usize>,
    io: FileIO,
    runtime: Runtime,
    properties: Arc<PlanProperties>,
}

impl fmt::Debug for Scan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scan").field("name", &self.name).field("snapshot", &self.snapshot).finish_non_exhaustive()
    }
}

impl DisplayAs for Scan {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files: usize = self.lanes.iter().map(Vec::len).sum();
        let bytes: u64 = self.lanes.iter().flatten().map(|file| file.file_size_in_bytes).sum();
        write!(f, "ArchiveScan: table={}, snapshot={:?}, files={files}, bytes={bytes}", self.name, self.snapshot)?;
        match self.lanes.iter().flatten().find_map(|file| file.predicate.as_ref()) {
            Some(predicate) => write!(f, ", predicate={predicate}"),
            None => Ok(()),
        }
    }
}

impl ExecutionPlan for Scan {
    fn name(&self) -> &'static str {
        "ArchiveScan"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let files = self.lanes.get(partition).cloned().unwrap_or_default();
        // One file at a time: a lane is one thread's work, and open files hold memory that no pool counts.
        let (io, runtime, schema) = (self.io.clone(), self.runtime.clone(), Arc::clone(&self.schema));
        let batches = Reader { io, runtime, rows: self.batch_rows, schema }.read(files).map_err(external);
        let batches = first(batches, self.limit.unwrap_or(usize::MAX));
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), batches)))
    }

    fn partition_statistics(&self, partition: Option<usize>) -> Result<Statistics> {
        let mut statistics = Statistics::new_unknown(&self.schema);
        if partition.is_none() {
            statistics.num_rows = self.rows;
        }
        Ok(statistics)
    }
}
