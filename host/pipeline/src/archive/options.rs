//! What the archive should be, checked by whoever read it.

use std::time::Duration;

use phronis_archive::{Settings, Upkeep, WriteOptions};

/// What the archive should be.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where catalog and storage are.
    pub settings: Settings,
    /// How tables are written. The bytes in memory are what one table may have at most; the branch gives each less.
    pub write: WriteOptions,
    /// How often what was read becomes visible.
    pub commit_every: Duration,
    /// Bytes of rows in memory, over all tables of this host.
    pub memory: usize,
    /// When somebody is told that a table is behind.
    pub late_after: Duration,
    /// Whether records that the log deleted unarchived are passed over; else their table stops.
    pub skips_gaps: bool,
    /// How often tables are looked after; `None`: not by this host.
    pub upkeep_every: Option<Duration>,
    /// What is done then.
    pub upkeep: Upkeep,
}
