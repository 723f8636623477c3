//! Partitions that the branch owns: how they come, what is read before their letters may move, and how they go.

use std::time::{Duration, Instant};

use phronis_core::Time;
use phronis_core::letter::index::Positions;
use phronis_core::records::TopicName;
use phronis_log::{Error, PollLimits, Position, Reader, Result};

use super::{Branch, fold, is_dlq, no_time};
use crate::lasting::BACKOFF;
use crate::retry::Condition;

/// Bounds of one read of what was missed.
const CATCH_UP: PollLimits = PollLimits { records: 8192, bytes: 8 << 20 };

/// How long such a read waits.
const WAIT: Duration = Duration::from_millis(200);

/// When nothing came for so long, the end is reached: the last offsets may be no records.
const SILENCE: Duration = Duration::from_secs(3);

/// What the branch knows of a partition that it owns.
pub(super) struct Owned {
    /// Where the group stands.
    pub(super) committed: Positions,
    reading: Reading,
    /// When the next letter may be moved, after a failure.
    retry_at: Option<Instant>,
    pause: Duration,
}

enum Reading {
    /// To the end of dlq, then to the end of retry.
    Dlq(Option<Tail>),
    Retry(Option<Tail>),
    /// Both were read to where they ended.
    Done,
}

struct Tail {
    reader: Box<dyn Reader>,
    end: i64,
    heard: Instant,
}

impl Owned {
    fn new(committed: Positions) -> Self {
        Self { committed, reading: Reading::Dlq(None), retry_at: None, pause: BACKOFF.0 }
    }

    pub(super) fn set_committed(&mut self, is_dlq: bool, at: i64) {
        *if is_dlq { &mut self.committed.dlq } else { &mut self.committed.retry } = at;
    }

    /// Whether all that was moved before is known.
    pub(super) fn is_ready(&self) -> bool {
        matches!(self.reading, Reading::Done)
    }

    /// In how many microseconds a letter may be moved, if not now.
    pub(super) fn not_before(&self) -> Option<i64> {
        let until = self.retry_at.map(|at| at.saturating_duration_since(Instant::now())).unwrap_or_default();
        match (self.is_ready(), until.is_zero()) {
            (true, true) => None,
            (true, false) => Some(i64::try_from(until.as_micros()).unwrap_or(i64::MAX)),
            (false, _) => Some(i64::try_from(WAIT.as_micros()).unwrap_or(i64::MAX)),
        }
    }

    /// Something failed, and nobody knows how much of it was taken.
    pub(super) fn failed(&mut self) {
        self.retry_at = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(BACKOFF.1);
        self.reading = Reading::Retry(None);
    }

    /// Whether the last letter could not be written.
    pub(super) fn is_failing(&self) -> bool {
        self.retry_at.is_some()
    }

    /// Whether the last failure is so long ago that the letter that it was about is gone.
    pub(super) fn is_over(&self) -> bool {
        self.is_ready() && self.retry_at.is_some_and(|at| at.elapsed() > BACKOFF.1)
    }

    /// True when it did not before.
    pub(super) fn goes_well(&mut self) -> bool {
        self.pause = BACKOFF.0;
        self.retry_at.take().is_some()
    }
}

