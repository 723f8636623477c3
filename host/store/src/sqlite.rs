//! SQLite: one file, opened with care, and what its errors mean.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::migrate::MigrateError;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Row as _, SqlitePool};

use crate::database::{Begin as _, newest, of_sqlite};
use crate::{Error, Result};

/// Older ones have a race between a checkpoint and the reset of the WAL that corrupts the file.
const OLDEST: [u32; 3] = [3, 51, 3];

/// "PhrS": tells `file` and us that this is a store.
const APPLICATION_ID: i32 = 0x5068_7253;

/// Files up to this size are checked whole at every start: it takes less than half a second.
const CHECKED_BYTES: u64 = 64 << 20;

/// How long one writer waits for another: longer than any of them takes.
const BUSY: Duration = Duration::from_secs(5);

/// Opens the file, makes it when it is not there, and brings its tables up to date.
pub(crate) async fn open(path: &Path) -> Result<SqlitePool> {
    prepare(path).map_err(|error| unusable(path, &error))?;
    let options = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY);
    // One writes, others read beside it.
    let pool = SqlitePoolOptions::new().max_connections(4).acquire_timeout(BUSY).connect_with(options).await;
    let doing = "opening the store";
    let pool = pool.map_err(|error| meaning(path, doing, error))?;
    check(path, &pool).await?;
    migrate(path, &pool).await?;
    Ok(pool)
}

/// The newest migration that was run.
pub(crate) const NEWEST: &str = "SELECT max(version) FROM _sqlx_migrations";

/// Looks at the file, and writes nothing.
pub(crate) async fn look(path: &Path) -> Result<()> {
    let doing = "looking at the store";
    let options = SqliteConnectOptions::new().filename(path).read_only(true).busy_timeout(BUSY);
    let pool = SqlitePoolOptions::new().max_connections(1).acquire_timeout(BUSY).connect_with(options).await;
    let pool = pool.map_err(|error| meaning(path, doing, error))?;
    check(path, &pool).await?;
    let failed = |error| meaning(path, doing, error);
    // A host that was ended while it made the file has left no tables.
    let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema WHERE name = '_sqlx_migrations'")
        .fetch_one(&pool)
        .await
        .map_err(failed)?;
    let mut found = None;
    if tables > 0 {
        found = sqlx::query_scalar(NEWEST).fetch_one(&pool).await.map_err(failed)?;
    }
    pool.close().await;
    refuse_newer(&path.display().to_string(), found)
}

/// What a newer version made cannot be used.
pub(crate) fn refuse_newer(place: &str, found: Option<i64>) -> Result<()> {
    match found.filter(|found| *found > newest()) {
        Some(found) => Err(Error::Newer { place: place.to_owned(), found, known: newest() }),
        None => Ok(()),
    }
}

/// What it holds belongs to the operator alone; SQLite gives its WAL the same permissions.
fn prepare(path: &Path) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
    if file.metadata()?.permissions().mode() & 0o777 != 0o600 {
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}

fn unusable(path: &Path, error: &std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            Error::Full { reason: "no space is left on the disk".to_owned() }
        }
        _ => Error::Refused { reason: format!("{}: {error}", path.display()) },
    }
}

async fn check(path: &Path, pool: &SqlitePool) -> Result<()> {
    let doing = "checking the store";
    let version: String =
        sqlx::query_scalar("SELECT sqlite_version()").fetch_one(pool).await.map_err(|e| meaning(path, doing, e))?;
    if !is_new_enough(&version) {
        let reason =
            format!("this program is linked with SQLite {version}, which can corrupt a file: 3.51.3 is needed");
        return Err(Error::Failed {
            doing,
            source: Arc::from(Box::<dyn std::error::Error + Send + Sync>::from(reason)),
        });
    }
    // In this order: another host that makes the tables meanwhile puts its mark there with them.
    let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema")
        .fetch_one(pool)
        .await
        .map_err(|e| meaning(path, doing, e))?;
    let application: i32 =
        sqlx::query_scalar("PRAGMA application_id").fetch_one(pool).await.map_err(|e| meaning(path, doing, e))?;
    if application != APPLICATION_ID && (application != 0 || tables != 0) {
        let reason = "it is a database of another program".to_owned();
        return Err(Error::Damaged { path: path.to_owned(), reason });
    }
    if fs::metadata(path).is_ok_and(|file| file.len() <= CHECKED_BYTES) {
        let rows = sqlx::query("PRAGMA quick_check(3)").fetch_all(pool).await.map_err(|e| meaning(path, doing, e))?;
        let found: Vec<String> = rows.iter().filter_map(|row| row.try_get(0).ok()).collect();
        if found != ["ok"] {
            return Err(Error::Damaged { path: path.to_owned(), reason: found.join("; ") });
        }
    }
    Ok(())
}

fn is_new_enough(version: &str) -> bool {
    let numbers: Vec<u32> = version.split('.').filter_map(|part| part.parse().ok()).collect();
    numbers.as_slice() >= OLDEST.as_slice()
}

/// One transaction for all: of two processes that open the file, the second finds everything done.
async fn migrate(path: &Path, pool: &SqlitePool) -> Result<()> {
    let doing = "bringing the store's tables up to date";
    let failed = |error| meaning(path, doing, error);
    let mut transaction = pool.write().await.map_err(failed)?;
    sqlx::raw_sql(MARK).execute(&mut *transaction).await.map_err(failed)?;
    let migrated = of_sqlite().run_direct(None, &mut *transaction, false).await;
    migrated.map_err(|error| of_migration(error, &path.display().to_string(), failed))?;
    transaction.commit().await.map_err(failed)
}

const MARK: &str = "PRAGMA application_id = 1349022291";

/// What an error of the migrations means; `other` says it of those of the database.
pub(crate) fn of_migration(error: MigrateError, place: &str, other: impl Fn(sqlx::Error) -> Error) -> Error {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => other(error),
        MigrateError::VersionMissing(found) | MigrateError::VersionMismatch(found) => {
            Error::Newer { place: place.to_owned(), found, known: newest() }
        }
        error => Error::Failed { doing: "bringing the store's tables up to date", source: Arc::new(error) },
    }
}

/// What an error of SQLite means to the store.
pub(crate) fn meaning(path: &Path, doing: &'static str, error: sqlx::Error) -> Error {
    let sqlx::Error::Database(database) = &error else {
        return match error {
            sqlx::Error::PoolTimedOut => Error::Unreachable { reason: format!("{} is busy", path.display()) },
            error => Error::Failed { doing, source: Arc::new(error) },
        };
    };
    let reason = database.message().to_owned();
    // The low byte is the primary result code: https://www.sqlite.org/rescode.html.
    match database.code().and_then(|code| code.parse::<u32>().ok()).map(|code| code & 0xff) {
        Some(5 | 6) => Error::Unreachable { reason: format!("{}: {reason}", path.display()) },
        Some(3 | 8 | 14) => Error::Refused { reason: format!("{}: {reason}", path.display()) },
        Some(11 | 26) => Error::Damaged { path: path.to_owned(), reason },
        Some(13) => Error::Full { reason: "no space is left on the disk".to_owned() },
        _ => Error::Failed { doing, source: Arc::new(error) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        for (version, is_fine) in
            [("3.51.2", false), ("3.51.3", true), ("3.100.0", true), ("3.9.9", false), ("4.0.0", true)]
        {
            assert_eq!(is_new_enough(version), is_fine, "{version}");
        }
    }

    #[test]
    fn the_mark_is_the_number_that_is_looked_for() {
        assert_eq!(MARK, format!("PRAGMA application_id = {APPLICATION_ID}"));
    }
}
