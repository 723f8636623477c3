//! Events that come over HTTP: cut into rows, keyed, and handed to the log.
//!
//! Every row goes to raw, also the bad ones: the check here only fills the answer.
//! The processing gate alone writes letters, because a letter needs an origin offset (design decision 14).

pub(crate) mod partitions;
mod split;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use arrow_array::Int64Array;
use phronis_core::decode::{Checked, Decoder};
use phronis_core::delivery::{Append, Delivery};
use phronis_core::letter::Stage;
use phronis_core::records::{Records, RecordsBuilder};
use phronis_core::{Code, StreamId, id, partition};
use phronis_log::{Log, Sink, Ticket};

use crate::clock::now_ms;
use crate::stream::Options;
use partitions::Partitions;

/// Refused rows that an answer names one by one; the rest are only counted.
const NAMED: usize = 1000;

/// How a body is cut into events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// An array, one object, or lines: by looking at it.
    Auto,
    /// Lines, whatever they look like.
    Lines,
}

/// Why events were not taken. None of the body's events is in the log, except where it says so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No such stream.
    #[error("there is no stream {0}")]
    UnknownStream(StreamId),
    /// Nothing to take.
    #[error("the body holds no event")]
    Empty,
    /// The body begins like an array and is not one.
    #[error("the body cannot be split into events: {reason}")]
    NotSplittable {
        /// Why.
        reason: String,
    },
    /// This host takes no events.
    #[error("this host takes no events, its roles are: {roles}")]
    NotServed {
        /// What it does instead.
        roles: String,
    },
    /// The host does not work yet.
    #[error("{reason}")]
    NotReady {
        /// The stable code.
        code: Code,
        /// Why not.
        reason: String,
    },
    /// The log did not take them.
    #[error(transparent)]
    Log(#[from] phronis_log::Error),
    /// The log did not answer in time: the events may be taken or not.
    #[error("{0}; the events may or may not have been taken")]
    InDoubt(phronis_log::Error),
}

/// Where a run of rows is in raw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The partition.
    pub partition: i32,
    /// Offset of the first.
    pub first_offset: i64,
    /// How many, one after the other.
    pub count: usize,
}

/// A row that the gate will refuse.
#[derive(Debug, Clone)]
pub struct Refused {
    /// The row of the body, from 0.
    pub index: usize,
    /// The stable code.
    pub code: Code,
    /// The field at fault, if it is one.
    pub field: Option<String>,
    /// Why, in words.
    pub reason: String,
    /// The id that its letter will have.
    pub letter_id: String,
    /// Where it is in raw.
    pub partition: i32,
    /// Where it is in raw.
    pub offset: i64,
}

/// What was taken, durably.
#[derive(Debug, Clone)]
pub struct Taken {
    /// Rows that will be judged.
    pub accepted: usize,
    /// Where all rows are, accepted and refused.
    pub ranges: Vec<Range>,
    /// The first rows that the gate will refuse.
    pub refused: Vec<Refused>,
    /// How many it will refuse in all.
    pub refused_count: usize,
}

/// The way into one stream.
pub(crate) struct Ingest {
    stream: Options,
    log: Arc<dyn Log>,
    sink: Box<dyn Sink>,
    partitions: Arc<Partitions>,
    decoders: Mutex<Vec<Decoder>>,
    /// Where the next body's rows without a key go.
    turn: AtomicUsize,
}

impl Ingest {
    pub(crate) fn new(stream: Options, log: Arc<dyn Log>, partitions: Arc<Partitions>) -> phronis_log::Result<Self> {
        let sink = log.sink()?;
        Ok(Self { stream, log, sink, partitions, decoders: Mutex::default(), turn: AtomicUsize::new(0) })
    }

    /// Cuts, checks and hands over a body.
    pub(crate) fn take(&self, body: &[u8], form: Form) -> Result<Pending, Error> {
        // A sink may only learn much later that nobody answers; who posts should know now.
        self.log.health()?;
        let rows = split::split(body, form)?;
        if rows.is_empty() {
            return Err(Error::Empty);
        }
        let now = now_ms();
        let mut decoder = self.decoders.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let checked = decoder.get_or_insert_with(|| Decoder::new(Arc::clone(&self.stream.contract))).check(whole(
            &rows,
            now,
            &self.stream,
        ));
        self.decoders.lock().unwrap_or_else(PoisonError::into_inner).extend(decoder);

        let (places, appends) = self.partition(&rows, &checked, now);
        let partitions = appends.iter().map(|append| (append.partition, append.records.len())).collect();
        let submitted = self.sink.try_submit(Delivery { appends, commits: Vec::new() });
        let ticket = submitted.inspect_err(|error| self.partitions.look_again(error))?;
        let refused_count = checked.rejected.len();
        let refused = checked
            .rejected
            .into_iter()
            .take(NAMED)
            .filter_map(|rejection| {
                let (partition, nth) = *places.get(rejection.row as usize)?;
                Some(Waiting {
                    partition,
                    nth,
                    index: rejection.row as usize,
                    code: rejection.code,
                    field: rejection.field,
                    reason: rejection.message,
                })
            })
            .collect();
        Ok(Pending {
            ticket,
            counts: Arc::clone(&self.partitions),
            accepted: rows.len() - refused_count,
            partitions,
            refused,
            refused_count,
            stream: self.stream.id.clone(),
            topic: Arc::clone(&self.stream.topics.raw),
        })
    }

