//! Fills one table from one topic, each row exactly once.
//!
//! Batches come with the range of the source that they cover. A commit makes rows and ranges durable in one step:
//! the snapshot and the property `phronis.progress` stand in the same metadata file, behind one compare-and-set.
//! So the table alone says where to go on, and whoever finds that somebody else moved it is fenced and goes on from there.
//! How a commit ended is looked up when nobody has said it, never guessed: the progress names the plan that made it.

mod attempt;
mod look;
mod open;
#[cfg(test)]
mod tests;
mod way;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arrow_array::RecordBatch;
use arrow_schema::Schema;
use arrow_select::filter::filter_record_batch;
use futures::future::BoxFuture;
use iceberg::spec::DataFile;
use iceberg::table::Table;

use self::way::UnderWay;
use crate::catalog::CommitError;
use crate::files::Target;
use crate::known::Keys;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::spec::{TableSpec, WriteOptions};
use crate::{Archive, Error, Result, schema, times};

/// Compare-and-sets that may be lost to other committers before a commit gives up for now.
const ATTEMPTS: u32 = 12;

/// Keys of rows that a plan remembers, about 32 bytes each, before it should be committed.
const MOST_KEYS: usize = 1 << 18;

/// Wait after the first lost one; it grows by as much each time.
const PAUSE: Duration = Duration::from_millis(20);

/// Fills one table. One a table and host; two for the same partitions fence each other.
#[derive(Debug)]
pub struct Committer {
    archive: Archive,
    spec: TableSpec,
    options: WriteOptions,
    keys: Arc<Keys>,
    /// As it was when it was last seen.
    table: Table,
    target: Arc<Target>,
    /// What `table` says.
    progress: Progress,
    plan: Plan,
    under_way: Option<UnderWay>,
    /// Something failed that may have to do with the table being another one by now.
    is_stale: bool,
}

/// What is not committed yet.
#[derive(Debug, Clone, Copy, Default)]
pub struct Buffered {
    /// Rows in memory.
    pub rows: usize,
    /// Bytes of those rows.
    pub bytes: usize,
    /// Data files that are written and wait for the commit.
    pub files: usize,
    /// Rows in those files.
    pub file_rows: u64,
    /// When the oldest of it came.
    pub since: Option<Instant>,
}

/// How a commit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// There was nothing to commit.
    Nothing,
    /// It is in the table.
    Committed(Committed),
    /// Somebody else moved a partition of it, or changed the table, or it waited for too long. The plan was dropped; read on from [`Committer::resume`].
    Fenced,
}

/// What a commit brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The snapshot; `None` when an earlier attempt had made it and it has gone since.
    pub snapshot: Option<i64>,
    /// Rows.
    pub rows: u64,
    /// Data files.
    pub files: usize,
    /// Bytes of those files.
    pub bytes: u64,
    /// From the call to the end.
    pub took: Duration,
}

impl Committer {
    /// The source offset to go on at in a partition, after all that was appended; `None` when none of it was ever archived.
    pub fn resume(&self, partition: i32) -> Option<i64> {
        let planned = self.plan.ranges.get(&partition).map(|range| range.1);
        planned.or_else(|| self.progress.partitions.get(&partition).map(|reached| reached.next))
    }

    /// The table as it was when it was last seen.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The columns of the table as plain Arrow, in its order; those of types that the archive does not write are left out.
    pub fn columns(&self) -> Schema {
        schema::plain_columns(&self.table)
    }

    /// What is not committed yet.
    pub fn buffered(&self) -> Buffered {
        let moving = self.under_way.as_ref().map(|under_way| under_way.pieces.as_slice()).unwrap_or_default();
        let waiting = || self.plan.waiting().chain(moving);
        Buffered {
            rows: waiting().map(|piece| piece.rows.num_rows()).sum(),
            bytes: waiting().map(|piece| piece.bytes).sum(),
            files: self.plan.files.len(),
            file_rows: self.plan.files.iter().map(DataFile::record_count).sum(),
            since: self.plan.since.map(|(steady, _)| steady),
        }
    }

    /// Whether it remembers so much of what was appended that it is better committed now.
    pub fn is_full(&self) -> bool {
        self.plan.held.keys() >= MOST_KEYS
    }

