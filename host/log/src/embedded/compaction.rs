//! Compaction: of each key of a partition, only the last record stays.
//!
//! A pass walks from the newest batch to the oldest and remembers the keys that it saw; a record whose key was seen is superseded.
//! Offsets keep their meaning: what is left keeps its offset, the rest become gaps.
//! Records without a key are kept. Tombstones are kept for a day, so that a reader that lags learns of them.

use std::collections::HashSet;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, ArrayRef, BooleanArray, Int64Array};
use arrow_schema::ArrowError;
use arrow_select::filter::filter;
use phronis_core::records::{NewRecords, Records};
use rusqlite::{OptionalExtension, params};

use super::catalog::{Partition, lock};
use super::cursor::{Stored, damaged};
use super::writer::Writer;
use super::{codec, db};
use crate::Result;

/// Records appended since the last pass below which the next one is not worth its reading.
const DUE_RECORDS: i64 = 1000;

/// Batches and bytes that one step rewrites.
const STEP_BATCHES: usize = 16;
const STEP_BYTES: usize = 1 << 20;

/// Bytes of keys that a pass remembers; keys beyond stay uncompacted rather than fill the memory.
const KEY_BYTES: usize = 64 << 20;

/// How long tombstones stay: Kafka's `delete.retention.ms`.
const TOMBSTONES_MS: i64 = 24 * 3600 * 1000;

/// A pass under way.
pub(super) struct Compaction {
    partition: Arc<Partition>,
    /// Ends of batches at or above are done.
    below: i64,
    seen: HashSet<Box<[u8]>>,
    seen_bytes: usize,
}

impl Compaction {
    /// A pass, if enough was appended since the last one: as many records as there were keys, so that the work stays linear.
    pub(super) fn if_due(partition: &Arc<Partition>) -> Option<Self> {
        let mut view = lock(&partition.view);
        let latest = view.latest;
        if latest - view.compacted.0 < view.compacted.1.max(DUE_RECORDS) {
            return None;
        }
        view.compacted = (latest, DUE_RECORDS);
        drop(view);
        Some(Self { partition: Arc::clone(partition), below: latest + 1, seen: HashSet::new(), seen_bytes: 0 })
    }

    /// Does a few batches; true when the pass is over.
    pub(super) fn step(&mut self, writer: &mut Writer) -> Result<bool> {
        let mut changes = Vec::new();
        let (mut batches, mut bytes) = (0, 0);
        let now_ms = writer.now_ms();
        let mut over = false;
        while batches < STEP_BATCHES && bytes < STEP_BYTES {
            let Some((id, appended_at, row)) = self.before(writer)? else {
                over = true;
                break;
            };
            batches += 1;
            let size = row.data.len();
            bytes += size;
            self.below = row.next;
            let (records, _) = row.decode(&self.partition)?;
            let keep = self.keep(&records, appended_at < now_ms - TOMBSTONES_MS);
            if keep.true_count() == records.len() {
                continue;
            }
            changes.push((id, size, Change::of(&records, &keep).map_err(damaged)?));
        }
        self.apply(writer, &changes)?;
        if over {
            let keys = db::int(self.seen.len());
            lock(&self.partition.view).compacted.1 = keys;
        }
        Ok(over)
    }

    fn before(&self, writer: &Writer) -> Result<Option<(i64, i64, Stored)>> {
        let read = || {
            writer
                .db
                .prepare_cached(
                    "SELECT id, appended_at, base, next, offsets, data FROM batches \
                     WHERE partition_id = ? AND next < ? ORDER BY next DESC LIMIT 1",
                )?
                .query_row(params![self.partition.id, self.below], |row| {
                    let stored =
                        Stored { base: row.get(2)?, next: row.get(3)?, offsets: row.get(4)?, data: row.get(5)? };
                    Ok((row.get(0)?, row.get(1)?, stored))
                })
                .optional()
        };
        read().map_err(db::failed("reading what compaction may delete"))
    }

    /// Which records stay; the newest is looked at first.
    fn keep(&mut self, records: &Records, drop_tombstones: bool) -> BooleanArray {
        let mut keep = vec![true; records.len()];
        for (row, keep) in keep.iter_mut().enumerate().rev() {
            let Some(key) = records.body.key(row) else { continue };
            if self.seen.contains(key) {
                *keep = false;
                continue;
            }
            if self.seen_bytes < KEY_BYTES {
                self.seen_bytes += key.len() + 32;
                self.seen.insert(key.into());
            }
            *keep = !(drop_tombstones && records.body.values.is_null(row));
        }
        keep.into()
    }

    fn apply(&self, writer: &mut Writer, changes: &[(i64, usize, Change)]) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let freed: usize = changes.iter().map(|(_, size, change)| size.saturating_sub(change.data.len())).sum();
        let bytes = self.partition.bytes().saturating_sub(freed as u64);
        let id = self.partition.id;
        writer.transaction("compacting the log", |db| {
            for (batch, _, change) in changes {
                if change.records == 0 {
                    db.prepare_cached("DELETE FROM batches WHERE id = ?")?.execute([batch])?;
                    continue;
                }
                db.prepare_cached("UPDATE batches SET records = ?, bytes = ?, offsets = ?, data = ? WHERE id = ?")?
                    .execute(params![change.records, change.bytes, change.offsets, change.data, batch])?;
            }
            db.prepare_cached("UPDATE partitions SET bytes = ? WHERE id = ?")?.execute(params![bytes.cast_signed(), id])
        })?;
        lock(&self.partition.view).bytes = bytes;
        writer.keeper.wrote(changes.iter().map(|(_, _, change)| change.data.len()).sum());
        Ok(())
    }
}

/// What becomes of a batch; no records: it goes.
#[derive(Default)]
struct Change {
    records: i64,
    bytes: i64,
    offsets: Vec<u8>,
    data: Vec<u8>,
}

impl Change {
    fn of(records: &Records, keep: &BooleanArray) -> Result<Self, ArrowError> {
        if keep.true_count() == 0 {
            return Ok(Self::default());
        }
        let column = |array: &dyn Array| -> Result<ArrayRef, ArrowError> { filter(array, keep) };
        let offsets: Int64Array = column(&records.offsets)?.as_primitive::<Int64Type>().clone();
        let body = NewRecords {
            timestamps: column(&records.body.timestamps)?.as_primitive::<Int64Type>().clone(),
            keys: column(&records.body.keys)?.as_binary::<i32>().clone(),
            values: column(&records.body.values)?.as_binary::<i32>().clone(),
            headers: column(&records.body.headers)?.as_binary::<i32>().clone(),
        };
        Ok(Self {
            records: db::int(body.len()),
            bytes: db::int(body.bytes()),
            offsets: offsets.values().iter().flat_map(|offset| offset.to_le_bytes()).collect(),
            data: codec::encode(&body)?,
        })
    }
}
