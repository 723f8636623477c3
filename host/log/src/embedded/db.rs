//! The file: its tables, how connections are opened, and what its errors mean to the log.
//!
//! One connection writes; readers have read-only ones of their own, so that WAL mode lets them read while it writes.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension};

use super::Durability;
use crate::{Error, Result};

/// The format of the file; a change of the tables or of the records' schema raises it.
const FORMAT: &str = "1";

/// "Phro": tells `file` and us that this is a log.
const APPLICATION_ID: i32 = 0x5068_726f;

/// Bytes of a page. A commit of one record rewrites about four, and each goes to the WAL and later to the file:
/// with 8 KiB, 1 000 single posts a second wrote some 75 MB/s, with 4 KiB they write half of that.
pub(super) const PAGE_BYTES: usize = 4096;

/// Length of a prepared WAL: what is written between two checkpoints, and a group more.
const WAL_BYTES: u64 = 12 << 20;

/// Older ones have a race between a checkpoint and the reset of the WAL that corrupts the file.
const OLDEST_SQLITE: i32 = 3_051_003;

/// A batch's rowid rises with time, so batches are written at the end of the table whatever their partition.
/// `next` is the offset after the last record: one seek for `next > ?` finds the batch that holds an offset or follows a gap.
/// `offsets` is null while they have no gaps (compaction makes gaps): i64, little endian.
const TABLES: &str = "
    CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE topics (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, age_ms INTEGER, bytes INTEGER, compact INTEGER NOT NULL);
    CREATE TABLE partitions (
        id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, number INTEGER NOT NULL,
        earliest INTEGER NOT NULL, latest INTEGER NOT NULL, bytes INTEGER NOT NULL, UNIQUE (topic_id, number));
    CREATE TABLE batches (
        id INTEGER PRIMARY KEY, partition_id INTEGER NOT NULL, base INTEGER NOT NULL, next INTEGER NOT NULL,
        records INTEGER NOT NULL, min_timestamp INTEGER NOT NULL, max_timestamp INTEGER NOT NULL,
        appended_at INTEGER NOT NULL, bytes INTEGER NOT NULL, offsets BLOB, data BLOB NOT NULL);
    CREATE UNIQUE INDEX batches_by_offset ON batches (partition_id, next);
    CREATE TABLE positions (
        member_group TEXT NOT NULL, partition_id INTEGER NOT NULL, committed INTEGER NOT NULL,
        PRIMARY KEY (member_group, partition_id)) WITHOUT ROWID;
";

/// Where the file is.
pub(super) fn path(folder: &Path) -> PathBuf {
    folder.join("log.db")
}

/// Where its WAL is.
pub(super) fn wal_path(folder: &Path) -> PathBuf {
    folder.join("log.db-wal")
}

/// Opens the file for the writer and makes it if it is not there.
pub(super) fn open_writer(folder: &Path, durability: Durability) -> Result<Connection> {
    if rusqlite::version_number() < OLDEST_SQLITE {
        return Err(Error::Invalid(format!(
            "this program is linked with SQLite {}, which can corrupt a log: 3.51.3 or newer is needed",
            rusqlite::version()
        )));
    }
    let doing = "opening the log";
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path(folder), flags).map_err(failed(doing))?;
    // In WAL mode FULL syncs the WAL at every commit, NORMAL at checkpoints only; the file stays sound in both.
    let synchronous = if durability == Durability::Commit { "FULL" } else { "NORMAL" };
    db.execute_batch(&format!(
        "PRAGMA page_size = {PAGE_BYTES}; PRAGMA journal_mode = WAL; PRAGMA synchronous = {synchronous};
         PRAGMA wal_autocheckpoint = 0; PRAGMA journal_size_limit = 67108864; PRAGMA cache_size = -8192;
         PRAGMA secure_delete = OFF; PRAGMA temp_store = MEMORY;"
    ))
    .map_err(failed(doing))?;
    db.busy_timeout(Duration::from_millis(50)).map_err(failed(doing))?;
    db.set_prepared_statement_cache_capacity(64);
    let application: i32 = db.query_row("PRAGMA application_id", [], |row| row.get(0)).map_err(failed(doing))?;
    let tables: i64 =
        db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed(doing))?;
    if application == 0 && tables == 0 {
        db.execute_batch(&format!(
            "BEGIN; PRAGMA application_id = {APPLICATION_ID}; {TABLES}
             INSERT INTO meta VALUES ('format', '{FORMAT}'); COMMIT;"
        ))
        .map_err(failed("making the log's tables"))?;
    }
    check_format(&db, folder)?;
    Ok(db)
}

/// Gives the WAL the length that it has between checkpoints: to sync a file that grows costs several times as much
/// as to sync one that is overwritten. SQLite ends a WAL at the first frame that is not valid, so zeros are no frames.
///
/// A disk without room for it only makes the first commits slower.
pub(super) fn prepare_wal(folder: &Path) -> std::io::Result<()> {
    let mut wal = OpenOptions::new().append(true).open(wal_path(folder))?;
    let zeros = [0; 1 << 16];
    while wal.metadata()?.len() < WAL_BYTES {
        wal.write_all(&zeros)?;
    }
    wal.sync_data()
}

/// Opens the file for a reader.
pub(super) fn open_reader(folder: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path(folder), flags).map_err(failed("opening the log to read"))?;
    // A reader streams: what it has read it seldom reads again.
    db.execute_batch("PRAGMA cache_size = -256; PRAGMA query_only = ON;").map_err(failed("opening the log to read"))?;
    db.busy_timeout(Duration::from_secs(5)).map_err(failed("opening the log to read"))?;
    Ok(db)
}

/// Bytes of the file that are in use, and bytes in it that the next records will reuse.
pub(super) fn sizes(db: &Connection) -> rusqlite::Result<(u64, u64)> {
    let number = |pragma: &str| -> rusqlite::Result<u64> {
        db.prepare_cached(pragma)?.query_row([], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs)
    };
    let page = number("PRAGMA page_size")?;
    let free = number("PRAGMA freelist_count")?;
    let pages = number("PRAGMA page_count")?;
    Ok((pages.saturating_sub(free) * page, free * page))
}

/// A count as SQLite stores it.
pub(super) fn int(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// What an error of SQLite means to the log.
pub(super) fn failed(doing: &'static str) -> impl Fn(rusqlite::Error) -> Error {
    move |error| match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => Error::Full { reason: "no space is left on the disk".to_owned() },
        _ => Error::Failed { doing: doing.to_owned(), source: Arc::new(error) },
    }
}

fn check_format(db: &Connection, folder: &Path) -> Result<()> {
    let file = path(folder);
    let application: i32 =
        db.query_row("PRAGMA application_id", [], |row| row.get(0)).map_err(failed("opening the log"))?;
    if application != APPLICATION_ID {
        return Err(Error::Invalid(format!("{} is a database, but not a log of Phronis", file.display())));
    }
    let format: Option<String> = db
        .query_row("SELECT value FROM meta WHERE name = 'format'", [], |row| row.get(0))
        .optional()
        .map_err(failed("opening the log"))?;
    match format.as_deref() {
        Some(FORMAT) => Ok(()),
        other => Err(Error::Invalid(format!(
            "{} has format {}, this version reads format {FORMAT}: open it with the version that wrote it",
            file.display(),
            other.unwrap_or("none")
        ))),
    }
}
