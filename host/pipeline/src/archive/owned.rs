//! A partition that a lane owns: how far the source, the group and the table are.

use phronis_log::Reader;

/// How far the three are. All are next offsets.
pub(super) struct Owned {
    /// Of the source: what it brings next.
    pub(super) polled: i64,
    /// Of the group.
    pub(super) group: i64,
    /// Of the table with what is not committed yet; unknown while the table is closed.
    pub(super) next: Option<i64>,
    /// Of the table.
    pub(super) archived: Option<i64>,
    /// Reads what the source has passed and the table has not.
    pub(super) reader: Option<Box<dyn Reader>>,
    /// From where to where a reader of its own has found no record, when it last looked past the source.
    pub(super) nothing: Option<(i64, i64)>,
    /// The log has deleted what comes next; this is the oldest that is left.
    pub(super) gap: Option<i64>,
}

impl Owned {
    pub(super) fn new(next: i64) -> Self {
        Self { polled: next, group: next, next: None, archived: None, reader: None, nothing: None, gap: None }
    }

    /// Whether the table misses what the source has passed.
    pub(super) fn is_behind(&self) -> bool {
        self.gap.is_none() && self.next.is_some_and(|next| next < self.polled)
    }

    /// Whether the table has all records of the log up to an end. Its last offsets may be none, but markers of transactions.
    pub(super) fn has_all_until(&self, end: i64) -> bool {
        let is_seen = self.nothing.is_some_and(|(from, to)| from == self.polled && end <= to);
        self.gap.is_none() && !self.is_behind() && (self.archived.is_some_and(|at| at >= end) || is_seen)
    }

    /// How far it is proven that the table misses no record: the reader has looked, and found none up to there. The source may
    /// have passed further, and what it brought may not have reached the reader yet.
    pub(super) fn nothing_until(&self) -> Option<i64> {
        let looked = self.reader.as_ref()?.position().min(self.polled);
        self.next.is_some_and(|next| next < looked).then_some(looked)
    }

    /// How far the group may follow.
    pub(super) fn may_follow(&self) -> Option<i64> {
        let next = self.archived?.min(self.polled);
        (next > self.group).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use phronis_core::records::Records;
    use phronis_log::{PollLimits, Result};

    use super::*;

    /// A reader that has found nothing up to a place.
    struct At(i64);

    impl Reader for At {
        fn next(&mut self, _: PollLimits, _: Duration) -> Result<Option<Records>> {
            Ok(None)
        }

        fn position(&self) -> i64 {
            self.0
        }
    }

    #[test]
    fn markers_at_the_end_are_no_records_and_what_the_source_did_not_bring_may_be() {
        let at = |polled, archived, nothing| Owned {
            next: Some(archived),
            archived: Some(archived),
            nothing,
            ..Owned::new(polled)
        };
        assert!(at(10, 10, None).has_all_until(10));
        assert!(!at(10, 10, None).has_all_until(11), "nobody has looked");
        assert!(at(10, 10, Some((10, 11))).has_all_until(11));
        assert!(!at(10, 10, Some((10, 11))).has_all_until(12), "more came since");
        assert!(!at(11, 11, Some((10, 11))).has_all_until(12), "it looked from elsewhere");
        assert!(!at(10, 9, Some((10, 11))).has_all_until(11), "the source has more than the table");
        assert!(!Owned { gap: Some(20), ..at(10, 10, Some((10, 11))) }.has_all_until(11), "a gap");
    }

    #[test]
    fn what_the_source_has_and_the_reader_has_not_is_waited_for() {
        let check = |looked: i64, expected: Option<i64>| {
            let owned = Owned { next: Some(5), reader: Some(Box::new(At(looked))), ..Owned::new(10) };
            assert_eq!(owned.nothing_until(), expected, "looked up to {looked}");
        };
        // The end that the reader knows is an old one.
        check(5, None);
        check(8, Some(8));
        check(10, Some(10));
        // What comes after is for the source to bring.
        check(12, Some(10));
        assert_eq!(Owned { next: Some(5), ..Owned::new(10) }.nothing_until(), None, "nobody has looked");
    }
}
