//! What can go wrong with the store.

use std::path::PathBuf;
use std::sync::Arc;

use phronis_core::{Code, code};

/// An error of the store. No message holds a password: none ever gets this far.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store cannot be reached right now, or does not answer in time.
    /// What was being stored may or may not be there.
    #[error("the store cannot be reached: {reason}")]
    Unreachable {
        /// What is known.
        reason: String,
    },
    /// The database is there and lets this host not in, or not write.
    #[error("the store refuses this host: {reason}")]
    Refused {
        /// What the database says.
        reason: String,
    },
    /// A newer Phronis wrote the database.
    #[error(
        "the store at {place} was made by a newer version of Phronis (its format is {found}, this one knows {known}): run that version or a newer one"
    )]
    Newer {
        /// Where it is.
        place: String,
        /// What it has.
        found: i64,
        /// The newest that this program knows.
        known: i64,
    },
    /// The file is no database of ours, or its content is broken.
    #[error("{} is damaged, or is no store of Phronis: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        reason: String,
    },
    /// No room for more.
    #[error("the store is full ({reason}): nothing was stored; free space, then it goes on by itself")]
    Full {
        /// What is full.
        reason: String,
    },
    /// The database failed otherwise.
    #[error("{doing}: {source}")]
    Failed {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Unreachable { .. } => code::STORE_UNREACHABLE,
            Self::Refused { .. } => code::STORE_REFUSED,
            Self::Newer { .. } => code::STORE_NEWER,
            Self::Damaged { .. } => code::STORE_DAMAGED,
            Self::Full { .. } => code::STORE_FULL,
            Self::Failed { .. } => code::STORE_FAILED,
        }
    }

    /// Whether the same call may succeed later without anyone changing anything here.
    pub fn is_retriable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Refused { .. } | Self::Full { .. } | Self::Failed { .. })
    }
}
