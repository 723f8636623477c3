//! One attempt to commit a plan: what it writes, and what it leaves when it fails.

use std::collections::HashMap;
use std::time::Instant;

use iceberg::TableUpdate;
use iceberg::spec::{DataFile, SnapshotRef};
use iceberg::table::Table;

use super::{Committed, Committer, Outcome};
use crate::catalog::CommitError;
use crate::plan::Plan;
use crate::progress::{Progress, Reached};
use crate::{Error, Result, schema, snapshot};

impl Committer {
    pub(super) async fn attempt(&mut self) -> Result<Table, CommitError> {
        let was_unsure = self.plan.is_unsure;
        let outcome = self.try_once().await;
        match &outcome {
            Err(CommitError::Conflict) => self.plan.is_unsure = was_unsure,
            Err(CommitError::Failed(_)) => {
                self.plan.is_unsure = was_unsure;
                self.is_stale = true;
            }
            Ok(_) | Err(CommitError::Unknown(_)) => {}
        }
        outcome
    }

    async fn try_once(&mut self) -> Result<Table, CommitError> {
        self.fits().map_err(CommitError::Failed)?;
        let summary = self.summary().map_err(CommitError::Failed)?;
        let property = self.planned().property().map_err(CommitError::Failed)?;
        let files = self.plan.files.clone();
        let change = snapshot::append(&self.archive, &self.table, files, summary).await;
        let mut change = change.map_err(CommitError::Failed)?;
        change.updates.push(TableUpdate::SetProperties { updates: property });
        // From here on a call that is cancelled leaves the outcome open.
        self.plan.is_unsure = true;
        let (updates, requirements) = (std::mem::take(&mut change.updates), std::mem::take(&mut change.requirements));
        let outcome = self.archive.catalog().commit(&self.table, updates, requirements).await;
        if matches!(outcome, Err(CommitError::Conflict | CommitError::Failed(_))) {
            change.undo(&self.table).await;
        }
        outcome
    }

    /// The progress of the table with this plan in it.
    fn planned(&self) -> Progress {
        let mut progress = self.progress.clone();
        for (partition, (_, next)) in &self.plan.ranges {
            let before = progress.partitions.get(partition).and_then(|reached| reached.high);
            let high = before.max(self.plan.held.high(*partition));
            progress.partitions.insert(*partition, Reached { next: *next, high, plan: self.plan.id });
        }
        progress
    }

    fn summary(&self) -> Result<HashMap<String, String>> {
        let ranges = serde_json::to_string(&self.plan.ranges).map_err(|error| Error::failed("naming ranges", error))?;
        Ok(HashMap::from([
            ("phronis.plan".to_owned(), self.plan.id.to_string()),
            ("phronis.ranges".to_owned(), ranges),
            ("phronis.topic".to_owned(), self.spec.source.topic.clone()),
            ("phronis.topic-id".to_owned(), self.spec.source.identity.clone()),
        ]))
    }

    /// That the table still takes what is written for it.
    fn fits(&self) -> Result<()> {
        let metadata = self.table.metadata();
        let table = || self.spec.name.to_string();
        let refuse = |reason| Error::Incompatible { table: table(), reason: Box::new(reason) };
        schema::check_partitions(metadata, self.options.span).map_err(refuse)?;
        let is_other = schema::fit(metadata, &self.spec.schema).map_err(refuse)?.is_some();
        if is_other || !self.target.is_of(metadata) {
            return Err(Error::Changed { table: table() });
        }
        Ok(())
    }

    pub(super) fn committed(&mut self, table: Table, begun: Instant) -> Outcome {
        let (plan, progress) = (self.plan.id.to_string(), self.planned());
        let own = |snapshot: &&SnapshotRef| snapshot.summary().additional_properties.get("phronis.plan") == Some(&plan);
        let newest = table.metadata().current_snapshot();
        let committed = Committed {
            snapshot: newest
                .filter(own)
                .or_else(|| table.metadata().snapshots().find(own))
                .map(|own| own.snapshot_id()),
            rows: self.plan.files.iter().map(DataFile::record_count).sum(),
            files: self.plan.files.len(),
            bytes: self.plan.files.iter().map(DataFile::file_size_in_bytes).sum(),
            took: begun.elapsed(),
        };
        self.progress = Progress::of(table.metadata()).unwrap_or(progress);
        self.table = table;
        self.plan = Plan::new();
        Outcome::Committed(committed)
    }
}