    /// Spreads rows over partitions by key; rows without a key stay together.
    fn partition(&self, rows: &[&[u8]], checked: &Checked, now: i64) -> (Vec<(i32, usize)>, Vec<Append>) {
        let count = self.partitions.count();
        let partitions = usize::try_from(count).unwrap_or(1).max(1);
        let keyless = self.turn.fetch_add(1, Ordering::Relaxed) % partitions;
        let mut builders: Vec<RecordsBuilder> = Vec::new();
        builders.resize_with(partitions, RecordsBuilder::default);
        let mut places = Vec::with_capacity(rows.len());
        let mut events = checked.events.rows.iter().enumerate().peekable();
        for (row, bytes) in rows.iter().enumerate() {
            let event = events.next_if(|(_, r)| **r as usize == row).map(|(event, _)| event);
            let key = event.and_then(|event| checked.events.key(event));
            let partition =
                key.as_deref().map_or(keyless, |key| usize::try_from(partition::of_key(key, count)).unwrap_or(0));
            if let Some(builder) = builders.get_mut(partition) {
                places.push((i32::try_from(partition).unwrap_or(0), builder.len()));
                builder.push(now, key.as_deref(), Some(bytes), &[]);
            }
        }
        let appends = (0i32..)
            .zip(builders)
            .filter(|(_, builder)| !builder.is_empty())
            .map(|(partition, builder)| Append {
                topic: Arc::clone(&self.stream.topics.raw),
                partition,
                records: builder.finish(),
            })
            .collect();
        (places, appends)
    }
}

impl std::fmt::Debug for Ingest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ingest").field("stream", &self.stream.id).finish_non_exhaustive()
    }
}

/// Events handed to the log and not durable yet.
#[derive(Debug)]
pub struct Pending {
    ticket: Ticket,
    counts: Arc<Partitions>,
    accepted: usize,
    partitions: Vec<(i32, usize)>,
    refused: Vec<Waiting>,
    refused_count: usize,
    stream: StreamId,
    topic: phronis_core::records::TopicName,
}

/// A refused row that has no offset yet.
#[derive(Debug)]
struct Waiting {
    partition: i32,
    /// Its place among the rows of its partition.
    nth: usize,
    index: usize,
    code: Code,
    field: Option<String>,
    reason: String,
}

impl Pending {
    /// Waits until the events are durable.
    ///
    /// # Errors
    /// With [`Error::InDoubt`], and where a part of the events was too large, others of them may be in the log.
    ///
    /// # Cancel safety
    /// Cancelling loses only the answer; the events are taken all the same.
    pub async fn durable(self) -> Result<Taken, Error> {
        let receipt = self.ticket.durable().await.map_err(|error| {
            self.counts.look_again(&error);
            match error {
                phronis_log::Error::Unreachable { .. } => Error::InDoubt(error),
                error => Error::Log(error),
            }
        })?;
        let ranges: Vec<Range> = self
            .partitions
            .iter()
            .zip(&receipt.base_offsets)
            .map(|(&(partition, count), &first_offset)| Range { partition, first_offset, count })
            .collect();
        let refused = self.refused.into_iter().map(|waiting| {
            let base = ranges.iter().find(|range| range.partition == waiting.partition).map_or(0, |r| r.first_offset);
            let offset = base.saturating_add(i64::try_from(waiting.nth).unwrap_or(i64::MAX));
            let origin = id::Position { topic: &self.topic, partition: waiting.partition, offset };
            Refused {
                index: waiting.index,
                code: waiting.code,
                field: waiting.field,
                reason: waiting.reason,
                letter_id: id::Id::of_letter(&self.stream, Stage::Gate, None, origin).to_string(),
                partition: waiting.partition,
                offset,
            }
        });
        Ok(Taken { accepted: self.accepted, refused: refused.collect(), refused_count: self.refused_count, ranges })
    }
}

/// All rows as one batch, for the check.
fn whole(rows: &[&[u8]], now: i64, stream: &Options) -> Records {
    let mut builder = RecordsBuilder::with_capacity(rows.len(), rows.iter().map(|row| row.len()).sum());
    for row in rows {
        builder.push(now, None, Some(row), &[]);
    }
    let last = i64::try_from(rows.len()).unwrap_or(i64::MAX);
    Records {
        topic: Arc::clone(&stream.topics.raw),
        partition: 0,
        offsets: Int64Array::from_iter_values(0..last),
        body: builder.finish(),
    }
}
