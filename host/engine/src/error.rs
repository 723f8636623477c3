//! What goes wrong: [`Error`] when the engine itself cannot work, [`Refusal`] when a plugin is not accepted.
//!
//! A refusal is an expected result, shown to the plugin's author; it never stops the host.

use std::fmt;
use std::path::PathBuf;

use phronis_core::Code;

/// The engine cannot start or cannot watch.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The cache folder cannot be used.
    #[error("the plugin cache {path} cannot be used: {reason}")]
    Cache {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// wasmtime refuses the host's settings or this machine.
    #[error("the WebAssembly runtime cannot start: {0}")]
    Runtime(String),
    /// The plugins folder cannot be watched.
    #[error("the plugins folder {path} cannot be watched: {reason}")]
    Watch {
        /// The folder.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Why a plugin is not accepted, for its author.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The stable code.
    pub code: Code,
    /// What, why, and what to do next; bounded, without control characters.
    pub message: String,
}

impl Refusal {
    pub(crate) fn new(code: Code, message: impl AsRef<str>) -> Self {
        Self { code, message: crate::text::for_people(message.as_ref(), crate::text::MESSAGE_BYTES) }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Refusal {}
