//! What keeps a pipeline from starting or going on.

use std::path::PathBuf;

use phronis_core::{Code, code};

/// An error of the pipeline. What a plugin or an event does wrong is never one: that is data.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The log.
    #[error(transparent)]
    Log(#[from] phronis_log::Error),
    /// Another live host has the same node id.
    #[error("another live host has the node id `{node_id}`: {holder}; give each host a node id of its own")]
    NodeIdTaken {
        /// The node id.
        node_id: String,
        /// What the other host says about itself.
        holder: String,
    },
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
    /// A plugin's breaker is open and its events wait: what was taken is read again when it closes.
    #[error("a plugin's breaker is open and its events wait")]
    Held,
    /// A fault of the host.
    #[error("a fault of the host: {0}")]
    Host(String),
    /// Columns that do not fit together; a fault of the host.
    #[error("columns do not fit together: {0}")]
    Columns(#[from] arrow_schema::ArrowError),
}

impl Error {
    /// The stable code, where there is one.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Log(error) => Some(error.code()),
            Self::NodeIdTaken { .. } => Some(code::NODE_ID_TAKEN),
            Self::Held => Some(code::BREAKER_HELD),
            _ => None,
        }
    }
}

impl From<crate::stage::Stopped> for Error {
    fn from(stopped: crate::stage::Stopped) -> Self {
        match stopped {
            crate::stage::Stopped::Held => Self::Held,
            crate::stage::Stopped::Failed(error) => Self::Columns(error),
        }
    }
}
