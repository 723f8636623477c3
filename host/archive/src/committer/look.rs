//! Asking the table how the plan stands, and ending a plan that cannot be committed any more.

use std::sync::Arc;
use std::time::Instant;

use iceberg::spec::DataFile;

use super::{Committer, Outcome};
use crate::plan::Plan;
use crate::progress::{Progress, Reached};
use crate::{Error, Result};

/// What a look at the table says about the plan.
enum Standing {
    /// Its partitions are where it began.
    Open,
    /// All of it is in the table.
    Committed,
    /// They are somewhere else: somebody else moved them, or a part of the plan is in the table.
    Fenced,
}

impl Committer {
    /// Asks the table how the plan stands; `None` when it is still open.
    pub(super) async fn look(&mut self, begun: Instant) -> Result<Option<Outcome>> {
        let name = self.spec.name.to_string();
        let table = self.archive.catalog().load(&name).await?.ok_or(Error::Gone { table: name })?;
        let progress = self.spec.progress(&table)?;
        self.is_stale = false;
        self.target = Arc::new(self.target.through(table.file_io()));
        match self.standing(&progress) {
            Standing::Open => (self.table, self.progress) = (table, progress),
            Standing::Committed => return Ok(Some(self.committed(table, begun))),
            Standing::Fenced => {
                tracing::warn!(table = %self.spec.name, plan = %self.plan.id, "another committer moved a partition of this plan");
                let doomed = self.end_plan();
                (self.table, self.progress) = (table, progress);
                self.target.delete(&doomed).await;
                return Ok(Some(Outcome::Fenced));
            }
        }
        Ok(None)
    }

    fn standing(&self, progress: &Progress) -> Standing {
        let mut ranges = self.plan.ranges.iter();
        let now = |partition: &i32| progress.partitions.get(partition);
        if ranges.clone().all(|(partition, _)| now(partition) == self.progress.partitions.get(partition)) {
            return Standing::Open;
        }
        let is_ours = |reached: &Reached, next: i64| reached.plan == self.plan.id && reached.next == next;
        if ranges.all(|(partition, range)| now(partition).is_some_and(|reached| is_ours(reached, range.1))) {
            return Standing::Committed;
        }
        Standing::Fenced
    }

    /// Asks the table again where something failed that may come from having an old one.
    pub(super) async fn refresh(&mut self) -> Result<()> {
        if self.is_stale && matches!(self.look(Instant::now()).await?, Some(Outcome::Fenced)) {
            return Err(Error::Fenced { table: self.spec.name.to_string() });
        }
        Ok(())
    }

    /// Begins a new plan, and returns the files of the old one that can go: none that may be in the table.
    pub(super) fn end_plan(&mut self) -> Vec<DataFile> {
        if let Some(under_way) = self.under_way.take() {
            // What it has written is an orphan. Waiting for a storage that may be away would help nobody.
            under_way.task.abort();
        }
        let plan = std::mem::replace(&mut self.plan, Plan::new());
        if plan.is_unsure { Vec::new() } else { plan.files }
    }
}
