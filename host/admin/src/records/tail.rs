//! The reading thread behind one request.
//!
//! Without follow it reads each partition to where it ended when the request came.
//! With follow it goes round all partitions and sleeps in the log, a little longer each time that nothing came.

use std::time::Duration;

use axum::http::StatusCode;
use bytes::Bytes;
use phronis_core::code;
use phronis_core::records::Records;
use phronis_log::{Error, Log, PollLimits, Position, Reader};
use tokio::sync::mpsc::Sender;

use crate::problem::Problem;
use crate::records::Line;

/// One step of reading: a piece of the answer is about this large.
const STEP: PollLimits = PollLimits { records: 1000, bytes: 256 << 10 };

/// The shortest and longest sleep while nothing comes. A follower sleeps in one partition at a time,
/// so the longest is also how late it may see a record of another one after a quiet time.
const SHORT: Duration = Duration::from_millis(5);
const LONG: Duration = Duration::from_millis(50);

/// What a request asks for.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) topic: String,
    pub(crate) partition: Option<i32>,
    pub(crate) from: Position,
    pub(crate) limit: u64,
    pub(crate) is_following: bool,
}

/// Readers at their places.
pub(crate) struct Tail {
    partitions: Vec<Partition>,
    left: u64,
    is_following: bool,
}

struct Partition {
    reader: Box<dyn Reader>,
    /// Where the partition ended when the request came; no end when following.
    end: i64,
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
        let known = log.topics()?.into_iter().find(|known| *known.name == *topic);
        let known = known.ok_or_else(|| Problem::not_found(format_args!("topic `{topic}`")))?;
        if matches!(from, Position::Offset(_)) && partition.is_none() && known.partitions.len() > 1 {
            let detail = format!("`from` is an offset and `{topic}` has {} partitions", known.partitions.len());
            return Err(Problem::new(code::BAD_REQUEST, detail).hint("add `partition=`"));
        }
        let chosen =
            (0..).zip(&known.partitions).filter(|(number, _)| partition.is_none_or(|wanted| wanted == *number));
        let mut partitions = Vec::new();
        for (number, info) in chosen {
            let reader = log.reader(&topic, number, from)?;
            partitions.push(Partition { reader, end: if is_following { i64::MAX } else { info.latest } });
        }
        if partitions.is_empty() {
            let which = partition.unwrap_or_default();
            let detail = format!("there is no partition {which} in `{topic}`");
            return Err(Problem::new(code::NOT_FOUND, detail).status(StatusCode::NOT_FOUND));
        }
        Ok(Self { partitions, left: limit, is_following })
    }

    /// Reads until the end, until the client leaves, or until `is_stopping`. Blocks.
    pub(crate) fn run(mut self, pieces: &Sender<Result<Bytes, Error>>, is_stopping: impl Fn() -> bool) {
        let outcome = if self.is_following { self.follow(pieces, is_stopping) } else { self.read_to_end(pieces) };
        if let Err(Over::Failed(error)) = outcome {
            // The status is sent already: a broken connection tells the client that the answer is not whole.
            tracing::warn!(%error, "reading a topic for a client failed");
            drop(pieces.blocking_send(Err(error)));
        }
    }

    fn read_to_end(&mut self, pieces: &Sender<Result<Bytes, Error>>) -> Result<(), Over> {
        for partition in &mut self.partitions {
            while self.left > 0 && partition.reader.position() < partition.end {
                let Some(records) = partition.reader.next(STEP, Duration::ZERO).map_err(Over::Failed)? else { break };
                send(&records, partition.end, &mut self.left, pieces)?;
            }
        }
        Ok(())
    }

    fn follow(&mut self, pieces: &Sender<Result<Bytes, Error>>, is_stopping: impl Fn() -> bool) -> Result<(), Over> {
        let (mut sleep, mut turn) = (SHORT, 0);
        while self.left > 0 && !pieces.is_closed() && !is_stopping() {
            let mut is_idle = true;
            let sleeper = turn % self.partitions.len();
            for (at, partition) in self.partitions.iter_mut().enumerate() {
                let wait = if at == sleeper { sleep } else { Duration::ZERO };
                if let Some(records) = partition.reader.next(STEP, wait).map_err(Over::Failed)? {
                    is_idle &= records.is_empty();
                    send(&records, partition.end, &mut self.left, pieces)?;
                }
            }
            // No sleep while records come: the others may have some as well.
            sleep = if is_idle { (sleep * 2).clamp(SHORT, LONG) } else { Duration::ZERO };
            turn += 1;
        }
        Ok(())
    }
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
