//! Asks the archive in SQL: [`Engine::run`].
//!
//! A query reads one snapshot of each table that it names, loaded when it begins; nothing else is known to it, least of all
//! other tenants' tables. It runs on threads of this engine with a low priority, never on those that move events, within
//! [`Limits`], and ends when its [`Answer`] is dropped.
//!
//! What the limits do not hold: rows while they are decoded from Parquet, what one call of a function makes of one batch, and
//! the time of such a call.

mod answer;
mod dialect;
mod error;
mod format;
mod predicate;
mod scan;
mod session;
mod shape;
mod sql;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::{RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement;
use futures::future::BoxFuture;
use phronis_core::Name;
use phronis_core::text::nearest;
use tokio::runtime::Runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

pub use answer::Answer;
pub use error::{Error, Place};
pub use format::{Encoder, Format, texts, type_name};
pub use sql::{InvalidTime, time_ms};

use crate::{Archive, TableName};
use answer::{AHEAD, Piece, Stops};
use scan::Snapshot;
use sql::{Parsed, Read, Task, Version};
use watch::Watch;

/// What a query may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Rows of an answer.
    pub rows: u64,
    /// Bytes of an answer, as columns.
    pub bytes: u64,
    /// Bytes of memory for sorting, grouping and joining.
    pub memory: u64,
    /// Bytes on disk for what does not fit into memory.
    pub spill: u64,
    /// Where those bytes go.
    pub spill_dir: PathBuf,
    /// From the question to the last row, the reader's pauses included.
    pub time: Duration,
    /// Queries at a time.
    pub queries: usize,
}

impl Limits {
    /// The defaults, with a folder for what does not fit into memory.
    pub fn new(spill_dir: PathBuf) -> Self {
        Self {
            rows: 1_000_000,
            bytes: 256 << 20,
            memory: 128 << 20,
            spill: 1 << 30,
            spill_dir,
            time: Duration::from_secs(60),
            queries: 4,
        }
    }
}

/// A question.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// One statement of SQL.
    pub sql: &'a str,
    /// The tables as they were at this time (milliseconds since 1970), where the SQL does not say otherwise.
    pub as_of: Option<i64>,
    /// Whose tables there are; `None` is all tenants'.
    pub tenant: Option<&'a Name>,
}

/// A table that a query reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadTable {
    /// Its name.
    pub table: String,
    /// The snapshot; `None` while the table has none.
    pub snapshot: Option<i64>,
}

/// Answers queries.
#[derive(Debug)]
pub struct Engine {
    archive: Archive,
    limits: Limits,
    places: Arc<Semaphore>,
    /// `None` only while it is dropped.
    threads: Option<Runtime>,
}

/// Threads that queries run on.
const THREADS: usize = 2;

/// The stack of each. Expressions are worked out, copied and dropped as deep as they are nested, which [`shape`] bounds; only
/// what is used of it is memory.
const STACK: usize = 8 << 20;

/// What the names of DataFusion's folders begin with.
const SPILLED: &str = "datafusion-";

impl Engine {
    /// An engine with threads of its own. What queries of a process that was killed left in the spill folder is removed:
    /// the folder belongs to one engine.
    ///
    /// # Errors
    /// The threads cannot be started, or the spill folder cannot be made.
    pub fn new(archive: Archive, limits: Limits) -> std::io::Result<Self> {
        std::fs::create_dir_all(&limits.spill_dir)?;
        for left in std::fs::read_dir(&limits.spill_dir)?.flatten() {
            if left.file_name().to_string_lossy().starts_with(SPILLED) {
                std::fs::remove_dir_all(left.path())?;
            }
        }
        let threads = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("phronis-query")
            .thread_stack_size(STACK)
            .on_thread_start(crate::step_back)
            .enable_all()
            .build()?;
        let places = Arc::new(Semaphore::new(limits.queries));
        Ok(Self { archive, limits, places, threads: Some(threads) })
    }

