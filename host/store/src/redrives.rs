//! Redrives: requests to try letters again, who made them, and how far they are.
//!
//! A stream has one at a time. Whoever owns a partition moves its letters and says how far it is; any host may start or cancel.

use phronis_core::{StreamId, Time};
use serde_json::Value;
use sqlx::FromRow;

use crate::database::{Begin as _, count, int, strange, with};
use crate::store::Patience;
use crate::text::{stored, told};
use crate::{Page, Result, Store};

/// A redrive.
#[derive(Debug, Clone, PartialEq)]
pub struct Redrive {
    /// Its id.
    pub id: String,
    /// The stream.
    pub stream: StreamId,
    /// Which letters, through what; in the words of those who move them.
    pub request: Value,
    /// Letters a second, at most, of all partitions together.
    pub rate: u64,
    /// Who wanted it.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// How it stands.
    pub state: State,
    /// Why it failed or was cancelled.
    pub detail: Option<String>,
    /// When it was wanted.
    pub created_at: Time,
    /// When it ended.
    pub ended_at: Option<Time>,
    /// How far each partition is, by partition.
    pub progress: Vec<Progress>,
}

/// How a redrive stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Letters are being moved.
    Running,
    /// All letters that it meant were moved.
    Done,
    /// A person stopped it.
    Cancelled,
    /// It cannot go on.
    Failed,
}

impl State {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Running, Self::Done, Self::Cancelled, Self::Failed].into_iter().find(|state| state.as_str() == text)
    }
}

/// How far a redrive is in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The partition.
    pub partition: i32,
    /// The next offset of dlq that is looked at.
    pub next: i64,
    /// Where it ends: it is done when `next` is there.
    pub until: i64,
    /// Letters moved.
    pub moved: u64,
    /// Letters that were left alone.
    pub skipped: u64,
}

/// How a request for a redrive ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Started {
    /// It runs.
    Running,
    /// The stream has one already.
    Occupied(Box<Redrive>),
}

impl Store {
    /// Starts a redrive, unless one of the same stream runs.
    ///
    /// # Errors
    /// When the store does not answer; the same id may be tried again.
    pub async fn start_redrive(&self, redrive: &Redrive) -> Result<Started> {
        let is_new = with!(self, "storing a redrive", Patience::Short, |pool| {
            let mut tx = pool.write().await?;
            let inserted = sqlx::query(
                "INSERT INTO redrives (id, stream, request, rate, actor, reason, state, detail, created_at, ended_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING",
            )
            .bind(&redrive.id)
            .bind(redrive.stream.to_string())
            .bind(redrive.request.to_string())
            .bind(int(redrive.rate))
            .bind(stored(&redrive.actor))
            .bind(stored(&redrive.reason))
            .bind(redrive.state.as_str())
            .bind(redrive.detail.as_deref().map(stored))
            .bind(redrive.created_at.0)
            .bind(redrive.ended_at.map(|at| at.0))
            .execute(&mut *tx)
            .await?;
            if inserted.rows_affected() == 0 {
                tx.rollback().await?;
                return Ok(false);
            }
            for progress in &redrive.progress {
                sqlx::query(
                    "INSERT INTO redrive_progress (redrive, partition, next, until, moved, skipped)
                     VALUES ($1, $2, $3, $4, $5, $6)",
                )
                .bind(&redrive.id)
                .bind(i64::from(progress.partition))
                .bind(progress.next)
                .bind(progress.until)
                .bind(int(progress.moved))
                .bind(int(progress.skipped))
                .execute(&mut *tx)
                .await?;
            }
            tx.commit().await?;
            Ok(true)
        })?;
        if is_new {
            return Ok(Started::Running);
        }
        let running = self.running_redrives(Some(&redrive.stream)).await?.into_iter().next();
        Ok(match running {
            Some(running) if running.id != redrive.id => Started::Occupied(Box::new(running)),
            // It is this one, from an earlier try; or the other one ended just now, and the next try finds room.
            Some(_) => Started::Running,
            None => return Box::pin(self.start_redrive(redrive)).await,
        })
    }

