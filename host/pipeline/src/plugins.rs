//! Which plugins judge which stream, with which settings: the one place that decides.
//!
//! One control thread owns all of it: files that change, records of `phronis.config`, and requests arrive as messages,
//! and nothing else writes. What it decides is published as a [`Lineup`] a stream, which workers pick up between two batches.
//! Compiling happens on a thread of its own, so that a slow compile never delays a threshold.

mod control;
mod entry;
mod loader;
pub(crate) mod order;
pub(crate) mod settings;
mod shelf;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use arc_swap::ArcSwap;
use phronis_core::contract::Column;
use phronis_core::plugin::{Added, Field, Limits};
use phronis_core::{Code, Name, PluginId, StreamId};
use phronis_engine::Component;
use serde_json::Value;
use tokio::sync::oneshot;

use crate::{breakers, status};

pub(crate) use control::{Control, Parts};
pub(crate) use entry::{Entry, Rules, Settings};
pub(crate) use loader::{Shelved, start as start_loader};
pub use settings::WantedLimits;
pub use shelf::Good;

/// A wish to change a plugin's live settings.
#[derive(Debug, Clone)]
pub struct Change {
    /// Which plugin.
    pub id: PluginId,
    /// What to change.
    pub what: What,
    /// `api` or `cli`.
    pub source: String,
    /// Who, when known.
    pub actor: Option<String>,
    /// Why, for the audit.
    pub reason: Option<String>,
    /// The version that its settings must still have; any, when none is named.
    pub if_version: Option<u64>,
    /// Only checks.
    pub is_dry_run: bool,
}

/// What a [`Change`] changes.
#[derive(Debug, Clone)]
pub enum What {
    /// All parameters: those left out go back to their defaults.
    Params(Value),
    /// All limits: those left out go back to the host's defaults.
    Limits(Value),
    /// When its breaker opens, and what becomes of its batches then: what is left out goes back to the defaults.
    Breaker(Value),
    /// What a person says of its breaker; none: it decides itself again.
    Override(Option<breakers::Override>),
}

/// The answer to a change that is in force (or would be).
#[derive(Debug, Clone)]
pub struct Applied {
    /// The offset of the record in `phronis.config`; none for a dry run.
    pub revision: Option<i64>,
    /// The version of all settings of the plugin, as [`status::Plugin::version`] has it.
    pub version: u64,
    /// The value in force, defaults filled in.
    pub value: Value,
}

/// Why a change is not in force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// No such plugin.
    #[error("there is no plugin {0}")]
    Unknown(PluginId),
    /// Someone else changed its settings meanwhile; nothing changed.
    #[error("the settings are at version {version} now")]
    Changed {
        /// The version that they have now.
        version: u64,
    },
    /// The plugin, its schema or a ceiling says no; nothing changed.
    #[error("{message}")]
    Refused {
        /// The stable code.
        code: Code,
        /// What is wrong, in one sentence.
        message: String,
        /// Field by field, where it can be said so.
        problems: Vec<FieldProblem>,
    },
    /// The log could not take the change; nothing changed.
    #[error("the change could not be written")]
    Log(#[from] phronis_log::Error),
    /// The host is shutting down.
    #[error("the host is shutting down")]
    Closed,
}

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldProblem {
    /// Path of the field, empty for the whole.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

/// Why a version cannot run.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub(crate) code: Code,
    pub(crate) message: String,
}

/// One version of a plugin with its settings, ready to run.
#[derive(Debug)]
pub(crate) struct Version {
    pub(crate) id: PluginId,
    pub(crate) component: Component,
    /// Parameters, defaults filled in.
    pub(crate) params: Value,
    pub(crate) limits: Limits,
    pub(crate) fields: Arc<[Field]>,
    pub(crate) adds: Arc<[Added]>,
    pub(crate) may_halt: bool,
    pub(crate) counters: Arc<Counters>,
    pub(crate) breaker: Arc<breakers::Kept>,
    /// What its breaker does, when this version is in force.
    pub(crate) policy: breakers::Policy,
    /// Another version is in force, though a worker may still be busy with this one.
    pub(crate) is_retired: AtomicBool,
}

impl Version {
    /// What it is called where its version matters: `name@version#digest`, the digest cut to what tells versions apart.
    pub(crate) fn label(&self) -> String {
        label(&self.id.name, &self.component.manifest().version, self.component.digest())
    }

    /// Whether the plugin's breaker is trying the version that follows: its probes are not for this one.
    pub(crate) fn is_out_of_turn(&self) -> bool {
        self.is_retired.load(Ordering::Relaxed) && !self.breaker.is_closed()
    }
}