impl Branch<'_> {
    /// Takes partitions over; their index is read before their letters move.
    pub(super) fn take_over(&mut self, partitions: &[(TopicName, i32, i64)]) {
        for (topic, partition, next) in partitions {
            let is_dlq = is_dlq(self, topic);
            if !self.owned.contains_key(partition) {
                let index = self.keeper.as_mut().map(|keeper| keeper.load(*partition));
                self.parts.letters.take_over(*partition, index.unwrap_or_default());
            }
            let owned = self.owned.entry(*partition).or_insert_with(|| Owned::new(Positions::default()));
            owned.set_committed(is_dlq, *next);
        }
        self.parts.letters.set_trouble(None);
    }

    /// Lets partitions go.
    pub(super) fn let_go(&mut self, partitions: &[(TopicName, i32)]) {
        for (_, partition) in partitions {
            self.owned.remove(partition);
            self.due.drop_partition(*partition);
            self.parts.letters.let_go(*partition);
        }
    }

    /// Reads a partition again from what the log still has.
    pub(super) fn begin_again(&mut self, partition: i32) {
        if let Some(owned) = self.owned.get_mut(&partition) {
            owned.reading = Reading::Dlq(None);
            self.parts.letters.set_read(partition, false);
        }
    }

    /// Forgets outstanding letters that retention deleted meanwhile: nobody can answer for them any more.
    pub(super) fn forget_deleted(&mut self) {
        self.looked_at = Instant::now();
        let dlq = &self.parts.stream.options.topics.dlq;
        let info = match self.parts.log.topic(dlq) {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(topic = %dlq, %error, "where the letters begin is not known");
                return;
            }
        };
        for (partition, info) in (0..).zip(info.partitions) {
            self.parts.letters.forget_below(partition, info.earliest);
        }
    }

    /// Reads some of what was missed, of each partition that is not ready.
    pub(super) fn catch_up(&mut self) -> Result<()> {
        let waiting: Vec<i32> =
            self.owned.iter().filter(|(_, owned)| !owned.is_ready()).map(|(partition, _)| *partition).collect();
        for partition in waiting {
            let Some(mut owned) = self.owned.remove(&partition) else { continue };
            let outcome = self.read_some(partition, &mut owned);
            let is_ready = owned.is_ready() && !owned.is_failing();
            self.parts.letters.set_read(partition, owned.is_ready());
            self.owned.insert(partition, owned);
            match outcome {
                Ok(()) if is_ready => self.parts.letters.set_condition(partition, Condition::Ready),
                Ok(()) => {}
                // Retention went on meanwhile.
                Err(Error::OutOfRange { .. }) => self.begin_again(partition),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn read_some(&mut self, partition: i32, owned: &mut Owned) -> Result<()> {
        let topics = &self.parts.stream.options.topics;
        let (tail, topic, is_dlq) = match &mut owned.reading {
            Reading::Dlq(tail) => (tail, &topics.dlq, true),
            Reading::Retry(tail) => (tail, &topics.retry, false),
            Reading::Done => return Ok(()),
        };
        let tail = match tail {
            Some(tail) => tail,
            None => tail.insert(self.open(topic, partition, is_dlq)?),
        };
        let is_over = if tail.reader.position() >= tail.end {
            true
        } else if let Some(records) = tail.reader.next(CATCH_UP, WAIT)? {
            tail.heard = Instant::now();
            let (due, no_time) = (&mut self.due, no_time(self.parts));
            self.parts.letters.change(partition, |index| fold(index, due, &records, is_dlq, no_time));
            false
        } else {
            tail.heard.elapsed() >= SILENCE
        };
        if is_over {
            owned.reading = if is_dlq { Reading::Retry(None) } else { Reading::Done };
        }
        Ok(())
    }

    /// A reader from where the index stands to where the topic ends now.
    fn open(&mut self, topic: &TopicName, partition: i32, is_dlq: bool) -> Result<Tail> {
        let info = self.parts.log.topic(topic)?;
        let number = usize::try_from(partition).unwrap_or(usize::MAX);
        let unknown = || Error::Invalid(format!("{topic} has no partition {partition}"));
        let info = info.partitions.get(number).copied().ok_or_else(unknown)?;
        let mut positions = self.parts.letters.positions(partition).unwrap_or_default();
        if positions.dlq.max(0) > info.latest && is_dlq || positions.retry > info.latest && !is_dlq {
            tracing::warn!(%topic, partition, "the topic ends before where the index of letters stands: it was made anew, and so is the index");
            self.due.drop_partition(partition);
            self.parts.letters.reset(partition);
            positions = Positions::default();
        } else if is_dlq && positions.dlq > 0 {
            // What was restored says which letters wait, not until when.
            self.due.forget(partition, Time(0));
        }
        if is_dlq {
            self.parts.letters.forget_below(partition, info.earliest);
        }
        let from = if is_dlq { positions.dlq } else { positions.retry };
        let from = if from < info.earliest { Position::Earliest } else { Position::Offset(from) };
        let reader = self.parts.log.reader(topic, partition, from)?;
        Ok(Tail { reader, end: info.latest, heard: Instant::now() })
    }
}
