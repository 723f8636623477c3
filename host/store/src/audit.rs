//! The audit: who changed what, when and why. Rows are added and read; there is no other way, and the databases refuse one.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use phronis_core::{Name, Time};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::FromRow;

use crate::database::{Begin as _, strange, with};
use crate::store::Patience;
use crate::text::{stored, told};
use crate::{Page, Result, Store};

/// Between two tries to write what could not be written.
const AGAIN: Duration = Duration::from_secs(1);

/// Rows that wait for the store: some megabytes, and hours of what people and breakers change.
const MOST: usize = 2000;

/// A change that somebody made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its id: the same entry is there once, however often it is appended.
    pub id: String,
    /// When.
    pub at: Time,
    /// Who: a key's name, what the caller calls himself, or what of the host.
    pub actor: String,
    /// What was done: `plugin.params`, `agent.halt`.
    pub action: String,
    /// To what: `default/sensors/high-temperature`, an agent's name.
    pub subject: String,
    /// Whose it is; none is the host's own.
    pub tenant: Option<Name>,
    /// Why.
    pub reason: Option<String>,
    /// What else is known: numbers, the value that was set.
    pub facts: Value,
}

/// Which entries are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// By this actor.
    pub actor: Option<String>,
    /// This action, or all whose name begins with this and a dot: `agent` has `agent.halt` and `agent.reset`.
    pub action: Option<String>,
    /// About this.
    pub subject: Option<String>,
    /// Of this tenant.
    pub tenant: Option<Name>,
    /// Not earlier than this.
    pub from: Option<Time>,
    /// Earlier than this.
    pub until: Option<Time>,
}

impl Store {
    /// Adds entries, all or none. One that is there already stays as it is.
    ///
    /// # Errors
    /// When the store does not answer; the same entries may be tried again.
    pub async fn append_audit(&self, entries: &[Entry]) -> Result<()> {
        with!(self, "writing the audit", Patience::Short, |pool| {
            let mut tx = pool.write().await?;
            for entry in entries {
                sqlx::query(
                    "INSERT INTO audit (id, at, actor, action, subject, tenant, reason, facts)
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (id) DO NOTHING",
                )
                .bind(stored(&entry.id))
                .bind(entry.at.0)
                .bind(stored(&entry.actor))
                .bind(stored(&entry.action))
                .bind(stored(&entry.subject))
                .bind(entry.tenant.as_ref().map(Name::as_str))
                .bind(entry.reason.as_deref().map(stored))
                .bind(entry.facts.to_string())
                .execute(&mut *tx)
                .await?;
            }
            tx.commit().await
        })
    }

    /// Adds an entry now, or as soon as the store takes it: a change that is in force is not taken back
    /// because it cannot be written down. Until then it is kept as [`Store::queue_audit`] does, and stands in the host's log.
    ///
    /// # Cancel safety
    /// The entry is added, or lost with the call, unless it was kept already.
    pub async fn record_audit(&self, entry: Entry) {
        let Err(error) = self.append_audit(std::slice::from_ref(&entry)).await else { return };
        tracing::warn!(code = %error.code(), %error, entry = written(&entry), "the audit is written later");
        self.queue_audit(entry);
    }

    /// Adds an entry beside the caller, as soon as the store takes it. Only so many wait: beyond, the oldest are given up,
    /// are counted, and stand in the host's log alone.
    pub fn queue_audit(&self, entry: Entry) {
        let (given_up, is_first) = self.backlog().push(entry);
        if let Some(entry) = given_up {
            metrics::counter!("phronis_audit_rows_dropped_total").increment(1);
            tracing::error!(
                entry = written(&entry),
                "too many rows of the audit wait for the store: the oldest is given up"
            );
        }
        if is_first {
            let store = self.clone();
            self.spawn(async move { store.write_backlog().await });
        }
    }

