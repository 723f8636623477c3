//! The catalog in a database, in the layout that the JDBC catalog of Java and the SQL catalog of pyiceberg share.
//!
//! A commit writes a new `metadata.json` under a name that is never used again, and then puts its location in place of the old
//! one, if that is still there. What lies between the two is not visible to anyone.

use std::str::FromStr as _;
use std::sync::Arc;

use async_trait::async_trait;
use iceberg::io::FileIO;
use iceberg::spec::{FormatVersion, TableMetadata, TableMetadataBuilder};
use iceberg::table::Table;
use iceberg::{MetadataLocation, NamespaceIdent, Runtime, TableCreation, TableIdent, TableRequirement, TableUpdate};

use super::{Catalog, CommitError, DELETE_OLD_METADATA, NewTable, Pointers};
use crate::hook::Hook;
use crate::{Error, Result, Settings};

/// The SQL catalog.
#[derive(Debug)]
pub(crate) struct Sql {
    name: String,
    settings: Settings,
    pointers: Arc<dyn Pointers>,
    files: FileIO,
    runtime: Runtime,
    hook: Hook,
}

impl Sql {
    /// A catalog of this name over rows and files.
    pub(crate) fn new(name: &str, settings: &Settings, pointers: Arc<dyn Pointers>, files: FileIO, hook: Hook) -> Self {
        let runtime = Runtime::current();
        Self { name: name.to_owned(), settings: settings.clone(), pointers, files, runtime, hook }
    }

    fn table(&self, name: &str, metadata: TableMetadata, location: String) -> Result<Table> {
        let namespace = NamespaceIdent::new(self.settings.namespace.clone());
        Table::builder()
            .identifier(TableIdent::new(namespace, name.to_owned()))
            .file_io(self.files.clone())
            .metadata(metadata)
            .metadata_location(location)
            .runtime(self.runtime.clone())
            .build()
            .map_err(|error| Error::failed("opening a table of the archive", error))
    }

    async fn write(&self, metadata: &TableMetadata, location: &MetadataLocation) -> Result<()> {
        let written = metadata.write_to(&self.files, location).await;
        written.map_err(|error| Error::of("writing a table's metadata", &location.to_string(), error))?;
        self.hook.pass("archive-metadata-written");
        Ok(())
    }

    /// Removes metadata that nobody points to; what stays is found by the removal of orphans.
    async fn forget(&self, location: &MetadataLocation) {
        if let Err(error) = self.files.delete(location.to_string()).await {
            tracing::debug!(%error, %location, "metadata of a commit that did not take place is left");
        }
    }

    /// Deletes metadata that is too old, beside the caller.
    fn drop_outdated(&self, paths: Vec<String>) {
        let files = self.files.clone();
        if paths.is_empty() {
            return;
        }
        drop(tokio::spawn(async move {
            if let Err(error) = files.delete_stream(futures::stream::iter(paths)).await {
                tracing::debug!(%error, "old metadata is left until orphans are removed");
            }
        }));
    }

    async fn is_there(&self, table: &str, location: &str) -> bool {
        let found = self.pointers.get(&self.name, &self.settings.namespace, table).await;
        matches!(found, Ok(Some(found)) if found == location)
    }
}

/// A table's metadata after a change.
struct Changed {
    metadata: TableMetadata,
    from: String,
    to: MetadataLocation,
    /// Metadata that nobody needs after it.
    outdated: Vec<String>,
}

/// The metadata after a change, or why there is none.
fn changed(base: &Table, updates: Vec<TableUpdate>, requirements: &[TableRequirement]) -> Result<Changed, CommitError> {
    for requirement in requirements {
        if requirement.check(Some(base.metadata())).is_err() {
            return Err(CommitError::Conflict);
        }
    }
    let failed = |error| CommitError::Failed(Error::failed("changing a table of the archive", error));
    let from = base.metadata_location_result().map_err(failed)?.to_owned();
    let mut builder = base.metadata().clone().into_builder(Some(from.clone()));
    for update in updates {
        builder = update.apply(builder).map_err(failed)?;
    }
    let built = builder.build().map_err(failed)?;
    let to = next(&from, &built.metadata).map_err(failed)?;
    let mut outdated: Vec<String> = built.expired_metadata_logs.into_iter().map(|log| log.metadata_file).collect();
    if built.metadata.properties().get(DELETE_OLD_METADATA).is_none_or(|value| value != "true") {
        outdated.clear();
    }
    Ok(Changed { metadata: built.metadata, from, to, outdated })
}

/// The name of the next metadata: the number rises, and the UUID is new, so that no two are the same.
fn next(from: &str, metadata: &TableMetadata) -> iceberg::Result<MetadataLocation> {
    match MetadataLocation::from_str(from) {
        Ok(location) => Ok(location.with_next_version().with_new_metadata(metadata)),
        // Others may have called theirs otherwise.
        Err(_) => Ok(MetadataLocation::new_with_metadata(metadata.location(), metadata).with_next_version()),
    }
}

#[async_trait]
impl Catalog for Sql {
    async fn list(&self) -> Result<Vec<String>> {
        Ok(self.pointers.list(&self.name, &self.settings.namespace).await?)
    }

    async fn load(&self, name: &str) -> Result<Option<Table>> {
        let Some(location) = self.pointers.get(&self.name, &self.settings.namespace, name).await? else {
            return Ok(None);
        };
        let metadata = TableMetadata::read_from(&self.files, &location).await;
        let metadata = metadata.map_err(|error| Error::of("reading a table's metadata", &location, error))?;
        self.table(name, metadata, location).map(Some)
    }

    async fn create(&self, name: &str, new: NewTable) -> Result<Table> {
        let failed = |error| Error::failed("making a table of the archive", error);
        let new = new.with_defaults();
        let place = self.settings.location(name).unwrap_or_default();
        let creation = TableCreation::builder()
            .name(name.to_owned())
            .location(place.clone())
            .schema(new.schema)
            .partition_spec(new.partition)
            .sort_order(new.order)
            .properties(new.properties)
            .format_version(FormatVersion::V2)
            .build();
        let built = TableMetadataBuilder::from_table_creation(creation).and_then(TableMetadataBuilder::build);
        let metadata = built.map_err(failed)?.metadata;
        let location = MetadataLocation::new_with_metadata(&place, &metadata);
        self.write(&metadata, &location).await?;
        let to = location.to_string();
        if self.pointers.create(&self.name, &self.settings.namespace, name, &to).await? {
            return self.table(name, metadata, to);
        }
        self.forget(&location).await;
        let reason = "it was made and removed by others meanwhile: try again".to_owned();
        self.load(name).await?.ok_or_else(|| Error::Table { table: name.to_owned(), reason })
    }

    async fn commit(
        &self,
        base: &Table,
        updates: Vec<TableUpdate>,
        requirements: Vec<TableRequirement>,
    ) -> Result<Table, CommitError> {
        let name = base.identifier().name();
        let Changed { metadata, from, to: location, outdated } = changed(base, updates, &requirements)?;
        self.write(&metadata, &location).await.map_err(CommitError::Failed)?;
        let to = location.to_string();
        match self.pointers.swap(&self.name, &self.settings.namespace, name, &from, &to).await {
            Ok(true) => {}
            Ok(false) => {
                self.forget(&location).await;
                return Err(CommitError::Conflict);
            }
            Err(_) if self.is_there(name, &to).await => {}
            Err(error) => return Err(CommitError::Unknown(error.into())),
        }
        self.hook.pass("archive-swapped");
        self.drop_outdated(outdated);
        self.table(name, metadata, to).map_err(CommitError::Unknown)
    }
}
