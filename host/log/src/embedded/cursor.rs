//! Reading one partition from a position on: from the hot tail when it is there, else from the file.
//!
//! Small batches are joined and large ones cut, so that what a reader gets follows from its limits and not from how it was appended.
//! A transaction on the file lasts for the rows of one call and ends before they are decoded.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, BinaryArray, Int64Array};
use arrow_schema::ArrowError;
use arrow_select::concat::concat;
use phronis_core::records::{NewRecords, Records};
use rusqlite::{Connection, OptionalExtension, params};

use super::catalog::{Partition, lock};
use super::{codec, db};
use crate::{Error, PollLimits, Result};

/// Most bytes of one call: Arrow's binary arrays count with 32 bits.
const MOST_BYTES: usize = 1 << 30;

/// A read-only connection, opened when the hot tail first misses.
#[derive(Debug, Default)]
pub(super) struct Disk(Option<Connection>);

/// A position in a partition.
#[derive(Debug)]
pub(super) struct Cursor {
    pub(super) partition: Arc<Partition>,
    pub(super) position: i64,
    /// Decoded batches from the position on, each with the offset where it ends.
    ahead: VecDeque<(Records, i64)>,
}

impl Cursor {
    pub(super) fn new(partition: Arc<Partition>, position: i64) -> Self {
        Self { partition, position, ahead: VecDeque::new() }
    }

    /// Goes elsewhere.
    pub(super) fn seek(&mut self, position: i64) {
        self.position = position;
        self.ahead.clear();
    }

    /// The next records, if there are any now.
    pub(super) fn next(&mut self, folder: &Path, disk: &mut Disk, limits: PollLimits) -> Result<Option<Records>> {
        let (most, bytes) = (limits.records.max(1), limits.bytes.min(MOST_BYTES));
        let mut joined = Joined::default();
        while joined.records < most && joined.bytes < bytes {
            if self.ahead.is_empty() {
                match self.fill(folder, disk, most - joined.records, bytes - joined.bytes) {
                    Ok(true) => {}
                    // What was joined goes out first; an error comes again at the next call.
                    Err(_) if joined.records > 0 => break,
                    Ok(false) => break,
                    Err(error) => return Err(error),
                }
            }
            let Some((batch, end)) = self.ahead.pop_front() else { break };
            let skip = batch.offsets.values().partition_point(|offset| *offset < self.position);
            if skip == batch.len() {
                self.position = self.position.max(end);
                continue;
            }
            let batch = batch.slice(skip, batch.len() - skip);
            let fits = codec::fitting(&batch.body, most - joined.records, bytes - joined.bytes);
            let whole = fits == batch.len();
            let part = batch.slice(0, fits);
            // A batch is cut only when it must be: to fill the last few places would copy all that is joined so far.
            let half_full = joined.records * 2 >= most || joined.bytes * 2 >= bytes;
            let too_large = part.body.bytes() > bytes - joined.bytes;
            if joined.records > 0 && (too_large || (!whole && half_full)) {
                self.ahead.push_front((batch, end));
                break;
            }
            self.position = if whole { end } else { part.next_offset().unwrap_or(end) };
            if !whole {
                self.ahead.push_front((batch.slice(fits, batch.len() - fits), end));
            }
            joined.push(part);
        }
        joined.finish().map_err(damaged)
    }

    /// Gets batches from the position on; false when the partition ends here.
    fn fill(&mut self, folder: &Path, disk: &mut Disk, most: usize, bytes: usize) -> Result<bool> {
        let latest = {
            let view = lock(&self.partition.view);
            if self.position < view.earliest {
                drop(view);
                return Err(self.partition.out_of_range(self.position));
            }
            if self.position >= view.latest {
                return Ok(false);
            }
            let from = view.tail.partition_point(|batch| batch.next_offset() <= Some(self.position));
            let first = view.tail.get(from).and_then(|batch| batch.offsets.values().first());
            if first.is_some_and(|first| *first <= self.position) {
                let (mut records, mut size) = (0, 0);
                for batch in view.tail.range(from..) {
                    records += batch.len();
                    size += batch.body.bytes();
                    let end = batch.next_offset().unwrap_or(view.latest);
                    self.ahead.push_back((Records::clone(batch), end));
                    if records >= most || size >= bytes {
                        break;
                    }
                }
                return Ok(true);
            }
            view.latest
        };
        for row in disk.rows(folder, &self.partition, self.position, most, bytes)? {
            self.ahead.push_back(row.decode(&self.partition)?);
        }
        if self.position < lock(&self.partition.view).earliest {
            self.ahead.clear();
            return Err(self.partition.out_of_range(self.position));
        }
        if self.ahead.is_empty() {
            // Compaction left nothing up to the end.
            self.position = latest;
        }
        Ok(!self.ahead.is_empty())
    }
}

impl Disk {
    /// The connection.
    pub(super) fn open(&mut self, folder: &Path) -> Result<&Connection> {
        if self.0.is_none() {
            self.0 = Some(db::open_reader(folder)?);
        }
        self.0.as_ref().ok_or(Error::Closed)
    }

