//! Upkeep of a table: fewer and larger files, fewer manifests, no more snapshots and files than are wanted.
//!
//! Everything is planned from one state of the table, and a dry run shows that plan. What is then done is checked again against
//! the newest state: an append in between is fine, a file that vanished stops only what needed it, and what was read of a state that
//! others have moved on from is read again. Nothing here touches the progress of the archive branch, nor a file that a commit under
//! way may name: those are safe by their age.

mod compact;
mod expire;
mod merge;
mod orphans;
mod reach;

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::future::LocalBoxFuture;
use iceberg::table::Table;
use iceberg::{TableRequirement, TableUpdate};
use serde::Serialize;

use crate::snapshot::{self, Change};
use crate::{Archive, CommitError, Error, Result};

/// What is wanted of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upkeep {
    /// Small files of a partition are rewritten into files of about this size.
    pub file_bytes: u64,
    /// Rewritten when a partition has at least so many small files of like size.
    pub min_files: usize,
    /// Most rows that are rewritten at once: they are sorted in memory.
    pub max_rows: u64,
    /// Most bytes of them in memory, besides as much again of the last file.
    pub max_bytes: usize,
    /// Manifests are merged when there are more small ones of like size.
    pub max_manifests: usize,
    /// Snapshots younger than this are kept, up to `keep_at_most`.
    pub keep_for: Duration,
    /// So many of the newest snapshots are kept, whatever their age.
    pub keep_at_least: usize,
    /// Never more snapshots than this are kept: each commit reads and writes what is known of all of them.
    pub keep_at_most: usize,
    /// Files that nothing refers to are removed when they are older than this, which must be longer than any commit takes.
    pub orphans_after: Duration,
}

impl Default for Upkeep {
    fn default() -> Self {
        let day = Duration::from_secs(86_400);
        Self {
            file_bytes: 128 << 20,
            min_files: 4,
            max_rows: 1_000_000,
            max_bytes: 64 << 20,
            max_manifests: 16,
            keep_for: day * 5,
            keep_at_least: 100,
            keep_at_most: 400,
            orphans_after: day * 3,
        }
    }
}

/// Snapshots above those that are kept at most after which a round comes before its time: a round costs as much as some commits,
/// so that it should save more than that.
const MORE: usize = 100;

impl Upkeep {
    /// Whether a table with so many snapshots should not wait for its time: each commit reads and writes what is known of all, and
    /// a commit a second leaves thousands in an hour.
    pub fn is_due(&self, snapshots: usize) -> bool {
        snapshots >= self.keep_at_most.saturating_add(MORE)
    }
}

/// What would be done to a table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The table.
    pub table: String,
    /// The snapshot that was looked at.
    pub snapshot: Option<i64>,
    /// Snapshots that nobody needs any more.
    pub expire: Vec<i64>,
    /// Files that only those snapshots need.
    pub delete: Vec<String>,
    /// Old files that nothing refers to.
    pub orphans: Vec<Orphan>,
    /// Manifests that become one, by group.
    pub merge: Vec<Vec<String>>,
    /// Files that are rewritten, by group.
    pub compact: Vec<Group>,
    /// What was left out, and why.
    pub notes: Vec<String>,
}

/// A file that nothing refers to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Orphan {
    /// Where it is.
    pub path: String,
    /// Its size.
    pub bytes: u64,
}

/// Files of one partition that are rewritten together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Group {
    /// The partition, as in paths.
    pub partition: String,
    /// The files.
    pub files: Vec<String>,
    /// Their sizes together.
    pub bytes: u64,
    /// Their rows together.
    pub rows: u64,
}

/// What was done to a table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What was planned.
    pub plan: Plan,
    /// Snapshots that were removed.
    pub expired: usize,
    /// Files that were deleted because no snapshot needs them.
    pub deleted: usize,
    /// Orphans that were deleted.
    pub orphans: usize,
    /// Manifests that were merged into fewer.
    pub merged: usize,
    /// Files that were rewritten.
    pub compacted: usize,
    /// What was planned and not done, and why.
    pub skipped: Vec<String>,
}

/// How often a commit of upkeep is tried against others; the next run tries again.
const ATTEMPTS: u32 = 8;

impl Archive {
    /// What upkeep would do to a table now.
    ///
    /// # Errors
    /// When the table is not there, or it or storage cannot be read.
    pub fn plan_upkeep<'a>(&'a self, table: &'a str, upkeep: &'a Upkeep) -> LocalBoxFuture<'a, Result<Plan>> {
        Box::pin(async move { Ok(self.planned(table, upkeep).await?.1) })
    }

    /// Does upkeep of a table. What cannot be done this time is told, and found again by the next run.
    ///
    /// # Errors
    /// When the table is not there, or it or storage cannot be read or written.
    pub fn maintain<'a>(&'a self, table: &'a str, upkeep: &'a Upkeep) -> LocalBoxFuture<'a, Result<Report>> {
        Box::pin(async move {
            let (base, plan) = self.planned(table, upkeep).await?;
            let mut report = Report { plan, ..Report::default() };
            expire::run(self, &base, upkeep, &mut report).await?;
            orphans::run(self, &base, &mut report).await?;
            merge::run(self, table, &mut report).await?;
            compact::run(self, table, upkeep, &mut report).await?;
            Ok(report)
        })
    }

    /// A plan, and the state of the table that it is for.
    async fn planned(&self, table: &str, upkeep: &Upkeep) -> Result<(Table, Plan)> {
        let plan = async |base: &Table| Ok((base.clone(), self.plan_of(base, upkeep).await?));
        newest(self, table, plan).await
    }

    async fn plan_of(&self, base: &Table, upkeep: &Upkeep) -> Result<Plan> {
        let mut plan = Plan {
            table: base.identifier().name().to_owned(),
            snapshot: base.metadata().current_snapshot_id(),
            ..Plan::default()
        };
        let reach = reach::of(base).await?;
        let now = now_ms();
        plan.expire = expire::plan(base, upkeep, now)?;
        plan.delete = reach.only_of(&plan.expire);
        expire::note(base, upkeep, now, &mut plan);
        orphans::plan(self, base, &reach, upkeep, &mut plan).await?;
        merge::plan(base, upkeep, &mut plan).await?;
        compact::plan(base, upkeep, &mut plan).await?;
        Ok(plan)
    }

    async fn loaded(&self, table: &str) -> Result<Table> {
        let gone = || Error::Table { table: table.to_owned(), reason: "there is no such table".to_owned() };
        self.catalog().load(table).await?.ok_or_else(gone)
    }
}

