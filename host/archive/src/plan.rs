//! What is to be committed next: ranges of the source, rows that wait, files that are written.
//!
//! A plan lives in memory alone and ends with its commit, or is dropped whole; a new process starts with none.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arrow_array::{Array, RecordBatch};
use arrow_select::concat::concat_batches;
use arrow_select::filter::filter_record_batch;
use iceberg::spec::DataFile;
use iceberg::table::Table;
use uuid::Uuid;

use crate::files::{Names, Target};
use crate::known::{Doubt, Held, Keys};
use crate::lookup::look_up;
use crate::{Archive, Error, Result};

/// Rows of batches that are put together as they come. Each array that was built row by row has room to spare, up to as much again;
/// and where rows are picked from all batches of a flush, each costs something.
const WHOLE: usize = 8192;

/// Memory of an array beside its values; it counts where batches are small.
const OVERHEAD: usize = 160;

/// How long a plan may wait for its commit: half of the shortest time after which upkeep removes files that nothing refers to.
const LIFETIME: Duration = Duration::from_secs(12 * 3600);

/// What is to be committed next.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) id: Uuid,
    /// From and next, by partition of the source.
    pub(crate) ranges: BTreeMap<i32, (i64, i64)>,
    pub(crate) held: Held,
    waiting: Vec<Piece>,
    /// The newest, which are not put together yet.
    loose: Vec<Piece>,
    pub(crate) waiting_bytes: usize,
    pub(crate) files: Vec<DataFile>,
    pub(crate) names: Names,
    /// When the oldest range came, by a steady clock and by the one that dates files.
    pub(crate) since: Option<(Instant, SystemTime)>,
    /// A commit of it was begun, and nobody has said how it ended. It may yet end well, so this lasts as long as the plan:
    /// its files may be in the table, now or later.
    pub(crate) is_unsure: bool,
}

/// Rows that wait.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    pub(crate) rows: RecordBatch,
    pub(crate) doubts: Vec<Doubt>,
    pub(crate) bytes: usize,
}

impl Plan {
    /// An empty one.
    pub(crate) fn new() -> Self {
        let id = Uuid::now_v7();
        Self {
            id,
            ranges: BTreeMap::new(),
            held: Held::default(),
            waiting: Vec::new(),
            loose: Vec::new(),
            waiting_bytes: 0,
            files: Vec::new(),
            names: Names::new(id),
            since: None,
            is_unsure: false,
        }
    }

    /// Whether its files may be taken for orphans soon.
    pub(crate) fn is_old(&self) -> bool {
        // A wall clock that went back says nothing.
        self.since.is_some_and(|(steady, wall)| steady.elapsed().max(wall.elapsed().unwrap_or_default()) > LIFETIME)
    }

    /// Adds rows.
    pub(crate) fn wait(&mut self, rows: RecordBatch, doubts: Vec<Doubt>) {
        if rows.num_rows() == 0 {
            return;
        }
        let piece = Piece::new(rows, doubts);
        self.waiting_bytes += piece.bytes;
        self.loose.push(piece);
        if self.loose.iter().map(|piece| piece.rows.num_rows()).sum::<usize>() >= WHOLE {
            self.put_together();
        }
    }

    fn put_together(&mut self) {
        let loose = std::mem::take(&mut self.loose);
        self.waiting_bytes -= loose.iter().map(|piece| piece.bytes).sum::<usize>();
        let pieces = Piece::together(loose);
        self.waiting_bytes += pieces.iter().map(|piece| piece.bytes).sum::<usize>();
        self.waiting.extend(pieces);
    }

    /// All rows that wait.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &Piece> {
        self.waiting.iter().chain(&self.loose)
    }

    /// Takes all rows that wait.
    pub(crate) fn take(&mut self) -> Vec<Piece> {
        self.put_together();
        self.waiting_bytes = 0;
        std::mem::take(&mut self.waiting)
    }

    /// Rows that could not be written wait again.
    pub(crate) fn give_back(&mut self, pieces: Vec<Piece>) {
        self.waiting_bytes += pieces.iter().map(|piece| piece.bytes).sum::<usize>();
        let newer = std::mem::replace(&mut self.waiting, pieces);
        self.waiting.extend(newer);
    }
}

impl Piece {
    /// Rows, and those among them that may be in the table.
    pub(crate) fn new(rows: RecordBatch, doubts: Vec<Doubt>) -> Self {
        let size = |array: &arrow_array::ArrayRef| {
            let data = array.to_data();
            data.get_slice_memory_size().unwrap_or_else(|_| array.get_array_memory_size())
        };
        let bytes = rows.columns().iter().map(|array| size(array) + OVERHEAD).sum();
        Self { rows, doubts, bytes }
    }

    /// Pieces as one; as they are where that would be more than arrays can hold.
    fn together(pieces: Vec<Self>) -> Vec<Self> {
        let [first, _, ..] = pieces.as_slice() else { return pieces };
        let Ok(rows) = concat_batches(&first.rows.schema(), pieces.iter().map(|piece| &piece.rows)) else {
            return pieces;
        };
        let (mut doubts, mut before) = (Vec::new(), 0);
        for piece in pieces {
            doubts.extend(piece.doubts.iter().map(|doubt| Doubt { row: before + doubt.row, ..*doubt }));
            before += u32::try_from(piece.rows.num_rows()).unwrap_or(u32::MAX);
        }
        vec![Self::new(rows, doubts)]
    }
}

/// Writes pieces as files, without the rows that the table has.
pub(crate) async fn write(
    archive: Archive,
    table: Table,
    keys: Arc<Keys>,
    target: Arc<Target>,
    names: Names,
    pieces: Vec<Piece>,
) -> Result<Vec<DataFile>> {
    let doubts: Vec<Doubt> = pieces.iter().flat_map(|piece| piece.doubts.iter().copied()).collect();
    let found = look_up(&table, &keys, &doubts).await?;
    let mut rows = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let mut keep = None;
        for doubt in piece.doubts.iter().filter(|doubt| found.contains(&doubt.key)) {
            let keep = keep.get_or_insert_with(|| vec![true; piece.rows.num_rows()]);
            if let Some(keep) = keep.get_mut(doubt.row as usize) {
                *keep = false;
            }
        }
        rows.push(match keep {
            Some(keep) => {
                filter_record_batch(&piece.rows, &keep.into()).map_err(|error| Error::Rows(error.to_string()))?
            }
            None => piece.rows,
        });
    }
    target.write(&archive, names, rows).await
}
