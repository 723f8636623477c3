//! The pipeline as others see it: a cheap handle that never blocks the data path.

use std::sync::Arc;

use bytes::Bytes;
use phronis_core::contract::Contract;
use phronis_core::{PluginId, StreamId};
use phronis_log::Log;
use serde_json::Value;
use tokio::sync::broadcast;

use crate::{ingest, live, plugins, status};

/// A handle of a running pipeline.
#[derive(Clone)]
pub struct Handle { /* … */ }

impl Handle {
    /// All streams, by name.
    pub fn streams(&self) -> Vec<status::Stream>;

    /// A stream's contract.
    pub fn contract(&self, stream: &StreamId) -> Option<Arc<Contract>>;

    /// Splits a request body into events, checks them for the answer, and hands them to the log.
    ///
    /// Takes CPU time in proportion to the body: call it off the async threads for large bodies.
    /// What comes back still has to be awaited: [`ingest::Pending::durable`].
    pub fn ingest(&self, stream: &StreamId, body: &Bytes, form: ingest::Form) -> Result<ingest::Pending, ingest::Error>;

    /// All plugins, by id.
    pub fn plugins(&self) -> Vec<status::Plugin>;

    /// One plugin.
    pub fn plugin(&self, id: &PluginId) -> Option<status::Plugin>;

    /// Changes a plugin's parameters or limits: checked, written to `phronis.config`, applied; answers when in force.
    pub async fn change(&self, change: plugins::Change) -> Result<plugins::Applied, plugins::ChangeError>;

    /// Everything that happens from now on.
    pub fn live(&self) -> broadcast::Receiver<Arc<live::Event>>;

    /// What `/readyz` looks at.
    pub fn checks(&self) -> Vec<status::Check>;

    /// The event log.
    pub fn log(&self) -> Arc<dyn Log>;
}

// ---- ingest.rs
/// How a body is cut into events.
pub enum Form {
    /// By its content type or by looking: one object, an array, or lines.
    Auto { is_ndjson: bool },
    /// The whole body is one event.
    One,
}

/// Events handed to the log and not durable yet.
pub struct Pending { /* … */ }

impl Pending {
    /// Waits until the events are durable.
    /// # Cancel safety
    /// Cancelling loses only the answer.
    pub async fn durable(self) -> Result<Taken, Error>;
}

/// What was taken.
pub struct Taken {
    /// Rows that will be judged.
    pub accepted: usize,
    /// Where all rows (accepted and refused) are in raw.
    pub ranges: Vec<Range>,         // Range { partition: i32, first_offset: i64, count: usize }
    /// The rows that the gate will refuse; all of them are in raw and become letters. The first 1000.
    pub refused: Vec<Refused>,      // Refused { index: usize, code: Code, field: Option<String>, reason: String, letter_id: String, partition: i32, offset: i64 }
    /// How many are refused in all.
    pub refused_count: usize,
}

pub enum Error {
    UnknownStream(StreamId),
    Empty,
    NotSplittable { reason: String },
    Full { reason: String },            // 429
    Log(phronis_log::Error),
}

// ---- plugins.rs
pub struct Change {
    pub id: PluginId,
    pub what: What,                 // enum What { Params(Value), Limits(Value) }  (limits: partial object in the units of the toml: {"memory": "32MiB", "deadline": "50ms", ...})
    pub source: String,             // "api" | "cli"
    pub actor: Option<String>,
    pub reason: Option<String>,
    pub is_dry_run: bool,
}
pub struct Applied { pub revision: Option<i64>, pub value: Value /* in force, or what would be, defaults filled in */ }
pub enum ChangeError {
    Unknown(PluginId),
    Refused { code: Code, message: String, problems: Vec<Problem> },    // Problem { path: String, message: String }
    Full { reason: String },
    Log(phronis_log::Error),
}
