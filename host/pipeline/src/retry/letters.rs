//! What the branch of a stream and the faces share: the index of the partitions that this host owns, and the jobs.
//!
//! The branch changes the index, and so does whoever has just written what a person decided about letters;
//! others look at it for moments.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use metrics::counter;
use phronis_core::letter::index::{Class, Partition, Positions, State, Summary};
use phronis_core::{Code, PluginId, StreamId};

use phronis_store::Store;

use super::edits::{Edited, Edits};
use super::jobs::Jobs;

/// What the branch does in a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Reads what was missed; nothing is moved yet.
    Reading,
    /// Moves letters when their time comes.
    Ready,
    /// Letters cannot be written: they wait.
    Blocked {
        /// The stable code.
        code: Code,
        /// Why, in words.
        detail: String,
    },
}

/// The letters of a stream, as this host knows them.
#[derive(Debug)]
pub(crate) struct Letters {
    stream: StreamId,
    partitions: Mutex<BTreeMap<i32, Known>>,
    trouble: Mutex<Option<String>>,
    jobs: Mutex<Jobs>,
    store: Option<Store>,
    /// Whoever decides about letters and writes that down does so alone.
    deciding: Mutex<()>,
    edits: Mutex<Edits>,
}

#[derive(Debug)]
struct Known {
    index: Partition,
    condition: Condition,
    /// Whether all that was written about its letters was read.
    is_read: bool,
}

impl Letters {
    pub(crate) fn new(stream: StreamId, store: Option<Store>) -> Self {
        Self {
            stream,
            partitions: Mutex::default(),
            trouble: Mutex::default(),
            jobs: Mutex::default(),
            store,
            deciding: Mutex::default(),
            edits: Mutex::default(),
        }
    }

