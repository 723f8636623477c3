//! The hosts that share the log, and which plugin versions they run.
//!
//! Each host says on `phronis.control` that it lives and what it runs; each reads all of it and compares.
//! One thread does both, so that nothing else ever waits for it.
//! `claim` keeps a second live host from taking a node id, `roster` is the pure part.

mod beat;
mod claim;
mod record;
mod roster;

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use phronis_core::PluginId;

pub(crate) use beat::Beat;
pub(crate) use claim::Claim;
pub(crate) use record::Me;
use roster::Roster;

/// A host that was heard of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its node id.
    pub node_id: String,
    /// Whether it is this one.
    pub is_this: bool,
    /// The machine that it runs on.
    pub hostname: String,
    /// Its process there.
    pub pid: u32,
    /// The version of Phronis.
    pub version: String,
    /// The branches that it runs.
    pub roles: Vec<String>,
    /// Where it serves HTTP.
    pub listen: Option<SocketAddr>,
    /// When it was started, in milliseconds since 1970-01-01T00:00:00Z.
    pub started_at: i64,
    /// When it was last heard of, in milliseconds since 1970-01-01T00:00:00Z.
    pub heard_at: i64,
}

/// A version of a plugin on one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// The host.
    pub node_id: String,
    /// SHA-256 of the component, hex; none where the host processes the stream and has no such plugin.
    pub digest: Option<String>,
    /// The author's version.
    pub version: Option<String>,
    /// Since when it runs there, in milliseconds since 1970-01-01T00:00:00Z.
    pub since: Option<i64>,
}

/// A plugin on all hosts that process its stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spread {
    /// What each of them runs.
    pub hosts: Vec<Running>,
    /// Whether they all run the same.
    pub is_consistent: bool,
}

/// What is known of the hosts right now.
#[derive(Debug)]
pub(crate) struct Hosts(Mutex<Roster>);

impl Hosts {
    pub(crate) fn new(me: &Me) -> Self {
        Self(Mutex::new(Roster::new(me.record(Vec::new(), me.started_at))))
    }

    /// All live hosts, by node id.
    pub(crate) fn all(&self) -> Vec<Host> {
        self.roster().hosts()
    }

    /// A plugin on all of them.
    pub(crate) fn spread(&self, plugin: &PluginId) -> Spread {
        self.roster().spread(plugin)
    }

    fn roster(&self) -> MutexGuard<'_, Roster> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
