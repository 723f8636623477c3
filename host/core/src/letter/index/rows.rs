//! The index as the store keeps it: rows of classes and segments, and the positions they hold for.

use std::collections::BTreeSet;

use super::{Bits, Class, Partition, Positions, Segment, Summary};
use crate::time::Time;

/// What changed since the last time, to be written in one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Up to where dlq and retry are in these rows and those written before.
    pub positions: Positions,
    /// Classes, whole.
    pub classes: Vec<ClassRow>,
    /// Segments, whole.
    pub segments: Vec<SegmentRow>,
}

/// A class in a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassRow {
    /// Its number in the partition, which never changes.
    pub number: u32,
    /// Which.
    pub class: Class,
    /// Letters that were ever written.
    pub count: u64,
    /// Letters that wait, when the row was made.
    pub waiting: u64,
    /// Letters that are parked, when the row was made.
    pub parked: u64,
    /// When a record of the class failed for the first time.
    pub first: Time,
    /// When the last letter of the class was written.
    pub last: Time,
}

/// The outstanding letters of a class in a segment; a row without any is to be deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentRow {
    /// Which segment: its first offset divided by [`super::SEGMENT`].
    pub segment: i64,
    /// The number of the class.
    pub class: u32,
    /// When the first of them failed for the first time.
    pub first: Time,
    /// Letters with a due time.
    pub waiting: Bits,
    /// Letters that wait for a person.
    pub parked: Bits,
}

impl SegmentRow {
    /// Whether the row is to be deleted.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.parked.is_empty()
    }
}

impl Partition {
    /// The index as it was written; `None` when the rows do not belong together.
    pub fn restore(rows: Changes) -> Option<Self> {
        let mut partition = Self { positions: rows.positions, kept_retry: rows.positions.retry, ..Self::default() };
        let mut classes = rows.classes;
        classes.sort_by_key(|row| row.number);
        for row in classes {
            let number = partition.number(&row.class);
            if u32::try_from(number) != Ok(row.number) {
                return None;
            }
            let known = partition.classes.get_mut(number)?;
            (known.count, known.first, known.last) = (row.count, row.first, row.last);
        }
        for row in rows.segments.into_iter().filter(|row| !row.is_empty()) {
            let number = usize::try_from(row.class).ok().filter(|number| *number < partition.classes.len())?;
            let SegmentRow { segment, first, waiting, parked, .. } = row;
            partition.segments.entry(segment).or_default().insert(number, Segment { first, waiting, parked });
        }
        Some(partition)
    }

    /// Takes what changed since the last time; the caller writes it, or gives it back.
    pub fn take_changes(&mut self) -> Changes {
        let positions = Positions { dlq: self.positions.dlq, retry: self.kept_retry };
        let changed = std::mem::take(&mut self.changed);
        let touched: BTreeSet<usize> = changed.iter().map(|(_, number)| *number).collect();
        let summaries: Vec<_> = self.classes().map(|(class, summary)| (class.clone(), summary)).collect();
        let mut changes = Changes { positions, ..Changes::default() };
        for ((number, known), (class, summary)) in (0_u32..).zip(&mut self.classes).zip(summaries) {
            if std::mem::take(&mut known.is_changed) || touched.contains(&(number as usize)) {
                let Summary { count, waiting, parked, first, last, .. } = summary;
                changes.classes.push(ClassRow { number, class, count, waiting, parked, first, last });
            }
        }
        for (segment, number) in changed {
            let Ok(class) = u32::try_from(number) else { continue };
            let found = self.segments.get(&segment).and_then(|classes| classes.get(&number)).cloned();
            let Segment { first, waiting, parked } = found.unwrap_or_default();
            changes.segments.push(SegmentRow { segment, class, first, waiting, parked });
        }
        changes
    }

    /// The next changes are everything there is: nothing is known to be written.
    pub fn touch_all(&mut self) {
        self.classes.iter_mut().for_each(|known| known.is_changed = true);
        let all = self.segments.iter().flat_map(|(segment, classes)| classes.keys().map(|number| (*segment, *number)));
        self.changed.extend(all);
    }

    /// Whether there is something to write.
    pub fn is_changed(&self, written: Positions) -> bool {
        !self.changed.is_empty() || written.dlq != self.positions.dlq || written.retry != self.kept_retry
    }

    /// What was taken was not written: it comes again with the next.
    pub fn give_back(&mut self, changes: &Changes) {
        for row in &changes.classes {
            if let Some(known) = usize::try_from(row.number).ok().and_then(|number| self.classes.get_mut(number)) {
                known.is_changed = true;
            }
        }
        let segments = changes.segments.iter();
        self.changed.extend(segments.filter_map(|row| Some((row.segment, usize::try_from(row.class).ok()?))));
    }
}
