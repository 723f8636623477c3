//! Order by key: who must wait because an earlier event of the same key is still a letter.
//!
//! [`Order`] folds one partition of dlq into the keys whose events were not delivered, and nothing else: it is made anew
//! from the topic whenever a partition is taken over. [`Turn`] walks a batch in the order of its offsets and says of each
//! record whether it may go. What must wait becomes a letter of its own ([`Stage::Order`]), so nothing depends on memory.
//!
//! A letter of the gate, of an enricher, of delivery, or one that waits holds later events of its key back; a detector's does
//! not (its event was delivered), nor does one of a halted agent (its stream drops such events on purpose).
//! The key is the record's. Records without one have no order to keep.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::index::{Discard, Entry, Partition};
use super::{Kind, Letter, Settlement, Stage};
use crate::records::Headers;

/// A record's key, shortened so that no two are the same.
pub type Key = u128;

/// The key of a record.
pub fn key(bytes: &[u8]) -> Key {
    Key::from_le_bytes(blake3::hash(bytes).as_bytes().first_chunk().copied().unwrap_or_default())
}

/// How much may wait in a partition before it stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Events.
    pub letters: u64,
    /// Bytes of their letters. One event always fits.
    pub bytes: u64,
}

impl Default for Bounds {
    /// Some seconds of a busy partition, in some megabytes of memory.
    fn default() -> Self {
        Self { letters: 10_000, bytes: 64 << 20 }
    }
}

/// A letter whose event was not delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    /// Where it stands in dlq; more than once where a delivery may happen twice.
    at: Vec<i64>,
    /// Whether nothing is wrong with it but its place.
    waits: bool,
    /// It is on its way back.
    is_moved: bool,
    bytes: u64,
}

/// The letters of one partition that hold others back, by key and by the offset of their record.
#[derive(Debug, Clone, Default)]
pub struct Order {
    /// Which letters are outstanding, whatever became of them in retry.
    index: Partition,
    keys: HashMap<Key, BTreeMap<i64, Held>>,
    /// Offset of the record → its key.
    origins: HashMap<i64, Key>,
    /// Offset in dlq → offset of the record.
    places: BTreeMap<i64, i64>,
    /// Records from the floor on whose letters ended.
    answered: BTreeSet<i64>,
    floor: i64,
    /// Keys of which something changed.
    touched: HashSet<Key>,
    letters: u64,
    bytes: u64,
}

impl Order {
    /// Knows nothing yet; records before `floor` of raw never come again.
    pub fn new(floor: i64) -> Self {
        Self { floor, ..Self::default() }
    }

    /// The next offset of dlq to be folded.
    pub fn position(&self) -> i64 {
        self.index.positions().dlq
    }

