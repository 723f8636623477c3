//! The reading thread behind one request.
//!
//! Without follow it reads each partition to where it ended when the request came.
//! With follow the log reads the whole topic; partitions that begin at a time or an offset have a reader each:
//! it goes round them and sleeps in the log, a little longer each time that nothing came.

use std::time::Duration;

use axum::http::StatusCode;
use bytes::Bytes;
use phronis_core::code;
use phronis_core::records::Records;
use phronis_log::{Error, Follower, Log, PollLimits, Position, Reader, Start};
use tokio::sync::mpsc::Sender;

use crate::problem::Problem;
use crate::records::Line;

/// One step of reading: a piece of the answer is about this large.
const STEP: PollLimits = PollLimits { records: 1000, bytes: 256 << 10 };

/// The shortest and longest sleep while nothing comes. A follower sleeps in one partition at a time,
/// so the longest is also how late it may see a record of another one after a quiet time.
const SHORT: Duration = Duration::from_millis(5);
const LONG: Duration = Duration::from_millis(50);

/// When nothing came for so long below the end of a partition, its last offsets are gaps
/// (markers of transactions, compaction), or nobody can read them now.
const SILENCE: Duration = Duration::from_secs(5);

/// What a request asks for.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) topic: String,
    pub(crate) partition: Option<i32>,
    pub(crate) from: Position,
    pub(crate) limit: u64,
    pub(crate) is_following: bool,
}

/// What is read, and how much of it is still wanted.
pub(crate) struct Tail {
    readers: Readers,
    left: u64,
}

/// Readers at their places.
enum Readers {
    /// Each partition to where it ended when the request came.
    ToEnd(Vec<(Box<dyn Reader>, i64)>),
    /// These partitions, for ever.
    Following(Vec<Box<dyn Reader>>),
    /// The whole topic, for ever: one reader for all partitions, also for those that are added.
    Whole(Box<dyn Follower>),
}

/// Why reading is over: the client is gone, or the log failed.
enum Over {
    Gone,
    Failed(Error),
}

impl Tail {
    /// Opens the readers. Blocks.
    pub(crate) fn open(log: &dyn Log, wanted: Wanted) -> Result<Self, Problem> {
        let Wanted { topic, partition, from, limit, is_following } = wanted;
        let known = log.topic(&topic).map_err(|error| match error {
            Error::UnknownTopic(_) => Problem::not_found(format_args!("topic `{topic}`")),
            other => other.into(),
        })?;
        if matches!(from, Position::Offset(_)) && partition.is_none() && known.partitions.len() > 1 {
            let detail = format!("`from` is an offset and `{topic}` has {} partitions", known.partitions.len());
            return Err(Problem::new(code::BAD_REQUEST, detail).hint("add `partition=`"));
        }
        let start = match from {
            Position::Earliest => Some(Start::Earliest),
            Position::Latest => Some(Start::Latest),
            Position::Offset(_) | Position::Timestamp(_) => None,
        };
        if let (true, None, Some(start)) = (is_following, partition, start) {
            let follower = log.follow(&[known.name], start)?;
            return Ok(Self { readers: Readers::Whole(follower), left: limit });
        }
        let chosen =
            (0..).zip(&known.partitions).filter(|(number, _)| partition.is_none_or(|wanted| wanted == *number));
        let mut readers = Vec::new();
        for (number, info) in chosen {
            readers.push((log.reader(&topic, number, from)?, info.latest));
        }
        if readers.is_empty() {
            let which = partition.unwrap_or_default();
            let detail = format!("there is no partition {which} in `{topic}`");
            return Err(Problem::new(code::NOT_FOUND, detail).status(StatusCode::NOT_FOUND));
        }
        let readers = if is_following {
            Readers::Following(readers.into_iter().map(|(reader, _)| reader).collect())
        } else {
            Readers::ToEnd(readers)
        };
        Ok(Self { readers, left: limit })
    }

