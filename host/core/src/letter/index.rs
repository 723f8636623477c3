//! The index of letters: which of them wait, which are parked, and of which class; folded from dlq and retry, and from nothing else.
//!
//! Read this to know what the numbers of `phronis letters list` mean. A partition of dlq is cut into segments of
//! [`SEGMENT`] offsets; in each, a class of letters ([`Class`]) has a bit for each letter that is outstanding.
//! So a million letters are a few hundred kilobytes, and no letter is a row anywhere.
//!
//! A letter's bit is *waiting* (it has a due time, or waits for a breaker) or *parked* (it waits for a person).
//! Whatever follows clears it: a move to retry, a settlement, the next attempt, a discard.
//! **Clearing wins over setting**, so that the outcome is the same in whatever order the two topics are read, and however often.

mod bits;
mod entry;
mod filter;
mod rows;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use self::bits::{Bits, InvalidBits};
pub use self::entry::{Discard, Entry, NO_TIME, moved_from};
pub use self::filter::Filter;
pub use self::rows::{Changes, ClassRow, SegmentRow};
use super::Stage;
use crate::code::Code;
use crate::name::Name;
use crate::time::Time;

/// Offsets of a segment. Its bits are 512 bytes, which a row of a database takes without a page of its own.
pub const SEGMENT: i64 = 4096;

/// Letters that failed in the same way: what a person looks at, and decides about, at once.
///
/// Shown as `gate/PH1003`, or `detect/PH2003/threshold@1.2.0` where a plugin failed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Class {
    /// The step that refused the record.
    pub stage: Stage,
    /// Why.
    pub code: Code,
    /// The plugin that failed, and its version, as its author counts.
    pub plugin: Option<(Name, Arc<str>)>,
}

impl Class {
    /// The plugin's name.
    pub fn plugin_name(&self) -> Option<&Name> {
        self.plugin.as_ref().map(|(name, _)| name)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.stage.as_str(), self.code)?;
        match &self.plugin {
            Some((name, version)) => write!(f, "/{name}@{version}"),
            None => Ok(()),
        }
    }
}

/// A text that is not a [`Class`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a class of letters: expected `gate/PH1003` or `detect/PH2003/threshold@1.2.0`, as in `phronis letters list`"
)]
pub struct InvalidClass;

impl FromStr for Class {
    type Err = InvalidClass;

    fn from_str(text: &str) -> Result<Self, InvalidClass> {
        let mut parts = text.splitn(3, '/');
        let stage = parts.next().and_then(Stage::parse).ok_or(InvalidClass)?;
        let code = parts.next().and_then(Code::parse).ok_or(InvalidClass)?;
        let plugin = match parts.next() {
            Some(plugin) => {
                let (name, version) = plugin.split_once('@').ok_or(InvalidClass)?;
                Some((name.parse().map_err(|_| InvalidClass)?, version.into()))
            }
            None => None,
        };
        Ok(Self { stage, code, plugin })
    }
}

impl TryFrom<String> for Class {
    type Error = InvalidClass;

    fn try_from(text: String) -> Result<Self, InvalidClass> {
        text.parse()
    }
}

impl From<Class> for String {
    fn from(class: Class) -> Self {
        class.to_string()
    }
}

/// What an outstanding letter waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its due time, its plugin's breaker, or an earlier event of its key.
    Waiting,
    /// A person.
    Parked,
}

/// How far the two topics of a partition are folded: the next offset of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Positions {
    /// In dlq.
    pub dlq: i64,
    /// In retry.
    pub retry: i64,
}

/// What is known of a class (in a partition, or in several that were added up).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Letters that were ever written, each attempt for itself.
    pub count: u64,
    /// Letters with a due time, or that wait for a breaker.
    pub waiting: u64,
    /// Letters that wait for a person.
    pub parked: u64,
    /// When a record of the class failed for the first time.
    pub first: Time,
    /// When the last letter of the class was written.
    pub last: Time,
    /// Not after the first failure of any outstanding letter, and at most a segment before; none without one.
    pub oldest: Option<Time>,
}

