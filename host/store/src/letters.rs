//! The index of letters: which classes there are, how many letters each has, and where in dlq they stand.
//!
//! It is a fold over the topics dlq and retry of a stream, partition by partition, and can be made anew from them at any time.
//! Whoever owns a partition writes steps of its fold; each replaces whole rows and moves the position, in one transaction,
//! and only from the position that the writer thinks it is at: an owner of yesterday changes nothing.

use phronis_core::letter::Stage;
use phronis_core::letter::index::{Bits, Changes, Class, ClassRow, Positions, SegmentRow};
use phronis_core::{Code, StreamId, Time};
use sqlx::FromRow;

use crate::database::{Begin as _, count, int, strange, with};
use crate::store::Patience;
use crate::text::{stored, told};
use crate::{Result, Store};

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It is stored.
    Stored,
    /// The store stands elsewhere: another host wrote, or it was emptied. Load again.
    Fenced,
}

impl Store {
    /// Stores a step of the fold of one partition, if the store still stands at `from` (`None`: knows nothing of it).
    ///
    /// # Errors
    /// When the store does not answer; then it is not known whether the step is there: load again.
    pub async fn apply_letters(
        &self,
        stream: &StreamId,
        partition: i32,
        from: Option<Positions>,
        step: &Changes,
    ) -> Result<Applied> {
        with!(self, "storing the index of letters", Patience::Short, |pool| {
            let (stream, partition) = (stream.to_string(), i64::from(partition));
            let mut tx = pool.write().await?;
            let sql = match from {
                None => {
                    "INSERT INTO letter_positions (stream, partition, dlq, retry) VALUES ($1, $2, $3, $4)
                     ON CONFLICT (stream, partition) DO NOTHING"
                }
                Some(_) => {
                    "UPDATE letter_positions SET dlq = $3, retry = $4
                     WHERE stream = $1 AND partition = $2 AND dlq = $5 AND retry = $6"
                }
            };
            let mut moving =
                sqlx::query(sql).bind(&stream).bind(partition).bind(step.positions.dlq).bind(step.positions.retry);
            if let Some(from) = from {
                moving = moving.bind(from.dlq).bind(from.retry);
            }
            if moving.execute(&mut *tx).await?.rows_affected() == 0 {
                tx.rollback().await?;
                return Ok(Applied::Fenced);
            }
            for row in &step.classes {
                let plugin = row.class.plugin.as_ref();
                sqlx::query(
                    "INSERT INTO letter_classes (stream, partition, class, stage, code, plugin, version, count, waiting,
                     parked, first_at, last_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
                     ON CONFLICT (stream, partition, class) DO UPDATE SET stage = excluded.stage, code = excluded.code,
                     plugin = excluded.plugin, version = excluded.version, count = excluded.count,
                     waiting = excluded.waiting, parked = excluded.parked, first_at = excluded.first_at,
                     last_at = excluded.last_at",
                )
                .bind(&stream)
                .bind(partition)
                .bind(i64::from(row.number))
                .bind(row.class.stage.as_str())
                .bind(row.class.code.to_string())
                .bind(plugin.map(|(name, _)| name.as_str()))
                .bind(plugin.map(|(_, version)| stored(version)))
                .bind(int(row.count))
                .bind(int(row.waiting))
                .bind(int(row.parked))
                .bind(row.first.0)
                .bind(row.last.0)
                .execute(&mut *tx)
                .await?;
            }
            for row in &step.segments {
                let sql = match row.is_empty() {
                    true => {
                        "DELETE FROM letter_segments
                         WHERE stream = $1 AND partition = $2 AND segment = $3 AND class = $4"
                    }
                    false => {
                        "INSERT INTO letter_segments (stream, partition, segment, class, first_at, waiting, parked)
                         VALUES ($1, $2, $3, $4, $5, $6, $7)
                         ON CONFLICT (stream, partition, segment, class) DO UPDATE SET first_at = excluded.first_at,
                         waiting = excluded.waiting, parked = excluded.parked"
                    }
                };
                let mut change =
                    sqlx::query(sql).bind(&stream).bind(partition).bind(row.segment).bind(i64::from(row.class));
                if !row.is_empty() {
                    change = change.bind(row.first.0).bind(row.waiting.to_bytes()).bind(row.parked.to_bytes());
                }
                change.execute(&mut *tx).await?;
            }
            tx.commit().await?;
            Ok(Applied::Stored)
        })
    }

