//! Letters as the faces see them: classes, lists, one letter with all its attempts, and what may be done about them.
//!
//! Counts come from the index; bytes are read from dlq when they are asked for. Calls here may block: they read the log.

mod change;
mod dry_run;
mod edit;

use std::sync::Arc;

use phronis_core::letter::index::{Class, ClassRow, Filter, Partition, State, Summary};
use phronis_core::letter::{Letter, Outcome, Settlement, original_headers};
use phronis_core::records::{HeadersBuilder, Records};
use phronis_core::{Code, StreamId, Time};

pub use self::change::{Cancel, Order, Refused};
pub use self::dry_run::{DryRun, Finding, Impossible, Problem, Verdict};
pub use self::edit::{Edit, Posted};
use crate::Handle;
use crate::clock::now_us;
pub use crate::retry::{Action, Condition, Edited, Job, JobState, MOST_PLACES, Progress, Selection};
use crate::retry::{Letters, read_letters};
use crate::stream::Stream;

/// A class that was first seen so recently is new.
const NEW: i64 = 3_600_000_000;

/// Attempts that are walked back.
const ATTEMPTS: usize = 100;

/// Letters that a filter of times may look at for one piece of a list.
const LOOKED_AT: usize = 20_000;

/// Where a letter stands: its partition and its offset in dlq. Shown as `3-42`.
pub type Place = (i32, i64);

/// A class of letters of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassStatus {
    /// Which.
    pub class: Class,
    /// What is known of it.
    pub summary: Summary,
    /// Whether it was first seen within the last hour.
    pub is_new: bool,
}

/// What the retry branch of a stream does on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Branch {
    /// Why no letter comes back at all.
    pub trouble: Option<String>,
    /// The partitions that this host owns.
    pub partitions: Vec<(i32, Condition)>,
}

/// A letter.
#[derive(Debug, Clone)]
pub struct Found {
    /// Where it stands.
    pub place: Place,
    /// What it waits for; none when it was answered for, or moved to retry.
    pub state: Option<State>,
    /// What became of an edit of it, where this host made one.
    pub edited: Option<Edited>,
    /// What it says.
    pub letter: Letter,
    /// When it was written.
    pub written_at: Time,
    /// The record of dlq, one row.
    pub record: Records,
}

impl Found {
    /// Rises when nobody waits for it any more: all that can ever change about a letter.
    pub fn version(&self) -> u64 {
        version(self.state)
    }
}

/// A letter with what came before it.
#[derive(Debug, Clone)]
pub struct Detail {
    /// The letter.
    pub found: Found,
    /// The headers of the record that it keeps, without ours.
    pub original: HeadersBuilder,
    /// All attempts up to this one, the first one first.
    pub attempts: Vec<Attempt>,
    /// The first attempts are not in dlq any more, or there are too many.
    pub is_cut: bool,
}

/// One attempt at a letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Its offset in dlq.
    pub offset: i64,
    /// Its number.
    pub attempt: u32,
    /// When it failed.
    pub at: Time,
    /// Why.
    pub code: Code,
    /// Why, in words.
    pub message: String,
    /// The plugin's version, where it was a plugin.
    pub version: Option<String>,
}

/// What stands at a place of dlq.
#[derive(Debug, Clone)]
pub enum At {
    /// A letter.
    Letter(Box<Detail>),
    /// The end of the letter at this offset.
    Settlement(Outcome, i64),
    /// Something else, or nothing (any more).
    Nothing,
}

