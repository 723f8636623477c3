//! Files that nothing refers to: of crashes, of commits that lost, of expiries that did not end.
//!
//! Only old ones go, because the files of a plan that is about to be committed are referred to by nothing yet.
//! How old they are is told by the clock that dates files, not by this host's: one that is ahead would take new files for old.
//! When what the metadata names is not among what is listed, the two are not about the same place, and nothing goes.

use futures::TryStreamExt as _;
use iceberg::table::Table;

use super::reach::{Reach, canonical};
use super::{Orphan, Plan, Report, Upkeep, millis};
use crate::{Archive, Error, Result, storage};

/// Finds them.
pub(super) async fn plan(
    archive: &Archive,
    base: &Table,
    reach: &Reach,
    upkeep: &Upkeep,
    plan: &mut Plan,
) -> Result<()> {
    if base.metadata().properties().get("gc.enabled").is_some_and(|value| value == "false") {
        plan.notes.push("gc.enabled is false: snapshots and orphans stay".to_owned());
        return Ok(());
    }
    let location = base.metadata().location().trim_end_matches('/');
    let used = reach.everything();
    let current = base.metadata_location().map(canonical);
    let properties = base.file_io().config().props().clone().into_iter().collect();
    let mut files = storage::list(location, &properties).await?;
    let mut is_seen = false;
    let mut unused = Vec::new();
    while let Some(file) = files.try_next().await? {
        let path = canonical(&file.path);
        is_seen |= current.as_ref() == Some(&path);
        if !used.contains(&path) && !file.path.ends_with("version-hint.text") {
            unused.push(file);
        }
    }
    if !is_seen && base.metadata_location().is_some() {
        plan.notes.push(format!("orphans stay: the table's newest metadata is not under {location}"));
        return Ok(());
    }
    if unused.is_empty() {
        return Ok(());
    }
    if let Some(other) = shared(archive, base).await? {
        plan.notes.push(format!("orphans stay: {location} is shared with table {other}"));
        return Ok(());
    }
    let now = match storage::now_ms(base.file_io(), location, &properties).await {
        Ok(now) => now,
        Err(error) => {
            plan.notes.push(format!("orphans stay, because nobody knows how old they are: {error}"));
            return Ok(());
        }
    };
    let before = now.saturating_sub(millis(upkeep.orphans_after));
    unused.retain(|file| file.changed_ms < before);
    unused.sort_by(|one, other| one.path.cmp(&other.path));
    plan.orphans = unused.into_iter().map(|file| Orphan { path: file.path, bytes: file.size }).collect();
    Ok(())
}

/// Another table whose files are in the same folder, or around it, or in it.
async fn shared(archive: &Archive, base: &Table) -> Result<Option<String>> {
    let folder = |table: &Table| format!("{}/", canonical(table.metadata().location()));
    let own = folder(base);
    for name in archive.catalog().list().await? {
        if name == base.identifier().name() {
            continue;
        }
        let Some(other) = archive.catalog().load(&name).await? else { continue };
        let other = folder(&other);
        if own.starts_with(&other) || other.starts_with(&own) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Removes those that were found. They were old and unused then, and no name is ever used again.
pub(super) async fn run(archive: &Archive, base: &Table, report: &mut Report) -> Result<()> {
    let paths: Vec<String> = report.plan.orphans.iter().map(|orphan| orphan.path.clone()).collect();
    if paths.is_empty() {
        return Ok(());
    }
    archive.pass("archive-orphans-found");
    let count = paths.len();
    let deleted = base.file_io().delete_stream(futures::stream::iter(paths)).await;
    deleted.map_err(|error| Error::of("deleting orphans", base.metadata().location(), error))?;
    report.orphans = count;
    Ok(())
}