    /// Writes what waits, one after the other, until nothing does.
    async fn write_backlog(&self) {
        let mut health = self.watch_health();
        while let Some(entry) = self.backlog().next() {
            let Err(error) = self.append_audit(std::slice::from_ref(&entry)).await else { continue };
            tracing::debug!(%error, "the audit still waits");
            self.backlog().put_back(entry);
            // Whether it changes or not, the next try is soon enough, and not too soon.
            drop(tokio::time::timeout(AGAIN, health.changed()).await);
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// The entries that are wanted, newest first, from `cursor` (the end of the page before) on.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn audit(&self, filter: &Filter, limit: u32, cursor: Option<i64>) -> Result<Page<Entry>> {
        let rows = with!(self, "reading the audit", Patience::Short, |pool| {
            sqlx::query_as::<_, Row>(
                "SELECT number, id, at, actor, action, subject, tenant, reason, facts FROM audit
                 WHERE ($1 IS NULL OR actor = $1) AND ($2 IS NULL OR action = $2 OR substr(action, 1, length($2) + 1) = $2 || '.')
                 AND ($3 IS NULL OR subject = $3) AND ($4 IS NULL OR tenant = $4)
                 AND at >= $5 AND at < $6 AND number < $7 ORDER BY number DESC LIMIT $8",
            )
            .bind(filter.actor.as_deref().map(stored))
            .bind(filter.action.as_deref().map(stored))
            .bind(filter.subject.as_deref().map(stored))
            .bind(filter.tenant.as_ref().map(Name::as_str))
            .bind(filter.from.map_or(i64::MIN, |at| at.0))
            .bind(filter.until.map_or(i64::MAX, |at| at.0))
            .bind(cursor.unwrap_or(i64::MAX))
            .bind(i64::from(limit).saturating_add(1))
            .fetch_all(&pool)
            .await?
            .into_iter()
            .map(Row::entry)
            .collect::<sqlx::Result<Vec<(i64, Entry)>>>()
        })?;
        Ok(Page::cut(rows, limit))
    }
}

/// Rows that could not be written yet, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Backlog(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    entries: VecDeque<Entry>,
    /// Whether somebody sees to it that they are written.
    is_written: bool,
}

impl Backlog {
    /// Takes an entry; the answer is what was given up for it, and whether nobody sees to the backlog yet.
    fn push(&self, entry: Entry) -> (Option<Entry>, bool) {
        let mut waiting = self.lock();
        let given_up = if waiting.entries.len() < MOST { None } else { waiting.entries.pop_front() };
        waiting.entries.push_back(entry);
        (given_up, !std::mem::replace(&mut waiting.is_written, true))
    }

    /// The oldest entry; with none left, whoever saw to them is done.
    fn next(&self) -> Option<Entry> {
        let mut waiting = self.lock();
        let next = waiting.entries.pop_front();
        waiting.is_written = next.is_some();
        next
    }

    /// An entry that was not taken is tried again, before all others.
    fn put_back(&self, entry: Entry) {
        self.lock().entries.push_front(entry);
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An entry as the host's log has it.
fn written(entry: &Entry) -> String {
    serde_json::to_string(entry).unwrap_or_default()
}

#[derive(Debug, FromRow)]
struct Row {
    number: i64,
    id: String,
    at: i64,
    actor: String,
    action: String,
    subject: String,
    tenant: Option<String>,
    reason: Option<String>,
    facts: String,
}

impl Row {
    fn entry(self) -> sqlx::Result<(i64, Entry)> {
        let tenant = self.tenant.map(|name| name.parse().map_err(|_| strange("tenant", name))).transpose()?;
        let entry = Entry {
            id: told(self.id),
            at: Time(self.at),
            actor: told(self.actor),
            action: told(self.action),
            subject: told(self.subject),
            tenant,
            reason: self.reason.map(told),
            facts: serde_json::from_str(&self.facts).map_err(|_| strange("list of facts", &self.facts))?,
        };
        Ok((self.number, entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: usize) -> Entry {
        let at = Time(0);
        let (actor, action, subject) = ("a".to_owned(), "b".to_owned(), "c".to_owned());
        Entry { id: id.to_string(), at, actor, action, subject, tenant: None, reason: None, facts: Value::Null }
    }

    #[test]
    fn only_so_many_rows_wait_for_the_store_and_the_oldest_are_given_up() {
        let backlog = Backlog::default();
        assert_eq!(backlog.push(entry(0)), (None, true), "somebody must see to them");
        for id in 1..MOST {
            assert_eq!(backlog.push(entry(id)), (None, false));
        }
        assert_eq!(backlog.push(entry(MOST)), (Some(entry(0)), false));
        let tried = backlog.next().unwrap();
        backlog.put_back(tried);
        for id in 1..=MOST {
            assert_eq!(backlog.next(), Some(entry(id)), "in their order, also what was tried in vain");
        }
        assert_eq!(backlog.next(), None);
        assert_eq!(backlog.push(entry(0)), (None, true), "who saw to them is done");
    }
}
