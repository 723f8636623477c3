//! The Iceberg archive: tables of all events, alerts and letters, that any engine can read.
//!
//! [`Archive`] is a handle of a catalog and of storage. `catalog.rs` says who knows the newest metadata of a table and what a
//! commit is, `snapshot.rs` writes what a commit adds, `storage.rs` puts files where they survive a crash.
//! Nothing here knows the log, the store or the pipeline: what is needed of the store is the trait [`Pointers`].

mod archive;
mod catalog;
pub mod describe;
mod error;
mod hook;
mod maintain;
mod name;
pub mod query;
mod settings;
#[allow(dead_code, reason = "the writer of data files uses the rest")]
mod snapshot;
mod storage;

pub use archive::Archive;
pub use catalog::{Catalog, CommitError, NewTable, PointerError, Pointers};
pub use error::Error;
pub use iceberg::table::Table;
pub use maintain::{Group, Orphan, Plan, Report, Upkeep};
pub use name::{InvalidTableName, Kind, TableName};
pub use settings::{CatalogSettings, NAMESPACE, Settings};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