/// `name@version#digest`.
pub(crate) fn label(name: &Name, version: &str, digest: &str) -> String {
    /// Digits of the digest: as many as a person compares.
    const DIGITS: usize = 12;
    let version: String = version.chars().filter(|c| !c.is_control() && *c != ',').take(64).collect();
    format!("{name}@{version}#{}", digest.get(..DIGITS).unwrap_or(digest))
}

/// A version and its place in the stream.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    pub(crate) version: Arc<Version>,
    /// Where each of its fields comes from.
    pub(crate) columns: Arc<[Column]>,
}

/// All plugins of a stream in the order in which they run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lineup {
    pub(crate) enrichers: Vec<Placed>,
    pub(crate) detectors: Vec<Placed>,
    /// All columns that the enrichers add, in order.
    pub(crate) added: Vec<Added>,
    /// Plugins that never had a good version: events pass them, marked.
    pub(crate) bypassed: Vec<Name>,
    /// Whether each plugin of the stream is live, refused or bypassed.
    pub(crate) is_ready: bool,
    /// Whether a plugin without a good version stops the stream.
    pub(crate) is_held: bool,
}

/// What a plugin has done since the process started; workers add to it once a batch.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) judged: AtomicU64,
    pub(crate) skipped: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) findings: AtomicU64,
    pub(crate) calls: AtomicU64,
    pub(crate) failed_calls: AtomicU64,
    pub(crate) busy_nanos: AtomicU64,
}

impl Counters {
    pub(crate) fn snapshot(&self) -> status::PluginCounts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        status::PluginCounts {
            judged: get(&self.judged),
            skipped: get(&self.skipped),
            failed: get(&self.failed),
            findings: get(&self.findings),
            calls: get(&self.calls),
            failed_calls: get(&self.failed_calls),
            busy_nanos: get(&self.busy_nanos),
        }
    }
}

/// What the control thread publishes.
#[derive(Debug, Default)]
pub(crate) struct Board {
    lineups: BTreeMap<StreamId, ArcSwap<Lineup>>,
    plugins: Mutex<BTreeMap<PluginId, status::Plugin>>,
    counters: Mutex<BTreeMap<PluginId, Arc<Counters>>>,
    /// Rises with each change of a plugin.
    revision: AtomicU64,
}

impl Board {
    pub(crate) fn new(streams: impl IntoIterator<Item = StreamId>) -> Self {
        let lineups = streams.into_iter().map(|id| (id, ArcSwap::default())).collect();
        Self { lineups, ..Self::default() }
    }

    /// The lineup of a stream, cheap enough to ask before each batch.
    pub(crate) fn lineup(&self, stream: &StreamId) -> Arc<Lineup> {
        self.lineups.get(stream).map(ArcSwap::load_full).unwrap_or_default()
    }

    pub(crate) fn publish_lineup(&self, stream: &StreamId, lineup: Lineup) {
        if let Some(slot) = self.lineups.get(stream) {
            slot.store(Arc::new(lineup));
        }
    }

    pub(crate) fn publish_plugin(&self, plugin: status::Plugin, counters: &Arc<Counters>) {
        lock(&self.counters).insert(plugin.id.clone(), Arc::clone(counters));
        lock(&self.plugins).insert(plugin.id.clone(), plugin);
        self.revision.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn remove_plugin(&self, id: &PluginId) {
        lock(&self.plugins).remove(id);
        lock(&self.counters).remove(id);
        self.revision.fetch_add(1, Ordering::Relaxed);
    }

    /// Rises with each change of a plugin: whether to look again.
    pub(crate) fn revision(&self) -> u64 {
        self.revision.load(Ordering::Relaxed)
    }

    /// All plugins, with their counts as of now.
    pub(crate) fn plugins(&self) -> Vec<status::Plugin> {
        let counters = lock(&self.counters);
        let mut plugins: Vec<_> = lock(&self.plugins).values().cloned().collect();
        for plugin in &mut plugins {
            if let Some(counters) = counters.get(&plugin.id) {
                plugin.counts = counters.snapshot();
            }
        }
        plugins
    }
}

/// A lock that a panicking holder cannot poison: what it guards is replaced whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the control thread is told.
#[derive(Debug)]
pub(crate) enum Message {
    /// Something changed in the plugins folder.
    File(phronis_engine::watch::Change),
    /// A component was compiled and checked, or refused.
    Loaded(loader::Loaded),
    /// Records of `phronis.config`.
    Config(Box<phronis_core::records::Records>),
    /// All records of `phronis.config` up to now were told: plugins may be put in force.
    Opened,
    /// `phronis.config` was made anew: its offsets begin again.
    ConfigRemade,
    /// Someone wants to change something.
    Change(Change, oneshot::Sender<Result<Applied, ChangeError>>),
    /// The end.
    Stop,
}

/// The way to tell it.
pub(crate) type Mailbox = mpsc::Sender<Message>;