impl Handle {
    /// All classes of letters of a stream; none without such a stream. Blocks while the store is asked about other hosts' partitions.
    pub fn letter_classes(&self, stream: &StreamId) -> Option<Vec<ClassStatus>> {
        let (running, letters) = self.letters_of(stream)?;
        let new_since = Time(now_us().saturating_sub(NEW));
        let mut classes = letters.classes();
        // What other hosts own stands in the store.
        let owned: Vec<i32> = letters.conditions().into_iter().map(|(partition, _)| partition).collect();
        let is_whole = i32::try_from(owned.len()).is_ok_and(|owned| owned >= running.options.partitions);
        let store = letters.store().filter(|_| !is_whole);
        let stored = store.and_then(|store| store.wait(store.letter_classes(stream)).ok());
        for (_, row) in stored.into_iter().flatten().filter(|(partition, _)| !owned.contains(partition)) {
            let ClassRow { class, count, waiting, parked, first, last, .. } = row;
            let summary = Summary { count, waiting, parked, first, last, oldest: None };
            classes.entry(class).and_modify(|sum| sum.add(&summary)).or_insert(summary);
        }
        let classes = classes.into_iter();
        let status = |(class, summary): (Class, Summary)| ClassStatus {
            class,
            is_new: summary.count > 0 && summary.first >= new_since,
            summary,
        };
        Some(classes.map(status).collect())
    }

    /// What the retry branch of a stream does on this host.
    pub fn letter_branch(&self, stream: &StreamId) -> Option<Branch> {
        let (_, letters) = self.letters_of(stream)?;
        Some(Branch { trouble: letters.trouble(), partitions: letters.conditions() })
    }

    /// Outstanding letters in the order of their places, after `after`, `limit` at most, and where the next ones begin.
    ///
    /// # Errors
    /// The log does not answer.
    pub fn list_letters(
        &self,
        stream: &StreamId,
        filter: &Filter,
        after: Option<Place>,
        limit: usize,
    ) -> phronis_log::Result<(Vec<Found>, Option<Place>)> {
        let Some((stream, letters)) = self.letters_of(stream) else { return Ok((Vec::new(), None)) };
        let mut all: Vec<Found> = Vec::new();
        let mut looked_at = 0;
        let (first, from) = after.map_or((0, 0), |(partition, offset)| (partition, offset.saturating_add(1)));
        for partition in first..stream.options.partitions {
            let mut from = if partition == first { from } else { 0 };
            let elsewhere = elsewhere(stream, letters, partition);
            loop {
                let wanted = (limit - all.len()).saturating_add(1);
                let states = [State::Waiting, State::Parked];
                let offsets = match &elsewhere {
                    Some(index) => index.select(from, wanted, &states, |class| filter.takes(class)),
                    None => letters.select(partition, from, wanted, &states, |class| filter.takes(class)),
                };
                let Some(last) = offsets.last().copied() else { break };
                looked_at += offsets.len();
                let found = self.read_found(stream, letters, partition, &offsets)?;
                let known = |found: Found| match &elsewhere {
                    Some(index) => Found { state: index.state(found.place.1).map(|(state, _)| state), ..found },
                    None => found,
                };
                let in_time = |found: &Found| filter.takes_time(found.letter.first_failed_at);
                all.extend(found.into_iter().map(known).filter(in_time));
                if all.len() > limit {
                    all.truncate(limit);
                    let next = all.last().map(|found| found.place);
                    return Ok((all, next));
                }
                from = last.saturating_add(1);
                if looked_at > LOOKED_AT.max(limit.saturating_mul(2)) {
                    return Ok((all, Some((partition, last))));
                }
                if offsets.len() < wanted {
                    break;
                }
            }
        }
        Ok((all, None))
    }

    /// What stands at a place of dlq; a letter with all its attempts.
    ///
    /// # Errors
    /// The log does not answer.
    pub fn letter(&self, stream: &StreamId, (partition, offset): Place) -> phronis_log::Result<At> {
        let Some((stream, letters)) = self.letters_of(stream) else { return Ok(At::Nothing) };
        if !(0..stream.options.partitions).contains(&partition) {
            return Ok(At::Nothing);
        }
        let mut record = None;
        self.read(stream, partition, &[offset], |records, row| record = Some(records.slice(row, 1)))?;
        let Some(record) = record else { return Ok(At::Nothing) };
        if let Some(settlement) = Settlement::read(record.body.headers(0)) {
            return Ok(At::Settlement(settlement.outcome, settlement.previous));
        }
        let Some(mut found) = found(letters, record) else { return Ok(At::Nothing) };
        found.state = state(stream, letters, found.place);
        let mut original = HeadersBuilder::default();
        if found.letter.omitted.headers.is_none() {
            original_headers(found.record.body.headers(0), &mut original);
        }
        let (attempts, is_cut) = self.attempts(stream, &found)?;
        Ok(At::Letter(Box::new(Detail { found, original, attempts, is_cut })))
    }

