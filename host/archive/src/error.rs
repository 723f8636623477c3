//! What can go wrong with the archive.
//!
//! Iceberg wraps what storage says in a general error. [`Error::of`] looks for it, so that a refused password, a full disk
//! and a server that is away are told apart. No message holds a secret.

use std::sync::Arc;

use phronis_core::{Code, code};

use crate::schema::Incompatible;

/// An error of the archive.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting that cannot be used.
    #[error("`{key}` of the archive: {reason}")]
    Settings {
        /// The setting.
        key: &'static str,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// Storage is there and does not let us in.
    #[error(
        "the archive's storage refuses access to {place}: {reason}; check the credentials, their rights and the bucket"
    )]
    StorageRefused {
        /// The folder, bucket or file.
        place: String,
        /// What it says.
        reason: String,
    },
    /// Storage does not answer.
    #[error("the archive's storage cannot be reached at {place}: {reason}")]
    StorageUnreachable {
        /// The folder, bucket or file.
        place: String,
        /// What is known.
        reason: String,
    },
    /// No room for more.
    #[error("the archive's storage is full ({place}): {reason}; free space, then it goes on by itself")]
    StorageFull {
        /// The folder, bucket or file.
        place: String,
        /// What it says.
        reason: String,
    },
    /// The catalog is there and does not let us in.
    #[error("the archive's catalog refuses access: {reason}; check its address and credentials")]
    CatalogRefused {
        /// What it says.
        reason: String,
    },
    /// The catalog does not answer.
    #[error("the archive's catalog cannot be reached: {reason}")]
    CatalogUnreachable {
        /// What is known.
        reason: String,
    },
    /// A table is not as this program can use it.
    #[error("table {table} of the archive cannot be used: {reason}")]
    Table {
        /// The table.
        table: String,
        /// Why not, and what to do.
        reason: String,
    },
    /// A table cannot take rows of a schema.
    #[error("table {table} of the archive cannot take such rows: {reason}")]
    Incompatible {
        /// The table.
        table: String,
        /// Why not, and the way out.
        reason: Box<Incompatible>,
    },
    /// Another topic filled the table than the one that is there.
    #[error(
        "table {table} of the archive was filled from {was}, and {topic} is {is} now: it was made anew, and its offsets count from 0; \
         archive under another namespace to begin anew, and keep this table as it is"
    )]
    TopicChanged {
        /// The table.
        table: String,
        /// The topic.
        topic: String,
        /// What the table says.
        was: String,
        /// What the log says.
        is: String,
    },
    /// Nothing says how far a table was filled.
    #[error(
        "table {table} of the archive does not say how far it was filled ({reason}): \
         it was made by something else, or its properties were changed; restore the property, or archive under another namespace"
    )]
    NotOurs {
        /// The table.
        table: String,
        /// What is missing.
        reason: String,
    },
    /// Someone else changed the table while it was written.
    #[error(
        "table {table} of the archive was changed by someone else while it was written: what was not committed yet is read again"
    )]
    Changed {
        /// The table.
        table: String,
    },
    /// A table that was there is not any more.
    #[error("table {table} of the archive is gone: bring it back, or restart the host to begin a new one")]
    Gone {
        /// The table.
        table: String,
    },
    /// Commits of others came first, again and again.
    #[error(
        "table {table} of the archive took commits of others {attempts} times while this one was made: it is tried again"
    )]
    Busy {
        /// The table.
        table: String,
        /// How often.
        attempts: u32,
    },
    /// Somebody else archives a partition of the plan. What was appended and not committed was dropped.
    #[error(
        "another committer fills table {table} of the archive from the same partitions: this one goes on where the table stands"
    )]
    Fenced {
        /// The table.
        table: String,
    },
    /// Rows of another place than the one where the table goes on.
    #[error("table {table} of the archive goes on at {expected:?} of partition {partition}, not with {from} to {next}")]
    Moved {
        /// The table.
        table: String,
        /// The partition of its source.
        partition: i32,
        /// The first offset that was given.
        from: i64,
        /// The offset after the last one that was given.
        next: i64,
        /// Where it goes on.
        expected: Option<i64>,
    },
    /// Rows that are not as was agreed on.
    #[error("rows cannot be archived: {0}")]
    Rows(String),
    /// Anything else that failed.
    #[error("{doing}: {reason}")]
    Failed {
        /// What was being done.
        doing: String,
        /// The message of the cause.
        reason: String,
        /// Why it failed.
        source: Option<Arc<dyn std::error::Error + Send + Sync>>,
    },
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Settings { .. } => code::ARCHIVE_SETTINGS,
            Self::StorageRefused { .. } => code::ARCHIVE_STORAGE_REFUSED,
            Self::StorageUnreachable { .. } => code::ARCHIVE_STORAGE_UNREACHABLE,
            Self::StorageFull { .. } => code::ARCHIVE_STORAGE_FULL,
            Self::CatalogRefused { .. } => code::ARCHIVE_CATALOG_REFUSED,
            Self::CatalogUnreachable { .. } => code::ARCHIVE_CATALOG_UNREACHABLE,
            Self::Table { .. } => code::ARCHIVE_TABLE_UNUSABLE,
            Self::Incompatible { .. } => code::ARCHIVE_INCOMPATIBLE,
            Self::TopicChanged { .. } => code::ARCHIVE_TOPIC_CHANGED,
            Self::NotOurs { .. } => code::ARCHIVE_NOT_OURS,
            Self::Changed { .. } | Self::Gone { .. } => code::ARCHIVE_TABLE_CHANGED,
            Self::Busy { .. } | Self::Fenced { .. } | Self::Moved { .. } => code::ARCHIVE_CONTENDED,
            Self::Rows(_) => code::ARCHIVE_ROWS,
            Self::Failed { .. } => code::ARCHIVE_FAILED,
        }
    }

    /// Whether the same call may succeed later without anyone changing settings here.
    pub fn is_retriable(&self) -> bool {
        !matches!(
            self,
            Self::Settings { .. }
                | Self::Table { .. }
                | Self::Incompatible { .. }
                | Self::TopicChanged { .. }
                | Self::NotOurs { .. }
                | Self::Gone { .. }
                | Self::Rows(_)
        )
    }

    /// What an error of iceberg, of arrow or of parquet means, found while doing something at a place.
    pub fn of(doing: &str, place: &str, error: impl std::error::Error + Send + Sync + 'static) -> Self {
        let place = place.to_owned();
        let mut link: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(current) = link {
            let reason = current.to_string();
            if let Some(kind) = current.downcast_ref::<opendal::Error>().map(opendal::Error::kind) {
                let error = current.downcast_ref::<opendal::Error>();
                return Self::of_object_store(
                    doing,
                    place,
                    kind,
                    error.is_some_and(opendal::Error::is_temporary),
                    reason,
                );
            }
            if let Some(error) = current.downcast_ref::<std::io::Error>() {
                return Self::of_file(doing, place, error);
            }
            link = current.source();
        }
        Self::failed(doing, error)
    }

    /// An error that has no meaning of its own.
    pub(crate) fn failed(doing: &str, error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Failed { doing: doing.to_owned(), reason: error.to_string(), source: Some(Arc::new(error)) }
    }

    fn of_object_store(
        doing: &str,
        place: String,
        kind: opendal::ErrorKind,
        is_temporary: bool,
        reason: String,
    ) -> Self {
        let is_full = ["InsufficientStorage", "QuotaExceeded", "no space left", "No free volumes"];
        match kind {
            _ if is_full.iter().any(|word| reason.contains(word)) => Self::StorageFull { place, reason },
            opendal::ErrorKind::PermissionDenied | opendal::ErrorKind::ConfigInvalid => {
                Self::StorageRefused { place, reason }
            }
            opendal::ErrorKind::NotFound if reason.contains("NoSuchBucket") => Self::StorageRefused { place, reason },
            opendal::ErrorKind::RateLimited => Self::StorageUnreachable { place, reason },
            opendal::ErrorKind::Unexpected
                if reason.contains("loading credential") || reason.contains("credential") =>
            {
                Self::StorageRefused { place, reason }
            }
            opendal::ErrorKind::Unexpected if is_temporary || reason.contains("send http request") => {
                Self::StorageUnreachable { place, reason }
            }
            _ => Self::Failed { doing: doing.to_owned(), reason, source: None },
        }
    }

    fn of_file(doing: &str, place: String, error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        let reason = error.to_string();
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                Self::StorageFull { place, reason }
            }
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::NotADirectory => {
                Self::StorageRefused { place, reason }
            }
            ErrorKind::TimedOut | ErrorKind::StaleNetworkFileHandle | ErrorKind::ConnectionRefused => {
                Self::StorageUnreachable { place, reason }
            }
            _ => Self::Failed { doing: doing.to_owned(), reason, source: None },
        }
    }
}