impl Summary {
    /// Adds what another partition knows of the class.
    pub fn add(&mut self, other: &Self) {
        let is_first = self.count == 0;
        self.first = if is_first { other.first } else { self.first.min(other.first) };
        self.last = if is_first { other.last } else { self.last.max(other.last) };
        self.count += other.count;
        self.waiting += other.waiting;
        self.parked += other.parked;
        self.oldest = self.oldest.into_iter().chain(other.oldest).min();
    }
}

/// The letters of one partition of dlq.
#[derive(Debug, Clone, Default)]
pub struct Partition {
    positions: Positions,
    /// The position in retry that may be kept: what was read beyond it is in `early` alone.
    kept_retry: i64,
    /// Every class that was ever seen, by its number.
    classes: Vec<Known>,
    numbers: BTreeMap<Arc<Class>, usize>,
    /// By segment and the number of the class.
    segments: BTreeMap<i64, BTreeMap<usize, Segment>>,
    /// Letters that were moved, as retry says, and that dlq was not read to yet.
    early: BTreeSet<i64>,
    /// What is to be written to the store.
    changed: BTreeSet<(i64, usize)>,
}

#[derive(Debug, Clone)]
struct Known {
    class: Arc<Class>,
    count: u64,
    first: Time,
    last: Time,
    is_changed: bool,
}

/// The outstanding letters of one class in one segment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Segment {
    /// When the first of them failed for the first time.
    first: Time,
    waiting: Bits,
    parked: Bits,
}

impl Segment {
    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.parked.is_empty()
    }

    fn state(&self, at: u16) -> Option<State> {
        [(&self.waiting, State::Waiting), (&self.parked, State::Parked)]
            .into_iter()
            .find(|(bits, _)| bits.contains(at))
            .map(|(_, state)| state)
    }

    fn bits(&self, state: State) -> &Bits {
        match state {
            State::Waiting => &self.waiting,
            State::Parked => &self.parked,
        }
    }

    fn clear(&mut self, at: u16) -> bool {
        self.waiting.remove(at) | self.parked.remove(at)
    }
}

impl Partition {
    /// How far it has read.
    pub fn positions(&self) -> Positions {
        self.positions
    }

    /// Folds a record of dlq. The answer is when the letter is due, if the record is a letter that waits;
    /// a range letter, which waits for a breaker, is due at once.
    ///
    /// Records before the position were folded already.
    pub fn take_dlq(&mut self, offset: i64, entry: &Entry) -> Option<Time> {
        if offset < self.positions.dlq {
            return None;
        }
        self.positions.dlq = offset.saturating_add(1);
        let was_moved = self.early.remove(&offset);
        let due = match entry {
            Entry::Letter { class, due_at, first_failed_at, written_at, previous } => {
                if let Some(previous) = previous {
                    self.clear(*previous);
                }
                let number = self.count(class, *first_failed_at, *written_at);
                if was_moved {
                    None
                } else {
                    let state = if due_at.is_some() { State::Waiting } else { State::Parked };
                    self.set(offset, number, state, *first_failed_at);
                    *due_at
                }
            }
            Entry::Settled { previous } => {
                self.clear(*previous);
                None
            }
            Entry::Discard(discard) => {
                self.give_up(discard, offset);
                None
            }
            Entry::Other => None,
        };
        self.keep_retry();
        due
    }

    /// Folds a record of retry: the letter of this offset of dlq was moved. What is no letter of ours only moves the position.
    ///
    /// The answer is false when the record was folded already.
    pub fn take_retry(&mut self, offset: i64, letter: Option<i64>) -> bool {
        if offset < self.positions.retry {
            return false;
        }
        self.positions.retry = offset.saturating_add(1);
        if let Some(letter) = letter {
            self.moved(letter);
        }
        self.keep_retry();
        true
    }