    /// The archive that is asked.
    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    /// What a query may take.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Answers a statement with the tables of a tenant, or of all.
    ///
    /// # Errors
    /// As [`Engine::ask`].
    pub fn run<'a>(&'a self, sql: &'a str, tenant: Option<&'a Name>) -> BoxFuture<'a, Result<Answer, Error>> {
        Box::pin(async move { self.ask(Question { sql, as_of: None, tenant }).await })
    }

    /// Answers a question. When this returns, the first rows are there: most of what goes wrong has gone wrong before.
    ///
    /// # Errors
    /// The SQL is wrong or does more than read, a limit is reached, too many queries run, or the archive cannot be read.
    ///
    /// # Cancel safety
    /// Dropping the future stops the query.
    pub fn ask<'a>(&'a self, question: Question<'a>) -> BoxFuture<'a, Result<Answer, Error>> {
        Box::pin(async move {
            let place = Arc::clone(&self.places).try_acquire_owned();
            let place = place.map_err(|_| Error::Busy { most: self.limits.queries })?;
            let until = Instant::now() + self.limits.time;
            let parsed = sql::parse(question.sql)?;
            let Task::Plan(statement) = parsed.task else {
                return self.begin(self.names(question).await?, until, place).await;
            };
            let parsed = Parsed { task: Task::ShowTables, ..parsed };
            let tables = tokio::time::timeout_at(until, self.load(&parsed, question)).await;
            let tables = tables.map_err(|_| Error::TooLong { most: self.limits.time })??;
            let work = Work::Plan { statement, tables, namespace: self.archive.settings().namespace.clone() };
            self.begin((work, question.sql.to_owned()), until, place).await
        })
    }

    /// Starts the work on the engine's threads, and waits for its first piece.
    async fn begin(
        &self,
        (work, sql): (Work, String),
        until: Instant,
        place: OwnedSemaphorePermit,
    ) -> Result<Answer, Error> {
        let (pieces, mut received) = mpsc::channel(AHEAD);
        let (begun, beginning) = oneshot::channel();
        let limits = self.limits.clone();
        let most = limits.time;
        let tables = work.tables();
        let threads = self.threads.as_ref().ok_or_else(|| Error::Failed("the engine is stopped".to_owned()))?;
        let watch = Watch::until(until.into_std());
        let watched = watch.clone();
        let task = threads.spawn(async move {
            work.run(&sql, &limits, until, &watched, (begun, pieces), place).await;
        });
        let engine = Stops { task: task.abort_handle(), watch };
        let fell = || Error::Failed("the query engine fell over this query".to_owned());
        let schema = match tokio::time::timeout_at(until, beginning).await {
            Ok(begun) => begun.map_err(|_| fell())??,
            Err(_) => return Err(Error::TooLong { most }),
        };
        let first = answer::received(&mut received, until, most).await;
        let first = Some(Ok(first?));
        Ok(Answer { schema, tables, pieces: received, first, engine, until, most, is_over: false })
    }

    async fn names(&self, question: Question<'_>) -> Result<(Work, String), Error> {
        let names = self.known(question.tenant).await?;
        let schema = Arc::new(Schema::new(vec![Field::new("table", DataType::Utf8, false)]));
        let names = StringArray::from_iter_values(names);
        let batch =
            RecordBatch::try_new(schema, vec![Arc::new(names)]).map_err(|error| Error::Failed(error.to_string()))?;
        Ok((Work::Names(batch), question.sql.to_owned()))
    }

    /// The names of the tables that a tenant has.
    async fn known(&self, tenant: Option<&Name>) -> Result<Vec<String>, Error> {
        let mut names = self.archive.catalog().list().await?;
        names.retain(|name| is_of(name, tenant));
        names.sort_unstable();
        Ok(names)
    }

    /// The snapshots of the tables that are named.
    async fn load(&self, parsed: &Parsed, question: Question<'_>) -> Result<Vec<(Read, Snapshot)>, Error> {
        let mut tables = Vec::new();
        for read in &parsed.reads {
            let is_ours =
                read.namespace.as_deref().is_none_or(|namespace| namespace == self.archive.settings().namespace);
            let found = match is_ours && is_of(&read.table, question.tenant) {
                true => self.archive.catalog().load(&read.table).await?,
                false => None,
            };
            let Some(table) = found else {
                if read.namespace.is_none() && read.version.is_none() && parsed.own.contains(&read.table) {
                    continue;
                }
                let names = self.known(question.tenant).await?;
                let near = nearest(&read.table, names.iter().map(String::as_str)).map(error::quoted);
                return Err(Error::UnknownTable { table: read.table.clone(), near, at: read.at.clone() });
            };
            let id = match read.version.or_else(|| question.as_of.map(Version::AsOf)) {
                Some(version) => Some(snapshot_of(&table, read, version)?),
                None => None,
            };
            let threads = self.threads.as_ref().ok_or_else(|| Error::Failed("the engine is stopped".to_owned()))?;
            let snapshot = Snapshot::new(table, id, iceberg::Runtime::new(threads));
            tables.push((read.clone(), snapshot.map_err(|error| Error::Failed(error.to_string()))?));
        }
        Ok(tables)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Waiting is not allowed where async code drops it.
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}

