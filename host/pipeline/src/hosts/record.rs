//! What a host says about itself: a record of `phronis.control` with the key `hosts/<node_id>`.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use phronis_core::delivery::{Append, Delivery};
use phronis_core::partition::CONTROL_TOPIC;
use phronis_core::records::{Records, RecordsBuilder};
use phronis_core::time::Time;
use phronis_core::{PluginId, StreamId};
use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};

use crate::clock::now_ms;
use crate::plugins::Board;
use crate::{Node, Role};

const KEY_PREFIX: &str = "hosts/";

/// A host, as it describes itself. Members that a newer version adds are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) node_id: String,
    /// Random, a new one with each start.
    pub(crate) incarnation: String,
    pub(crate) pid: u32,
    pub(crate) hostname: String,
    pub(crate) started_at: Time,
    /// When this was said.
    pub(crate) at: Time,
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) roles: Vec<String>,
    pub(crate) version: String,
    /// The streams that it knows.
    #[serde(default)]
    pub(crate) streams: Vec<StreamId>,
    #[serde(default)]
    pub(crate) plugins: Vec<Plugin>,
}

/// A plugin that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plugin {
    pub(crate) id: PluginId,
    pub(crate) digest: String,
    pub(crate) version: String,
    pub(crate) since: Time,
}

impl Record {
    /// Where it is, for a person.
    pub(crate) fn place(&self) -> String {
        format!("pid {} on {}, since {}, last heard of {}", self.pid, self.hostname, self.started_at, self.at)
    }

    /// Whether its process is gone for certain: only a neighbour on the same machine can know.
    pub(crate) fn is_gone(&self, me: &Me) -> bool {
        if self.hostname != me.hostname {
            return false;
        }
        // A container's process often has the same id as the one before.
        self.pid == me.pid || !is_alive(self.pid)
    }
}

/// This host.
#[derive(Debug, Clone)]
pub(crate) struct Me {
    pub(crate) node: Node,
    pub(crate) roles: BTreeSet<Role>,
    pub(crate) streams: Vec<StreamId>,
    pub(crate) incarnation: String,
    pub(crate) pid: u32,
    pub(crate) hostname: String,
    /// In milliseconds since 1970.
    pub(crate) started_at: i64,
}

impl Me {
    pub(crate) fn new(node: Node, roles: BTreeSet<Role>, streams: Vec<StreamId>) -> Self {
        Self {
            node,
            roles,
            streams,
            incarnation: format!("{:032x}", rand::random::<u128>()),
            pid: std::process::id(),
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            started_at: now_ms(),
        }
    }

    /// What it says.
    pub(crate) fn record(&self, plugins: Vec<Plugin>, now: i64) -> Record {
        Record {
            node_id: self.node.id.clone(),
            incarnation: self.incarnation.clone(),
            pid: self.pid,
            hostname: self.hostname.clone(),
            started_at: Time::from_millis(self.started_at),
            at: Time::from_millis(now),
            listen: self.node.listen,
            roles: self.roles.iter().map(Role::to_string).collect(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            streams: self.streams.clone(),
            plugins,
        }
    }
}

/// The plugins that run here.
pub(crate) fn running(board: &Board) -> Vec<Plugin> {
    let active = board.plugins().into_iter().filter_map(|plugin| Some((plugin.id, plugin.active?)));
    let plugin = |(id, active): (PluginId, crate::status::Version)| Plugin {
        id,
        digest: active.digest,
        version: active.version,
        since: Time::from_millis(active.active_since),
    };
    active.map(plugin).collect()
}

/// A record of a host, or its end, on its way to the log.
pub(crate) fn delivery(node_id: &str, record: Option<&Record>, now: i64) -> Delivery {
    let key = format!("{KEY_PREFIX}{node_id}");
    // Plain texts and numbers: writing them cannot fail.
    let value = record.map(|record| serde_json::to_vec(record).unwrap_or_default());
    let mut records = RecordsBuilder::default();
    records.push(now, Some(key.as_bytes()), value.as_deref(), &[]);
    let append = Append { topic: CONTROL_TOPIC.into(), partition: 0, records: records.finish() };
    Delivery { appends: vec![append], commits: Vec::new() }
}

/// A record of a host as it was read.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) node_id: String,
    pub(crate) offset: i64,
    /// None: it ended.
    pub(crate) record: Option<Record>,
}

/// The records of hosts among others; what nobody can read is left out, since it says nothing about who lives.
pub(crate) fn said(records: &Records) -> impl Iterator<Item = Said> {
    (0..records.len()).filter_map(|row| {
        let node_id = str::from_utf8(records.body.key(row)?).ok()?.strip_prefix(KEY_PREFIX)?.to_owned();
        let offset = records.offsets.values().get(row).copied()?;
        let record = match records.body.value(row) {
            None => None,
            Some(value) => match serde_json::from_slice(value) {
                Ok(record) => Some(record),
                Err(error) => {
                    tracing::debug!(node_id, offset, %error, "what a host says about itself cannot be read");
                    return None;
                }
            },
        };
        Some(Said { node_id, offset, record })
    })
}

fn is_alive(pid: u32) -> bool {
    // A zombie has ended; whoever started it has not asked for it yet. Where there is no /proc it counts as alive.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    // Another user's process may not be signalled; it is there all the same.
    let is_there = pid.is_some_and(|pid| !matches!(test_kill_process(pid), Err(rustix::io::Errno::SRCH)));
    is_there && !matches!(state, Some('Z' | 'X'))
}
