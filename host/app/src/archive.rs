//! The archive for commands: opened from the configuration, whether a host runs or not.

use std::sync::Arc;

use phronis_archive::{Archive, Kind, TableName};
use phronis_core::code;
use phronis_pipeline::archive::{self, StorePointers};
use phronis_store::{Options, Store};

use crate::commands::wiring;
use crate::config::Config;
use crate::failure::{Exit, Failure};

/// Opens the archive, and proves that catalog and storage answer.
///
/// # Errors
/// There is none in the configuration, or it cannot be used.
pub(crate) async fn open(config: &Config) -> Result<Archive, Failure> {
    let Some(archive) = &config.archive else {
        return Err(Failure::new(Exit::Refused, "this configuration has no archive")
            .next("set `enabled = true` in [archive]; docs/archive.md tells the rest"));
    };
    let store = Store::open(&config.store.options()).await?;
    let settings = wiring::archive_settings(archive);
    Ok(Archive::open(&settings, Some(Arc::new(StorePointers(store)))).await?)
}

/// What the contracts would change in the tables, a line for each table; none where the archive is off.
///
/// # Errors
/// The archive cannot be asked, or a table cannot take what its contract wants.
pub(crate) async fn changes(config: &Config) -> Result<Vec<String>, Failure> {
    if config.archive.is_none() {
        return Ok(Vec::new());
    }
    let archive = open(config).await?;
    let mut lines = Vec::new();
    for (id, stream) in &config.streams {
        let name = TableName::new(id, Kind::Events).to_string();
        let table = archive.catalog().load(&name).await?;
        let schema = archive::schema(&stream.contract);
        let added = phronis_archive::check(table.as_ref(), &schema).map_err(|reason| {
            Failure::new(Exit::CheckFailed, format!("stream {id}: table {name} of the archive: {reason}"))
                .code(code::ARCHIVE_INCOMPATIBLE)
        })?;
        lines.push(match (&table, added.as_slice()) {
            (None, _) => format!("{name} will be made"),
            (Some(_), []) => format!("{name} stays as it is"),
            (Some(_), added) => format!("{name} gets {}", added.join(", ")),
        });
    }
    Ok(lines)
}

/// Whether all of the archive is on this machine, so that nobody is contacted to ask it.
pub(crate) fn is_local(config: &Config) -> bool {
    let is_made = matches!(config.store.options(), Options::Sqlite(path) if path.exists());
    let uses_store = |archive: &crate::config::Archive| archive.catalog == crate::config::archive::Catalog::Store;
    is_made
        && config.archive.as_ref().is_some_and(|archive| uses_store(archive) && archive.warehouse.starts_with("file:"))
}

impl From<phronis_archive::Error> for Failure {
    fn from(error: phronis_archive::Error) -> Self {
        let exit = if error.is_retriable() { Exit::NotReachable } else { Exit::Refused };
        Self::new(exit, error.to_string()).code(error.code())
    }
}
