//! Agents and whole tenants that are halted, and the history of who halted and reset them, and why.
//!
//! The record of an agent is changed by compare-and-set on its version, in one transaction with its row of history.
//! A halt that an alert caused carries the alert's id and the time of its record, unique among the halts in the history,
//! so that the same alert never halts twice. The id alone is not enough: where raw was made anew, another record leads to it.

use std::borrow::Cow;

use phronis_core::Time;
use phronis_core::agent::{Key, Record, Scope, State};
use sqlx::FromRow;

use crate::database::{Begin as _, count, int, strange, with};
use crate::store::Patience;
use crate::text::{key, stored, told};
use crate::{Page, Result, Store};

/// What a [`Row`] is read from.
macro_rules! columns {
    () => {
        "tenant, scope, agent, state, version, reason, actor, cause, cause_at, at, expires_at"
    };
}

/// A statement with the columns of a [`NewRow`] as `$1` to `$12`.
macro_rules! bound {
    ($sql:expr, $row:expr) => {
        sqlx::query($sql)
            .bind($row.tenant)
            .bind($row.scope)
            .bind(&*$row.agent_key)
            .bind(&*$row.agent)
            .bind($row.state)
            .bind($row.version)
            .bind(&*$row.reason)
            .bind(&*$row.actor)
            .bind($row.cause.as_deref())
            .bind($row.cause_at)
            .bind($row.at)
            .bind($row.expires_at)
    };
}

/// How a change ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Set {
    /// It is stored.
    Stored,
    /// Somebody was faster: this is what is there.
    Stale(Option<Box<Record>>),
    /// The history has a halt by this alert already: the same alert never halts twice.
    Handled,
}

impl Store {
    /// All records that are not of running agents, also those that have expired.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn halts(&self) -> Result<Vec<Record>> {
        let rows = with!(self, "reading who is halted", Patience::Long, |pool| {
            sqlx::query_as::<_, Row>(concat!(
                "SELECT ",
                columns!(),
                " FROM agents WHERE state <> 'running' ORDER BY tenant, scope, agent_key"
            ))
            .fetch_all(&pool)
            .await?
            .into_iter()
            .map(Row::record)
            .collect::<sqlx::Result<Vec<Record>>>()
        })?;
        Ok(rows)
    }

    /// What is known of an agent; `None` when nobody ever changed it.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn agent(&self, of: &Key) -> Result<Option<Record>> {
        let (scope, name) = parts(&of.scope);
        let name = key(name);
        with!(self, "reading an agent's state", Patience::Short, |pool| {
            sqlx::query_as::<_, Row>(concat!(
                "SELECT ",
                columns!(),
                " FROM agents WHERE tenant = $1 AND scope = $2 AND agent_key = $3"
            ))
            .bind(of.tenant.as_str())
            .bind(scope)
            .bind(&*name)
            .fetch_optional(&pool)
            .await?
            .map(Row::record)
            .transpose()
        })
    }

    /// Changes a record if it still has the version `expected` (0: there is none yet), and notes it in the history.
    ///
    /// # Errors
    /// When the store does not answer; then it is not known whether the change is there: read, and try again.
    pub async fn set_agent(&self, record: &Record, expected: u64) -> Result<Set> {
        let is_stored = with!(self, "storing an agent's state", Patience::Short, |pool| {
            let row = NewRow::of(record);
            let mut tx = pool.write().await?;
            let mut is_handled = false;
            if let (Some(cause), State::Halted) = (&row.cause, record.state) {
                // A row without the time of its record is this alert's if it was written after that record.
                let found: Option<i64> = sqlx::query_scalar(
                    "SELECT id FROM agent_history WHERE cause = $1 AND state = 'halted'
                     AND ($2 IS NULL OR cause_at = $2 OR (cause_at IS NULL AND at >= $2)) LIMIT 1",
                )
                .bind(cause.as_str())
                .bind(row.cause_at)
                .fetch_optional(&mut *tx)
                .await?;
                is_handled = found.is_some();
            }
            if !is_handled {
                let noted = bound!(
                    "INSERT INTO agent_history
                     (tenant, scope, agent_key, agent, state, version, reason, actor, cause, cause_at, at, expires_at)
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT DO NOTHING",
                    row
                );
                is_handled = noted.execute(&mut *tx).await?.rows_affected() == 0;
            }
            if is_handled {
                tx.rollback().await?;
                return Ok(Some(Set::Handled));
            }
            let sql = match expected {
                0 => {
                    "INSERT INTO agents
                     (tenant, scope, agent_key, agent, state, version, reason, actor, cause, cause_at, at, expires_at)
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
                     ON CONFLICT (tenant, scope, agent_key) DO NOTHING"
                }
                _ => {
                    "UPDATE agents SET agent = $4, state = $5, version = $6, reason = $7, actor = $8, cause = $9,
                     cause_at = $10, at = $11, expires_at = $12
                     WHERE tenant = $1 AND scope = $2 AND agent_key = $3 AND version = $13"
                }
            };
            let mut change = bound!(sql, row);
            if expected > 0 {
                change = change.bind(int(expected));
            }
            if change.execute(&mut *tx).await?.rows_affected() == 0 {
                tx.rollback().await?;
                return Ok(None);
            }
            tx.commit().await?;
            Ok(Some(Set::Stored))
        })?;
        match is_stored {
            Some(set) => Ok(set),
            None => Ok(Set::Stale(self.agent(&record.key()).await?.map(Box::new))),
        }
    }

    /// The changes of an agent, newest first, from `cursor` (the end of the page before) on.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn agent_history(&self, of: &Key, limit: u32, cursor: Option<i64>) -> Result<Page<Record>> {
        let (scope, name) = parts(&of.scope);
        let name = key(name);
        let rows = with!(self, "reading an agent's history", Patience::Short, |pool| {
            sqlx::query_as::<_, Past>(concat!(
                "SELECT id, ",
                columns!(),
                " FROM agent_history WHERE tenant = $1 AND scope = $2 AND agent_key = $3 AND id < $4",
                " ORDER BY id DESC LIMIT $5"
            ))
            .bind(of.tenant.as_str())
            .bind(scope)
            .bind(&*name)
            .bind(cursor.unwrap_or(i64::MAX))
            .bind(i64::from(limit).saturating_add(1))
            .fetch_all(&pool)
            .await?
            .into_iter()
            .map(|past| Ok((past.id, past.row.record()?)))
            .collect::<sqlx::Result<Vec<(i64, Record)>>>()
        })?;
        Ok(Page::cut(rows, limit))
    }
}

