//! How long snapshots of `main` are kept: whoever set it, a commit does not change it.
//!
//! iceberg shows references in no other way than in the metadata's JSON, which is large in a table with many snapshots.
//! So what was found is remembered, and what our own next commit will make of it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use iceberg::spec::{MAIN_BRANCH, SnapshotReference, SnapshotRetention};
use iceberg::table::Table;
use serde::Deserialize;
use uuid::Uuid;

use crate::{Error, Result};

/// What tells one state of a table from another: when it changed, and its newest snapshot.
type State = (i64, Option<i64>);

/// The retention of `main` in states of tables.
#[derive(Debug, Default)]
pub(crate) struct Known(Mutex<HashMap<Uuid, (State, SnapshotRetention)>>);

impl Known {
    /// That of a table as it is.
    pub(crate) fn of(&self, base: &Table) -> Result<SnapshotRetention> {
        let metadata = base.metadata();
        let state = (metadata.last_updated_ms(), metadata.current_snapshot_id());
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, found)) = known.get(&metadata.uuid()).filter(|(known, _)| *known == state) {
            return Ok(found.clone());
        }
        let set = references(base)?.remove(MAIN_BRANCH).map(|reference| reference.retention);
        let found = set.unwrap_or_else(|| SnapshotRetention::branch(None, None, None));
        known.insert(metadata.uuid(), (state, found.clone()));
        Ok(found)
    }

    /// That of a table when a snapshot of ours is committed: the table has changed at the snapshot's time then.
    pub(crate) fn expect(&self, base: &Table, timestamp: i64, snapshot: i64, retention: &SnapshotRetention) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(base.metadata().uuid(), ((timestamp, Some(snapshot)), retention.clone()));
    }
}

/// All branches and tags.
pub(crate) fn references(base: &Table) -> Result<HashMap<String, SnapshotReference>> {
    #[derive(Deserialize)]
    struct Shown {
        #[serde(default)]
        refs: HashMap<String, SnapshotReference>,
    }
    let failed = |error| Error::failed("reading the references of a table", error);
    let json = serde_json::to_vec(base.metadata()).map_err(failed)?;
    serde_json::from_slice::<Shown>(&json).map(|shown| shown.refs).map_err(failed)
}
