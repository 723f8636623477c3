//! Records that kill the whole process: found by how it dies, and set aside as letters.
//!
//! Such a record never writes its own letter: the host dies before. What tells is where it starts again.
//! For each partition a small file says at which offset this host began; it is written when the partition is taken over
//! and removed when it is let go in order, so nothing of this costs a batch anything.
//! A second start at the same offset means that the first ended near there: then the first batches run in small parts,
//! each marked in the file, synced, before it runs, and unmarked when it was judged. A start that finds a mark runs the marked
//! records one by one, each alone in the whole process ([`TURNS`]).
//!
//! **What convicts a record**: the host died [`DEATHS`] times in a row while this one record was marked, and nothing else was
//! judged. A host that is killed from outside looks the same once, and costs some speed at the next start; to lose a record
//! to the letters it would have to be killed so often within the moment in which that one record is judged.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use phronis_core::code;
use phronis_core::decode::Rejection;
use phronis_core::delivery::Delivery;
use phronis_core::letter::{Kind, Offsets, Returned};
use phronis_core::records::Records;
use serde::{Deserialize, Serialize};

use super::lane::{Input, Lane};
use super::{AWAY, Worker, unanswered};
use crate::clock::now_us;
use crate::stage::again::{Parked, own};
use crate::stage::course::Course;
use crate::stage::{Judged, Times, deliver, enrich};
use crate::status::StreamCounts;
use crate::{Error, Result};

/// Records that run under one mark, at first: some parts a batch, so that a start after any kill costs next to nothing.
const PART: usize = 1024;

/// The same among suspects, as long as there are more.
const FINE_PART: usize = 64;

/// Most batches that run in parts after a start. Each start at the same offset adds one, so that the record is reached
/// even where commits trail behind what was judged.
const MOST_BATCHES: u32 = 16;

/// Deaths while a record ran alone that convict it.
const DEATHS: u32 = 3;

/// Whoever judges holds this shared; a record that runs alone is alone in the process.
static TURNS: RwLock<()> = RwLock::new(());

/// A turn among others: hold it while something is judged.
pub(super) fn turn() -> RwLockReadGuard<'static, ()> {
    TURNS.read().unwrap_or_else(PoisonError::into_inner)
}

/// A record at which the host died while it ran alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Suspect {
    offset: i64,
    /// How often in a row.
    deaths: u32,
}

/// What stands in a partition's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Start {
    /// Where the host began.
    offset: i64,
    /// How often in a row it began there.
    starts: u32,
    /// Records that were running.
    mark: Option<(i64, i64)>,
    /// What earlier deaths tell.
    #[serde(default)]
    suspect: Option<Suspect>,
}

/// What a start may do, by what the last one left behind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Care {
    starts: u32,
    /// Batches that run in parts.
    batches: u32,
    /// Records that run one by one.
    suspects: Range<i64>,
    /// One of which more is known.
    suspect: Option<Suspect>,
}

/// How a part runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// With others beside it.
    Together,
    /// Alone in the process.
    Alone,
    /// Not at all: it is guilty.
    Never,
}

impl Care {
    /// What to make of a start at `next`.
    fn of(last: Option<&Start>, next: i64) -> Self {
        let mark = last.and_then(|last| last.mark).filter(|(_, to)| *to > next);
        let before = last.and_then(|last| last.suspect).filter(|suspect| suspect.offset >= next);
        let is_same = last.is_some_and(|last| last.offset == next) || mark.is_some() || before.is_some();
        let starts = if is_same { last.map_or(1, |last| last.starts.saturating_add(1)) } else { 1 };
        let (suspects, suspect) = match mark {
            Some((offset, to)) if to - offset == 1 => {
                let deaths = before.filter(|before| before.offset == offset).map_or(0, |before| before.deaths);
                (0..0, Some(Suspect { offset, deaths: deaths.saturating_add(1) }))
            }
            Some((from, to)) => (from..to, before),
            None => (0..0, before),
        };
        Self { starts, batches: (starts - 1).min(MOST_BATCHES), suspects, suspect }
    }

    /// Whether a batch that begins at this offset runs in parts.
    fn is_needed(&self, first: i64) -> bool {
        self.batches > 0 || self.suspects.end > first || self.suspect.is_some_and(|suspect| suspect.offset >= first)
    }