    /// The offset of the first record with this timestamp or a later one; the end when there is none.
    pub(super) fn offset_at(&mut self, folder: &Path, partition: &Partition, timestamp: i64) -> Result<i64> {
        let info = partition.info();
        let db = self.open(folder)?;
        let mut from = info.earliest;
        loop {
            let read = || -> rusqlite::Result<Option<Stored>> {
                db.prepare_cached(
                    "SELECT base, next, offsets, data FROM batches \
                     WHERE partition_id = ? AND next > ? AND max_timestamp >= ? ORDER BY next LIMIT 1",
                )?
                .query_row(params![partition.id, from, timestamp], |row| {
                    Ok(Stored { base: row.get(0)?, next: row.get(1)?, offsets: row.get(2)?, data: row.get(3)? })
                })
                .optional()
            };
            let Some(row) = read().map_err(db::failed("searching the log by time"))? else { return Ok(info.latest) };
            let (records, end) = row.decode(partition)?;
            let times = records.body.timestamps.values();
            let found = records.offsets.values().iter().zip(times).find(|(_, time)| **time >= timestamp);
            if let Some((offset, _)) = found {
                return Ok(*offset);
            }
            // Compaction took the record that the row's bound speaks of.
            from = end;
        }
    }

    fn rows(
        &mut self,
        folder: &Path,
        partition: &Partition,
        from: i64,
        most: usize,
        bytes: usize,
    ) -> Result<Vec<Stored>> {
        let db = self.open(folder)?;
        let read = || -> rusqlite::Result<Vec<Stored>> {
            let mut statement = db.prepare_cached(
                "SELECT base, next, records, bytes, offsets, data FROM batches \
                 WHERE partition_id = ? AND next > ? ORDER BY next",
            )?;
            let mut rows = statement.query(params![partition.id, from])?;
            let (mut found, mut records, mut size) = (Vec::new(), 0usize, 0usize);
            let count = |row: &rusqlite::Row<'_>, at| row.get::<_, i64>(at).map(|n| usize::try_from(n).unwrap_or(0));
            while let Some(row) = rows.next()? {
                records = records.saturating_add(count(row, 2)?);
                size = size.saturating_add(count(row, 3)?);
                if size > bytes && !found.is_empty() {
                    break;
                }
                found.push(Stored { base: row.get(0)?, next: row.get(1)?, offsets: row.get(4)?, data: row.get(5)? });
                if records >= most || size >= bytes {
                    break;
                }
            }
            Ok(found)
        };
        read().map_err(db::failed("reading the log"))
    }
}

/// A row of the file.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) base: i64,
    pub(super) next: i64,
    pub(super) offsets: Option<Vec<u8>>,
    pub(super) data: Vec<u8>,
}

impl Stored {
    /// The records, and the offset where the row ends.
    pub(super) fn decode(self, partition: &Partition) -> Result<(Records, i64)> {
        let body = codec::decode(self.data).map_err(damaged)?;
        let offsets: Int64Array = match self.offsets {
            None => (self.base..).take(body.len()).collect::<Vec<_>>().into(),
            Some(bytes) => {
                bytes.as_chunks().0.iter().map(|chunk| i64::from_le_bytes(*chunk)).collect::<Vec<_>>().into()
            }
        };
        if offsets.len() != body.len() {
            return Err(damaged(ArrowError::IpcError("a stored batch is damaged: offsets are missing".to_owned())));
        }
        Ok((Records { topic: Arc::clone(&partition.topic), partition: partition.number, offsets, body }, self.next))
    }
}

/// What an error of Arrow means to the log.
pub(super) fn damaged(error: ArrowError) -> Error {
    Error::Failed { doing: "decoding a batch of the log".to_owned(), source: Arc::new(error) }
}

/// Batches on their way to become one.
#[derive(Default)]
struct Joined {
    batches: Vec<Records>,
    records: usize,
    bytes: usize,
}

impl Joined {
    fn push(&mut self, batch: Records) {
        self.records += batch.len();
        self.bytes += batch.body.bytes();
        self.batches.push(batch);
    }

    fn finish(mut self) -> Result<Option<Records>, ArrowError> {
        if self.batches.len() < 2 {
            return Ok(self.batches.pop());
        }
        let Some(first) = self.batches.first() else { return Ok(None) };
        let longs = |column: fn(&Records) -> &Int64Array| -> Result<Int64Array, ArrowError> {
            let columns: Vec<&dyn Array> = self.batches.iter().map(|batch| column(batch) as &dyn Array).collect();
            Ok(concat(&columns)?.as_primitive::<Int64Type>().clone())
        };
        let binary = |column: fn(&Records) -> &BinaryArray| -> Result<BinaryArray, ArrowError> {
            let columns: Vec<&dyn Array> = self.batches.iter().map(|batch| column(batch) as &dyn Array).collect();
            Ok(concat(&columns)?.as_binary::<i32>().clone())
        };
        Ok(Some(Records {
            topic: Arc::clone(&first.topic),
            partition: first.partition,
            offsets: longs(|batch| &batch.offsets)?,
            body: NewRecords {
                timestamps: longs(|batch| &batch.body.timestamps)?,
                keys: binary(|batch| &batch.body.keys)?,
                values: binary(|batch| &batch.body.values)?,
                headers: binary(|batch| &batch.body.headers)?,
            },
        }))
    }
}
