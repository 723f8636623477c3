//! Opening a table: made when it is not there, and brought to the columns that are to be written.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use arrow_array::RecordBatch;
use arrow_schema::{DataType, SchemaRef, TimeUnit};
use futures::future::BoxFuture;
use iceberg::table::Table;
use iceberg::{TableRequirement, TableUpdate};

use super::{ATTEMPTS, Committer, Outcome};
use crate::catalog::{CommitError, NewTable};
use crate::files::Target;
use crate::known::Keys;
use crate::plan::Plan;
use crate::progress::{self, Progress};
use crate::spec::{TableSpec, WriteOptions, column};
use crate::{Archive, Error, Result, schema, snapshot};

impl Committer {
    /// Opens a table for writing: makes it, or adds the columns that it has not yet.
    ///
    /// # Errors
    /// [`Error::Incompatible`] when the table cannot take such rows, [`Error::TopicChanged`] when another topic filled it,
    /// [`Error::NotOurs`] when nothing says how far it was filled.
    pub fn open<'a>(archive: &'a Archive, spec: TableSpec, options: &'a WriteOptions) -> BoxFuture<'a, Result<Self>> {
        Box::pin(async move {
            spec.check()?;
            let name = spec.name.to_string();
            let table = match archive.catalog().load(&name).await? {
                Some(table) => table,
                None => archive.catalog().create(&name, new_table(&spec, options)?).await?,
            };
            let progress = spec.progress(&table)?;
            let target = Arc::new(Target::new(&table, &spec.schema, options));
            let mut committer = Self {
                archive: archive.clone(),
                keys: Arc::new(Keys::new(spec.key.clone())),
                options: options.clone(),
                table,
                target,
                progress,
                plan: Plan::new(),
                under_way: None,
                is_stale: false,
                spec,
            };
            let schema = Arc::clone(&committer.spec.schema);
            committer.become_like(schema).await?;
            Ok(committer)
        })
    }

    /// Goes on with rows of another schema: adds columns to the table in a commit of its own.
    ///
    /// # Errors
    /// [`Error::Incompatible`] when the table cannot take such rows: then it goes on with those of before.
    /// [`Error::Fenced`] as for [`Committer::flush`].
    pub fn evolve(&mut self, schema: SchemaRef) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            if schema == self.spec.schema {
                return Ok(());
            }
            TableSpec { schema: Arc::clone(&schema), ..self.spec.clone() }.check()?;
            // What waits has the old columns.
            self.flush().await?;
            self.become_like(schema).await
        })
    }

    pub(super) async fn become_like(&mut self, schema: SchemaRef) -> Result<()> {
        let name = self.spec.name.to_string();
        for _ in 0..ATTEMPTS {
            let metadata = self.table.metadata();
            let refuse = |reason| Error::Incompatible { table: name.clone(), reason: Box::new(reason) };
            schema::check_partitions(metadata, self.options.span).map_err(refuse)?;
            let Some(evolution) = schema::fit(metadata, &schema).map_err(refuse)? else {
                self.target = Arc::new(Target::new(&self.table, &schema, &self.options));
                self.spec.schema = schema;
                return Ok(());
            };
            let requirements = vec![
                TableRequirement::UuidMatch { uuid: metadata.uuid() },
                TableRequirement::CurrentSchemaIdMatch { current_schema_id: metadata.current_schema_id() },
                TableRequirement::LastAssignedFieldIdMatch { last_assigned_field_id: metadata.last_column_id() },
            ];
            let updates = vec![
                TableUpdate::AddSchema { schema: evolution.schema },
                TableUpdate::SetCurrentSchema { schema_id: -1 },
            ];
            match snapshot::commit_metadata(&self.archive, &self.table, updates, requirements).await {
                Ok(_) => tracing::info!(table = %name, added = ?evolution.added, "the table has new columns"),
                Err(CommitError::Failed(error)) => return Err(error),
                // A look says what became of it, and doing it twice does no harm.
                Err(CommitError::Conflict | CommitError::Unknown(_)) => {}
            }
            if matches!(self.look(Instant::now()).await?, Some(Outcome::Fenced)) {
                return Err(Error::Fenced { table: name });
            }
        }
        Err(Error::Busy { table: name, attempts: ATTEMPTS })
    }

    /// That rows have the columns that were agreed on.
    pub(super) fn check(&self, rows: &RecordBatch) -> Result<()> {
        let (wanted, given) = (&self.spec.schema, rows.schema_ref());
        if Arc::ptr_eq(wanted, given) || wanted == given {
            return Ok(());
        }
        Err(Error::Rows(format!("rows of {given} were given to a table for {wanted}")))
    }
}

impl TableSpec {
    /// How far a table was filled, by the topic of this spec.
    pub(super) fn progress(&self, table: &Table) -> Result<Progress> {
        let name = self.name.to_string();
        let mut progress =
            Progress::of(table.metadata()).map_err(|reason| Error::NotOurs { table: name.clone(), reason })?;
        let is_other_origin =
            progress.origin.is_some() && self.source.origin.is_some() && progress.origin != self.source.origin;
        if progress.identity != self.source.identity || progress.topic != self.source.topic || is_other_origin {
            return Err(Error::TopicChanged {
                table: name,
                topic: self.source.topic.clone(),
                was: show(&progress.topic, &progress.identity, progress.origin.as_deref()),
                is: show(&self.source.topic, &self.source.identity, self.source.origin.as_deref()),
            });
        }
        progress.origin = progress.origin.or_else(|| self.source.origin.clone());
        Ok(progress)
    }

    /// That the columns are there which everything here counts on.
    fn check(&self) -> Result<()> {
        let fixed = [
            (column::PARTITION, DataType::Int32, true),
            (column::OFFSET, DataType::Int64, true),
            (column::EVENT_TIME, DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false),
        ];
        for (name, wanted, may_be_null) in fixed {
            let field = self.schema.field_with_name(name).map_err(|error| Error::Rows(error.to_string()))?;
            if *field.data_type() != wanted || field.is_nullable() && !may_be_null {
                return Err(Error::Rows(format!("the column `{name}` must be {wanted}, and it is {field}")));
            }
        }
        Keys::new(self.key.clone()).of(&RecordBatch::new_empty(Arc::clone(&self.schema))).map_err(Error::Rows)?;
        Ok(())
    }
}

fn new_table(spec: &TableSpec, options: &WriteOptions) -> Result<NewTable> {
    let refuse = |reason| Error::Incompatible { table: spec.name.to_string(), reason: Box::new(reason) };
    let schema = schema::create(&spec.schema).map_err(refuse)?;
    let (partition, order) = schema::layout(&schema, options.span)
        .map_err(|error| Error::failed("laying out a table of the archive", error))?;
    let mut properties: HashMap<String, String> =
        [("write.format.default", "parquet"), ("write.parquet.compression-codec", "zstd")]
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
    properties.insert("write.parquet.compression-level".to_owned(), options.zstd_level.to_string());
    properties.extend(options.properties.clone());
    properties.extend(Progress::new(&spec.source).property()?);
    debug_assert!(properties.contains_key(progress::PROPERTY));
    Ok(NewTable { schema, partition, order, properties })
}

fn show(topic: &str, identity: &str, origin: Option<&str>) -> String {
    origin.map_or_else(|| format!("{topic} ({identity})"), |origin| format!("{topic} ({identity}, of {origin})"))
}
