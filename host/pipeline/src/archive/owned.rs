//! A partition that a lane owns: how far the source, the group and the table are.

use std::time::Instant;

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
    /// When the reader last brought something.
    pub(super) heard: Instant,
    /// The log has deleted what comes next; this is the oldest that is left.
    pub(super) gap: Option<i64>,
}

impl Owned {
    pub(super) fn new(next: i64) -> Self {
        Self { polled: next, group: next, next: None, archived: None, reader: None, heard: Instant::now(), gap: None }
    }

    /// Whether the table misses what the source has passed.
    pub(super) fn is_behind(&self) -> bool {
        self.gap.is_none() && self.next.is_some_and(|next| next < self.polled)
    }

    /// How far the group may follow.
    pub(super) fn may_follow(&self) -> Option<i64> {
        let next = self.archived?.min(self.polled);
        (next > self.group).then_some(next)
    }
}