    /// Takes rows that cover `from..next` of a partition of the source; there may be fewer of them, or none.
    /// `from` is where [`Committer::resume`] says to go on, also where the source has a gap.
    /// Times outside of the years 1 to 9999 become the nearest of these, because other engines know no others.
    ///
    /// Waits for storage when the buffer is full.
    ///
    /// # Errors
    /// Nothing of this call was taken then, and it can be made again.
    /// [`Error::Moved`] when `from` is not where the table goes on, so that nothing is skipped or doubled.
    /// [`Error::Fenced`] when somebody else moved a partition of the plan: all that was appended was dropped.
    ///
    /// # Cancel safety
    /// Either all was taken or nothing: [`Committer::resume`] says which.
    pub fn append(&mut self, partition: i32, from: i64, next: i64, rows: RecordBatch) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.check(&rows)?;
            if self.plan.waiting_bytes >= self.options.buffer_bytes / 2 {
                self.roll().await?;
            }
            // Only now: the table may have been looked at.
            let expected = self.resume(partition);
            let is_range = from < next || from == next && rows.num_rows() == 0;
            if expected.is_some_and(|expected| expected != from) || !is_range {
                return Err(Error::Moved { table: self.spec.name.to_string(), partition, from, next, expected });
            }
            let archived = self.progress.partitions.get(&partition).and_then(|reached| reached.high);
            let sifted = self.plan.held.sift(partition, archived, &self.keys.of(&rows).map_err(Error::Rows)?);
            let rows = match sifted.keep {
                Some(keep) => filter_record_batch(&rows, &keep),
                None => Ok(rows),
            };
            let rows = rows.and_then(times::readable).map_err(|error| Error::Rows(error.to_string()))?;
            self.plan.wait(rows, sifted.doubts);
            self.plan.ranges.entry(partition).or_insert((from, from)).1 = next;
            self.plan.since.get_or_insert_with(|| (Instant::now(), SystemTime::now()));
            Ok(())
        })
    }

    /// Writes all rows that wait to data files, which are not in the table yet.
    ///
    /// # Errors
    /// The rows still wait then, and it can be tried again.
    /// But [`Error::Fenced`] when somebody else moved a partition of the plan: all that was appended was dropped.
    ///
    /// # Cancel safety
    /// Nothing is lost or doubled: what was begun goes on.
    pub fn flush(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.refresh().await?;
            self.write_out().await
        })
    }

    /// Makes all that was appended part of the table, in one step.
    ///
    /// # Errors
    /// All that was appended is kept, and it can be tried again; when it is not known how the commit ended, that is looked up first.
    ///
    /// # Cancel safety
    /// As for an error.
    pub fn commit(&mut self) -> BoxFuture<'_, Result<Outcome>> {
        Box::pin(async move {
            let begun = Instant::now();
            if (self.plan.is_unsure || self.is_stale)
                && let Some(outcome) = self.look(begun).await?
            {
                return Ok(outcome);
            }
            if self.plan.is_old() {
                tracing::warn!(table = %self.spec.name, plan = %self.plan.id, "what waits for its commit is so old that upkeep may have removed its files: it is read again");
                if let Err(error) = self.discard().await {
                    tracing::debug!(%error, "the table is asked again later");
                }
                return Ok(Outcome::Fenced);
            }
            self.write_out().await?;
            if self.plan.ranges.is_empty() {
                return Ok(Outcome::Nothing);
            }
            for attempt in 1..=ATTEMPTS {
                match self.attempt().await {
                    Ok(table) => {
                        self.archive.pass("archive-committed");
                        return Ok(self.committed(table, begun));
                    }
                    Err(CommitError::Failed(Error::Changed { .. })) => return self.begin_anew().await,
                    Err(CommitError::Failed(error)) => {
                        // Upkeep of others may have removed files of the state that this one began with.
                        let began_with = self.table.metadata_location().map(str::to_owned);
                        let outcome = self.look(begun).await?;
                        if outcome.is_some() || self.table.metadata_location() == began_with.as_deref() {
                            return outcome.ok_or(error);
                        }
                        continue;
                    }
                    Err(CommitError::Unknown(error)) => {
                        tracing::warn!(table = %self.spec.name, %error, "it is not known how a commit ended: the table is asked");
                    }
                    Err(CommitError::Conflict) => {}
                }
                if let Some(outcome) = self.look(begun).await? {
                    return Ok(outcome);
                }
                tokio::time::sleep(PAUSE * attempt).await;
            }
            Err(Error::Busy { table: self.spec.name.to_string(), attempts: ATTEMPTS })
        })
    }

    /// Drops all that was appended and not committed, and looks at the table anew: [`Committer::resume`] is the table's again.
    ///
    /// # Errors
    /// When the table cannot be read. What was appended is dropped all the same.
    pub fn discard(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let doomed = self.end_plan();
            self.is_stale = true;
            self.target.delete(&doomed).await;
            self.look(Instant::now()).await?;
            Ok(())
        })
    }

    /// Drops the plan, and makes the table such that the next one fits.
    async fn begin_anew(&mut self) -> Result<Outcome> {
        tracing::warn!(table = %self.spec.name, plan = %self.plan.id, "someone else changed the table: the plan is dropped");
        self.discard().await?;
        self.become_like(Arc::clone(&self.spec.schema)).await?;
        Ok(Outcome::Fenced)
    }
}
