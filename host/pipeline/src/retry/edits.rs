//! What became of edits: what the index of letters does not show, or not yet.
//!
//! One host's memory of its own edits. A restart forgets them, and other hosts never knew.

use std::collections::{BTreeMap, VecDeque};

/// Edits that are remembered: far more than people make before somebody looks after one that went wrong.
const REMEMBERED: usize = 10_000;

/// A letter's place: its partition and its offset in dlq.
type Place = (i32, i64);

/// What became of an edit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edited {
    /// The copy stands in raw, and the letter is given up.
    Whole,
    /// The copy stands in raw; the letter is not given up, or nobody knows.
    Half,
    /// Nobody knows whether the copy stands in raw.
    Unsure,
}

/// The edits of a stream's letters.
#[derive(Debug, Default)]
pub(super) struct Edits {
    known: BTreeMap<Place, Edited>,
    /// The oldest first.
    order: VecDeque<Place>,
}

impl Edits {
    pub(super) fn get(&self, place: Place) -> Option<Edited> {
        self.known.get(&place).copied()
    }

    /// Whether a letter must not come back by itself or with others: its event may be on its way as a copy.
    pub(super) fn holds(&self, place: Place) -> bool {
        matches!(self.get(place), Some(Edited::Half | Edited::Unsure))
    }

    pub(super) fn note(&mut self, place: Place, edited: Edited) {
        if self.known.insert(place, edited).is_none() {
            self.order.push_back(place);
        }
        while self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    /// Forgets some: a person decided about the letter, or the topic was made anew.
    pub(super) fn forget(&mut self, is_meant: impl Fn(Place, Edited) -> bool) {
        self.known.retain(|place, edited| !is_meant(*place, *edited));
        let known = &self.known;
        self.order.retain(|place| known.contains_key(place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_is_held_until_somebody_decides_and_the_oldest_edits_are_forgotten() {
        let mut edits = Edits::default();
        edits.note((0, 1), Edited::Whole);
        edits.note((0, 2), Edited::Half);
        edits.note((1, 2), Edited::Unsure);
        assert_eq!([(0, 1), (0, 2), (1, 2), (1, 3)].map(|place| edits.holds(place)), [false, true, true, false]);
        edits.forget(|place, _| place == (0, 2));
        assert_eq!((edits.get((0, 1)), edits.get((0, 2))), (Some(Edited::Whole), None));
        for offset in 0..i64::try_from(REMEMBERED).unwrap() {
            edits.note((2, offset), Edited::Whole);
        }
        assert_eq!((edits.get((0, 1)), edits.get((1, 2)), edits.get((2, 0))), (None, None, Some(Edited::Whole)));
        assert_eq!((edits.known.len(), edits.order.len()), (REMEMBERED, REMEMBERED));
    }
}