/// Does something with the newest state of a table: again when it failed and the table has moved, because others who look after it
/// may have removed what was read.
async fn newest<T, F>(archive: &Archive, table: &str, mut work: F) -> Result<T>
where
    F: AsyncFnMut(&Table) -> Result<T>,
{
    let mut base = archive.loaded(table).await?;
    let mut left = ATTEMPTS;
    loop {
        let error = match work(&base).await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        left -= 1;
        let now = archive.loaded(table).await?;
        if left == 0 || now.metadata_location() == base.metadata_location() {
            return Err(error);
        }
        base = now;
    }
}

/// Outcome of a commit of upkeep.
enum Done {
    /// It took place.
    Committed,
    /// It did not, and will not.
    Dropped(String),
    /// Nobody knows.
    Unknown(String),
}

/// Commits what `build` makes of the newest state, again when others were faster. `build` gives none when what it needs is gone.
async fn commit<F>(archive: &Archive, table: &str, mut build: F) -> Result<Done>
where
    F: AsyncFnMut(&Table) -> Result<Option<Change>>,
{
    for attempt in 0..ATTEMPTS {
        let built = newest(archive, table, async |base: &Table| Ok((base.clone(), build(base).await?))).await?;
        let (base, Some(change)) = built else {
            return Ok(Done::Dropped("a file that it needs is not in the table any more".to_owned()));
        };
        let (updates, requirements) = (change.updates.clone(), change.requirements.clone());
        match archive.catalog().commit(&base, updates, requirements).await {
            Ok(_) => {
                archive.pass("archive-committed");
                return Ok(Done::Committed);
            }
            Err(CommitError::Conflict) => {
                change.undo(&base).await;
                tokio::time::sleep(Duration::from_millis(20) * (attempt + 1)).await;
            }
            Err(CommitError::Failed(error)) => {
                change.undo(&base).await;
                return Err(error);
            }
            Err(CommitError::Unknown(error)) => return resolve(archive, table, change.snapshot, &error).await,
        }
    }
    Ok(Done::Dropped("others committed in between each time".to_owned()))
}

/// Looks whether a commit took place. That it is not there says nothing: it may still come.
async fn resolve(archive: &Archive, table: &str, snapshot: i64, error: &Error) -> Result<Done> {
    let now = archive.loaded(table).await?;
    if now.metadata().snapshot_by_id(snapshot).is_some() {
        return Ok(Done::Committed);
    }
    Ok(Done::Unknown(format!("whether it took place is not known: {error}")))
}

/// Changes of metadata alone, against the state that they were made for.
async fn commit_metadata(archive: &Archive, base: &Table, updates: Vec<TableUpdate>) -> Result<(), CommitError> {
    let metadata = base.metadata();
    let requirements = vec![
        TableRequirement::UuidMatch { uuid: metadata.uuid() },
        TableRequirement::RefSnapshotIdMatch {
            r#ref: iceberg::spec::MAIN_BRANCH.to_owned(),
            snapshot_id: metadata.current_snapshot_id(),
        },
    ];
    snapshot::commit_metadata(archive, base, updates, requirements).await.map(drop)
}

/// What a snapshot of upkeep says of itself.
fn marked(work: &str) -> HashMap<String, String> {
    HashMap::from([("phronis.upkeep".to_owned(), work.to_owned())])
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    i64::try_from(now).unwrap_or(i64::MAX)
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

/// Cuts items of rising size into runs that are worth joining: a run ends when it is `full`, or when the next item
/// is much larger than all before together, so that large ones are not rewritten for a few small ones.
/// Runs of fewer than `least` items are left alone, unless they are full.
fn runs<T>(mut items: Vec<T>, size: impl Fn(&T) -> u64, full: impl Fn(&[T]) -> bool, least: usize) -> Vec<Vec<T>> {
    items.sort_by_key(&size);
    let (mut runs, mut run, mut sum) = (Vec::new(), Vec::new(), 0_u64);
    for item in items {
        if !run.is_empty() && (full(&run) || size(&item) > sum.saturating_mul(2)) {
            runs.push(std::mem::take(&mut run));
            sum = 0;
        }
        sum = sum.saturating_add(size(&item));
        run.push(item);
    }
    runs.push(run);
    runs.retain(|run| run.len() >= 2 && (run.len() >= least || full(run)));
    runs
}

#[cfg(test)]
#[path = "maintain/tests.rs"]
mod tests;
