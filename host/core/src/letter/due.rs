//! When letters are due: the earliest first, of all partitions of a stream, in bounded memory.
//!
//! What does not fit (the latest) is forgotten, and its partition is to be read again when the time of what was forgotten comes.
//! A letter of a plugin whose breaker is open is held, apart from the others, so that nobody waits behind it.
//! An entry may be of a letter that is gone meanwhile: who takes it asks the index.

use std::collections::{BTreeMap, BTreeSet};

use crate::name::Name;
use crate::time::Time;

/// A letter's place: its partition and its offset in dlq.
pub type Place = (i32, i64);

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The time of this letter has come.
    Letter(Place),
    /// Letters of this partition were forgotten: all that wait are to be added again.
    Rescan(i32),
}

/// The due times of a stream.
#[derive(Debug)]
pub struct Due {
    most: usize,
    waiting: BTreeSet<(Time, i32, i64)>,
    /// Letters whose time has come and whose plugin's breaker is open.
    held: BTreeMap<Name, BTreeSet<Place>>,
    held_count: usize,
    /// Partitions of which letters were forgotten, and when the first of them is due.
    forgotten: BTreeMap<i32, Time>,
    /// The same of held letters, whose time is when the breaker closes.
    forgotten_held: BTreeMap<Name, BTreeSet<i32>>,
}

impl Due {
    /// Remembers `most` letters.
    pub fn new(most: usize) -> Self {
        Self {
            most: most.max(1),
            waiting: BTreeSet::new(),
            held: BTreeMap::new(),
            held_count: 0,
            forgotten: BTreeMap::new(),
            forgotten_held: BTreeMap::new(),
        }
    }

    /// How many letters it remembers.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.held_count
    }

    /// Whether it remembers none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A letter is due then.
    pub fn add(&mut self, due: Time, (partition, offset): Place) {
        self.waiting.insert((due, partition, offset));
        while self.len() > self.most
            && let Some((due, partition, _)) = self.waiting.pop_last()
        {
            self.forget(partition, due);
        }
    }

    /// What is to be done now, if anything.
    pub fn pop(&mut self, now: Time) -> Option<Next> {
        let letter = self.waiting.first().copied();
        let forgotten = self.forgotten.iter().map(|(partition, due)| (*due, *partition)).min();
        if let Some((due, partition)) = forgotten
            && due <= now
            // Not as early as: with little room, partitions would push each other out for ever.
            && letter.is_none_or(|(letter, ..)| due < letter)
        {
            self.forgotten.remove(&partition);
            return Some(Next::Rescan(partition));
        }
        let (due, partition, offset) = letter?;
        if due > now {
            return None;
        }
        self.waiting.pop_first();
        Some(Next::Letter((partition, offset)))
    }

    /// When there is something to be done; none when nothing waits.
    pub fn next(&self) -> Option<Time> {
        let letter = self.waiting.first().map(|(due, ..)| *due);
        letter.into_iter().chain(self.forgotten.values().copied()).min()
    }

    /// A letter's time has come, but its plugin's breaker is open.
    pub fn hold(&mut self, plugin: &Name, (partition, offset): Place) {
        // Held letters leave half of the room to those that need not wait.
        if self.held_count >= self.most / 2 || self.len() >= self.most {
            self.forgotten_held.entry(plugin.clone()).or_default().insert(partition);
        } else if self.held.entry(plugin.clone()).or_default().insert((partition, offset)) {
            self.held_count += 1;
        }
    }

    /// Plugins whose letters are held.
    pub fn held(&self) -> Vec<Name> {
        let plugins: BTreeSet<&Name> = self.held.keys().chain(self.forgotten_held.keys()).collect();
        plugins.into_iter().cloned().collect()
    }

    /// A plugin's breaker is open no more: its letters are due.
    pub fn release(&mut self, plugin: &Name) {
        let held = self.held.remove(plugin).unwrap_or_default();
        self.held_count -= held.len();
        for place in held {
            self.add(Time(0), place);
        }
        for partition in self.forgotten_held.remove(plugin).unwrap_or_default() {
            self.forget(partition, Time(0));
        }
    }

    /// A partition is not ours any more.
    pub fn drop_partition(&mut self, partition: i32) {
        self.waiting.retain(|(_, of, _)| *of != partition);
        for places in self.held.values_mut() {
            places.retain(|(of, _)| *of != partition);
        }
        self.held.retain(|_, places| !places.is_empty());
        self.held_count = self.held.values().map(BTreeSet::len).sum();
        self.forgotten.remove(&partition);
        for partitions in self.forgotten_held.values_mut() {
            partitions.remove(&partition);
        }
        self.forgotten_held.retain(|_, partitions| !partitions.is_empty());
    }

    /// All that wait in a partition are to be added again at this time.
    pub fn forget(&mut self, partition: i32, due: Time) {
        let first = self.forgotten.entry(partition).or_insert(due);
        *first = due.min(*first);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_letter_comes_at_its_time_and_in_order_however_little_room_there_is(
            letters in proptest::collection::btree_map((0..3_i32, 0..200_i64), 0..50_i64, 0..120), most in 1_usize..60,
        ) {
            let mut due = Due::new(most);
            let mut left: BTreeMap<Place, i64> = letters.clone();
            for (place, at) in &letters {
                due.add(Time(*at), *place);
            }
            let mut now = 0;
            while let Some(next) = due.next() {
                prop_assert!(due.len() <= most);
                now = now.max(next.0);
                match due.pop(Time(now)).unwrap() {
                    Next::Letter(place) => {
                        // An entry that was added twice is of a letter that is gone.
                        if let Some(at) = left.remove(&place) {
                            prop_assert!(at <= now);
                            prop_assert!(left.values().all(|other| *other >= at));
                        }
                    }
                    Next::Rescan(partition) => {
                        for (place, at) in left.iter().filter(|((of, _), _)| *of == partition) {
                            due.add(Time(*at), *place);
                        }
                    }
                }
            }
            prop_assert!(left.is_empty());
        }
    }

    #[test]
    fn held_letters_come_when_their_plugin_is_released_and_nobody_waits_behind_them() {
        let (hot, cold): (Name, Name) = ("hot".parse().unwrap(), "cold".parse().unwrap());
        let mut due = Due::new(8);
        for offset in 0..6 {
            due.hold(&hot, (0, offset));
        }
        due.hold(&cold, (1, 9));
        due.add(Time(5), (2, 1));
        assert_eq!(due.held(), [cold, hot.clone()]);
        assert_eq!((due.pop(Time(4)), due.pop(Time(5))), (None, Some(Next::Letter((2, 1)))));
        assert_eq!(due.pop(Time(9)), None);
        due.release(&hot);
        let mut popped = Vec::new();
        while let Some(next) = due.pop(Time(9)) {
            popped.push(next);
        }
        // Four were held, two were forgotten.
        let letters: Vec<_> = (0..4).map(|offset| Next::Letter((0, offset))).collect();
        assert!(letters.iter().all(|letter| popped.contains(letter)) && popped.contains(&Next::Rescan(0)));
        due.drop_partition(1);
        assert!(due.is_empty() && due.held().is_empty());
    }
}