    /// The fold of a partition as of one moment; `None` when the store knows nothing of it.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn letters(&self, stream: &StreamId, partition: i32) -> Result<Option<Changes>> {
        let folds = self.folds(stream, Some(partition)).await?;
        Ok(folds.into_iter().next().map(|(_, rows)| rows))
    }

    /// The folds of all partitions of a stream, by partition, as of one moment.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn all_letters(&self, stream: &StreamId) -> Result<Vec<(i32, Changes)>> {
        self.folds(stream, None).await
    }

    /// The classes of all partitions of a stream, by partition and number.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn letter_classes(&self, stream: &StreamId) -> Result<Vec<(i32, ClassRow)>> {
        with!(self, "reading the classes of letters", Patience::Short, |pool| {
            sqlx::query_as::<_, StoredClass>(CLASSES)
                .bind(stream.to_string())
                .bind(0_i64)
                .bind(i64::from(i32::MAX))
                .fetch_all(&pool)
                .await?
                .into_iter()
                .map(StoredClass::row)
                .collect::<sqlx::Result<Vec<(i32, ClassRow)>>>()
        })
    }

    /// Forgets the fold of a partition, for it to be made anew.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn forget_letters(&self, stream: &StreamId, partition: i32) -> Result<()> {
        with!(self, "emptying the index of letters", Patience::Short, |pool| {
            let mut tx = pool.write().await?;
            for sql in [
                "DELETE FROM letter_positions WHERE stream = $1 AND partition = $2",
                "DELETE FROM letter_classes WHERE stream = $1 AND partition = $2",
                "DELETE FROM letter_segments WHERE stream = $1 AND partition = $2",
            ] {
                sqlx::query(sql).bind(stream.to_string()).bind(i64::from(partition)).execute(&mut *tx).await?;
            }
            tx.commit().await
        })
    }

    async fn folds(&self, stream: &StreamId, partition: Option<i32>) -> Result<Vec<(i32, Changes)>> {
        let (first, last) = partition.map_or((0, i32::MAX), |one| (one, one));
        with!(self, "reading the index of letters", Patience::Long, |pool| {
            // All of one moment: PostgreSQL shows each statement of a usual transaction another one.
            let mut tx = pool.read().await?;
            let name = stream.to_string();
            let (first, last) = (i64::from(first), i64::from(last));
            let positions: Vec<(i64, i64, i64)> = sqlx::query_as(
                "SELECT partition, dlq, retry FROM letter_positions
                 WHERE stream = $1 AND partition BETWEEN $2 AND $3 ORDER BY partition",
            )
            .bind(&name)
            .bind(first)
            .bind(last)
            .fetch_all(&mut *tx)
            .await?;
            let classes: Vec<StoredClass> =
                sqlx::query_as(CLASSES).bind(&name).bind(first).bind(last).fetch_all(&mut *tx).await?;
            let segments: Vec<StoredSegment> = sqlx::query_as(
                "SELECT partition, segment, class, first_at, waiting, parked FROM letter_segments
                 WHERE stream = $1 AND partition BETWEEN $2 AND $3 ORDER BY partition, segment, class",
            )
            .bind(&name)
            .bind(first)
            .bind(last)
            .fetch_all(&mut *tx)
            .await?;
            tx.rollback().await?;
            let classes = classes.into_iter().map(StoredClass::row).collect::<sqlx::Result<Vec<_>>>()?;
            let segments = segments.into_iter().map(StoredSegment::row).collect::<sqlx::Result<Vec<_>>>()?;
            joined(positions, classes, segments)
        })
    }
}

fn joined(
    positions: Vec<(i64, i64, i64)>,
    classes: Vec<(i32, ClassRow)>,
    segments: Vec<(i32, SegmentRow)>,
) -> sqlx::Result<Vec<(i32, Changes)>> {
    let (mut classes, mut segments) = (classes.into_iter().peekable(), segments.into_iter().peekable());
    let mut folds = Vec::with_capacity(positions.len());
    for (number, dlq, retry) in positions {
        let own = partition(number)?;
        let mut fold = Changes { positions: Positions { dlq, retry }, ..Changes::default() };
        // All three are in the order of partitions, and only a partition with a position has classes and segments.
        while let Some((_, class)) = classes.next_if(|(partition, _)| *partition <= own) {
            fold.classes.push(class);
        }
        while let Some((_, segment)) = segments.next_if(|(partition, _)| *partition <= own) {
            fold.segments.push(segment);
        }
        folds.push((own, fold));
    }
    Ok(folds)
}

const CLASSES: &str = "SELECT partition, class, stage, code, plugin, version, count, waiting, parked, first_at, last_at
    FROM letter_classes WHERE stream = $1 AND partition BETWEEN $2 AND $3 ORDER BY partition, class";

fn partition(number: i64) -> sqlx::Result<i32> {
    i32::try_from(number).map_err(|_| strange("partition", number))
}

fn number(class: i64) -> sqlx::Result<u32> {
    u32::try_from(class).map_err(|_| strange("number of a class", class))
}

#[derive(Debug, FromRow)]
struct StoredClass {
    partition: i64,
    class: i64,
    stage: String,
    code: String,
    plugin: Option<String>,
    version: Option<String>,
    count: i64,
    waiting: i64,
    parked: i64,
    first_at: i64,
    last_at: i64,
}

impl StoredClass {
    fn row(self) -> sqlx::Result<(i32, ClassRow)> {
        let plugin = match (self.plugin, self.version) {
            (Some(name), Some(version)) => {
                Some((name.parse().map_err(|_| strange("plugin", &name))?, told(version).into()))
            }
            _ => None,
        };
        let class = Class {
            stage: Stage::parse(&self.stage).ok_or_else(|| strange("stage", &self.stage))?,
            code: Code::parse(&self.code).ok_or_else(|| strange("code", &self.code))?,
            plugin,
        };
        let row = ClassRow {
            number: number(self.class)?,
            class,
            count: count(self.count),
            waiting: count(self.waiting),
            parked: count(self.parked),
            first: Time(self.first_at),
            last: Time(self.last_at),
        };
        Ok((partition(self.partition)?, row))
    }
}

#[derive(Debug, FromRow)]
struct StoredSegment {
    partition: i64,
    segment: i64,
    class: i64,
    first_at: i64,
    waiting: Vec<u8>,
    parked: Vec<u8>,
}

impl StoredSegment {
    fn row(self) -> sqlx::Result<(i32, SegmentRow)> {
        let bits = |bytes: &[u8]| Bits::from_bytes(bytes).map_err(|_| strange("set of letters", bytes.len()));
        let row = SegmentRow {
            segment: self.segment,
            class: number(self.class)?,
            first: Time(self.first_at),
            waiting: bits(&self.waiting)?,
            parked: bits(&self.parked)?,
        };
        Ok((partition(self.partition)?, row))
    }
}
