//! What comes back: a schema, then batches, until the end or an error. Dropping it ends the query.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_schema::{Schema, SchemaRef};
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::error::{self, Error};
use super::watch::Watch;
use super::{Limits, ReadTable};

/// Batches between the engine and whoever writes them out: enough to read ahead, little to hold.
pub(super) const AHEAD: usize = 2;

/// What a reader waits for the engine's own end of time before it goes without.
const GRACE: Duration = Duration::from_secs(2);

/// Part of an answer; `None` is its end. A channel that closes before it tells of an engine that fell over.
pub(super) type Piece = Result<Option<RecordBatch>, Error>;

/// The answer to a query.
///
/// # Cancel safety
/// [`Answer::next`] may be dropped at any time. Dropping the answer stops the query, at the next batch at the latest.
#[derive(Debug)]
pub struct Answer {
    pub(super) schema: SchemaRef,
    pub(super) tables: Vec<ReadTable>,
    pub(super) pieces: mpsc::Receiver<Piece>,
    pub(super) first: Option<Piece>,
    pub(super) engine: Stops,
    pub(super) until: Instant,
    pub(super) most: Duration,
    pub(super) is_over: bool,
}

/// Stops a query when it is dropped.
#[derive(Debug)]
pub(super) struct Stops {
    pub(super) task: AbortHandle,
    pub(super) watch: Watch,
}

impl Stops {
    fn now(&self) {
        self.watch.leave();
        self.task.abort();
    }
}

impl Drop for Stops {
    fn drop(&mut self) {
        self.now();
    }
}

impl Answer {
    /// The columns. Their names differ: a name that stands twice gets a number.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The tables that are read, each in one snapshot.
    pub fn tables(&self) -> &[ReadTable] {
        &self.tables
    }

    /// The next rows; `None` at the end. After an error there is nothing more.
    ///
    /// # Errors
    /// A limit was reached, or the archive cannot be read.
    pub async fn next(&mut self) -> Option<Result<RecordBatch, Error>> {
        if self.is_over {
            return None;
        }
        let piece = match self.first.take() {
            Some(piece) => piece,
            None => received(&mut self.pieces, self.until, self.most).await,
        };
        match piece {
            Ok(Some(batch)) => Some(Ok(batch)),
            Ok(None) => {
                self.is_over = true;
                None
            }
            Err(error) => {
                self.is_over = true;
                self.engine.now();
                Some(Err(error))
            }
        }
    }
}

/// The next piece; the engine sees to the time itself, unless it is stuck inside one batch.
pub(super) async fn received(pieces: &mut mpsc::Receiver<Piece>, until: Instant, most: Duration) -> Piece {
    match tokio::time::timeout_at(until + GRACE, pieces.recv()).await {
        Ok(Some(piece)) => piece,
        Ok(None) => Err(Error::Failed("the query engine fell over this query".to_owned())),
        Err(_) => Err(Error::TooLong { most }),
    }
}

/// Hands on what the plan gives, within the limits; the last piece is for who calls to send.
pub(super) async fn drive(
    mut batches: SendableRecordBatchStream,
    schema: SchemaRef,
    sql: &str,
    limits: &Limits,
    watch: &Watch,
    until: Instant,
    pieces: &mpsc::Sender<Piece>,
) -> Piece {
    let mut left = Left { rows: limits.rows, bytes: limits.bytes };
    loop {
        let next = tokio::select! {
            biased;
            // Whoever asked is gone, and minds nothing.
            () = pieces.closed() => return Ok(None),
            () = tokio::time::sleep_until(until) => Some(Err(Error::TooLong { most: limits.time })),
            next = batches.next() => next.map(|next| {
                let batch = next.map_err(|error| match watch.is_over() {
                    true => Error::TooLong { most: limits.time },
                    false => error::meaning(&error, sql, limits.memory, limits.spill),
                })?;
                renamed(&batch, &schema)
            }),
        };
        let batch = match next {
            None => return Ok(None),
            Some(Err(error)) => return Err(error),
            Some(Ok(batch)) if batch.num_rows() == 0 => continue,
            Some(Ok(batch)) => batch,
        };
        let (batch, over) = left.take(batch, limits);
        if pieces.send(Ok(Some(batch))).await.is_err() {
            return Ok(None);
        }
        if let Some(over) = over {
            return Err(over);
        }
    }
}

/// What may still come.
struct Left {
    rows: u64,
    bytes: u64,
}

impl Left {
    /// As many rows as may come, and why there are no more.
    fn take(&mut self, batch: RecordBatch, limits: &Limits) -> (RecordBatch, Option<Error>) {
        let rows = u64::try_from(batch.num_rows()).unwrap_or(u64::MAX);
        if rows > self.rows {
            let some = usize::try_from(self.rows).unwrap_or(usize::MAX);
            return (batch.slice(0, some), Some(Error::TooManyRows { most: limits.rows }));
        }
        self.rows -= rows;
        let size = |column: &arrow_array::ArrayRef| column.to_data().get_slice_memory_size().unwrap_or(0);
        let bytes = u64::try_from(batch.columns().iter().map(size).sum::<usize>()).unwrap_or(u64::MAX);
        if bytes > self.bytes {
            return (batch.slice(0, 0), Some(Error::TooManyBytes { most: limits.bytes }));
        }
        self.bytes -= bytes;
        (batch, None)
    }
}

fn renamed(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, Error> {
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), batch.columns().to_vec(), &options)
        .map_err(|error| Error::Failed(error.to_string()))
}

/// The schema with names that differ: `v`, `v_2`.
pub(super) fn distinct(schema: &Schema) -> SchemaRef {
    let mut taken = HashSet::new();
    let fields = schema.fields().iter().map(|field| {
        let mut name = field.name().clone();
        let mut number = 2;
        while !taken.insert(name.clone()) {
            name = format!("{}_{number}", field.name());
            number += 1;
        }
        // An expression may be null where the plan has it otherwise, and field ids mean nothing any more.
        arrow_schema::Field::new(name, field.data_type().clone(), true)
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use arrow_schema::{DataType, Field};

    use super::*;

    #[test]
    fn names_that_stand_twice_get_numbers() {
        let field = |name: &str| Field::new(name, DataType::Int64, false);
        let schema = distinct(&Schema::new(vec![field("v"), field("v_2"), field("v"), field("v")]));
        let names: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        assert_eq!(names, ["v", "v_2", "v_3", "v_4"]);
    }
}
