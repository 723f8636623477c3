//! The one thread that writes.
//!
//! Everything queued becomes one transaction, with a savepoint for each delivery: a delivery that cannot be taken fails alone,
//! and those behind it go on unless they start from the offset that it would have moved.
//! Readers see nothing before the commit; tickets are answered after readers can see it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use phronis_core::delivery::Receipt;
use phronis_core::records::Records;
use rusqlite::{Connection, params};
use tokio::sync::oneshot;

use super::catalog::{Partition, lock};
use super::codec::{self, Row};
use super::keeper::Keeper;
use super::queue::{Job, Work};
use super::{Durability, Shared, db};
use crate::{Error, Result};

/// Bytes of one transaction: a synced commit of 1 MB takes some milliseconds, and the first in it waits for the last.
const GROUP_BYTES: usize = 4 << 20;

/// The writer.
pub(super) struct Writer {
    pub(super) db: Connection,
    pub(super) shared: Arc<Shared>,
    pub(super) keeper: Keeper,
    /// What the hot tails hold, oldest first: partition, end offset, bytes.
    tail: VecDeque<(Arc<Partition>, i64, usize)>,
    tail_bytes: usize,
    /// The latest time that was ever seen: a clock that is set back must not make old records young.
    newest_ms: i64,
}

/// A transaction under way.
#[derive(Default)]
struct Group {
    ends: HashMap<i64, End>,
    positions: HashMap<(Arc<str>, i64), i64>,
    taken: Vec<(oneshot::Sender<Result<Receipt>>, Receipt)>,
    appended: Vec<(Arc<Partition>, Arc<Records>)>,
    bytes: usize,
}

/// Where a partition ends within the transaction.
#[derive(Clone)]
struct End {
    partition: Arc<Partition>,
    latest: i64,
    bytes: u64,
}

/// What one delivery changes, merged into the group when all of it was taken.
#[derive(Default)]
struct Step {
    ends: HashMap<i64, End>,
    positions: Vec<((Arc<str>, i64), i64)>,
    appended: Vec<(Arc<Partition>, Arc<Records>)>,
    receipt: Receipt,
    bytes: usize,
}

impl Writer {
    pub(super) fn new(db: Connection, shared: Arc<Shared>, newest_ms: i64) -> Self {
        let keeper = Keeper::new(&shared.options);
        Self { db, shared, keeper, tail: VecDeque::new(), tail_bytes: 0, newest_ms }
    }

