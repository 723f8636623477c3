//! Who knows where a table's newest metadata is: a small port with two implementations.
//!
//! A commit is a list of changes and of what must hold for them. The port says three things about it and never guesses:
//! it took place, it lost against another ([`CommitError::Conflict`]), or nobody knows ([`CommitError::Unknown`]).
//! Whoever commits resolves the last by loading the table and looking for its own mark.

mod rest;
mod sql;

use std::collections::HashMap;
use std::fmt::Debug;

use async_trait::async_trait;
use iceberg::spec::{Schema, SortOrder, UnboundPartitionSpec};
use iceberg::table::Table;
use iceberg::{TableRequirement, TableUpdate};

use crate::{Error, Result};

pub(crate) use rest::Rest;
pub(crate) use sql::Sql;

/// The catalog of the archive's tables.
#[async_trait]
pub trait Catalog: Send + Sync + Debug {
    /// The names of all tables of the namespace, in order.
    async fn list(&self) -> Result<Vec<String>>;

    /// The newest state of a table.
    async fn load(&self, name: &str) -> Result<Option<Table>>;

    /// Makes a table. Who loses a race for it gets the winner's.
    async fn create(&self, name: &str, new: NewTable) -> Result<Table>;

    /// Changes a table when it is still as `base`.
    ///
    /// # Cancel safety
    /// Whether a commit under way took place is not known when its future is dropped.
    async fn commit(
        &self,
        base: &Table,
        updates: Vec<TableUpdate>,
        requirements: Vec<TableRequirement>,
    ) -> Result<Table, CommitError>;
}

/// What a new table is made of.
#[derive(Debug, Clone)]
pub struct NewTable {
    /// Its columns. Field ids are given anew.
    pub schema: Schema,
    /// How rows are divided.
    pub partition: UnboundPartitionSpec,
    /// How rows are sorted in a file.
    pub order: SortOrder,
    /// Its properties.
    pub properties: HashMap<String, String>,
}

impl NewTable {
    /// Old metadata goes with the commit that makes it too old: it is never read again, and each commit leaves one.
    fn with_defaults(mut self) -> Self {
        let defaults = [(DELETE_OLD_METADATA, "true"), ("write.metadata.previous-versions-max", "100")];
        for (key, value) in defaults {
            self.properties.entry(key.to_owned()).or_insert_with(|| value.to_owned());
        }
        self
    }
}

/// Whether metadata that is too old is deleted after a commit: Iceberg's name for it.
const DELETE_OLD_METADATA: &str = "write.metadata.delete-after-commit.enabled";

/// Why a commit is not known to have taken place.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommitError {
    /// The table has changed meanwhile; the commit did not take place.
    #[error("the table has changed meanwhile")]
    Conflict,
    /// The commit may have taken place, now or later: nothing that it names may be deleted until that is known.
    #[error("whether the commit took place is not known: {0}")]
    Unknown(Error),
    /// The commit did not take place.
    #[error("{0}")]
    Failed(Error),
}

/// Rows of `iceberg_tables`, wherever they are kept. Each says where the newest metadata of a table is.
#[async_trait]
pub trait Pointers: Send + Sync + Debug {
    /// The names of all tables of a namespace, in order.
    async fn list(&self, catalog: &str, namespace: &str) -> Result<Vec<String>, PointerError>;

    /// Where the newest metadata of a table is.
    async fn get(&self, catalog: &str, namespace: &str, table: &str) -> Result<Option<String>, PointerError>;

    /// Makes the row of a table; false when there is one.
    async fn create(&self, catalog: &str, namespace: &str, table: &str, location: &str) -> Result<bool, PointerError>;

    /// Puts `to` in place of `from`; false when another location is there.
    ///
    /// # Errors
    /// Nobody knows whether it took place.
    async fn swap(
        &self,
        catalog: &str,
        namespace: &str,
        table: &str,
        from: &str,
        to: &str,
    ) -> Result<bool, PointerError>;
}

/// Why pointers cannot be read or written.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{reason}")]
pub struct PointerError {
    /// What the database says, without secrets.
    pub reason: String,
    /// It is there and does not let us in.
    pub is_refused: bool,
}

impl From<PointerError> for Error {
    fn from(error: PointerError) -> Self {
        let reason = error.reason;
        if error.is_refused { Self::CatalogRefused { reason } } else { Self::CatalogUnreachable { reason } }
    }
}

#[cfg(test)]
pub(crate) mod tests;