/// Whether a name is that of a table which the tenant may know.
fn is_of(name: &str, tenant: Option<&Name>) -> bool {
    name.parse::<TableName>().is_ok_and(|name| tenant.is_none_or(|tenant| name.tenant == *tenant))
}

fn snapshot_of(table: &iceberg::table::Table, read: &Read, version: Version) -> Result<i64, Error> {
    let metadata = table.metadata();
    let (found, wanted) = match version {
        Version::Snapshot(id) => (metadata.snapshot_by_id(id).map(|s| s.snapshot_id()), format!("no snapshot {id}")),
        Version::AsOf(time) => {
            let then = metadata.history().iter().rfind(|entry| entry.timestamp_ms() <= time);
            let then = then.and_then(|entry| metadata.snapshot_by_id(entry.snapshot_id));
            (
                then.map(|s| s.snapshot_id()),
                format!("nothing of {}", phronis_core::time::Time(time.saturating_mul(1000))),
            )
        }
    };
    found.ok_or_else(|| {
        let oldest = metadata.snapshots().map(|snapshot| snapshot.timestamp_ms()).min();
        let oldest = match oldest {
            Some(ms) => format!("its oldest snapshot is of {}", phronis_core::time::Time(ms.saturating_mul(1000))),
            None => "it has no snapshot yet".to_owned(),
        };
        Error::NoSnapshot { message: format!("the table `{}` has {wanted}: {oldest}", read.table), at: read.at.clone() }
    })
}

/// What the engine's threads do.
enum Work {
    Names(RecordBatch),
    Plan {
        statement: Box<datafusion::sql::sqlparser::ast::Statement>,
        tables: Vec<(Read, Snapshot)>,
        namespace: String,
    },
}

impl Work {
    fn tables(&self) -> Vec<ReadTable> {
        match self {
            Self::Names(_) => Vec::new(),
            Self::Plan { tables, .. } => tables
                .iter()
                .map(|(read, snapshot)| ReadTable { table: read.table.clone(), snapshot: snapshot.id() })
                .collect(),
        }
    }

    /// The place is free before the end is told, so that who asks one query after the other needs no second place;
    /// and whichever way the task ends.
    async fn run(
        self,
        sql: &str,
        limits: &Limits,
        until: Instant,
        watch: &Watch,
        (begun, pieces): (oneshot::Sender<Result<SchemaRef, Error>>, mpsc::Sender<Piece>),
        place: OwnedSemaphorePermit,
    ) {
        let opened = tokio::time::timeout_at(until, self.open(sql, limits, watch)).await;
        let opened = opened.unwrap_or_else(|_| Err(Error::TooLong { most: limits.time }));
        let (schema, batches) = match opened {
            Ok((_context, batches)) => (answer::distinct(&batches.schema()), batches),
            Err(error) => {
                drop(place);
                // Whoever asked may be gone, then nobody minds.
                drop(begun.send(Err(error)));
                return;
            }
        };
        drop(begun.send(Ok(Arc::clone(&schema))));
        let end = answer::drive(batches, schema, sql, limits, watch, until, &pieces).await;
        drop(place);
        drop(pieces.send(end).await);
    }

    async fn open(
        self,
        sql: &str,
        limits: &Limits,
        watch: &Watch,
    ) -> Result<(Option<SessionContext>, SendableRecordBatchStream), Error> {
        let (statement, tables, namespace) = match self {
            Self::Names(batch) => {
                let schema = batch.schema();
                let one = futures::stream::iter([Ok(batch)]);
                return Ok((None, Box::pin(RecordBatchStreamAdapter::new(schema, one))));
            }
            Self::Plan { statement, tables, namespace } => (statement, tables, namespace),
        };
        let tables = tables.into_iter().map(|(read, snapshot)| (read.called, snapshot)).collect();
        let meaning = |error| error::meaning(&error, sql, limits.memory, limits.spill);
        let context = session::with(tables, &namespace, limits).map_err(meaning)?;
        let (plan, context) = planned(context, statement, watch).await.map_err(meaning)?;
        let batches = execute_stream(plan, context.task_ctx()).map_err(meaning)?;
        Ok((Some(context), batches))
    }
}

async fn planned(
    context: SessionContext,
    statement: Box<datafusion::sql::sqlparser::ast::Statement>,
    watch: &Watch,
) -> datafusion::error::Result<(Arc<dyn ExecutionPlan>, SessionContext)> {
    let plan = context.state().statement_to_plan(Statement::Statement(statement)).await?;
    session::only_reads().verify_plan(&plan)?;
    let frame = context.execute_logical_plan(plan).await?;
    Ok((watch::over(frame.create_physical_plan().await?, watch)?, context))
}