    /// Folds a record of dlq; `key` is that of the letter's record.
    pub fn take(&mut self, offset: i64, headers: Headers<'_>, key: Option<&[u8]>, value: Option<&[u8]>) {
        if offset < self.position() {
            return;
        }
        let entry = Entry::read(headers, value, 0);
        self.index.take_dlq(offset, &entry);
        match entry {
            Entry::Letter { previous, .. } => {
                let bytes = headers.bytes() + key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len);
                self.letter(offset, previous, headers, key, bytes as u64);
            }
            Entry::Settled { previous } => {
                let by_record = || Settlement::read(headers).filter(|of| of.stage != Stage::Detect);
                let origin = self.places.get(&previous).copied();
                if let Some(origin) = origin.or_else(|| by_record().map(|of| of.origin.offset)) {
                    self.end(origin);
                }
            }
            Entry::Discard(discard) => self.sweep(&discard),
            Entry::Other => {}
        }
    }

    fn letter(&mut self, at: i64, previous: Option<i64>, headers: Headers<'_>, key: Option<&[u8]>, bytes: u64) {
        let before = previous.and_then(|previous| self.places.get(&previous).copied());
        let letter = if Kind::of(headers) == Kind::Letter { Letter::read(headers) } else { None };
        let holds = matches!(
            letter.as_ref().map(|letter| letter.stage),
            Some(Stage::Gate | Stage::Enrich | Stage::Deliver | Stage::Order)
        );
        let (Some(letter), Some(key), true) = (letter, key, holds) else {
            if let Some(before) = before {
                self.end(before);
            }
            return;
        };
        let origin = letter.origin.offset;
        let mut places = match self.remove(origin) {
            // The same letter once more, where a delivery may happen twice.
            Some(held) if previous.is_none() => held.at,
            _ => Vec::new(),
        };
        places.push(at);
        self.answered.remove(&origin);
        self.places.extend(places.iter().map(|at| (*at, origin)));
        let waits = letter.stage == Stage::Order;
        self.letters += u64::from(waits);
        self.bytes += if waits { bytes } else { 0 };
        let key = self::key(key);
        self.origins.insert(origin, key);
        self.keys.entry(key).or_default().insert(origin, Held { at: places, waits, is_moved: false, bytes });
        self.touched.insert(key);
    }

    /// A record's letter ended.
    fn end(&mut self, origin: i64) {
        self.remove(origin);
        if origin >= self.floor {
            self.answered.insert(origin);
        }
    }

    fn remove(&mut self, origin: i64) -> Option<Held> {
        let key = self.origins.remove(&origin)?;
        let of_key = self.keys.get_mut(&key)?;
        let held = of_key.remove(&origin)?;
        if of_key.is_empty() {
            self.keys.remove(&key);
        }
        self.touched.insert(key);
        for at in &held.at {
            self.places.remove(at);
        }
        if held.waits {
            self.letters = self.letters.saturating_sub(1);
            self.bytes = self.bytes.saturating_sub(held.bytes);
        }
        Some(held)
    }

    /// Some letters were given up: which, the index knows.
    fn sweep(&mut self, discard: &Discard) {
        let Self { index, places, .. } = self;
        let mut runs = discard.offsets.clone();
        runs.extend(discard.filter.is_some().then_some((0, discard.below)));
        let named = runs.into_iter().filter(|(from, to)| from < to).flat_map(|(from, to)| places.range(from..to));
        let gone: Vec<i64> = named.map(|(at, _)| *at).filter(|at| index.state(*at).is_none()).collect();
        gone.into_iter().for_each(|at| self.gone(at));
    }

    /// A letter is not there any more, and never comes back.
    pub fn gone(&mut self, at: i64) {
        let Some(origin) = self.places.remove(&at) else { return };
        let key = self.origins.get(&origin).copied();
        let held = key.and_then(|key| self.keys.get_mut(&key)?.get_mut(&origin));
        if held.is_some_and(|held| {
            held.at.retain(|place| *place != at);
            held.at.is_empty()
        }) {
            self.end(origin);
        }
    }

    /// Records before this offset of raw never come again.
    pub fn passed(&mut self, floor: i64) {
        self.floor = self.floor.max(floor);
        if !self.answered.is_empty() {
            self.answered = self.answered.split_off(&self.floor);
        }
    }

    /// Whether nothing holds anything back.
    pub fn is_quiet(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether the letter at this offset of dlq still stands for its event.
    pub fn is_outstanding(&self, at: i64) -> bool {
        self.places.contains_key(&at)
    }

    /// Whether events of a key must wait.
    pub fn holds(&self, key: Key) -> bool {
        self.keys.contains_key(&key)
    }

    /// Events that wait, and the bytes of their letters.
    pub fn waiting(&self) -> (u64, u64) {
        (self.letters, self.bytes)
    }

    /// Whether a record of raw was answered for in an earlier life: it has a letter, or had one.
    fn knows(&self, key: Key, offset: i64) -> bool {
        self.answered.contains(&offset) || self.keys.get(&key).is_some_and(|of_key| of_key.contains_key(&offset))
    }

    /// Takes out letters that wait for nobody any more, `most` of them, the earliest record first: offsets in dlq.
    pub fn take_due(&mut self, most: usize) -> Vec<i64> {
        let mut due: BTreeMap<i64, Key> = BTreeMap::new();
        for key in std::mem::take(&mut self.touched) {
            let first = self.keys.get(&key).into_iter().flatten().take_while(|(_, held)| held.waits);
            due.extend(first.filter(|(_, held)| !held.is_moved).map(|(origin, _)| (*origin, key)));
        }
        let mut taken = Vec::new();
        for (origin, key) in due {
            let held = self.keys.get_mut(&key).and_then(|of_key| of_key.get_mut(&origin));
            match held {
                Some(held) if taken.len() < most => {
                    held.is_moved = true;
                    taken.extend(held.at.last());
                }
                _ => drop(self.touched.insert(key)),
            }
        }
        taken
    }

    /// These could not be moved, or nobody knows.
    pub fn give_back(&mut self, letters: &[i64]) {
        for origin in letters.iter().filter_map(|at| self.places.get(at)) {
            let Some(key) = self.origins.get(origin).copied() else { continue };
            if let Some(held) = self.keys.get_mut(&key).and_then(|of_key| of_key.get_mut(origin)) {
                held.is_moved = false;
                self.touched.insert(key);
            }
        }
    }
}