    /// Walks back from a letter to the first attempt.
    fn attempts(&self, stream: &Stream, last: &Found) -> phronis_log::Result<(Vec<Attempt>, bool)> {
        let of = |found: &Letter, offset: i64, at: Time| Attempt {
            offset,
            attempt: found.attempt,
            at,
            code: found.code,
            message: found.message.clone(),
            version: found.plugin.as_ref().map(|plugin| plugin.version.clone()),
        };
        let mut attempts = vec![of(&last.letter, last.place.1, last.written_at)];
        let mut previous = last.letter.previous;
        while let Some(offset) = previous.take()
            && attempts.len() < ATTEMPTS
            && attempts.last().is_some_and(|attempt| offset < attempt.offset)
        {
            self.read(stream, last.place.0, &[offset], |records, row| {
                if let Some(letter) =
                    Letter::read(records.body.headers(row)).filter(|letter| letter.id == last.letter.id)
                {
                    attempts.push(of(&letter, offset, written_at(records, row)));
                    previous = letter.previous;
                }
            })?;
        }
        attempts.reverse();
        let is_cut = attempts.first().is_some_and(|first| first.attempt > 1) && last.letter.previous.is_some();
        Ok((attempts, is_cut))
    }

    fn read_found(
        &self,
        stream: &Stream,
        letters: &Letters,
        partition: i32,
        offsets: &[i64],
    ) -> phronis_log::Result<Vec<Found>> {
        let mut all = Vec::with_capacity(offsets.len());
        self.read(stream, partition, offsets, |records, row| all.extend(found(letters, records.slice(row, 1))))?;
        Ok(all)
    }

    fn read(
        &self,
        stream: &Stream,
        partition: i32,
        offsets: &[i64],
        show: impl FnMut(&Records, usize),
    ) -> phronis_log::Result<Vec<i64>> {
        read_letters(self.shared.log.as_ref(), &stream.options.topics.dlq, partition, offsets, show)
    }

    pub(crate) fn letters_of(&self, stream: &StreamId) -> Option<(&Arc<Stream>, &Arc<Letters>)> {
        let (running, _) = self.shared.streams.get(stream)?;
        Some((running, self.shared.letters.get(stream)?))
    }
}

/// The index of a partition that another host owns, as that host stored it last.
fn elsewhere(stream: &Stream, letters: &Letters, partition: i32) -> Option<Partition> {
    let store = letters.store().filter(|_| !letters.owns(partition))?;
    Partition::restore(store.wait(store.letters(&stream.options.id, partition)).ok().flatten()?)
}

/// What a letter waits for, wherever that is known.
fn state(stream: &Stream, letters: &Letters, (partition, offset): Place) -> Option<State> {
    if letters.edited((partition, offset)) == Some(Edited::Whole) {
        // The host that owns it may not have read that yet.
        return None;
    }
    match elsewhere(stream, letters, partition) {
        Some(index) => index.state(offset).map(|(state, _)| state),
        None => letters.state(partition, offset).map(|(state, _)| state),
    }
}

fn version(state: Option<State>) -> u64 {
    if state.is_some() { 1 } else { 2 }
}

fn found(letters: &Letters, record: Records) -> Option<Found> {
    let letter = Letter::read(record.body.headers(0))?;
    let place = (record.partition, *record.offsets.values().first()?);
    let state = letters.state(place.0, place.1).map(|(state, _)| state);
    Some(Found { place, state, edited: letters.edited(place), letter, written_at: written_at(&record, 0), record })
}

fn written_at(records: &Records, row: usize) -> Time {
    Time::from_millis(records.body.timestamps.values().get(row).copied().unwrap_or_default())
}