    /// Until the guard is dropped, nobody else of this host moves, edits or gives up a letter of the stream:
    /// between a look at the index and the word in it stands a write to the log, which takes its time.
    pub(crate) fn alone(&self) -> MutexGuard<'_, ()> {
        lock(&self.deciding)
    }

    /// Where a copy of the index, and the jobs, are kept.
    pub(crate) fn store(&self) -> Option<&Store> {
        self.store.as_ref()
    }

    /// Why no letter comes back, when the branch as a whole cannot work.
    pub(crate) fn trouble(&self) -> Option<String> {
        lock(&self.trouble).clone()
    }

    pub(super) fn set_trouble(&self, trouble: Option<String>) {
        *lock(&self.trouble) = trouble;
    }

    /// The partitions that this host owns, and what it does there.
    pub(crate) fn conditions(&self) -> Vec<(i32, Condition)> {
        let partitions = lock(&self.partitions);
        partitions.iter().map(|(partition, known)| (*partition, known.condition.clone())).collect()
    }

    pub(super) fn set_condition(&self, partition: i32, condition: Condition) {
        if let Some(known) = lock(&self.partitions).get_mut(&partition) {
            known.condition = condition;
        }
    }

    pub(super) fn take_over(&self, partition: i32, index: Partition) {
        lock(&self.partitions).insert(partition, Known { index, condition: Condition::Reading, is_read: false });
    }

    /// Whether all that was written about the letters of a partition is in its index.
    pub(super) fn set_read(&self, partition: i32, is_read: bool) {
        if let Some(known) = lock(&self.partitions).get_mut(&partition) {
            known.is_read = is_read;
        }
    }

    /// Whether it is known here which letters of a partition are outstanding; never where another host owns it.
    pub(crate) fn is_read(&self, partition: i32) -> bool {
        lock(&self.partitions).get(&partition).is_some_and(|known| known.is_read)
    }

    pub(super) fn let_go(&self, partition: i32) {
        lock(&self.partitions).remove(&partition);
    }

    pub(super) fn lose_all(&self) {
        lock(&self.partitions).clear();
    }

    pub(super) fn reset(&self, partition: i32) {
        self.change(partition, |index| *index = Partition::default());
        lock(&self.edits).forget(|(of, _), _| of == partition);
    }

    /// What became of the edit of a letter, if this host knows of one.
    pub(crate) fn edited(&self, place: (i32, i64)) -> Option<Edited> {
        lock(&self.edits).get(place)
    }

    /// Notes what became of the edit of a letter.
    pub(crate) fn note_edit(&self, place: (i32, i64), edited: Edited) {
        lock(&self.edits).note(place, edited);
    }

    /// A person wants these letters tried again, although an edit of them is half done, or may be.
    pub(crate) fn release(&self, places: &BTreeSet<(i32, i64)>) {
        lock(&self.edits).forget(|place, edited| edited != Edited::Whole && places.contains(&place));
    }

    /// Those of some letters that are outstanding, and not held back by an edit that is half done, or may be.
    pub(super) fn movable(&self, partition: i32, offsets: &[i64]) -> Vec<i64> {
        let (partitions, edits) = (lock(&self.partitions), lock(&self.edits));
        let Some(known) = partitions.get(&partition) else { return Vec::new() };
        let is_movable = |offset: &i64| known.index.state(*offset).is_some() && !edits.holds((partition, *offset));
        offsets.iter().copied().filter(is_movable).collect()
    }

    /// Changes the index of a partition.
    pub(crate) fn change<T>(&self, partition: i32, change: impl FnOnce(&mut Partition) -> T) -> Option<T> {
        lock(&self.partitions).get_mut(&partition).map(|known| change(&mut known.index))
    }

    /// Outstanding letters that are not in the log any more: nobody can answer for them.
    pub(super) fn lose(&self, partition: i32, gone: &[i64]) {
        self.change(partition, |index| gone.iter().for_each(|offset| index.moved(*offset)));
        self.tell_lost(partition, gone.len() as u64);
    }

    /// Forgets letters before the offset where dlq begins now.
    pub(super) fn forget_below(&self, partition: i32, earliest: i64) {
        let lost = self.change(partition, |index| index.forget_below(earliest));
        self.tell_lost(partition, lost.unwrap_or(0));
    }

    fn tell_lost(&self, partition: i32, letters: u64) {
        if letters > 0 {
            tracing::warn!(stream = %self.stream, partition, letters, "outstanding letters are not in the log any more");
            counter!("phronis_letters_lost_total", "stream" => self.stream.to_string()).increment(letters);
        }
    }

    pub(super) fn positions(&self, partition: i32) -> Option<Positions> {
        lock(&self.partitions).get(&partition).map(|known| known.index.positions())
    }

    /// Whether this host owns a partition.
    pub(crate) fn owns(&self, partition: i32) -> bool {
        lock(&self.partitions).contains_key(&partition)
    }

    /// How far dlq is folded.
    pub(crate) fn dlq_position(&self, partition: i32) -> i64 {
        self.positions(partition).unwrap_or_default().dlq
    }

    /// What a letter waits for, and its plugin.
    pub(crate) fn state(&self, partition: i32, offset: i64) -> Option<(State, Option<PluginId>)> {
        let partitions = lock(&self.partitions);
        let (state, class) = partitions.get(&partition)?.index.state(offset)?;
        let plugin = class.plugin_name().cloned();
        Some((state, plugin.map(|name| PluginId { stream: self.stream.clone(), name })))
    }

    /// Offsets of outstanding letters of a partition, as [`Partition::select`].
    pub(crate) fn select(
        &self,
        partition: i32,
        from: i64,
        most: usize,
        states: &[State],
        wants: impl Fn(&Class) -> bool,
    ) -> Vec<i64> {
        let partitions = lock(&self.partitions);
        partitions.get(&partition).map_or_else(Vec::new, |known| known.index.select(from, most, states, wants))
    }

    /// All classes of the partitions that this host owns, with what is outstanding of each partition added up.
    pub(crate) fn classes(&self) -> BTreeMap<Class, Summary> {
        let mut classes: BTreeMap<Class, Summary> = BTreeMap::new();
        for known in lock(&self.partitions).values() {
            for (class, summary) in known.index.classes() {
                match classes.get_mut(class) {
                    Some(sum) => sum.add(&summary),
                    None => drop(classes.insert(class.clone(), summary)),
                }
            }
        }
        classes
    }

    /// Letters that wait, and that are parked.
    pub(crate) fn outstanding(&self) -> (u64, u64) {
        let classes = self.classes();
        classes.values().fold((0, 0), |(waiting, parked), sum| (waiting + sum.waiting, parked + sum.parked))
    }

    /// The jobs of the stream.
    pub(crate) fn jobs(&self) -> MutexGuard<'_, Jobs> {
        lock(&self.jobs)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