    /// How many of these records run under one mark, and how.
    fn part(&self, offsets: &[i64]) -> (usize, How) {
        let Some(first) = offsets.first() else { return (0, How::Together) };
        match self.suspect.filter(|suspect| suspect.offset == *first) {
            Some(guilty) if guilty.deaths >= DEATHS => return (1, How::Never),
            Some(_) => return (1, How::Alone),
            None if self.suspects.contains(first) && !self.are_many() => return (1, How::Alone),
            None => {}
        }
        let of_suspect = |offset: &i64| self.suspect.is_some_and(|suspect| suspect.offset == *offset);
        let is_among = self.suspects.contains(first);
        let alike = |offset: &i64| !of_suspect(offset) && self.suspects.contains(offset) == is_among;
        let most = if is_among { FINE_PART } else { PART };
        let plain = offsets.iter().take(most).take_while(|offset| alike(offset)).count();
        match plain.max(1) {
            // A mark of one record says that it ran alone.
            1 => (1, How::Alone),
            plain => (plain, How::Together),
        }
    }

    /// Whether the suspects are too many to run one by one.
    fn are_many(&self) -> bool {
        usize::try_from(self.suspects.end - self.suspects.start).is_ok_and(|suspects| suspects > FINE_PART)
    }

    /// These went through.
    fn passed(&mut self, next: i64) {
        self.suspect = self.suspect.filter(|suspect| suspect.offset >= next);
        if self.suspects.end <= next {
            self.suspects = 0..0;
        }
    }
}

/// The partitions' files.
#[derive(Debug)]
pub(super) struct Watch {
    folder: Option<PathBuf>,
    lanes: HashMap<Lane, (Care, File)>,
}

impl Watch {
    pub(super) fn new(folder: Option<PathBuf>) -> Self {
        Self { folder, lanes: HashMap::new() }
    }

    fn path(&self, lane: Lane) -> Option<PathBuf> {
        let what = if lane.input == Input::Retry { "retry" } else { "raw" };
        Some(self.folder.as_ref()?.join(format!("{what}-{}.json", lane.partition)))
    }

    /// A partition is taken over at this offset.
    pub(super) fn take_over(&mut self, lane: Lane, next: i64) {
        let Some(path) = self.path(lane) else { return };
        let last: Option<Start> = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let care = Care::of(last.as_ref(), next);
        if care.batches > 0 {
            tracing::warn!(
                ?lane,
                offset = next,
                starts = care.starts,
                "started at the same offset as the last time: the next records run in small parts, to find one that makes the host crash"
            );
        }
        let opened = || -> io::Result<File> {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            let mut file = File::options().write(true).create(true).truncate(false).open(&path)?;
            let mark = (!care.suspects.is_empty()).then_some((care.suspects.start, care.suspects.end));
            save(&mut file, &Start { offset: next, starts: care.starts, mark, suspect: care.suspect })?;
            file.sync_data()?;
            Ok(file)
        };
        match opened() {
            Ok(file) => {
                self.lanes.insert(lane, (care, file));
            }
            // The stream goes on without: it is no worse off than without this file.
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "where the host starts cannot be noted: a record that makes it crash will not be found");
            }
        }
    }

    /// A partition is let go in order.
    pub(super) fn let_go(&mut self, lane: Lane) {
        if let (Some(_), Some(path)) = (self.lanes.remove(&lane), self.path(lane))
            && let Err(error) = fs::remove_file(&path)
        {
            tracing::debug!(path = %path.display(), %error, "a note of a start is left behind");
        }
    }

    /// All of them.
    pub(super) fn let_all_go(&mut self) {
        let lanes: Vec<Lane> = self.lanes.keys().copied().collect();
        lanes.into_iter().for_each(|lane| self.let_go(lane));
    }

    fn care(&self, lane: Lane) -> Option<&Care> {
        self.lanes.get(&lane).map(|(care, _)| care)
    }

    /// Says, before they run, which records do.
    fn mark(&mut self, lane: Lane, from: i64, to: i64) {
        let Some((care, file)) = self.lanes.get_mut(&lane) else { return };
        let start = Start { offset: from, starts: care.starts, mark: Some((from, to)), suspect: care.suspect };
        if let Err(error) = save(file, &start).and_then(|()| file.sync_data()) {
            tracing::warn!(?lane, %error, "the records that run cannot be noted");
        }
    }

    /// Nothing runs now, and what stands before `next` went through. Only the end of the machine would lose this word.
    fn unmark(&mut self, lane: Lane, next: i64) {
        let Some((care, file)) = self.lanes.get_mut(&lane) else { return };
        care.passed(next);
        let left = care.suspects.start.max(next)..care.suspects.end;
        let mark = (left.end - left.start > 1).then_some((left.start, left.end));
        if let Err(error) = save(file, &Start { offset: next, starts: care.starts, mark, suspect: care.suspect }) {
            tracing::warn!(?lane, %error, "that the records went through cannot be noted");
        }
    }

    /// A batch ran to its end.
    fn passed(&mut self, lane: Lane, next: i64) {
        if let Some((care, _)) = self.lanes.get_mut(&lane) {
            care.batches = care.batches.saturating_sub(1);
        }
        self.unmark(lane, next);
    }
}