    /// Notes how far a redrive is in a partition; a step back is ignored.
    /// Returns whether it still runs: when it does not, nothing was noted and nothing more is to be moved.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn note_redrive(&self, id: &str, progress: Progress) -> Result<bool> {
        with!(self, "noting how far a redrive is", Patience::Short, |pool| {
            let mut tx = pool.write().await?;
            let running: Option<String> =
                sqlx::query_scalar("SELECT id FROM redrives WHERE id = $1 AND ended_at IS NULL")
                    .bind(id)
                    .fetch_optional(&mut *tx)
                    .await?;
            if running.is_some() {
                sqlx::query(
                    "UPDATE redrive_progress SET next = $3, moved = $4, skipped = $5
                     WHERE redrive = $1 AND partition = $2 AND next <= $3",
                )
                .bind(id)
                .bind(i64::from(progress.partition))
                .bind(progress.next)
                .bind(int(progress.moved))
                .bind(int(progress.skipped))
                .execute(&mut *tx)
                .await?;
            }
            tx.commit().await?;
            Ok(running.is_some())
        })
    }

    /// Ends a redrive; returns false when it had ended before, or there is none of this id.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn end_redrive(&self, id: &str, state: State, detail: Option<&str>, at: Time) -> Result<bool> {
        with!(self, "ending a redrive", Patience::Short, |pool| {
            let ended = sqlx::query(
                "UPDATE redrives SET state = $2, detail = $3, ended_at = $4 WHERE id = $1 AND ended_at IS NULL",
            )
            .bind(id)
            .bind(state.as_str())
            .bind(detail.map(stored))
            .bind(at.0)
            .execute(&pool)
            .await?;
            Ok(ended.rows_affected() > 0)
        })
    }

    /// A redrive.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn redrive(&self, id: &str) -> Result<Option<Redrive>> {
        Ok(self.redrives_where(Which { id: Some(id), ..Which::default() }, 1, None).await?.items.pop())
    }

    /// The redrives that run, of a stream or of all.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn running_redrives(&self, stream: Option<&StreamId>) -> Result<Vec<Redrive>> {
        let which = Which { stream: stream.map(StreamId::to_string), is_running: true, ..Which::default() };
        Ok(self.redrives_where(which, u32::MAX, None).await?.items)
    }

    /// All redrives of a stream, newest first, from `cursor` (the end of the page before) on.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn redrives(&self, stream: &StreamId, limit: u32, cursor: Option<i64>) -> Result<Page<Redrive>> {
        let which = Which { stream: Some(stream.to_string()), ..Which::default() };
        self.redrives_where(which, limit, cursor).await
    }

    async fn redrives_where(&self, which: Which<'_>, limit: u32, cursor: Option<i64>) -> Result<Page<Redrive>> {
        let rows = with!(self, "reading redrives", Patience::Short, |pool| {
            let rows: Vec<Row> = sqlx::query_as(
                "SELECT number, id, stream, request, rate, actor, reason, state, detail, created_at, ended_at
                 FROM redrives WHERE ($1 IS NULL OR id = $1) AND ($2 IS NULL OR stream = $2)
                 AND (NOT $3 OR ended_at IS NULL) AND number < $4 ORDER BY number DESC LIMIT $5",
            )
            .bind(which.id)
            .bind(which.stream.as_deref())
            .bind(which.is_running)
            .bind(cursor.unwrap_or(i64::MAX))
            .bind(i64::from(limit).saturating_add(1))
            .fetch_all(&pool)
            .await?;
            let mut redrives = Vec::with_capacity(rows.len());
            for row in rows {
                let progress: Vec<ProgressRow> = sqlx::query_as(
                    "SELECT partition, next, until, moved, skipped FROM redrive_progress
                     WHERE redrive = $1 ORDER BY partition",
                )
                .bind(&row.id)
                .fetch_all(&pool)
                .await?;
                redrives.push((row.number, row.redrive(progress)?));
            }
            Ok(redrives)
        })?;
        Ok(Page::cut(rows, limit))
    }
}

#[derive(Debug, Default)]
struct Which<'a> {
    id: Option<&'a str>,
    stream: Option<String>,
    is_running: bool,
}

#[derive(Debug, FromRow)]
struct Row {
    number: i64,
    id: String,
    stream: String,
    request: String,
    rate: i64,
    actor: String,
    reason: String,
    state: String,
    detail: Option<String>,
    created_at: i64,
    ended_at: Option<i64>,
}

#[derive(Debug, FromRow)]
struct ProgressRow {
    partition: i64,
    next: i64,
    until: i64,
    moved: i64,
    skipped: i64,
}

impl Row {
    fn redrive(self, progress: Vec<ProgressRow>) -> sqlx::Result<Redrive> {
        let progress = progress.into_iter().map(ProgressRow::progress).collect::<sqlx::Result<_>>()?;
        Ok(Redrive {
            stream: self.stream.parse().map_err(|_| strange("stream", &self.stream))?,
            request: serde_json::from_str(&self.request).map_err(|_| strange("request", &self.request))?,
            id: self.id,
            rate: count(self.rate),
            actor: told(self.actor),
            reason: told(self.reason),
            state: State::parse(&self.state).ok_or_else(|| strange("state of a redrive", &self.state))?,
            detail: self.detail.map(told),
            created_at: Time(self.created_at),
            ended_at: self.ended_at.map(Time),
            progress,
        })
    }
}

impl ProgressRow {
    fn progress(self) -> sqlx::Result<Progress> {
        Ok(Progress {
            partition: i32::try_from(self.partition).map_err(|_| strange("partition", self.partition))?,
            next: self.next,
            until: self.until,
            moved: count(self.moved),
            skipped: count(self.skipped),
        })
    }
}
