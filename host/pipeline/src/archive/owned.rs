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
    /// The log has deleted what comes next; this is the oldest that is left.
    pub(super) gap: Option<i64>,
}

impl Owned {
    pub(super) fn new(next: i64) -> Self {
        Self { polled: next, group: next, next: None, archived: None, reader: None, gap: None }
    }

    /// Whether the table misses what the source has passed.
    pub(super) fn is_behind(&self) -> bool {
        self.gap.is_none() && self.next.is_some_and(|next| next < self.polled)
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
