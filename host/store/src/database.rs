//! Two databases behind one piece of SQL.
//!
//! sqlx types a query by its database. [`with!`] writes the same body once for each, so that SQL and conversions stand once;
//! `$1` and `ON CONFLICT` mean the same to both. Only what differs has code of its own: opening, migrations, errors.

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{PgPool, Postgres, SqlSafeStr as _, Sqlite, SqlitePool, Transaction};

/// Connections of either database.
#[derive(Debug, Clone)]
pub(crate) enum Pool {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

/// Begins transactions.
pub(crate) trait Begin {
    type Database: sqlx::Database;

    /// Begins a transaction that writes. On SQLite it takes the only pen at once: a transaction that read first could not get it any more.
    fn write(&self) -> impl Future<Output = sqlx::Result<Transaction<'static, Self::Database>>> + Send;

    /// Begins a transaction that reads all of one moment.
    fn read(&self) -> impl Future<Output = sqlx::Result<Transaction<'static, Self::Database>>> + Send;
}

impl Begin for SqlitePool {
    type Database = Sqlite;

    async fn write(&self) -> sqlx::Result<Transaction<'static, Sqlite>> {
        self.begin_with("BEGIN IMMEDIATE").await
    }

    async fn read(&self) -> sqlx::Result<Transaction<'static, Sqlite>> {
        self.begin().await
    }
}

impl Begin for PgPool {
    type Database = Postgres;

    async fn write(&self) -> sqlx::Result<Transaction<'static, Postgres>> {
        self.begin().await
    }

    async fn read(&self) -> sqlx::Result<Transaction<'static, Postgres>> {
        self.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await
    }
}

/// Runs a body of type `sqlx::Result` on whichever database the store has, within a time limit.
macro_rules! with {
    ($store:expr, $doing:literal, $patience:expr, |$pool:ident| $work:block) => {{
        let store: &$crate::Store = $store;
        match store.pool() {
            $crate::database::Pool::Sqlite($pool) => {
                store.call($doing, $patience, Box::pin(async move { $work })).await
            }
            $crate::database::Pool::Postgres($pool) => {
                store.call($doing, $patience, Box::pin(async move { $work })).await
            }
        }
    }};
}
pub(crate) use with;

/// A change of the tables: number, name, SQL for SQLite, SQL for PostgreSQL. What was released never changes.
const MIGRATIONS: &[(i64, &str, &str, &str)] = &[
    (
        1,
        "first",
        include_str!("../migrations/sqlite/0001_first.sql"),
        include_str!("../migrations/postgres/0001_first.sql"),
    ),
    (
        2,
        "iceberg",
        include_str!("../migrations/sqlite/0002_iceberg.sql"),
        include_str!("../migrations/postgres/0002_iceberg.sql"),
    ),
    (
        3,
        "causes",
        include_str!("../migrations/sqlite/0003_causes.sql"),
        include_str!("../migrations/postgres/0003_causes.sql"),
    ),
    (
        4,
        "edits",
        include_str!("../migrations/sqlite/0004_edits.sql"),
        include_str!("../migrations/postgres/0004_edits.sql"),
    ),
];

/// The newest format that this program knows.
pub(crate) fn newest() -> i64 {
    MIGRATIONS.iter().map(|(version, ..)| *version).max().unwrap_or(0)
}

/// All migrations of SQLite. They are run in one transaction that holds the lock.
pub(crate) fn of_sqlite() -> Migrator {
    migrator(|(_, _, sqlite, _)| sqlite)
}

/// All migrations of PostgreSQL. They are run in one transaction that holds the lock.
pub(crate) fn of_postgres() -> Migrator {
    migrator(|(_, _, _, postgres)| postgres)
}

fn migrator(sql: fn(&(i64, &'static str, &'static str, &'static str)) -> &'static str) -> Migrator {
    let migration = |entry: &(i64, &'static str, &'static str, &'static str)| {
        Migration::new(entry.0, entry.1.into(), MigrationType::Simple, sql(entry).into_sql_str(), false)
    };
    let mut migrator = Migrator::with_migrations(MIGRATIONS.iter().map(migration).collect());
    migrator.set_locking(false);
    migrator
}

/// A value in the database that this program never wrote.
pub(crate) fn strange(what: &str, value: impl std::fmt::Debug) -> sqlx::Error {
    sqlx::Error::Decode(format!("{value:?} is no {what}").into())
}

/// A count as both databases store it.
pub(crate) fn int(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A count that was stored.
pub(crate) fn count(stored: i64) -> u64 {
    u64::try_from(stored).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::MIGRATIONS;

    #[test]
    fn all_migrations_are_run() {
        for kind in ["sqlite", "postgres"] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(kind);
            let name = |file: std::io::Result<std::fs::DirEntry>| file.unwrap().file_name().into_string().unwrap();
            let mut files: Vec<String> = folder.read_dir().unwrap().map(name).collect();
            files.sort();
            let known = MIGRATIONS.iter().map(|(number, name, ..)| format!("{number:04}_{name}.sql"));
            assert_eq!(files, known.collect::<Vec<_>>());
        }
    }
}
