//! The Iceberg archive: tables of all events, alerts and letters, that any engine can read.
//!
//! [`Archive`] is a handle of a catalog and of storage. `catalog.rs` says who knows the newest metadata of a table and what a
//! commit is, `snapshot.rs` writes what a commit adds, `storage.rs` puts files where they survive a crash.
//! Nothing here knows the log, the store or the pipeline: what is needed of the store is the trait [`Pointers`].
//!
//! Futures of the API are boxed: what stands behind them, queries above all, is compiled once, here, and not again in each
//! crate that waits for them.

mod archive;
mod bounds;
mod catalog;
mod committer;
pub mod describe;
mod encoding;
mod error;
mod files;
pub mod history;
mod hook;
mod known;
mod lookup;
mod maintain;
mod name;
mod plan;
mod progress;
pub mod query;
mod read;
mod schema;
mod settings;
mod snapshot;
mod sorted;
mod spec;
mod storage;
#[cfg(test)]
mod testing;
mod times;

pub use archive::Archive;
pub use catalog::{Catalog, CommitError, NewTable, PointerError, Pointers};
pub use committer::{Buffered, Committed, Committer, Outcome};
pub use error::Error;
pub use iceberg::table::Table;
pub use lookup::read_back;
pub use maintain::{Group, Orphan, Plan, Report, Upkeep};
pub use name::{InvalidTableName, Kind, TableName};
pub use schema::{Incompatible, check, plain_columns};
pub use settings::{CatalogSettings, NAMESPACE, Settings};
pub use spec::{Source, Span, TableSpec, WriteOptions, column};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// How much a thread of the archive steps back behind those that move events, as in nice(1).
const NICENESS: i32 = 10;

/// Lets the thread that calls it step back behind those that move events.
pub fn step_back() {
    // On Linux this is the thread's own; where it is refused, the thread just runs at the usual priority.
    rustix::process::setpriority_process(None, NICENESS).ok();
}