fn parts(scope: &Scope) -> (&'static str, &str) {
    match scope {
        Scope::Agent(name) => ("agent", name),
        Scope::Tenant => ("tenant", ""),
    }
}

/// A record on its way in.
struct NewRow<'a> {
    tenant: &'a str,
    scope: &'static str,
    agent_key: Cow<'a, str>,
    agent: Cow<'a, str>,
    state: &'static str,
    version: i64,
    reason: Cow<'a, str>,
    actor: Cow<'a, str>,
    cause: Option<String>,
    cause_at: Option<i64>,
    at: i64,
    expires_at: Option<i64>,
}

impl<'a> NewRow<'a> {
    fn of(record: &'a Record) -> Self {
        let (scope, name) = parts(&record.scope);
        Self {
            tenant: record.tenant.as_str(),
            scope,
            agent_key: key(name),
            agent: stored(name),
            state: record.state.as_str(),
            version: int(record.version),
            reason: stored(&record.reason),
            actor: stored(&record.actor),
            cause: record.cause.map(|id| id.to_string()),
            cause_at: record.cause_at.map(|at| at.0),
            at: record.at.0,
            expires_at: record.expires_at.map(|at| at.0),
        }
    }
}

/// A record on its way out.
#[derive(Debug, FromRow)]
struct Row {
    tenant: String,
    scope: String,
    agent: String,
    state: String,
    version: i64,
    reason: String,
    actor: String,
    cause: Option<String>,
    cause_at: Option<i64>,
    at: i64,
    expires_at: Option<i64>,
}

/// A row of the history.
#[derive(Debug, FromRow)]
struct Past {
    id: i64,
    #[sqlx(flatten)]
    row: Row,
}

impl Row {
    fn record(self) -> sqlx::Result<Record> {
        let scope = match self.scope.as_str() {
            "agent" => Scope::Agent(told(self.agent)),
            "tenant" => Scope::Tenant,
            other => return Err(strange("scope of a halt", other)),
        };
        let state = match self.state.as_str() {
            "running" => State::Running,
            "halted" => State::Halted,
            other => return Err(strange("state of an agent", other)),
        };
        Ok(Record {
            tenant: self.tenant.parse().map_err(|_| strange("tenant", &self.tenant))?,
            scope,
            state,
            version: count(self.version),
            reason: told(self.reason),
            actor: told(self.actor),
            cause: self.cause.map(|id| id.parse().map_err(|_| strange("id of an alert", id))).transpose()?,
            cause_at: self.cause_at.map(Time),
            at: Time(self.at),
            expires_at: self.expires_at.map(Time),
            is_replicated: true,
        })
    }
}
