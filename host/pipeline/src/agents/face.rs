//! The kill switch as the faces see it.

use std::collections::BTreeSet;
use std::sync::Arc;

use phronis_core::agent::{Key, Record};
use phronis_core::{Name, Time};
use phronis_store::Page;

use super::{Halt, Outcome, Refusal, Registry, Reset, Status, Watch};

/// Who is halted, and how that is changed. Cheap to clone; reading asks memory alone.
#[derive(Debug, Clone)]
pub struct Agents {
    registry: Arc<Registry>,
    tenants: Arc<BTreeSet<Name>>,
}

impl Agents {
    pub(crate) fn new(registry: Arc<Registry>, tenants: impl Iterator<Item = Name>) -> Self {
        Self { registry, tenants: Arc::new(tenants.collect()) }
    }

    /// Whether this host has streams of a tenant; of others it knows nobody.
    pub fn has_tenant(&self, tenant: &Name) -> bool {
        self.tenants.contains(tenant)
    }

    /// All tenants of this host.
    pub fn tenants(&self) -> impl Iterator<Item = &Name> {
        self.tenants.iter()
    }

    /// This start of this host: changes are numbered within it.
    pub fn epoch(&self) -> &str {
        self.registry.epoch()
    }

    /// The time that guards are told. A wall clock that jumps ahead does not take it along: no halt ends early by it.
    pub fn time(&self) -> Time {
        Time(self.registry.clock.now_us())
    }

    /// An agent, or everything of a tenant.
    ///
    /// # Errors
    /// It is not known yet who is halted.
    pub fn status(&self, key: &Key) -> Result<Status, Refusal> {
        self.known()?;
        Ok(self.registry.status(key))
    }

    /// All agents of a tenant of whom something was ever said.
    ///
    /// # Errors
    /// It is not known yet who is halted.
    pub fn all(&self, tenant: &Name) -> Result<Vec<Status>, Refusal> {
        self.known()?;
        Ok(self.registry.agents(tenant))
    }

    /// The halts of a tenant, and everything that changes from then on.
    ///
    /// # Errors
    /// It is not known yet who is halted.
    pub fn watch(&self, tenant: &Name) -> Result<Watch, Refusal> {
        self.known()?;
        Ok(self.registry.tenant(tenant).watch())
    }

    /// The changes of an agent, newest first.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn history(&self, key: &Key, limit: u32, cursor: Option<i64>) -> phronis_store::Result<Page<Record>> {
        self.registry.history(key, limit, cursor).await
    }

    /// Halts an agent, or everything of a tenant: in force on this host at once, durable when this returns.
    ///
    /// # Cancel safety
    /// Once polled, the halt is in force; cancelling loses the answer, and the copies are made up for later.
    ///
    /// # Errors
    /// It has changed since the version that was named, or it is written down nowhere.
    pub async fn halt(&self, halt: Halt) -> Result<Outcome, Refusal> {
        self.registry.halt(halt).await
    }

    /// Lets an agent act again, or everything of a tenant.
    ///
    /// # Cancel safety
    /// Not: call it in a task of its own.
    ///
    /// # Errors
    /// The store is away, it has changed meanwhile, or nothing is known of it.
    pub async fn reset(&self, reset: Reset) -> Result<Outcome, Refusal> {
        self.registry.reset(reset).await
    }

    fn known(&self) -> Result<(), Refusal> {
        if self.registry.is_known() { Ok(()) } else { Err(Refusal::NotKnown) }
    }
}
