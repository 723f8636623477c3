//! What the writer does between deliveries: checkpoints, retention, compaction, measuring.
//!
//! Always in small steps, so that a delivery that comes meanwhile waits for milliseconds at most.

use std::collections::VecDeque;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};

use super::catalog::{Partition, Topic, lock};
use super::compaction::Compaction;
use super::mover::Mover;
use super::writer::Writer;
use super::{Options, db};
use crate::Result;

/// Written bytes after which the WAL is checkpointed when nothing comes for a while.
const CHECKPOINT_IDLE: usize = 1 << 20;

/// How long that while is: a checkpoint syncs twice, and at 1 000 deliveries a second one in 25 would wait for it otherwise.
const IDLE: Duration = Duration::from_millis(5);

/// Written bytes after which the mover is asked to move the WAL while writing goes on.
const MOVE_EVERY: usize = 4 << 20;

/// Written bytes after which the writer itself finishes what the mover began, whoever waits: only then does the WAL begin anew.
const CHECKPOINT_LATEST: usize = 48 << 20;

/// A WAL of this size was held open by a reader once; it is cut back.
const WAL_LARGE: u64 = 96 << 20;

/// Stored bytes that one step of retention deletes: as many as one group writes, so that it keeps up.
const STEP_BYTES: i64 = 4 << 20;

/// Batches that one step of retention looks at.
const STEP_BATCHES: u32 = 128;

/// How often the room is looked at while there is none.
const FULL_EVERY: Duration = Duration::from_millis(50);

/// The state of the housekeeping.
pub(super) struct Keeper {
    wal: PathBuf,
    every: Duration,
    next_round: Instant,
    /// Partitions that this round has still to look at.
    round: VecDeque<(Arc<Topic>, Arc<Partition>)>,
    compaction: Option<Compaction>,
    mover: Option<Mover>,
    /// Bytes written since the last whole checkpoint.
    written: usize,
    /// Of these, how many were written when the mover was asked last.
    moved: usize,
    /// When something was written last.
    written_at: Instant,
    /// When bytes that are not synced yet must be.
    sync_at: Option<Instant>,
    is_full: bool,
}

impl Keeper {
    pub(super) fn new(options: &Options) -> Self {
        let mover = Mover::start(&options.folder, options.durability)
            .inspect_err(|error| tracing::warn!(%error, "the writer moves the WAL itself"))
            .ok();
        Self {
            mover,
            wal: db::wal_path(&options.folder),
            every: options.housekeeping_every,
            next_round: Instant::now(),
            round: VecDeque::new(),
            compaction: None,
            written: 0,
            moved: 0,
            written_at: Instant::now(),
            sync_at: None,
            is_full: false,
        }
    }

    /// When there is something to do even if no job comes.
    pub(super) fn due(&self) -> Instant {
        let now = Instant::now();
        if !self.round.is_empty() || self.compaction.is_some() {
            return now;
        }
        let checkpoint_at = (self.written >= CHECKPOINT_IDLE).then(|| self.written_at + IDLE);
        let room_at = self.is_full.then(|| now + FULL_EVERY);
        [checkpoint_at, room_at, self.sync_at].into_iter().flatten().fold(self.next_round, Instant::min)
    }

    /// Notes what a transaction wrote; the pages that it touched beside its records are about four.
    pub(super) fn wrote(&mut self, bytes: usize) {
        self.written += bytes + 4 * db::PAGE_BYTES;
        self.written_at = Instant::now();
    }

    /// Ends the mover, before the log is closed.
    pub(super) fn stop_mover(&mut self) {
        self.mover = None;
    }

    /// Moves the WAL into the file; `whole` also empties it.
    pub(super) fn checkpoint(&mut self, db: &Connection, whole: bool) -> Result<()> {
        let mode = if whole { "PRAGMA wal_checkpoint(TRUNCATE)" } else { "PRAGMA wal_checkpoint(PASSIVE)" };
        let (busy, pages, moved): (i64, i64, i64) = db
            .prepare_cached(mode)
            .and_then(|mut statement| statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))))
            .map_err(db::failed("checkpointing the log"))?;
        self.moved = 0;
        if busy == 0 && pages == moved {
            self.written = 0;
        } else {
            // A reader holds the rest; look again after as much was written again.
            self.written = self.written.min(CHECKPOINT_IDLE / 2);
        }
        Ok(())
    }

    fn wal_bytes(&self) -> u64 {
        self.wal.metadata().map_or(0, |file| file.len())
    }
}

impl Writer {
    /// One small step of whatever is due.
    pub(super) fn keep(&mut self) {
        if let Err(error) = self.try_keep() {
            tracing::warn!(%error, "housekeeping of the log failed, it is tried again");
            self.keeper.round.clear();
            self.keeper.compaction = None;
            self.keeper.written = 0;
            self.keeper.next_round = Instant::now() + self.keeper.every;
        }
    }

    /// Looks how much room there is.
    pub(super) fn measure(&mut self) {
        match db::sizes(&self.db) {
            Ok((used, reusable)) => self.keeper.is_full = self.shared.set_room(used, reusable),
            Err(error) => tracing::warn!(%error, "the size of the log cannot be read"),
        }
    }