    /// Reads until the end, until the client leaves, or until `is_stopping`. Blocks.
    pub(crate) fn run(self, pieces: &Sender<Result<Bytes, Error>>, is_stopping: impl Fn() -> bool) {
        let goes_on = || !pieces.is_closed() && !is_stopping();
        let outcome = match self.readers {
            Readers::ToEnd(readers) => read_to_end(readers, self.left, pieces),
            Readers::Following(readers) => follow(readers, self.left, pieces, goes_on),
            Readers::Whole(follower) => follow_whole(follower, self.left, pieces, goes_on),
        };
        if let Err(Over::Failed(error)) = outcome {
            // The status is sent already: a broken connection tells the client that the answer is not whole.
            tracing::warn!(%error, "reading a topic for a client failed");
            drop(pieces.blocking_send(Err(error)));
        }
    }
}

fn read_to_end(
    readers: Vec<(Box<dyn Reader>, i64)>,
    mut left: u64,
    pieces: &Sender<Result<Bytes, Error>>,
) -> Result<(), Over> {
    for (mut reader, end) in readers {
        let mut silent = Duration::ZERO;
        while left > 0 && reader.position() < end && silent < SILENCE {
            match reader.next(STEP, LONG).map_err(Over::Failed)? {
                Some(records) => {
                    silent = Duration::ZERO;
                    send(&records, end, &mut left, pieces)?;
                }
                // The last offsets may be gaps, and a log that is far away takes a moment.
                None => silent += LONG,
            }
        }
    }
    Ok(())
}

fn follow(
    mut readers: Vec<Box<dyn Reader>>,
    mut left: u64,
    pieces: &Sender<Result<Bytes, Error>>,
    goes_on: impl Fn() -> bool,
) -> Result<(), Over> {
    let (mut sleep, mut turn) = (SHORT, 0);
    while left > 0 && goes_on() {
        let mut is_idle = true;
        let sleeper = turn % readers.len();
        for (at, reader) in readers.iter_mut().enumerate() {
            let wait = if at == sleeper { sleep } else { Duration::ZERO };
            if let Some(records) = reader.next(STEP, wait).map_err(Over::Failed)? {
                is_idle &= records.is_empty();
                send(&records, i64::MAX, &mut left, pieces)?;
            }
        }
        // No sleep while records come: the others may have some as well.
        sleep = if is_idle { (sleep * 2).clamp(SHORT, LONG) } else { Duration::ZERO };
        turn += 1;
    }
    Ok(())
}

fn follow_whole(
    mut follower: Box<dyn Follower>,
    mut left: u64,
    pieces: &Sender<Result<Bytes, Error>>,
    goes_on: impl Fn() -> bool,
) -> Result<(), Over> {
    while left > 0 && goes_on() {
        match follower.next(STEP, LONG) {
            Ok(Some(records)) => send(&records, i64::MAX, &mut left, pieces)?,
            Ok(None) => {}
            Err(Error::OutOfRange { topic, partition, offset, earliest, .. }) => {
                tracing::debug!(
                    topic,
                    partition,
                    missed = earliest.saturating_sub(offset),
                    "records were deleted before a client got them"
                );
            }
            Err(error) => return Err(Over::Failed(error)),
        }
    }
    Ok(())
}

fn send(records: &Records, end: i64, left: &mut u64, pieces: &Sender<Result<Bytes, Error>>) -> Result<(), Over> {
    let mut piece = Vec::with_capacity(records.body.bytes() * 2);
    for row in 0..records.len() {
        let Some(line) = Line::of(records, row).filter(|line| line.offset() < end) else { break };
        if *left == 0 {
            break;
        }
        *left -= 1;
        // Writing to memory fails only for maps with keys that are not text; there are none.
        if serde_json::to_writer(&mut piece, &line).is_ok() {
            piece.push(b'\n');
        }
    }
    if piece.is_empty() {
        return Ok(());
    }
    pieces.blocking_send(Ok(piece.into())).map_err(|_| Over::Gone)
}