    /// A letter was moved, as this host knows before it reads its own record.
    pub fn moved(&mut self, letter: i64) {
        if letter >= self.positions.dlq {
            self.early.insert(letter);
        } else {
            self.clear(letter);
        }
    }

    /// Clears what a discard that stands at an offset means: letters before it alone.
    /// Whoever wrote it may do so before the record is read; reading it does the same once more.
    pub fn give_up(&mut self, discard: &Discard, at: i64) {
        for (from, to) in &discard.offsets {
            let segments = self.segments.range(place(*from).0..=place((*to).min(at)).0).map(|(segment, _)| *segment);
            for segment in segments.collect::<Vec<_>>() {
                self.clear_between(segment, *from, (*to).min(at), |_| true);
            }
        }
        let Some(filter) = &discard.filter else { return };
        let wanted: Vec<bool> = self.classes.iter().map(|known| filter.takes(&known.class)).collect();
        let below = discard.below.min(at);
        for segment in self.segments.range(..=place(below).0).map(|(segment, _)| *segment).collect::<Vec<_>>() {
            self.clear_between(segment, 0, below, |number| wanted.get(number).copied().unwrap_or(false));
        }
    }

    /// Forgets letters below an offset, where dlq begins now: retention deleted them.
    /// The answer is how many were outstanding: nobody answered for them.
    pub fn forget_below(&mut self, earliest: i64) -> u64 {
        // What was moved and is gone is never read any more.
        self.early = self.early.split_off(&earliest);
        self.keep_retry();
        let lost = self.count_below(earliest, &[State::Waiting, State::Parked], |_| true);
        if lost > 0 {
            for segment in self.segments.range(..=place(earliest).0).map(|(segment, _)| *segment).collect::<Vec<_>>() {
                self.clear_between(segment, 0, earliest, |_| true);
            }
        }
        lost
    }

    /// What an outstanding letter waits for, and its class.
    pub fn state(&self, letter: i64) -> Option<(State, &Class)> {
        let (segment, at) = place(letter);
        self.segments.get(&segment)?.iter().find_map(|(number, found)| {
            let state = found.state(at)?;
            Some((state, &*self.classes.get(*number)?.class))
        })
    }

    /// All classes that were ever seen here.
    pub fn classes(&self) -> impl Iterator<Item = (&Class, Summary)> {
        let mut summaries: Vec<Summary> = self
            .classes
            .iter()
            .map(|known| Summary { count: known.count, first: known.first, last: known.last, ..Summary::default() })
            .collect();
        for (number, found) in self.segments.values().flatten() {
            if let Some(summary) = summaries.get_mut(*number) {
                summary.waiting += u64::from(found.waiting.len());
                summary.parked += u64::from(found.parked.len());
                summary.oldest = summary.oldest.into_iter().chain([found.first]).min();
            }
        }
        self.classes.iter().map(|known| &*known.class).zip(summaries)
    }

    /// Offsets of outstanding letters from one on, rising, `most` of them, of classes and in states that are wanted.
    pub fn select(&self, from: i64, most: usize, states: &[State], wants: impl Fn(&Class) -> bool) -> Vec<i64> {
        let wanted: Vec<bool> = self.classes.iter().map(|known| wants(&known.class)).collect();
        let mut selected = Vec::new();
        for (segment, classes) in self.segments.range(place(from).0..) {
            let mut together = Bits::default();
            for (_, found) in classes.iter().filter(|(number, _)| wanted.get(**number).copied().unwrap_or(false)) {
                states.iter().for_each(|state| together.union(found.bits(*state)));
            }
            let base = segment.saturating_mul(SEGMENT);
            let offsets = together.iter().map(|at| base.saturating_add(i64::from(at)));
            selected.extend(offsets.filter(|offset| *offset >= from).take(most - selected.len()));
            if selected.len() >= most {
                break;
            }
        }
        selected
    }

