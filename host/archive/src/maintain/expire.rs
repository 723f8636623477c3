//! Which snapshots nobody needs any more; their removal, and that of files that only they need.
//!
//! Files go only after the commit that forgets the snapshots is known to have taken place.

use std::collections::HashSet;

use iceberg::TableUpdate;
use iceberg::spec::{MAIN_BRANCH, SnapshotRetention};
use iceberg::table::Table;

use super::{ATTEMPTS, Plan, Report, Upkeep, commit_metadata, millis, reach};
use crate::{Archive, CommitError, Error, Result, snapshot};

/// Says when the number of snapshots, not their age, is why some go.
pub(super) fn note(base: &Table, upkeep: &Upkeep, now: i64, plan: &mut Plan) {
    let since = now.saturating_sub(millis(upkeep.keep_for));
    let is_young = |id: &&i64| base.metadata().snapshot_by_id(**id).is_some_and(|found| found.timestamp_ms() >= since);
    let young = plan.expire.iter().filter(is_young).count();
    if young > 0 {
        plan.notes.push(format!(
            "{young} of the snapshots that go are younger than they should be: no more than {} are kept, because each commit \
             writes what is known of all; commit less often to look back further",
            upkeep.keep_at_most
        ));
    }
}

/// The snapshots that are not kept, oldest first.
pub(super) fn plan(base: &Table, upkeep: &Upkeep, now: i64) -> Result<Vec<i64>> {
    let metadata = base.metadata();
    if metadata.properties().get("gc.enabled").is_some_and(|value| value == "false") {
        return Ok(Vec::new());
    }
    let mut kept: HashSet<i64> = HashSet::new();
    let mut keep =
        (upkeep.keep_at_least.max(1), upkeep.keep_at_most.max(1), now.saturating_sub(millis(upkeep.keep_for)));
    for (name, reference) in snapshot::references(base)? {
        let SnapshotRetention::Branch { min_snapshots_to_keep, max_snapshot_age_ms, .. } = reference.retention else {
            kept.insert(reference.snapshot_id);
            continue;
        };
        if name != MAIN_BRANCH {
            // Who made a branch says when it goes; all that it is made of stays.
            kept.extend(ancestors(base, Some(reference.snapshot_id)));
            continue;
        }
        if let Some(least) = min_snapshots_to_keep.and_then(|least| usize::try_from(least).ok()) {
            keep = (least.max(1), keep.1.max(least), keep.2);
        }
        if let Some(age) = max_snapshot_age_ms {
            keep.2 = now.saturating_sub(age);
        }
    }
    let (least, most, since) = keep;
    for (count, id) in ancestors(base, metadata.current_snapshot_id()).into_iter().enumerate() {
        let is_young = metadata.snapshot_by_id(id).is_some_and(|snapshot| snapshot.timestamp_ms() >= since);
        if count < least || (is_young && count < most) {
            kept.insert(id);
        }
    }
    let mut expired: Vec<_> = metadata.snapshots().filter(|snapshot| !kept.contains(&snapshot.snapshot_id())).collect();
    // What is on no branch may be staged by others: it has its time too.
    let main: HashSet<i64> = ancestors(base, metadata.current_snapshot_id()).into_iter().collect();
    expired.retain(|snapshot| main.contains(&snapshot.snapshot_id()) || snapshot.timestamp_ms() < since);
    expired.sort_by_key(|snapshot| snapshot.sequence_number());
    Ok(expired.into_iter().map(|snapshot| snapshot.snapshot_id()).collect())
}

/// A snapshot and those before it, newest first.
fn ancestors(base: &Table, from: Option<i64>) -> Vec<i64> {
    let (mut found, mut next) = (Vec::new(), from);
    while let Some(snapshot) = next.and_then(|id| base.metadata().snapshot_by_id(id)) {
        found.push(snapshot.snapshot_id());
        next = snapshot.parent_snapshot_id();
    }
    found
}

/// Removes the snapshots, and what only they need.
pub(super) async fn run(archive: &Archive, base: &Table, upkeep: &Upkeep, report: &mut Report) -> Result<()> {
    if report.plan.expire.is_empty() {
        return Ok(());
    }
    let table = base.identifier().name();
    let planned: HashSet<i64> = report.plan.expire.iter().copied().collect();
    let mut current = base.clone();
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            current = archive.loaded(table).await?;
        }
        // What was planned and is still expired: someone may have put a tag on one of them.
        let mut expired = plan(&current, upkeep, super::now_ms())?;
        expired.retain(|id| planned.contains(id));
        if expired.is_empty() {
            return Ok(());
        }
        let updates = vec![TableUpdate::RemoveSnapshots { snapshot_ids: expired.clone() }];
        match commit_metadata(archive, &current, updates).await {
            Ok(()) => return delete(archive, &current, expired, report).await,
            Err(CommitError::Conflict) => {}
            Err(CommitError::Failed(error)) => return Err(error),
            Err(CommitError::Unknown(error)) => {
                let now = archive.loaded(table).await?;
                if expired.iter().all(|id| now.metadata().snapshot_by_id(*id).is_none()) {
                    return delete(archive, &current, expired, report).await;
                }
                report.skipped.push(format!("expiry: whether it took place is not known: {error}"));
                return Ok(());
            }
        }
    }
    report.skipped.push("expiry: others committed in between each time".to_owned());
    Ok(())
}

/// Deletes what only the removed snapshots needed. `before` is the state from which they were removed, so that nothing
/// that came later can be missed: it descends from snapshots that are kept.
async fn delete(archive: &Archive, before: &Table, expired: Vec<i64>, report: &mut Report) -> Result<()> {
    report.expired = expired.len();
    archive.pass("archive-expired");
    let is_as_planned =
        expired == report.plan.expire && before.metadata().current_snapshot_id() == report.plan.snapshot;
    let doomed = match is_as_planned {
        true => report.plan.delete.clone(),
        false => match reach::of(before).await {
            Ok(reach) => reach.only_of(&expired),
            // Others who look after the table may have removed what says which files these are.
            Err(error) => {
                report.skipped.push(format!("{error}: what only removed snapshots need is removed as orphans"));
                return Ok(());
            }
        },
    };
    let count = doomed.len();
    let deleted = before.file_io().delete_stream(futures::stream::iter(doomed)).await;
    if let Err(error) = deleted {
        let error = Error::of("deleting files of expired snapshots", before.metadata().location(), error);
        report.skipped.push(format!("{error}: what is left is removed as orphans"));
        return Ok(());
    }
    report.deleted = count;
    Ok(())
}