    /// Works until the queue is closed and empty, then leaves a file without a WAL.
    pub(super) fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        // Also when this thread panics: nobody may wait for it then.
        let _closing = Closing(Arc::clone(&shared));
        if let Err(error) = db::prepare_wal(&shared.options.folder) {
            tracing::debug!(%error, "the WAL could not be prepared");
        }
        self.measure();
        while let Some(jobs) = shared.queue.take(GROUP_BYTES, self.keeper.due()) {
            let mut works = Vec::with_capacity(jobs.len());
            for job in jobs {
                match job {
                    Job::Deliver(work) => works.push(work),
                    Job::Call(call) => {
                        self.write(std::mem::take(&mut works));
                        call(&mut self);
                    }
                }
            }
            self.write(works);
            self.keep();
        }
        self.finish();
    }

    /// The time for appends and retention, which never goes back.
    pub(super) fn now_ms(&mut self) -> i64 {
        self.newest_ms = self.newest_ms.max(self.shared.options.clock.now_ms());
        self.newest_ms
    }

    /// Runs something in a transaction of its own.
    pub(super) fn transaction<T>(
        &mut self,
        doing: &'static str,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let run = || -> rusqlite::Result<T> {
            let transaction = self.db.unchecked_transaction()?;
            let done = work(&transaction)?;
            transaction.commit()?;
            Ok(done)
        };
        run().map_err(db::failed(doing))
    }

    fn write(&mut self, works: Vec<Work>) {
        if works.is_empty() {
            return;
        }
        let memory: usize = works.iter().map(|work| work.memory).sum();
        let started = Instant::now();
        let mut group = Group::default();
        if let Err(error) = self.begin(works, &mut group) {
            tracing::warn!(%error, deliveries = group.taken.len(), "a group of deliveries could not be written");
            for (answer, _) in group.taken {
                answer.send(Err(error.clone())).ok();
            }
        } else {
            metrics::histogram!("phronis_log_commit_duration_seconds").record(started.elapsed());
            self.keeper.wrote(group.bytes);
            self.publish(group);
        }
        self.shared.queue.release(memory);
        self.measure();
    }

    /// Takes as many deliveries as can be taken and commits them. What `group` holds after an error was not taken.
    fn begin(&mut self, works: Vec<Work>, group: &mut Group) -> Result<()> {
        let now_ms = self.now_ms();
        let mut works = works.into_iter();
        let begun = self.db.execute_batch("BEGIN IMMEDIATE").map_err(db::failed("beginning a transaction"));
        let mut result = begun;
        for work in works.by_ref() {
            if result.is_err() {
                group.taken.push((work.answer, Receipt::default()));
                continue;
            }
            let answer = work.answer;
            match self.deliver(group, work.appends, work.commits, now_ms) {
                Ok(step) => {
                    group.ends.extend(step.ends);
                    group.positions.extend(step.positions);
                    group.appended.extend(step.appended);
                    group.bytes += step.bytes;
                    group.taken.push((answer, step.receipt));
                }
                Err(error) => {
                    // A full disk can end the whole transaction; then nothing of it was taken.
                    if self.db.is_autocommit() {
                        result = Err(error.clone());
                    }
                    answer.send(Err(error)).ok();
                }
            }
        }
        let result = result.and_then(|()| self.commit(group).map_err(db::failed("committing to the log")));
        if result.is_err() {
            self.roll_back();
        }
        result
    }

    fn commit(&self, group: &Group) -> rusqlite::Result<()> {
        let mut end = self.db.prepare_cached("UPDATE partitions SET latest = ?, bytes = ? WHERE id = ?")?;
        for (id, to) in &group.ends {
            end.execute(params![to.latest, to.bytes.cast_signed(), id])?;
        }
        let mut position = self.db.prepare_cached("INSERT OR REPLACE INTO positions VALUES (?, ?, ?)")?;
        for ((name, partition), offset) in &group.positions {
            position.execute(params![name, partition, offset])?;
        }
        self.db.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    }

    /// Writes one delivery under a savepoint.
    fn deliver(
        &self,
        group: &Group,
        appends: Vec<(Arc<Partition>, Vec<Row>)>,
        commits: Vec<(Arc<Partition>, phronis_core::delivery::Commit)>,
        now_ms: i64,
    ) -> Result<Step> {
        self.shared.check_room(!appends.is_empty(), !commits.is_empty())?;
        let mut step = Step::default();
        let end_of = |step: &Step, partition: &Arc<Partition>| -> End {
            step.ends.get(&partition.id).or_else(|| group.ends.get(&partition.id)).cloned().unwrap_or_else(|| {
                let info = partition.info();
                End { partition: Arc::clone(partition), latest: info.latest, bytes: partition.bytes() }
            })
        };
        for (partition, commit) in commits {
            let key = (Arc::clone(&commit.group), partition.id);
            let in_step = step.positions.iter().rev().find(|(other, _)| *other == key).map(|(_, offset)| *offset);
            let stands = in_step
                .or_else(|| group.positions.get(&key).copied())
                .or_else(|| self.shared.catalog.committed(&commit.group, &partition));
            // The first commit of a group that was never registered has nothing to be compared with.
            if let Some(actual) = stands.filter(|actual| *actual != commit.from) {
                return Err(Error::Fenced {
                    group: commit.group.to_string(),
                    topic: commit.topic.to_string(),
                    partition: commit.partition,
                    expected: commit.from,
                    actual,
                });
            }
            let latest = end_of(&step, &partition).latest;
            if !(0..=latest).contains(&commit.next) {
                return Err(Error::Invalid(format!(
                    "{} cannot commit {} in {}/{}, which ends at {latest}",
                    commit.group, commit.next, commit.topic, commit.partition
                )));
            }
            step.positions.push((key, commit.next));
        }
        if appends.is_empty() {
            return Ok(step);
        }
        let write = || -> rusqlite::Result<()> {
            self.db.prepare_cached("SAVEPOINT delivery")?.execute([])?;
            for (partition, rows) in appends {
                let mut end = end_of(&step, &partition);
                step.receipt.base_offsets.push(end.latest);
                for row in rows {
                    self.append(&mut end, &row, now_ms)?;
                    step.bytes += row.blob.len();
                    let records = placed(&partition, end.latest, row.records);
                    step.appended.push((Arc::clone(&partition), Arc::new(records)));
                }
                step.ends.insert(partition.id, end);
            }
            self.db.prepare_cached("RELEASE delivery")?.execute([])?;
            Ok(())
        };
        if let Err(error) = write() {
            if !self.db.is_autocommit() && self.db.execute_batch("ROLLBACK TO delivery; RELEASE delivery").is_err() {
                // Half a delivery may stand in the transaction: nothing of it may be committed.
                self.roll_back();
            }
            return Err(db::failed("appending to the log")(error));
        }
        Ok(step)
    }

    fn roll_back(&self) {
        if !self.db.is_autocommit()
            && let Err(error) = self.db.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "a failed transaction could not be rolled back");
        }
    }

    fn append(&self, end: &mut End, row: &Row, now_ms: i64) -> rusqlite::Result<()> {
        let records = db::int(row.records.len());
        let bytes = db::int(row.records.bytes());
        let (oldest, newest) = row.timestamps;
        let base = end.latest;
        end.latest += records;
        end.bytes += row.blob.len() as u64;
        self.db
            .prepare_cached(
                "INSERT INTO batches (partition_id, base, next, records, min_timestamp, max_timestamp, appended_at, bytes, data) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![
                end.partition.id, base, end.latest, records, oldest, newest, now_ms, bytes, row.blob
            ])?;
        Ok(())
    }

    /// Lets readers see a committed group, then answers it.
    fn publish(&mut self, group: Group) {
        for (partition, records) in group.appended {
            metrics::counter!("phronis_log_appended_records_total", "topic" => Arc::clone(&partition.topic))
                .increment(records.len() as u64);
            metrics::counter!("phronis_log_appended_bytes_total", "topic" => Arc::clone(&partition.topic))
                .increment(records.body.bytes() as u64);
            self.heat(&partition, records);
        }
        for end in group.ends.values() {
            let mut view = lock(&end.partition.view);
            view.latest = end.latest;
            view.bytes = end.bytes;
        }
        {
            let mut groups = lock(&self.shared.catalog.groups);
            for ((name, partition), offset) in group.positions {
                groups.entry(name).or_default().insert(partition, offset);
            }
        }
        for (answer, receipt) in group.taken {
            answer.send(Ok(receipt)).ok();
        }
        for end in group.ends.values() {
            end.partition.ring();
        }
    }

    /// Puts a batch into the hot tail and the oldest ones out.
    fn heat(&mut self, partition: &Arc<Partition>, records: Arc<Records>) {
        let bytes = codec::memory(&records.body);
        let next = records.next_offset().unwrap_or_default();
        self.tail_bytes += bytes;
        self.tail.push_back((Arc::clone(partition), next, bytes));
        lock(&partition.view).tail.push_back(records);
        while self.tail_bytes > self.shared.options.hot_tail_bytes {
            let Some((partition, next, bytes)) = self.tail.pop_front() else { break };
            self.tail_bytes -= bytes;
            lock(&partition.view).trim(next);
        }
    }

    /// The last things: nothing in the WAL, so that a copy of the folder is the log.
    fn finish(&mut self) {
        self.keeper.stop_mover();
        if let Err(error) = self.keeper.checkpoint(&self.db, true) {
            tracing::warn!(%error, "the log was closed without a last checkpoint; the next start does it");
        }
    }

    /// Syncs what was committed without a sync, when it is time to.
    pub(super) fn sync_interval(&self) -> Option<Duration> {
        match self.shared.options.durability {
            Durability::Interval(every) => Some(every),
            Durability::Commit | Durability::Os => None,
        }
    }
}

/// The records of a row that ends at `next`.
fn placed(partition: &Partition, next: i64, body: phronis_core::records::NewRecords) -> Records {
    let base = next - db::int(body.len());
    Records {
        topic: Arc::clone(&partition.topic),
        partition: partition.number,
        offsets: (base..next).collect::<Vec<_>>().into(),
        body,
    }
}

/// Leaves nobody waiting when the writer is gone.
struct Closing(Arc<Shared>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.queue.close();
        self.0.queue.clear();
        self.0.ring_all();
    }
}