    /// How many letters [`Partition::select`] would bring up to an offset (without it).
    pub fn count_below(&self, below: i64, states: &[State], wants: impl Fn(&Class) -> bool) -> u64 {
        let wanted: Vec<bool> = self.classes.iter().map(|known| wants(&known.class)).collect();
        let mut sum = 0;
        for (segment, classes) in &self.segments {
            let left = below.saturating_sub(segment.saturating_mul(SEGMENT));
            for (_, found) in classes.iter().filter(|(number, _)| wanted.get(**number).copied().unwrap_or(false)) {
                for bits in states.iter().map(|state| found.bits(*state)) {
                    sum += match left >= SEGMENT {
                        true => u64::from(bits.len()),
                        false => bits.iter().filter(|at| i64::from(*at) < left).count() as u64,
                    };
                }
            }
        }
        sum
    }

    fn set(&mut self, offset: i64, number: usize, state: State, first: Time) {
        let (segment, at) = place(offset);
        let found = self.segments.entry(segment).or_default().entry(number).or_default();
        found.first = if found.is_empty() { first } else { found.first.min(first) };
        match state {
            State::Waiting => found.waiting.insert(at),
            State::Parked => found.parked.insert(at),
        };
        self.changed.insert((segment, number));
    }

    fn clear(&mut self, offset: i64) {
        let (segment, at) = place(offset);
        let Some(classes) = self.segments.get_mut(&segment) else { return };
        for (number, found) in classes.iter_mut() {
            if found.clear(at) {
                self.changed.insert((segment, *number));
            }
        }
        self.tidy(segment);
    }

    fn clear_between(&mut self, segment: i64, from: i64, to: i64, wants: impl Fn(usize) -> bool) {
        let base = segment.saturating_mul(SEGMENT);
        let Some(classes) = self.segments.get_mut(&segment) else { return };
        for (number, found) in classes.iter_mut().filter(|(number, _)| wants(**number)) {
            let is_whole = from <= base && base.saturating_add(SEGMENT) <= to;
            if is_whole {
                *found = Segment { first: found.first, ..Segment::default() };
            } else {
                let inside = |at: u16| (from..to).contains(&base.saturating_add(i64::from(at)));
                found.waiting.retain(|at| !inside(at));
                found.parked.retain(|at| !inside(at));
            }
            self.changed.insert((segment, *number));
        }
        self.tidy(segment);
    }

    fn tidy(&mut self, segment: i64) {
        if let Some(classes) = self.segments.get_mut(&segment) {
            classes.retain(|_, found| !found.is_empty());
            if classes.is_empty() {
                self.segments.remove(&segment);
            }
        }
    }

    fn count(&mut self, class: &Class, first_failed_at: Time, written_at: Time) -> usize {
        let number = self.number(class);
        if let Some(known) = self.classes.get_mut(number) {
            let is_first = known.count == 0;
            known.first = if is_first { first_failed_at } else { known.first.min(first_failed_at) };
            known.last = if is_first { written_at } else { known.last.max(written_at) };
            known.count += 1;
            known.is_changed = true;
        }
        number
    }

    fn number(&mut self, class: &Class) -> usize {
        if let Some(number) = self.numbers.get(class) {
            return *number;
        }
        let (class, number) = (Arc::new(class.clone()), self.classes.len());
        let known = Known { class: Arc::clone(&class), count: 0, first: Time(0), last: Time(0), is_changed: false };
        self.classes.push(known);
        self.numbers.insert(class, number);
        number
    }

    fn keep_retry(&mut self) {
        if self.early.is_empty() {
            self.kept_retry = self.positions.retry;
        }
    }
}

/// The segment of an offset, and its place there.
fn place(offset: i64) -> (i64, u16) {
    (offset.div_euclid(SEGMENT), u16::try_from(offset.rem_euclid(SEGMENT)).unwrap_or_default())
}