/// Writes in place: what is half written after a crash is not read, and counts as nothing known.
fn save(file: &mut File, start: &Start) -> io::Result<()> {
    let json = serde_json::to_vec(start)?;
    file.rewind()?;
    file.write_all(&json)?;
    file.set_len(json.len() as u64)
}

impl Worker {
    /// Whether a batch must run in parts.
    pub(super) fn is_careful(&self, lane: Lane, records: &Records) -> bool {
        let first = records.offsets.values().first().copied().unwrap_or(i64::MAX);
        self.watch.care(lane).is_some_and(|care| care.is_needed(first))
    }

    /// Runs a batch in parts, each marked before it runs.
    pub(super) fn carefully(&mut self, lane: Lane, records: &Records) -> Result<()> {
        let mut from = 0;
        while from < records.len() {
            let offsets = records.offsets.values().get(from..).unwrap_or_default();
            let (rows, how) = self.watch.care(lane).map_or((offsets.len(), How::Together), |care| care.part(offsets));
            let part = records.slice(from, rows.max(1));
            from += part.len();
            let (Some(first), Some(next)) = (offsets.first().copied(), part.next_offset()) else { break };
            if how == How::Never {
                self.quarantine(lane, &part)?;
            } else if !self.marked(lane, &part, (first, next), how)? {
                return Ok(());
            }
            if !self.settle_some(AWAY)? {
                return Err(unanswered());
            }
        }
        if let Some(next) = records.next_offset() {
            self.watch.passed(lane, next);
        }
        Ok(())
    }

    /// Runs records while a mark says so; false when their partition stands still before the end of them.
    fn marked(&mut self, lane: Lane, part: &Records, (first, next): (i64, i64), how: How) -> Result<bool> {
        let alone = (how == How::Alone).then(|| TURNS.write().unwrap_or_else(PoisonError::into_inner));
        let among_others = alone.is_none().then(turn);
        self.watch.mark(lane, first, next);
        let outcome = match lane.input {
            Input::Raw => self.batch(part),
            Input::Retry => self.again(part).map(|()| true),
        };
        // Whoever dies from here on, while it waits for the log, died of something else.
        self.watch.unmark(lane, if matches!(outcome, Ok(true)) { next } else { first });
        drop((alone, among_others));
        outcome
    }

    /// One record that does not run any more becomes a letter.
    fn quarantine(&mut self, lane: Lane, record: &Records) -> Result<()> {
        let offset = record.offsets.values().first().copied().unwrap_or(-1);
        let message = format!("the host died {DEATHS} times while this record ran alone");
        tracing::error!(stream = %self.stream.options.id, ?lane, offset, code = %code::QUARANTINED, "{message}: it is not run any more, and waits as a letter");
        self.goes_on(lane)?;
        let next = record.next_offset().unwrap_or(offset + 1);
        let (delivery, tally) = match lane.input {
            Input::Raw => self.refused(record, message)?,
            Input::Retry => {
                let headers = record.body.headers(0);
                let mut delivery = Delivery::default();
                if let Some(returned) = Returned::read(headers) {
                    let is_range = Kind::of(headers) == Kind::Range;
                    let offsets = record.body.value(0).filter(|_| is_range).and_then(Offsets::parse);
                    let (code, record) = (code::QUARANTINED, own(record, 0, headers));
                    let parked = self.park(&[Parked { returned, code, message, offsets, record }]);
                    delivery.appends.push(self.dlq(lane, parked));
                }
                (delivery, StreamCounts::default())
            }
        };
        self.submit(lane, delivery, next, tally, (0, 0))
    }

    /// A record of raw as a letter of the gate, without a look at what is in it.
    fn refused(&mut self, record: &Records, message: String) -> Result<(Delivery, StreamCounts)> {
        let mut checked = self.decoder.check(record.slice(0, 0));
        checked.records = record.clone();
        checked.rejected.push(Rejection { row: 0, code: code::QUARANTINED, field: None, message });
        let now = now_us();
        let mut judged = Judged::new(checked, i64::MIN, Times { polled: now, checked: now, judged: now });
        for enricher in &self.crew.enrichers {
            enrich::pass_by(&mut judged, enricher);
        }
        let delivered =
            deliver::deliver(&judged, &self.stream, &self.crew.lineup, &self.crew.writer, &Course::default());
        delivered.map_err(|failure| Error::Host(failure.to_string()))
    }
}

#[cfg(test)]
mod tests;