    fn try_keep(&mut self) -> Result<()> {
        let now = Instant::now();
        self.sync_if_due(now);
        let written = self.keeper.written;
        let is_idle = now >= self.keeper.written_at + IDLE && self.shared.queue.is_empty();
        if written >= CHECKPOINT_LATEST || (written >= CHECKPOINT_IDLE && is_idle) {
            let whole = self.keeper.wal_bytes() >= WAL_LARGE;
            self.keeper.checkpoint(&self.db, whole)?;
        } else if written >= self.keeper.moved + MOVE_EVERY && self.keeper.mover.as_ref().is_some_and(Mover::order) {
            self.keeper.moved = written;
        }
        if self.keeper.is_full {
            self.measure();
        }
        if let Some(mut compaction) = self.keeper.compaction.take() {
            if !compaction.step(self)? {
                self.keeper.compaction = Some(compaction);
            }
            return Ok(());
        }
        if let Some((topic, partition)) = self.keeper.round.pop_front() {
            return self.retain(&topic, &partition);
        }
        if now >= self.keeper.next_round {
            self.keeper.next_round = now + self.keeper.every;
            self.start_round();
        }
        Ok(())
    }

    fn start_round(&mut self) {
        self.measure();
        #[expect(clippy::cast_precision_loss, reason = "a gauge")]
        metrics::gauge!("phronis_log_wal_bytes").set(self.keeper.wal_bytes() as f64);
        for topic in self.shared.catalog.all() {
            let retention = *lock(&topic.retention);
            if retention.age.is_none() && retention.bytes.is_none() && !retention.compact {
                continue;
            }
            for partition in &topic.partitions {
                self.keeper.round.push_back((Arc::clone(&topic), Arc::clone(partition)));
            }
        }
    }

    /// Deletes some of what may be deleted of a partition; comes back to it while there is more.
    fn retain(&mut self, topic: &Arc<Topic>, partition: &Arc<Partition>) -> Result<()> {
        let retention = *lock(&topic.retention);
        if retention.compact {
            self.keeper.compaction = Compaction::if_due(partition);
        }
        let oldest_ms = retention.age.map(|age| self.now_ms() - i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
        let floor = self.shared.catalog.floor(partition);
        let (info, size) = (partition.info(), partition.bytes());
        let (mut bytes, mut deleted, mut earliest, mut more) = (size, 0, info.earliest, false);
        {
            let read = db::failed("reading what retention may delete");
            let mut statement = self
                .db
                .prepare_cached(
                    "SELECT next, appended_at, length(data) FROM batches WHERE partition_id = ? ORDER BY next LIMIT ?",
                )
                .map_err(&read)?;
            let mut rows = statement.query(params![partition.id, STEP_BATCHES]).map_err(&read)?;
            while let Some(row) = rows.next().map_err(&read)? {
                let get = |at: usize| row.get::<_, i64>(at).map_err(&read);
                let (next, appended_at, length) = (get(0)?, get(1)?, get(2)?);
                let is_old = oldest_ms.is_some_and(|oldest| appended_at < oldest);
                let is_over = retention.bytes.is_some_and(|bound| bytes > bound);
                more = next <= floor && (is_old || is_over);
                if !more || deleted >= STEP_BYTES {
                    break;
                }
                deleted += length;
                bytes = bytes.saturating_sub(length.unsigned_abs());
                earliest = next;
            }
        }
        if earliest == info.earliest {
            return Ok(());
        }
        // Readers must see the new beginning before the records are gone, or they would skip them unseen.
        Self::show(partition, earliest, bytes);
        let deleted = self.transaction("deleting old records", |db| {
            db.prepare_cached("DELETE FROM batches WHERE partition_id = ? AND next <= ?")?
                .execute(params![partition.id, earliest])?;
            db.prepare_cached("UPDATE partitions SET earliest = ?, bytes = ? WHERE id = ?")?.execute(params![
                earliest,
                bytes.cast_signed(),
                partition.id
            ])
        });
        if let Err(error) = deleted {
            Self::show(partition, info.earliest, size);
            return Err(error);
        }
        self.keeper.wrote(1 << 16);
        lock(&partition.view).trim(earliest);
        self.measure();
        if more {
            self.keeper.round.push_back((Arc::clone(topic), Arc::clone(partition)));
        }
        Ok(())
    }

    /// Tells readers where a partition begins, and how large it is.
    fn show(partition: &Partition, earliest: i64, bytes: u64) {
        let mut view = lock(&partition.view);
        view.earliest = earliest;
        view.bytes = bytes;
    }

    fn sync_if_due(&mut self, now: Instant) {
        let Some(every) = self.sync_interval() else { return };
        match self.keeper.sync_at {
            Some(at) if now >= at => {
                self.keeper.sync_at = None;
                if let Err(error) = File::open(&self.keeper.wal).and_then(|wal| wal.sync_data()) {
                    tracing::warn!(%error, "the log could not be synced");
                    self.keeper.sync_at = Some(now + every);
                }
            }
            None if self.keeper.written > 0 => self.keeper.sync_at = Some(now + every),
            _ => {}
        }
    }
}
