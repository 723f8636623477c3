//! What keeps a pipeline from starting or going on.

use std::path::PathBuf;

/// An error of the pipeline. What a plugin or an event does wrong is never one: that is data.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The log.
    #[error(transparent)]
    Log(#[from] phronis_log::Error),
    /// The folder of last good versions.
    #[error("the state folder {} cannot be used: {source}", path.display())]
    StateFolder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The plugins folder.
    #[error("the plugins folder {} cannot be watched: {reason}", path.display())]
    PluginsFolder {
        /// The folder.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A thread could not be started.
    #[error("a thread could not be started: {0}")]
    Thread(std::io::Error),
    /// A fault of the host.
    #[error("a fault of the host: {0}")]
    Host(String),
    /// Columns that do not fit together; a fault of the host.
    #[error("columns do not fit together: {0}")]
    Columns(#[from] arrow_schema::ArrowError),
}
