//! Halts of agents: what is recorded of an agent, and what holds when two hosts say different things.
//!
//! A [`Record`] is the last word about an agent, or about everything of a tenant. Words are numbered by [`Record::version`];
//! hosts that could not hear each other may give the same number twice, so [`merge`] decides: the highest version wins,
//! and on a tie the halt. It is a maximum over a total order: in whatever order hosts hear words, and however often,
//! they end with the same one.
//!
//! One thing a maximum cannot do: a halt that was acknowledged while the store was away must not lose to a reset
//! by someone who never heard of it. Such a halt is not replicated yet, and [`write_back`] says what the store is told.

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::Id;
use crate::name::Name;
use crate::time::Time;

/// Longest name of an agent, in bytes: keys of records and paths of URLs hold it.
pub const AGENT_BYTES: usize = 1024;

/// Longest reason and longest actor, in bytes: some sentences, and a link to a ticket.
pub const TEXT_BYTES: usize = 2048;

/// What a halt is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Everything of the tenant.
    Tenant,
    /// One agent.
    Agent(String),
}

/// Whom a record is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Whose agents they are.
    pub tenant: Name,
    /// Which of them.
    pub scope: Scope,
}

/// Whether an agent may act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It may.
    Running,
    /// It may not.
    Halted,
}

/// The last word about an agent, or about everything of a tenant.
///
/// As JSON: `{"tenant", "agent": "a1" | null, "state": "halted" | "running", "version", "reason", "actor", "cause", "cause_at", "at", "expires_at", "is_replicated"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub struct Record {
    /// Whose agents they are.
    pub tenant: Name,
    /// Which of them.
    pub scope: Scope,
    /// Whether they may act.
    pub state: State,
    /// Rises by one with each change; 0 is an agent of whom nothing was ever said.
    pub version: u64,
    /// Why, for a person.
    pub reason: String,
    /// Who said so: a person, a key, or a plugin.
    pub actor: String,
    /// The alert that it follows from.
    pub cause: Option<Id>,
    /// The time of the record that the alert is about. Where raw was made anew, another record leads to the same id: its time is another.
    pub cause_at: Option<Time>,
    /// When it was said.
    pub at: Time,
    /// When a halt ends by itself.
    pub expires_at: Option<Time>,
    /// Whether the store has it.
    pub is_replicated: bool,
}

/// A record as JSON has it.
#[derive(Serialize, Deserialize)]
struct Written {
    tenant: Name,
    /// Null is everything of the tenant, so it must be there.
    #[serde(deserialize_with = "Option::deserialize")]
    agent: Option<String>,
    state: State,
    version: u64,
    reason: String,
    actor: String,
    #[serde(default)]
    cause: Option<Id>,
    #[serde(default)]
    cause_at: Option<Time>,
    at: Time,
    #[serde(default)]
    expires_at: Option<Time>,
    #[serde(default)]
    is_replicated: bool,
}

impl From<Written> for Record {
    fn from(written: Written) -> Self {
        let Written { tenant, agent, state, version, reason, actor, cause, cause_at, at, expires_at, is_replicated } =
            written;
        let scope = agent.map_or(Scope::Tenant, Scope::Agent);
        Self { tenant, scope, state, version, reason, actor, cause, cause_at, at, expires_at, is_replicated }
    }
}

impl From<Record> for Written {
    fn from(record: Record) -> Self {
        let Record { tenant, scope, state, version, reason, actor, cause, cause_at, at, expires_at, is_replicated } =
            record;
        let agent = match scope {
            Scope::Tenant => None,
            Scope::Agent(agent) => Some(agent),
        };
        Self { tenant, agent, state, version, reason, actor, cause, cause_at, at, expires_at, is_replicated }
    }
}

impl Key {
    /// An agent of a tenant.
    pub fn agent(tenant: Name, agent: impl Into<String>) -> Self {
        Self { tenant, scope: Scope::Agent(agent.into()) }
    }

    /// Everything of a tenant.
    pub fn tenant(tenant: Name) -> Self {
        Self { tenant, scope: Scope::Tenant }
    }

