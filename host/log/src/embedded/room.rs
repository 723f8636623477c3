//! How much room the log has, by its own bound and on the disk.
//!
//! New records are refused first: what is being processed may go on for a while, because only that frees what retention holds back.

use rustix::fs::statvfs;

use super::Shared;
use super::catalog::lock;
use crate::{Error, Result};

/// What is refused, and why.
#[derive(Debug, Default)]
pub(super) struct Room {
    new: Option<String>,
    all: Option<String>,
}

impl Shared {
    /// Whether a delivery may come in now. One that only moves offsets always may.
    pub(super) fn check_room(&self, appends: bool, commits: bool) -> Result<()> {
        if !appends {
            return Ok(());
        }
        let room = lock(&self.room);
        let reason = if commits { &room.all } else { &room.new };
        reason.as_ref().map_or(Ok(()), |reason| Err(Error::Full { reason: reason.clone() }))
    }

    /// Notes what is used and what of the file can be used again; true when there is no room for new records.
    pub(super) fn set_room(&self, used: u64, reusable: u64) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "a gauge")]
        metrics::gauge!("phronis_log_size_bytes").set(used as f64);
        let free = match statvfs(&self.options.folder) {
            // Pages that are free within the file are room too, or a log that retention emptied would stay full.
            Ok(disk) => disk.f_bavail.saturating_mul(disk.f_frsize).saturating_add(reusable),
            Err(error) => {
                tracing::warn!(%error, "the free space of the disk is not known");
                u64::MAX
            }
        };
        let over = |bound: Option<u64>| {
            bound.filter(|bound| used >= *bound).map(|bound| format!("it holds {used} bytes, its bound is {bound}"))
        };
        let short =
            |bound: u64| (free < bound).then(|| format!("the disk has {free} bytes left, {bound} are to stay free"));
        let (most, least) = (self.options.max_bytes, self.options.min_free_bytes);
        let now = Room {
            new: over(most).or_else(|| short(least)),
            all: over(most.map(|most| most.saturating_add(most / 8))).or_else(|| short(least / 2)),
        };
        let is_full = now.new.is_some();
        let mut room = lock(&self.room);
        match (&room.new, &now.new) {
            (None, Some(reason)) => tracing::warn!(reason, "the log is full, new records are refused"),
            (Some(_), None) => tracing::info!("the log has room again"),
            _ => {}
        }
        *room = now;
        is_full
    }
}
