//! The alert branch: follows the alerts topics and hands what it reads to everyone who listens.
//!
//! It reads the log, not the workers: what a listener sees is durable.
//! Listeners that are too slow lose events rather than slow the host, and are told how many.

use std::sync::Arc;

use bytes::Bytes;
use phronis_core::StreamId;

/// Something that just happened.
#[derive(Debug, Clone)]
pub struct Event {
    /// What it is.
    pub kind: Kind,
    /// The stream that it belongs to.
    pub stream: StreamId,
    /// An id that stays the same at redelivery: the alert's id; for the others a running number.
    pub id: Arc<str>,
    /// One JSON object: the alert as in the topic, or the facts of the change.
    pub json: Bytes,
}

/// What an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A detector's finding.
    Alert,
    /// A plugin was loaded, swapped, removed, or a version refused.
    Plugin,
    /// Parameters or limits changed, or a change was refused.
    Config,
}

impl Kind {
    /// The name of the SSE event.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alert => "alert",
            Self::Plugin => "plugin",
            Self::Config => "config",
        }
    }
}