    /// The key as records of `phronis.control` have it: `agents/<tenant>/<agent>` or `tenants/<tenant>`.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(rest) = text.strip_prefix("agents/") {
            let (tenant, agent) = rest.split_once('/')?;
            return Some(Self::agent(tenant.parse().ok()?, agent));
        }
        Some(Self::tenant(text.strip_prefix("tenants/")?.parse().ok()?))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.scope {
            Scope::Agent(agent) => write!(f, "agents/{}/{agent}", self.tenant),
            Scope::Tenant => write!(f, "tenants/{}", self.tenant),
        }
    }
}

impl State {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Halted => "halted",
        }
    }
}

impl Record {
    /// Whom it is about.
    pub fn key(&self) -> Key {
        Key { tenant: self.tenant.clone(), scope: self.scope.clone() }
    }

    /// Whether it holds its agent back at this moment.
    pub fn is_halted(&self, now: Time) -> bool {
        self.state == State::Halted && !self.is_expired(now)
    }

    /// Whether it was a halt, and its time is over.
    pub fn is_expired(&self, now: Time) -> bool {
        self.state == State::Halted && self.expires_at.is_some_and(|expires_at| expires_at <= now)
    }

    /// Whether both tell of the same change; its number may have changed on the way to the store.
    pub fn is_same_change(&self, other: &Self) -> bool {
        let facts = |record: &Self| (record.state, record.at, record.expires_at, record.cause);
        facts(self) == facts(other)
            && (&self.actor, &self.reason) == (&other.actor, &other.reason)
            && self.key() == other.key()
    }

    /// Whether it holds at least as long as another halt.
    fn outlasts(&self, other: &Self) -> bool {
        self.state == State::Halted && lasts(self) >= lasts(other)
    }

    /// The order in which words win. All members take part, so that two different words are never equal.
    fn order(&self, other: &Self) -> Ordering {
        self.version
            .cmp(&other.version)
            .then(self.state.cmp(&other.state))
            .then(lasts(self).cmp(&lasts(other)))
            .then(self.at.cmp(&other.at))
            .then_with(|| self.reason.cmp(&other.reason))
            .then_with(|| self.actor.cmp(&other.actor))
            .then(self.cause.cmp(&other.cause))
            .then(self.cause_at.cmp(&other.cause_at))
            .then(self.is_replicated.cmp(&other.is_replicated))
    }
}

/// How long a record holds; for ever is the longest.
fn lasts(record: &Record) -> i64 {
    record.expires_at.map_or(i64::MAX, |expires_at| expires_at.0)
}

/// The word that holds of two about the same agent: the highest version, on a tie the halt, of two halts the longer one.
pub fn merge(one: Record, other: Record) -> Record {
    if one.order(&other) == Ordering::Less { other } else { one }
}

/// What the store is told of a word that it may not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteBack {
    /// Nothing: it has it, or a halt that holds at least as long.
    Nothing,
    /// This record, if the store still stands at this version.
    Set(Box<Record>, u64),
}

/// What the store is told of `ours`, when it has `theirs`. `is_known` says that the store's history has our change already.
///
/// A halt that the store never heard of goes on top of whatever it has, also of a reset: who reset did not know of it.
/// Anything else yields to a higher version.
pub fn write_back(ours: &Record, theirs: Option<&Record>, is_known: bool) -> WriteBack {
    let stands_at = theirs.map_or(0, |theirs| theirs.version);
    if is_known || theirs.is_some_and(|theirs| theirs.is_same_change(ours)) {
        return WriteBack::Nothing;
    }
    if ours.version > stands_at {
        return WriteBack::Set(Box::new(Record { is_replicated: true, ..ours.clone() }), stands_at);
    }
    let is_new_halt = ours.state == State::Halted && !ours.is_replicated;
    if !is_new_halt || theirs.is_some_and(|theirs| theirs.outlasts(ours)) {
        return WriteBack::Nothing;
    }
    let version = stands_at.saturating_add(1);
    WriteBack::Set(Box::new(Record { version, is_replicated: true, ..ours.clone() }), stands_at)
}

/// What is wrong with the name of an agent.
pub fn check_name(agent: &str) -> Result<(), &'static str> {
    if agent.is_empty() {
        return Err("must not be empty");
    }
    if agent.len() > AGENT_BYTES {
        return Err("is longer than 1024 bytes");
    }
    if agent.chars().any(char::is_control) {
        return Err("must not have control characters");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
