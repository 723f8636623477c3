//! The state store: what must be known beside the log, in a SQLite file or in PostgreSQL.
//!
//! Halted agents, breakers, the index of letters, redrives, who edits a letter, the audit, and where the archive's tables are.
//! The log stays the truth about events: the data path never waits for this, and a store that is away changes nothing about it.
//! [`Store`] is a cheap handle with async methods; SQL is written once and runs on both databases (`database.rs`).
//! On PostgreSQL, opening succeeds whether it is there or not; calls say [`Error::Unreachable`] within two seconds
//! and work again when it is back.

pub mod agents;
pub mod audit;
pub mod breakers;
#[cfg(feature = "conformance")]
pub mod conformance;
mod database;
pub mod edits;
mod error;
mod iceberg;
pub mod letters;
mod options;
mod postgres;
pub mod redrives;
mod sqlite;
mod store;
mod text;

pub use error::Error;
pub use options::{InvalidUrl, Options, Postgres, Url};
pub use store::Store;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Some of many, newest first.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Where the next page begins; none when this is the last.
    pub next: Option<i64>,
}

impl<T> Page<T> {
    /// A page of at most `limit` items, of rows of which one more was asked for.
    fn cut(mut rows: Vec<(i64, T)>, limit: u32) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let is_last = rows.len() <= limit;
        rows.truncate(limit);
        let next = rows.last().map(|(number, _)| *number).filter(|_| !is_last);
        Self { items: rows.into_iter().map(|(_, item)| item).collect(), next }
    }
}