/// What would become of a record, were it alone in the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It would be delivered.
    Goes,
    /// It is a letter for a reason of its own.
    Stays,
    /// It goes nowhere, and nobody waits for it.
    Leaves,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// What its fate says.
    AsItIs,
    /// It waits behind the record at this offset.
    Waits(i64),
    /// It was answered for already.
    Known,
    /// It would have to wait, and there is no room: the partition must stand still before it.
    Full,
}

/// A batch, record by record, in the order of offsets.
#[derive(Debug)]
pub struct Turn<'a> {
    order: &'a Order,
    bounds: Bounds,
    /// Whether its records are letters that come back.
    comes_back: bool,
    /// Up to which record all letters of a key are delivered by this batch.
    reached: HashMap<Key, i64>,
    /// Of a key, the first record of this batch that is a letter.
    held: HashMap<Key, i64>,
    letters: u64,
    bytes: u64,
}

impl<'a> Turn<'a> {
    /// A batch of records of raw, or of letters that come back.
    pub fn new(order: &'a Order, bounds: Bounds, comes_back: bool) -> Self {
        let (letters, bytes) = order.waiting();
        Self { order, bounds, comes_back, reached: HashMap::new(), held: HashMap::new(), letters, bytes }
    }

    /// The next record: its key, its offset in raw, and how many bytes its letter would have.
    pub fn next(&mut self, key: Option<Key>, offset: i64, bytes: usize, fate: Fate) -> Verdict {
        let Some(key) = key else { return Verdict::AsItIs };
        if !self.comes_back && self.order.knows(key, offset) {
            return Verdict::Known;
        }
        match (self.behind(key, offset), fate) {
            (_, Fate::Stays) => {
                self.held.entry(key).or_insert(offset);
                Verdict::AsItIs
            }
            (Some(_), Fate::Leaves) => Verdict::AsItIs,
            (None, Fate::Goes | Fate::Leaves) => {
                if self.comes_back {
                    self.reached.insert(key, offset);
                }
                Verdict::AsItIs
            }
            (Some(behind), Fate::Goes) => {
                if !self.comes_back && !self.fits(bytes as u64) {
                    return Verdict::Full;
                }
                self.held.entry(key).or_insert(offset);
                Verdict::Waits(behind)
            }
        }
    }

    /// The first record before this one that is not delivered.
    fn behind(&self, key: Key, offset: i64) -> Option<i64> {
        let from = self.reached.get(&key).map_or(i64::MIN, |reached| reached.saturating_add(1));
        let of_key = self.order.keys.get(&key);
        let outstanding =
            of_key.and_then(|of_key| of_key.range(from..offset.max(from)).next()).map(|(first, _)| *first);
        outstanding.into_iter().chain(self.held.get(&key).copied()).min()
    }

    fn fits(&mut self, bytes: u64) -> bool {
        let is_first = self.letters == 0;
        let sum = self.bytes.saturating_add(bytes);
        if self.letters >= self.bounds.letters || (sum > self.bounds.bytes && !is_first) {
            return false;
        }
        self.letters += 1;
        self.bytes = sum;
        true
    }
}

#[cfg(test)]
mod tests;
